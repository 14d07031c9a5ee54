// Sums in a fixed order.
#pragma once

#include "rnncc/cpp/backward.h"

namespace rnncc {

static void reduce_starts(const Pass& pass) {
  const Args& a = pass.args;
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int s = 0; s < Lanes::kStates; ++s) {
      const Slot& slot = Lanes::states[s];
      for (int64_t c = 0; c < a.groups; ++c) {
        real sum = 0;
        for (int64_t run = pass.cut.first_run(a, b); run < pass.cut.first_run(a, b + 1); ++run)
          sum += a.initials[(run * Lanes::kStates + s) * a.groups + c];
        a.dh0[(slot.tensor * a.batch + b) * channels + slot.offset + c * slot.stride] = sum;
      }
    }
}

// Over the runs and, for shared params, over channels.
static void reduce_params(const Pass& pass) {
  const Args& a = pass.args;
  const int64_t runs = pass.cut.first_run(a, a.batch);
  for (int k = 0; k < Lanes::kParams; ++k) {
    const Slot& slot = Lanes::params[k];
    double all = 0;
    for (int64_t c = 0; c < a.groups; ++c) {
      double sum = 0;
      for (int64_t run = 0; run < runs; ++run)
        sum += a.param_sums[(run * Lanes::kParams + k) * a.groups + c];
      all += sum;
      if (slot.stride) a.dparams[slot.tensor][slot.offset + c * slot.stride] = real(sum);
    }
    if (!slot.stride) a.dparams[slot.tensor][0] = real(all);
  }
}

static void reduce_shared_inputs(const Args& a) {
  const int64_t blocks = (a.groups + kLanes - 1) / kLanes, places = WalkBack::shared_places(a);
  for (int i = 0, shared = 0; i < Lanes::kInputs; ++i) {
    if (Lanes::inputs[i].stride) continue;
    const View& view = a.dx[Lanes::inputs[i].tensor];
    for (int64_t b = 0; view.data && b < a.batch; ++b)
      for (int64_t step = 0; step < length_of(a, b); ++step) {
        const int64_t time = time_of(a, b, step), row = a.joined ? 0 : b;
        const real* from = a.shared_sums + (row * a.extent + time) * Lanes::kSharedInputs + shared;
        real sum = 0;
        for (int64_t block = 0; block < blocks; ++block)
          sum += from[block * places * Lanes::kSharedInputs];
        from_real(sum, view.data[row * view.batch + time * view.time]);
      }
    ++shared;
  }
}

}  // namespace rnncc
