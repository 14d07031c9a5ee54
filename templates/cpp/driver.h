// ---- the driver: time, tiles of channels, threads ------------------------------------------------
// The same for every cell. A tile is up to kTile lanes, one lane a channel (or a group of channels)
// of one sequence; it walks through time with its state in registers and first-level cache.

namespace rnncc {

// Elements between neighbours in batch and time, and of one channel.
struct View {
  io* data;
  int64_t batch, time, channel;
};

// Every member has 8 bytes; rnncc/launch.py fills them in this order.
struct Args {
  int64_t batch, steps, groups;    // sequences, time steps, groups of channels
  int64_t rows, columns;           // a tile: so many sequences by so many groups
  int64_t every;                   // steps between saved states
  int64_t threads;
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel, or null
  View x[Lanes::kInputTensors + 1];
  const real* params[Lanes::kParamTensors + 1];
  const real* h0;                  // [states, batch, channels], or null
  // forward
  View y[Lanes::kOutputTensors + 1];
  real* h_last;                    // [states, batch, channels]
  real* saved;                     // [segments, states, batch, channels], or null
  // backward: the gradients of y and h_last (null for zero), then those of all arguments
  View dy[Lanes::kOutputTensors + 1];
  const real* dh_last;
  View dx[Lanes::kInputTensors + 1];
  real* dparams[Lanes::kParamTensors + 1];
  real* dh0;
  // Jacobians along the sequence: [steps, batch, groups, kStates, kStates]
  real* jacobians;
  // workspace
  double* param_sums;              // [batch, params, groups]
  real* shared_sums;               // [blocks of lanes, batch, steps, shared inputs]
};

// Fresh memory of a large result comes in pages; the first touch of each costs more than the step
// that writes there, so ask for large ones.
static void ask_for_large_pages(const Args& a, const View& view) {
#ifdef MADV_HUGEPAGE
  const int64_t channels = a.groups * Lanes::kGroup, page = 4096, worth = 4 << 20;
  const int64_t last = (a.batch - 1) * view.batch + (a.steps - 1) * view.time;
  const int64_t first = (int64_t(view.data) + page - 1) / page * page;
  const int64_t bytes = int64_t(view.data + last + channels) / page * page - first;
  if (view.data && view.channel == 1 && bytes >= worth)
    madvise(reinterpret_cast<void*>(first), size_t(bytes), MADV_HUGEPAGE);
#endif
}

struct Tile {
  int64_t row, rows, column, columns;
  int lanes() const { return int(rows * columns); }
  int width() const { return (lanes() + kLanes - 1) / kLanes * kLanes; }
};

static Tile tile_at(const Args& a, int64_t index) {
  const int64_t across = (a.groups + a.columns - 1) / a.columns;
  const int64_t row = index / across * a.rows, column = index % across * a.columns;
  const int64_t rows = a.batch - row < a.rows ? a.batch - row : a.rows;
  const int64_t columns = a.groups - column < a.columns ? a.groups - column : a.columns;
  return {row, rows, column, columns};
}

static int64_t tile_count(const Args& a) {
  return (a.batch + a.rows - 1) / a.rows * ((a.groups + a.columns - 1) / a.columns);
}

// One scalar of the cell in a tensor [batch, time, channels], as rows of lanes.
struct Stream {
  io* base;
  real* buffer;
  int64_t batch, time, lane;
  Tile tile;
  bool direct;                     // lanes lie in memory as the kernel wants them: no copy

  void open(const View& view, const Slot& slot, const Tile& t, real* space) {
    tile = t;
    batch = view.batch, time = view.time, lane = slot.stride * view.channel;
    base = view.data ? view.data + t.row * batch + slot.offset * view.channel + t.column * lane
                     : nullptr;
    buffer = space;
    direct = base && sizeof(io) == sizeof(real) && t.rows == 1 && lane == 1 &&
             t.columns % kLanes == 0;
  }

