// Forward.
#pragma once

#include "rnncc/cpp/threads.h"

namespace rnncc {

// The walk of a tile through time.
struct Walk {
  const Args& a;
  const Tile& t;
  real *p, *h, *next, *initial, *stored, *M, *M_next, *J, *peak;
  Stream x[Lanes::kInputs + 1], y[Lanes::kOutputs], z[Lanes::kStates];

  static int64_t space() {
    return (Lanes::kParams + 4 * Lanes::kStates + Lanes::kStored + 2 * Lanes::kProducts +
            kAhead * (Lanes::kInputs + Lanes::kOutputs)) *
           int64_t(kRow);
  }
  // With J behind all other rows: those of entries that are zero by structure are never written.
  static int64_t space_with_J() {
    return space() + Lanes::kStates * Lanes::kStates * int64_t(kRow);
  }

  RNNCC_ONCE Walk(const Args& args, const Tile& tile, real* space) : a(args), t(tile) {
    auto take = [&](int count) {
      real* rows = space;
      space += count * kRow;
      return rows;
    };
    p = take(Lanes::kParams), h = take(Lanes::kStates), next = take(Lanes::kStates);
    initial = take(Lanes::kStates), stored = take(Lanes::kStored);
    M = take(Lanes::kProducts), M_next = take(Lanes::kProducts);
    peak = take(Lanes::kStates);
    for (int i = 0; i < Lanes::kInputs; ++i)
      x[i].open(a, a.x[Lanes::inputs[i].tensor], Lanes::inputs[i], t, take(kAhead));
    for (int i = 0; i < Lanes::kOutputs; ++i)
      y[i].open(a, a.y[Lanes::outputs[i].tensor], Lanes::outputs[i], t, take(kAhead));
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
    clear_sizes(Lanes::kStates, peak);
    for (int64_t first = 0, end; first < t.steps; first = end) {
      end = first + most < t.steps ? first + most : t.steps;
      for (int i = 0; i < Lanes::kInputs; ++i) x[i].load(first, end - first);
      for (int64_t step = first, stop; step < end; step = stop) {
        if (a.reset) restart(step, Lanes::kStates, initial, h);
        if (saves && (step == due || !in_phase)) save(step, in_phase), due = step + a.checkpoint;
        stop = !plain || step >= tail ? step + 1 : saves && due < end ? due : end;
        if (step < tail && stop > tail) stop = tail;
        if (write && !carry) take_steps(first, step, stop);
        else take_steps_with_J(first, step, stop, write, carry);
        if (!t.even) hold_ended(t, step, Lanes::kStates, next, h);
        if (step >= tail) note_sizes(Lanes::kStates, h, peak);
        for (int i = 0; write && i < Lanes::kStates; ++i) z[i].store_from(h + i * kRow, step);
      }
      for (int i = 0; write && i < Lanes::kOutputs; ++i) y[i].store(first, end - first);
    }
  }

 private:
  // Some of the steps from `first` on, whose rows are at hand.
  RNNCC_ONCE void take_steps(int64_t first, int64_t step, int64_t stop) {
    const int width = t.width();
    real *now = h, *then = next;
    Row x_rows[Lanes::kInputs + 1], y_rows[Lanes::kOutputs];
    for (int i = 0; i < Lanes::kInputs; ++i) x_rows[i] = x[i].row(first, step);
    for (int i = 0; i < Lanes::kOutputs; ++i) y_rows[i] = y[i].row(first, step);
    for (; step < stop; ++step) {
      Lanes::step<true, false>(x_rows, p, now, then, y_rows, stored, width);
      shift(x_rows, x, Lanes::kInputs, 1), shift(y_rows, y, Lanes::kOutputs, 1);
      exchange(now, then);
    }
    h = now, next = then;
  }

  // The same, but with M carried along, or else with each step's Jacobian written out.
  RNNCC_ONCE void take_steps_with_J(int64_t first, int64_t step, int64_t stop, bool write,
                                    bool carry) {
    const int width = t.width();
    real *now = h, *then = next, *m = M, *m_next = M_next;
    Row x_rows[Lanes::kInputs + 1], y_rows[Lanes::kOutputs];
    for (int i = 0; i < Lanes::kInputs; ++i) x_rows[i] = x[i].row(first, step);
    for (int i = 0; i < Lanes::kOutputs; ++i) y_rows[i] = y[i].row(first, step);
    for (; step < stop; ++step) {
      if (write) Lanes::step<true, true>(x_rows, p, now, then, y_rows, stored, width);
      else Lanes::step_to_store(x_rows, p, now, then, stored, width);
      if (carry) {
        if (step) Lanes::carry<false>(x_rows, p, now, stored, m, m_next, width);
        else Lanes::carry<true>(x_rows, p, now, stored, m, m_next, width);
        if (a.reset) restart(step, Lanes::kProducts, nullptr, m_next);
        if (!t.even) hold_ended(t, step, Lanes::kProducts, m, m_next);
        exchange(m, m_next);
      } else {
        write_jacobians(first, step, now);
      }
      shift(x_rows, x, Lanes::kInputs, 1), shift(y_rows, y, Lanes::kOutputs, 1);
      exchange(now, then);
    }
    h = now, next = then, M = m, M_next = m_next;
  }

  static void exchange(real*& one, real*& other) {
    real* const before = one;
    one = other, other = before;
  }

  RNNCC_ONCE void write_jacobians(int64_t first, int64_t step, const real* now) const {
    constexpr int entries = Lanes::kStates * Lanes::kStates;
    Row x_rows[Lanes::kInputs + 1];
    for (int i = 0; i < Lanes::kInputs; ++i) x_rows[i] = x[i].row(first, step);
    Lanes::jacobian(x_rows, p, now, stored, J, t.width());
    for (int64_t r = 0; r < t.rows; ++r)
      for (int64_t c = 0; c < t.columns; ++c)
        for (int e = 0; e < entries; ++e)
          a.jacobians[((step * a.batch + t.sequence[r]) * a.groups + t.column + c) * entries + e] =
              J[e * kRow + r * t.columns + c];
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
  walk.run(false, false);
}

static int run_jacobian(const Args& a) {
  const Pass pass = {a, Cut::in_one(a, 0)};
  return in_parallel(pass, jacobian_tile, Tile::number(pass), Walk::space_with_J());
}

}  // namespace rnncc
