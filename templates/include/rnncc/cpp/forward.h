// Forward.
#pragma once

#include "rnncc/cpp/threads.h"

namespace rnncc {

constexpr int64_t kBeyondCache = 8 << 20;  // bytes of an output that the cache doesn't keep

// The walk of a tile through time.
struct Walk {
  static constexpr int kEntries = Lanes::kStates * Lanes::kStates;

  const Args& a;
  const Tile& t;
  real *p, *h, *next, *initial, *stored, *M, *M_next, *peak, *J;
  Stream x[Lanes::kInputs + 1], y[Lanes::kOutputs], z[Lanes::kStates];

  static Space space(const Cut& cut) {
    constexpr int64_t cleared =
        Lanes::kParams + 4 * Lanes::kStates + Lanes::kStored + 2 * Lanes::kProducts;
    constexpr int64_t buffers = kAhead * (Lanes::kInputs + Lanes::kOutputs);
    return {cleared * cut.pitch(), buffers * cut.pitch()};
  }
  static Space space_with_J(const Cut& cut) {
    const Space rows = space(cut);
    return {rows.cleared, rows.more + kEntries * kRow};
  }

  RNNCC_ONCE Walk(const Args& args, const Tile& tile, real* space) : a(args), t(tile) {
    auto take = [&](int count) {
      real* rows = space;
      space += count * t.pitch;
      return rows;
    };
    p = take(Lanes::kParams), h = take(Lanes::kStates), next = take(Lanes::kStates);
    initial = take(Lanes::kStates), stored = take(Lanes::kStored);
    M = take(Lanes::kProducts), M_next = take(Lanes::kProducts);
    peak = take(Lanes::kStates);
    for (int i = 0; i < Lanes::kInputs; ++i)
      x[i].open(a, a.x[Lanes::inputs[i].tensor], Lanes::inputs[i], t, take(kAhead));
    for (int i = 0; i < Lanes::kOutputs; ++i) {
      y[i].open(a, a.y[Lanes::outputs[i].tensor], Lanes::outputs[i], t, take(kAhead));
      if (row_bytes(a) >= kBeyondCache) y[i].write_past_cache();
    }
    for (int i = 0; i < Lanes::kStates; ++i)
      z[i].open(a, a.z[Lanes::states[i].tensor], Lanes::states[i], t, nullptr);
    J = space;
    load_params(a, t, p);
    for (int64_t r = 0; r < t.rows; ++r) load_states(a, t, r, a.h0, initial);
  }

  // Every step of the tile; `write` outputs and checkpoints, `carry` along in M the product of the
  // step Jacobians. Neither: write the Jacobians themselves. With `sizes` the largest states of the
  // last steps are in `peak`.
  RNNCC_ONCE void run(bool write, bool carry, bool sizes = false) {
    carry = carry && !kOnePass;
    const bool saves = write && a.saved;
    // all runs save at once, next at step `due`
    const bool in_phase = a.segment % a.checkpoint == 0 || a.segment >= a.steps;
    int64_t due = (a.checkpoint - t.first[0] % a.checkpoint) % a.checkpoint;
    bool plain = t.even && !a.reset && (in_phase || !saves);  // nothing to do between two saves
    bool direct = true;
    for (const Stream& stream : z) plain = plain && !(write && stream.present);
    for (int i = 0; i < Lanes::kInputs; ++i) direct = direct && x[i].direct;
    for (int i = 0; i < Lanes::kOutputs; ++i) direct = direct && y[i].direct;
    const int64_t most = direct ? t.steps : kAhead, tail = sizes ? t.steps - kTail : t.steps;
    clear_lanes(Lanes::kStates * t.pitch, peak);
    for (int64_t first = 0, end; first < t.steps; first = end) {
      end = first + most < t.steps ? first + most : t.steps;
      for (int i = 0; i < Lanes::kInputs; ++i) x[i].load(first, end - first);
      for (int64_t step = first, stop; step < end; step = stop) {
        if (a.reset) restart(step, Lanes::kStates, initial, h);
        if (saves && (step == due || !in_phase)) save(step, in_phase), due = step + a.checkpoint;
        stop = !plain || step >= tail ? step + 1 : saves && due < end ? due : end;
        if (step < tail && stop > tail) stop = tail;
        if (write && !carry) take_steps(first, step, stop, !direct);
        else take_steps_with_J(first, step, stop, write, carry);
        if (!t.even) hold_ended(t, step, Lanes::kStates, next, h);
        if (step >= tail) note_sizes(Lanes::kStates * t.pitch, h, peak);
        for (int i = 0; write && i < Lanes::kStates; ++i) z[i].store_from(h + i * t.pitch, step);
      }
      for (int i = 0; write && i < Lanes::kOutputs; ++i) y[i].store(first, end - first);
    }
    wait_for_stores();
  }

 private:
  // A slice of the rows of a step.
  struct Rows {
    Row x[Lanes::kInputs + 1], y[Lanes::kOutputs];

    void open(const Walk& walk, int64_t first, int64_t step, const Slice& slice) {
      for (int i = 0; i < Lanes::kInputs; ++i) x[i] = walk.x[i].row(first, step, slice);
      for (int i = 0; i < Lanes::kOutputs; ++i) y[i] = walk.y[i].row(first, step, slice);
    }
    void shift() { rnncc::shift(x, Lanes::kInputs, 1), rnncc::shift(y, Lanes::kOutputs, 1); }
  };