  const real* load(int64_t t, real* space) const {
    if (direct) return reinterpret_cast<const real*>(base + t * time);
    if (!base) return space;       // an absent gradient: the buffer stays zero
    for (int64_t r = 0; r < tile.rows; ++r) {
      const io* from = base + r * batch + t * time;
      real* to = space + r * tile.columns;
      if (lane == 1) {
#pragma omp simd
        for (int64_t c = 0; c < tile.columns; ++c) to[c] = to_real(from[c]);
      } else {
        for (int64_t c = 0; c < tile.columns; ++c) to[c] = to_real(from[c * lane]);
      }
    }
    return space;
  }

  // Where the kernel may write the row of step t; `store` then brings it to memory.
  real* row(int64_t t) const { return direct ? reinterpret_cast<real*>(base + t * time) : buffer; }

  void store(int64_t t) const {
    if (direct || !base) return;
    for (int64_t r = 0; r < tile.rows; ++r) {
      io* to = base + r * batch + t * time;
      const real* from = buffer + r * tile.columns;
      if (lane == 1) {
#pragma omp simd
        for (int64_t c = 0; c < tile.columns; ++c) from_real(from[c], to[c]);
      } else {
        for (int64_t c = 0; c < tile.columns; ++c) from_real(from[c], to[c * lane]);
      }
    }
  }
};

// Lanes <-> a plain array [batch, channels] of one scalar.
template <typename from, typename to>
static void copy_lanes(const Tile& t, int64_t channels, const Slot& slot, const from* source,
                       to* target, bool into_lanes) {
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.columns; ++c) {
      const int64_t lane = r * t.columns + c;
      const int64_t place = (t.row + r) * channels + slot.offset + (t.column + c) * slot.stride;
      if (into_lanes) target[lane] = source[place]; else target[place] = source[lane];
    }
}

static void load_params(const Args& a, const Tile& t, real* p) {
  for (int k = 0; k < Lanes::kParams; ++k) {
    const Slot& slot = Lanes::params[k];
    for (int64_t r = 0; r < t.rows; ++r)
      for (int64_t c = 0; c < t.columns; ++c)
        p[k * kRow + r * t.columns + c] =
            a.params[slot.tensor][slot.offset + (t.column + c) * slot.stride];
  }
}

static void load_states(const Args& a, const Tile& t, const real* from, real* h) {
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    if (from)
      copy_lanes(t, channels, slot, from + slot.tensor * a.batch * channels, h + s * kRow, true);
    else
      for (int i = 0; i < kRow; ++i) h[s * kRow + i] = Lanes::start[slot.tensor];
  }
}

static void store_states(const Args& a, const Tile& t, const real* h, real* to) {
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int s = 0; s < Lanes::kStates; ++s) {
    const Slot& slot = Lanes::states[s];
    copy_lanes(t, channels, slot, h + s * kRow, to + slot.tensor * a.batch * channels, false);
  }
}

// ---- forward -------------------------------------------------------------------------------------

static int64_t forward_space(const Args&) {
  return (Lanes::kParams + 2 * Lanes::kStates + Lanes::kKept + Lanes::kInputs + Lanes::kOutputs) *
         int64_t(kRow);
}

