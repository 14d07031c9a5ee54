// Faults that the processor or the clock finds: memory that must not be touched, a division by zero, a
// thread that never ends. Under the sanitizers only the clock: they report the others themselves, and
// at the end of a report comes which thread it is about.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "shared.h"

namespace emulation {

#ifdef EMULATION_SANITIZE
constexpr int kSignals[] = {SIGVTALRM, SIGABRT};
#else
constexpr int kSignals[] = {SIGVTALRM, SIGSEGV, SIGBUS, SIGFPE};
#endif
constexpr int kSignalCount = sizeof kSignals / sizeof *kSignals;

static struct sigaction signals_before[kSignalCount];
static stack_t stack_before;
static itimerval timer_before;
static pthread_t launcher;

// The address is one of memory that is not there.
[[noreturn]] static void fail_access(const char* address) {
  const char* const end = reinterpret_cast<const char*>(dynamic_shared) + launch.shared;
  if (size_t(address - end) < 2 * page_bytes())
    fail(*current, "accesses dynamic shared memory %zu bytes beyond its end; it has %zu bytes",
         size_t(address - end), launch.shared);
  if (is_on_stacks(address))
    fail(*current, "needs more than %zu KiB for its local variables", kStackBytes >> 10);
  fail(*current, "accesses memory at address %p, where there is none.\n"
       "Expected: an address within an array. To see which line: load(..., sanitize=True)",
       static_cast<const void*>(address));
}

static void say_where() {
  char place[256];
  const int bytes = write_place(place, sizeof place, *current);
  place[bytes - 1] = '\n';         // for a blank
  if (write(2, place, size_t(bytes)) < 0) _exit(1);
}

static void on_signal(int number, siginfo_t* info, void*) {
  if (!pthread_equal(pthread_self(), launcher)) {
    if (number == SIGVTALRM) pthread_kill(launcher, number);
    else signal(number, SIG_DFL);  // comes again, and ends the process
    return;
  }
  if (!current) return;
  if (number == SIGABRT) return say_where();
  if (number == SIGVTALRM)
    fail(*current, "the launch has taken more than %d s, and this thread is running.\n"
         "Expected: an end. Blocks run one after another, so none may wait for a later one",
         launch.seconds);
  if (number == SIGFPE) fail(*current, "divides an integer by zero");
  fail_access(static_cast<const char*>(info->si_addr));
}

static void watch_signals() {
  static char* const stack = reserve(SIGSTKSZ > 65536 ? SIGSTKSZ : 65536);
  stack_t own = {};
  own.ss_sp = stack;
  own.ss_size = 65536;
  sigaltstack(&own, &stack_before);
  launcher = pthread_self();
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // the handler is left by a switch
  for (int i = 0; i < kSignalCount; ++i) sigaction(kSignals[i], &action, &signals_before[i]);
  const itimerval limit = {{0, 0}, {launch.seconds, 0}};
  setitimer(ITIMER_VIRTUAL, &limit, &timer_before);
}

static void unwatch_signals() {
  setitimer(ITIMER_VIRTUAL, &timer_before, nullptr);
  for (int i = 0; i < kSignalCount; ++i) sigaction(kSignals[i], &signals_before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

}  // namespace emulation
