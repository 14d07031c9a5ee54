// Threads.
#pragma once

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "rnncc/cpp/streams.h"

namespace rnncc {

typedef void (*Work)(const Pass&, int64_t index, real* space);

// Numbers of scratch memory that a thread takes: those that begin as 0, and those behind them.
struct Space {
  int64_t cleared, more = 0;
};

struct Job {
  const Pass* pass;
  Work work;
  Space space;
  int64_t count, next;
  int failed;
};

static void work_on(void* pointer) {
  Job& job = *static_cast<Job*>(pointer);
  void* space = nullptr;
  if (posix_memalign(&space, 128, size_t(job.space.cleared + job.space.more) * sizeof(real))) {
    __atomic_store_n(&job.failed, 1, __ATOMIC_RELAXED);
    return;
  }
  memset(space, 0, size_t(job.space.cleared) * sizeof(real));
  for (;;) {
    const int64_t index = __atomic_fetch_add(&job.next, 1, __ATOMIC_RELAXED);
    if (index >= job.count) break;
    job.work(*job.pass, index, static_cast<real*>(space));
  }
  free(space);
}

static void* work_on_thread(void* job) {
  work_on(job);
  return nullptr;
}

// Does pieces 0 to count - 1, each with scratch memory of its thread. The threads are those of
// PyTorch's own pool where there is one, so that two pools don't fight for the cores.
static int in_parallel(const Pass& pass, Work work, int64_t count, Space space) {
  const Args& a = pass.args;
  Job job = {&pass, work, space, count, 0, 0};
  int64_t threads = a.threads < count ? a.threads : count;
  if (threads > 64) threads = 64;
  if (threads <= 1) {
    work_on(&job);
  } else if (a.parallel) {
    a.parallel(work_on, &job, unsigned(threads), 0);
  } else {
    pthread_t others[64];
    int64_t started = 0;
    while (started < threads - 1 &&
           !pthread_create(&others[started], nullptr, work_on_thread, &job))
      ++started;
    work_on(&job);
    for (int64_t i = 0; i < started; ++i) pthread_join(others[i], nullptr);
  }
  return job.failed;
}

}  // namespace rnncc