static void forward_tile(const Args& a, int64_t index, real* space) {
  const Tile t = tile_at(a, index);
  const int64_t state_size = Lanes::kStateTensors * a.batch * a.groups * Lanes::kGroup;
  real* p = space;
  real* h = p + Lanes::kParams * kRow;
  real* next = h + Lanes::kStates * kRow;
  real* kept = next + Lanes::kStates * kRow;
  real* buffers = kept + Lanes::kKept * kRow;
  Stream x[Lanes::kInputs + 1], y[Lanes::kOutputs];
  const real* x_rows[Lanes::kInputs + 1];
  real* y_rows[Lanes::kOutputs];
  for (int i = 0; i < Lanes::kInputs; ++i, buffers += kRow)
    x[i].open(a.x[Lanes::inputs[i].tensor], Lanes::inputs[i], t, buffers);
  for (int i = 0; i < Lanes::kOutputs; ++i, buffers += kRow)
    y[i].open(a.y[Lanes::outputs[i].tensor], Lanes::outputs[i], t, buffers);
  load_params(a, t, p);
  load_states(a, t, a.h0, h);
  for (int64_t step = 0; step < a.steps; ++step) {
    if (a.saved && step % a.every == 0)
      store_states(a, t, h, a.saved + step / a.every * state_size);
    for (int i = 0; i < Lanes::kInputs; ++i) x_rows[i] = x[i].load(step, x[i].buffer);
    for (int i = 0; i < Lanes::kOutputs; ++i) y_rows[i] = y[i].row(step);
    Lanes::step<false>(x_rows, p, h, next, y_rows, kept, t.width());
    for (int i = 0; i < Lanes::kOutputs; ++i) y[i].store(step);
    real* const before = h;
    h = next, next = before;
  }
  store_states(a, t, h, a.h_last);
}

// ---- Jacobians, to look at -------------------------------------------------------------------------

static int64_t jacobian_space(const Args& a) {
  return forward_space(a) +
         Lanes::kStates * Lanes::kStates * int64_t(kRow);
}

static void jacobian_tile(const Args& a, int64_t index, real* space) {
  constexpr int entries = Lanes::kStates * Lanes::kStates;
  const Tile t = tile_at(a, index);
  real* p = space;
  real* h = p + Lanes::kParams * kRow;
  real* next = h + Lanes::kStates * kRow;
  real* kept = next + Lanes::kStates * kRow;
  real* J = kept + Lanes::kKept * kRow;
  real* buffers = J + entries * kRow;
  Stream x[Lanes::kInputs + 1];
  const real* x_rows[Lanes::kInputs + 1];
  for (int i = 0; i < Lanes::kInputs; ++i, buffers += kRow)
    x[i].open(a.x[Lanes::inputs[i].tensor], Lanes::inputs[i], t, buffers);
  load_params(a, t, p);
  load_states(a, t, a.h0, h);
  for (int64_t step = 0; step < a.steps; ++step) {
    for (int i = 0; i < Lanes::kInputs; ++i) x_rows[i] = x[i].load(step, x[i].buffer);
    Lanes::step<true>(x_rows, p, h, next, nullptr, kept, t.width());
    Lanes::jacobian(x_rows, p, h, kept, J, t.width());
    real* const before = h;
    h = next, next = before;
    for (int64_t r = 0; r < t.rows; ++r)
      for (int64_t c = 0; c < t.columns; ++c)
        for (int e = 0; e < entries; ++e)
          a.jacobians[((step * a.batch + t.row + r) * a.groups + t.column + c) * entries + e] =
              J[e * kRow + r * t.columns + c];
  }
}

// ---- backward ------------------------------------------------------------------------------------
// Segments of `every` steps, last first: run forward from the saved state keeping what the adjoint
// reads, then backward. Jacobians are never stored; what is kept stays in cache.

static int64_t backward_space(const Args& a) {
  const int64_t kept = Lanes::kStates + Lanes::kKept + Lanes::kInputs;
  return (kept * (a.every + 1) + Lanes::kParams * 4 + Lanes::kStates + Lanes::kInputs +
          Lanes::kOutputs) * int64_t(kRow);
}

static void reduce_shared(const Args& a, const Tile& t, int shared, int64_t step, const real* row) {
  const int64_t blocks_before = t.column / kLanes;
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.columns; c += kLanes) {
      real sum = 0;
      const int64_t end = c + kLanes < t.columns ? c + kLanes : t.columns;
      for (int64_t i = c; i < end; ++i) sum += row[r * t.columns + i];
      const int64_t block = blocks_before + c / kLanes;
      a.shared_sums[((block * a.batch + t.row + r) * a.steps + step) * Lanes::kSharedInputs +
                    shared] = sum;
    }
}

