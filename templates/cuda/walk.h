// ---- steps of a run --------------------------------------------------------------------------------

namespace rnncc {

RNNCC_FN int steps_left(const Run& r, int64_t step) {
  return r.count - step < kAhead ? int(r.count - step) : kAhead;
}

// The inputs of the next steps, on their way from memory while others are computed.
struct Ahead {
  io x[kAhead][Cell::kInputs + 1];
  unsigned anew;                   // a bit for each step before which the state starts anew

  RNNCC_MEMBER void fetch(const Args& a, const Run& r, int64_t step, int count) {
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i) {
      const Slot& slot = Cell::inputs[i];
      const View& view = a.x[slot.tensor];
      const io* at = place_of(a, view, slot, r, step);
      const int64_t pace = pace_of(a, view);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) x[k][i] = k < count ? at[k * pace] : io();
    }
    anew = 0;
    for (int k = 0; a.reset && k < count; ++k) anew |= unsigned(resets(a, r, step + k)) << k;
  }

  RNNCC_MEMBER bool starts_anew(int k) const { return anew >> k & 1; }

  RNNCC_MEMBER void read(int k, real* row) const {
#pragma unroll
    for (int i = 0; i < Cell::kInputs; ++i) row[i] = to_real(x[k][i]);
  }
};

// Outputs, and states along the way, are [batch, time, channels] without gaps, so that one offset is
// that of all.
RNNCC_FN int64_t output_at(const Args& a, const Run& r, int64_t step) {
  return place_of(a, a.y[0], Slot{0, 0, Cell::kGroup}, r, step) - a.y[0].data;
}

// A thread on its way through a run; with `carry` the product M of the step Jacobians comes along.
template <bool carry>
struct Walk {
  real p[Cell::kParams + 1], h[Cell::kStates], M[Cell::kProducts + 1], start[Cell::kStates];
  int64_t at;                      // of the next output
  bool writes, along;              // outputs; states after each step

  RNNCC_MEMBER void load(const Args& a, const Run& r) {
    load_params(a, r, p);
    load_states(a, r, a.h0, start);
  }

  // Before the first step of a run.
  RNNCC_MEMBER void aim(const Args& a, const Run& r, bool write) {
    writes = write && r.active, along = writes && a.z[0].data;
    at = output_at(a, r, 0);
  }

  RNNCC_MEMBER void step(const Args& a, const real* x, bool anew, bool first) {
    real next[Cell::kStates], y[Cell::kOutputs], kept[Cell::kKept + 1];
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) h[s] = anew ? start[s] : h[s];
    Lane::step<true, carry>(x, p, h, next, y, kept);
    if (carry) {
      real N[Cell::kProducts + 1];
      Lane::carry(x, p, h, kept, M, N, first);
#pragma unroll
      for (int i = 0; i < Cell::kProducts; ++i) M[i] = anew ? real(0) : N[i];
    }
    if (writes) {
#pragma unroll
      for (int i = 0; i < Cell::kOutputs; ++i) {
        const Slot& slot = Cell::outputs[i];
        from_real(y[i], a.y[slot.tensor].data[at + slot.offset]);
      }
    }
    if (along) {
#pragma unroll
      for (int s = 0; s < Cell::kStates; ++s) {
        const Slot& slot = Cell::states[s];
        from_real(next[s], a.z[slot.tensor].data[at + slot.offset]);
      }
    }
    at += pace_of(a, a.y[0]);
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) h[s] = next[s];
  }

  // The steps that are in registers.
  RNNCC_MEMBER void block(const Args& a, const Ahead& now, int count, bool first) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      real x[Cell::kInputs + 1];
      if (k >= count) break;
      now.read(k, x);
      step(a, x, now.starts_anew(k), first && k == 0);
    }
  }

  // Every step of the run.
  RNNCC_MEMBER void run(const Args& a, const Run& r, bool write) {
    Ahead ahead = {};
    int64_t slot = saved_slot(a, r, r.first), unsaved = a.every - r.first % a.every;
    if (r.first % a.every == 0) unsaved = 0; else ++slot;
    aim(a, r, write);
    for (int64_t first = -kAhead; first < r.count; first += kAhead) {
      const Ahead now = ahead;
      const int64_t next = first + kAhead;
      ahead.fetch(a, r, next, steps_left(r, next));
      if (first < 0) continue;
      if (writes && a.saved && unsaved <= 0) {
        save(a, r, slot++);
        unsaved += a.every;
      }
      unsaved -= kAhead;
      block(a, now, steps_left(r, first), first == 0);
    }
  }

  // For the way back; `a.every` is a multiple of kAhead.
  RNNCC_MEMBER void save(const Args& a, const Run& r, int64_t slot) const {
#pragma unroll
    for (int s = 0; s < Cell::kStates; ++s) *saved_at(a, r, slot, s) = h[s];
  }
};

// What follows a sequence in its row of memory is 0.
RNNCC_FN void clear_after(const Args& a, const Run& r, const View& view, const Slot& slot) {
  if (!view.data || !a.lengths || a.joined || !r.active) return;
  for (int64_t time = steps_of(a, r.sequence); time < a.extent; ++time)
    from_real(real(0), view.data[r.sequence * view.batch + time * view.time +
                                 (slot.offset + r.group * slot.stride) * view.channel]);
}

RNNCC_FN void clear_outputs(const Args& a, const Run& r) {
#pragma unroll 1
  for (int i = 0; i < Cell::kOutputs; ++i)
    clear_after(a, r, a.y[Cell::outputs[i].tensor], Cell::outputs[i]);
#pragma unroll 1
  for (int s = 0; s < Cell::kStates; ++s)
    clear_after(a, r, a.z[Cell::states[s].tensor], Cell::states[s]);
}

}  // namespace rnncc