  // Some of the steps from `first` on, whose rows are at hand; `copies`: those of the next kAhead are
  // to be copied, and the outputs of these.
  RNNCC_ONCE void take_steps(int64_t first, int64_t step, int64_t stop, bool copies) {
    real *now = h, *then = next;
    Rows rows[kMostSlices];
    for (int i = 0; i < t.slices; ++i) rows[i].open(*this, first, step, t.slice[i]);
    for (; step < stop; ++step) {
      if (copies) fetch<false>(x, Lanes::kInputs, step + kAhead);
      if (copies) fetch<true>(y, Lanes::kOutputs, step);
      for (int i = 0; i < t.slices; ++i) {
        const int64_t at = t.slice[i].first;
        fetch_ahead(rows[i].x, x, Lanes::kInputs, t.slice[i]);
        Lanes::step<true, false>(rows[i].x, p + at, now + at, then + at, rows[i].y, stored,
                                 t.slice[i].width, t.pitch);
        rows[i].shift();
      }
      exchange(now, then);
    }
    h = now, next = then;
  }

  // The same, but with M carried along, or else with each step's Jacobian written out.
  RNNCC_ONCE void take_steps_with_J(int64_t first, int64_t step, int64_t stop, bool write,
                                    bool carry) {
    real *now = h, *then = next, *m = M, *m_next = M_next;
    Rows rows[kMostSlices];
    for (int i = 0; i < t.slices; ++i) rows[i].open(*this, first, step, t.slice[i]);
    for (; step < stop; ++step) {
      for (int i = 0; i < t.slices; ++i) {
        const int width = t.slice[i].width;
        const int64_t at = t.slice[i].first;
        const Row* const x = rows[i].x;
        if (write)
          Lanes::step<true, true>(x, p + at, now + at, then + at, rows[i].y, stored, width,
                                  t.pitch);
        else Lanes::step_to_store(x, p + at, now + at, then + at, stored, width, t.pitch);
        if (!carry) write_jacobians(x, step, t.slice[i], now + at);
        else if (step)
          Lanes::carry<false>(x, p + at, now + at, stored, m + at, m_next + at, width, t.pitch);
        else Lanes::carry<true>(x, p + at, now + at, stored, m + at, m_next + at, width, t.pitch);
        rows[i].shift();
      }
      if (carry) {
        if (a.reset) restart(step, Lanes::kProducts, nullptr, m_next);
        if (!t.even) hold_ended(t, step, Lanes::kProducts, m, m_next);
        exchange(m, m_next);
      }
      exchange(now, then);
    }
    h = now, next = then, M = m, M_next = m_next;
  }

  static void exchange(real*& one, real*& other) {
    real* const before = one;
    one = other, other = before;
  }

  RNNCC_ONCE void write_jacobians(const Row* x, int64_t step, const Slice& slice,
                                  const real* now) const {
    Lanes::jacobian(x, p + slice.first, now, stored, J, slice.width, t.pitch);
    for (int64_t i = 0; i < slice.width && slice.first + i < t.lanes(); ++i) {
      const int64_t at = slice.first + i, r = at / t.span, c = t.channel_of(at % t.span);
      real* const to =
          a.jacobians + ((step * a.batch + t.sequence[r]) * a.groups + t.column + c) * kEntries;
      for (int e = 0; e < kEntries; ++e) to[e] = J[e * kRow + i];
    }
  }

  // Where a sequence is reset, rows become those of its initial state, or 0.
  RNNCC_ONCE void restart(int64_t step, int count, const real* from, real* to) const {
    for (int64_t r = 0; r < t.rows; ++r) {
      if (!t.resets(a, r, step)) continue;
      if (from) copy_row(t, r, count, from, to);
      else clear_row(t, r, count, to);
    }
  }

  RNNCC_ONCE void save(int64_t step, bool in_phase) const {
    for (int64_t r = 0; r < t.rows; ++r)
      if (t.runs(r, step) && (in_phase || (t.first[r] + step) % a.checkpoint == 0))
        save_row(a, t, r, step, h);
  }
};

// One pass over time, from where the segments before it end.
static void forward_tile(const Pass& pass, int64_t index, real* space) {
  const Args& a = pass.args;
  const Cut segments = Cut::into_segments(a);
  const Tile t(pass, index);
  Walk walk(a, t, space);
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t b = t.sequence[r], done = pass.cut.from ? pass.cut.from / a.segment : 0;
    const int64_t before = done && segments.runs_of(a, b) < done ? segments.runs_of(a, b) : done;
    if (before && length_of(a, b))
      load_run(a, t, r, segments.first_run(a, b) + before - 1, Lanes::kStates, a.ends, walk.h);
    else copy_row(t, r, Lanes::kStates, walk.initial, walk.h);
  }
  walk.run(true, false);
  for (int64_t r = 0; r < t.rows; ++r) store_states(a, t, r, walk.h, a.h_last);
}

static void jacobian_tile(const Pass& pass, int64_t index, real* space) {
  const Tile t(pass, index);
  Walk walk(pass.args, t, space);
  for (int64_t r = 0; r < t.rows; ++r) copy_row(t, r, Lanes::kStates, walk.initial, walk.h);
  clear_lanes(Walk::kEntries * kRow, walk.J);  // those that are zero by structure stay so
  walk.run(false, false);
}

static int run_jacobian(const Args& a) {
  const Pass pass = {a, Cut::in_one(a, 0)};
  return in_parallel(pass, jacobian_tile, Tile::number(pass), Walk::space_with_J(pass.cut));
}

}  // namespace rnncc