static void backward_tile(const Args& a, int64_t index, real* space) {
  const Tile t = tile_at(a, index);
  const int width = t.width();
  const int64_t state_size = Lanes::kStateTensors * a.batch * a.groups * Lanes::kGroup;
  const int64_t h_size = Lanes::kStates * kRow, kept_size = Lanes::kKept * kRow,
                x_size = Lanes::kInputs * kRow;
  double* sums = reinterpret_cast<double*>(space);
  real* p = space + Lanes::kParams * kRow * 2;
  real* dp = p + Lanes::kParams * kRow;
  real* g = dp + Lanes::kParams * kRow;
  real* h = g + h_size;                              // [every + 1, states]
  real* kept = h + h_size * (a.every + 1);           // [every, kept]
  real* x_buffers = kept + kept_size * a.every;      // [every, inputs]
  real* buffers = x_buffers + x_size * a.every;
  Stream x[Lanes::kInputs + 1], dx[Lanes::kInputs + 1], dy[Lanes::kOutputs];
  const real* x_rows[Lanes::kInputs + 1];
  const real* dy_rows[Lanes::kOutputs];
  real* dx_rows[Lanes::kInputs + 1];
  for (int i = 0; i < Lanes::kInputs; ++i, buffers += kRow) {
    const Slot& slot = Lanes::inputs[i];
    x[i].open(a.x[slot.tensor], slot, t, nullptr);
    dx[i].open(slot.stride ? a.dx[slot.tensor] : View{}, slot, t, buffers);
  }
  for (int i = 0; i < Lanes::kOutputs; ++i, buffers += kRow)
    dy[i].open(a.dy[Lanes::outputs[i].tensor], Lanes::outputs[i], t, buffers);
  load_params(a, t, p);
  for (int64_t i = 0; i < Lanes::kParams * kRow; ++i) sums[i] = 0;
  if (a.dh_last) load_states(a, t, a.dh_last, g);
  else for (int64_t i = 0; i < h_size; ++i) g[i] = 0;

  const int64_t segments = (a.steps + a.every - 1) / a.every;
  for (int64_t segment = segments - 1; segment >= 0; --segment) {
    const int64_t first = segment * a.every;
    const int64_t count = a.steps - first < a.every ? a.steps - first : a.every;
    load_states(a, t, a.saved + segment * state_size, h);
    for (int64_t k = 0; k < count; ++k) {
      for (int i = 0; i < Lanes::kInputs; ++i)
        x_rows[i] = x[i].load(first + k, x_buffers + k * x_size + i * kRow);
      real* before = h + k * h_size;
      Lanes::step<true>(x_rows, p, before, before + h_size, nullptr, kept + k * kept_size, width);
    }
    for (int64_t i = 0; i < Lanes::kParams * kRow; ++i) dp[i] = 0;
    for (int64_t k = count - 1; k >= 0; --k) {
      const int64_t step = first + k;
      for (int i = 0; i < Lanes::kInputs; ++i) {
        x_rows[i] = x[i].direct ? x[i].load(step, nullptr) : x_buffers + k * x_size + i * kRow;
        dx_rows[i] = dx[i].row(step);
      }
      for (int i = 0; i < Lanes::kOutputs; ++i) dy_rows[i] = dy[i].load(step, dy[i].buffer);
      Lanes::adjoint(x_rows, p, h + k * h_size, kept + k * kept_size, dy_rows, g, dx_rows, dp,
                     width);
      for (int i = 0, shared = 0; i < Lanes::kInputs; ++i) {
        if (Lanes::inputs[i].stride) dx[i].store(step);
        else reduce_shared(a, t, shared++, step, dx_rows[i]);
      }
    }
    for (int k = 0; k < Lanes::kParams; ++k)
      for (int i = 0; i < width; ++i) sums[k * kRow + i] += dp[k * kRow + i];
  }
  store_states(a, t, g, a.dh0);
  for (int k = 0; k < Lanes::kParams; ++k)
    for (int64_t r = 0; r < t.rows; ++r)
      for (int64_t c = 0; c < t.columns; ++c)
        a.param_sums[((t.row + r) * Lanes::kParams + k) * a.groups + t.column + c] =
            sums[k * kRow + r * t.columns + c];
}

