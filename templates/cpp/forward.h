// ---- forward ---------------------------------------------------------------------------------------

namespace rnncc {

// A tile on its way through time.
struct Walk {
  const Args& a;
  const Tile& t;
  real *p, *h, *next, *start, *kept, *M, *M_next, *J;
  Stream x[Lanes::kInputs + 1], y[Lanes::kOutputs], z[Lanes::kStates];

  static int64_t space() {
    return (Lanes::kParams + 3 * Lanes::kStates + Lanes::kKept + 2 * Lanes::kProducts +
            Lanes::kStates * Lanes::kStates + kAhead * (Lanes::kInputs + Lanes::kOutputs)) *
           int64_t(kRow);
  }

  Walk(const Args& args, const Tile& tile, real* space) : a(args), t(tile) {
    auto take = [&](int count) { real* rows = space; space += count * kRow; return rows; };
    p = take(Lanes::kParams), h = take(Lanes::kStates), next = take(Lanes::kStates);
    start = take(Lanes::kStates), kept = take(Lanes::kKept);
    M = take(Lanes::kProducts), M_next = take(Lanes::kProducts);
    J = take(Lanes::kStates * Lanes::kStates);
    for (int i = 0; i < Lanes::kInputs; ++i)
      x[i].open(a, a.x[Lanes::inputs[i].tensor], Lanes::inputs[i], t, take(kAhead));
    for (int i = 0; i < Lanes::kOutputs; ++i)
      y[i].open(a, a.y[Lanes::outputs[i].tensor], Lanes::outputs[i], t, take(kAhead));
    for (int i = 0; i < Lanes::kStates; ++i)
      z[i].open(a, a.z[Lanes::states[i].tensor], Lanes::states[i], t, nullptr);
    load_params(a, t, p);
    for (int64_t r = 0; r < t.rows; ++r) load_states(a, t, r, a.h0, start);
  }

  // Every step of the tile; `write` outputs and what the way back needs, `carry` along in M the
  // product of the step Jacobians.
  template <bool write, bool carry>
  void run() {
    Row x_rows[Lanes::kInputs + 1], y_rows[Lanes::kOutputs];
    for (int64_t step = 0; step < t.steps; ++step) {
      restart(step, Lanes::kStates, start, h);
      if (write && a.saved) save(step);
      for (int i = 0; i < Lanes::kInputs; ++i) x_rows[i] = x[i].load(step);
      for (int i = 0; write && i < Lanes::kOutputs; ++i) y_rows[i] = y[i].row(step);
      Lanes::step<write, carry>(x_rows, p, h, next, y_rows, kept, t.width());
      if (carry) {
        if (step) Lanes::carry<false>(x_rows, p, h, kept, M, M_next, t.width());
        else Lanes::carry<true>(x_rows, p, h, kept, M, M_next, t.width());
        restart(step, Lanes::kProducts, nullptr, M_next);
        hold_ended(t, step, Lanes::kProducts, M, M_next);
        real* const before = M;
        M = M_next, M_next = before;
      }
      hold_ended(t, step, Lanes::kStates, h, next);
      for (int i = 0; write && i < Lanes::kOutputs; ++i) y[i].store(step, false);
      for (int i = 0; write && i < Lanes::kStates; ++i) z[i].store_from(next + i * kRow, step);
      real* const before = h;
      h = next, next = before;
    }
  }

 private:
  // Where a sequence starts anew, rows become those of its start, or 0.
  void restart(int64_t step, int count, const real* from, real* to) const {
    for (int64_t r = 0; a.reset && r < t.rows; ++r) {
      if (!t.resets(a, r, step)) continue;
      if (from) copy_row(t, r, count, from, to); else clear_row(t, r, count, to);
    }
  }

  void save(int64_t step) const {
    const bool in_phase = a.segment % a.every == 0 || a.segment >= a.steps;  // all runs at once
    if (in_phase && (t.first[0] + step) % a.every) return;
    for (int64_t r = 0; r < t.rows; ++r)
      if (t.runs(r, step) && (in_phase || (t.first[r] + step) % a.every == 0))
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
    else
      copy_row(t, r, Lanes::kStates, walk.start, walk.h);
  }
  walk.run<true, false>();
  for (int64_t r = 0; r < t.rows; ++r) store_states(a, t, r, walk.h, a.h_last);
}

// The step Jacobians, to look at.
static void jacobian_tile(const Pass& pass, int64_t index, real* space) {
  constexpr int entries = Lanes::kStates * Lanes::kStates;
  const Args& a = pass.args;
  const Tile t(pass, index);
  Walk w(a, t, space);
  Row x_rows[Lanes::kInputs + 1];
  for (int64_t r = 0; r < t.rows; ++r) copy_row(t, r, Lanes::kStates, w.start, w.h);
  for (int64_t step = 0; step < a.steps; ++step) {
    for (int i = 0; i < Lanes::kInputs; ++i) x_rows[i] = w.x[i].load(step);
    Lanes::step<false, true>(x_rows, w.p, w.h, w.next, nullptr, w.kept, t.width());
    Lanes::jacobian(x_rows, w.p, w.h, w.kept, w.J, t.width());
    real* const before = w.h;
    w.h = w.next, w.next = before;
    for (int64_t r = 0; r < t.rows; ++r)
      for (int64_t c = 0; c < t.columns; ++c)
        for (int e = 0; e < entries; ++e)
          a.jacobians[((step * a.batch + t.sequence[r]) * a.groups + t.column + c) * entries + e] =
              w.J[e * kRow + r * t.columns + c];
  }
}

static int run_jacobian(const Args& a) {
  const Pass pass = {a, Cut::in_one(a, 0)};
  return in_parallel(pass, jacobian_tile, Tile::number(pass), Walk::space());
}

}  // namespace rnncc