// Sums over the batch (and, for shared params, over channels) in a fixed order.
static void reduce_params(const Args& a) {
  for (int k = 0; k < Lanes::kParams; ++k) {
    const Slot& slot = Lanes::params[k];
    double all = 0;
    for (int64_t c = 0; c < a.groups; ++c) {
      double sum = 0;
      for (int64_t b = 0; b < a.batch; ++b)
        sum += a.param_sums[(b * Lanes::kParams + k) * a.groups + c];
      all += sum;
      if (slot.stride) a.dparams[slot.tensor][slot.offset + c * slot.stride] = real(sum);
    }
    if (!slot.stride) a.dparams[slot.tensor][0] = real(all);
  }
}

static void reduce_shared_inputs(const Args& a) {
  const int64_t blocks = (a.groups + kLanes - 1) / kLanes;
  const int64_t size = a.batch * a.steps * Lanes::kSharedInputs;
  for (int i = 0, shared = 0; i < Lanes::kInputs; ++i) {
    if (Lanes::inputs[i].stride) continue;
    const View& view = a.dx[Lanes::inputs[i].tensor];
    for (int64_t b = 0; view.data && b < a.batch; ++b)
      for (int64_t step = 0; step < a.steps; ++step) {
        const real* from = a.shared_sums + (b * a.steps + step) * Lanes::kSharedInputs + shared;
        real sum = 0;
        for (int64_t block = 0; block < blocks; ++block) sum += from[block * size];
        from_real(sum, view.data[b * view.batch + step * view.time]);
      }
    ++shared;
  }
}

// ---- threads -------------------------------------------------------------------------------------

struct Job {
  const Args* args;
  void (*run)(const Args&, int64_t, real*);
  int64_t space, count, next;
  int failed;
};

static void work(void* pointer) {
  Job& job = *static_cast<Job*>(pointer);
  void* space = nullptr;
  if (posix_memalign(&space, 128, size_t(job.space) * sizeof(real))) {
    __atomic_store_n(&job.failed, 1, __ATOMIC_RELAXED);
    return;
  }
  memset(space, 0, size_t(job.space) * sizeof(real));
  for (;;) {
    const int64_t index = __atomic_fetch_add(&job.next, 1, __ATOMIC_RELAXED);
    if (index >= job.count) break;
    job.run(*job.args, index, static_cast<real*>(space));
  }
  free(space);
}

static void* work_on_thread(void* job) { work(job); return nullptr; }

// PyTorch's own pool where there is one, so that two pools don't fight for the cores.
static int run(const Args& a, int64_t space, void (*tile)(const Args&, int64_t, real*)) {
  Job job = {&a, tile, space, tile_count(a), 0, 0};
  int64_t threads = a.threads < job.count ? a.threads : job.count;
  if (threads > 64) threads = 64;
  if (threads <= 1) {
    work(&job);
  } else if (a.parallel) {
    a.parallel(work, &job, unsigned(threads), 0);
  } else {
    pthread_t others[64];
    int64_t started = 0;
    while (started < threads - 1 &&
           !pthread_create(&others[started], nullptr, work_on_thread, &job))
      ++started;
    work(&job);
    for (int64_t i = 0; i < started; ++i) pthread_join(others[i], nullptr);
  }
  return job.failed;
}

static int run_forward(const Args& a) {
  for (int i = 0; i < Lanes::kOutputTensors; ++i) ask_for_large_pages(a, a.y[i]);
  return run(a, forward_space(a), forward_tile);
}

static int run_jacobian(const Args& a) { return run(a, jacobian_space(a), jacobian_tile); }

static int run_backward(const Args& a) {
  for (int i = 0; i < Lanes::kInputTensors; ++i) ask_for_large_pages(a, a.dx[i]);
  if (run(a, backward_space(a), backward_tile)) return 1;
  reduce_params(a);
  reduce_shared_inputs(a);
  return 0;
}

}  // namespace rnncc
