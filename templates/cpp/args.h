// ---- what a call hands over ------------------------------------------------------------------------

namespace rnncc {

// Elements between neighbours in batch and time, and of one channel.
struct View {
  io* data;
  int64_t batch, time, channel;
};

// Every member has 8 bytes; rnncc/launch.py fills them in this order.
struct Args {
  int64_t batch, steps, groups;    // sequences, steps of the longest, groups of channels
  int64_t extent;                  // time steps in memory
  int64_t joined;                  // the sequences lie one after another in one row of memory
  int64_t reverse;                 // each runs from its last step to its first
  int64_t segment;                 // steps of a segment; `steps` for one pass over time
  int64_t lead;                    // steps that lead up to a guess of what a segment starts from
  int64_t sweeps;                  // at most, before one pass over time does the rest
  int64_t patient;                 // not to give up before that, however slowly states are forgotten
  int64_t newton;                  // Newton as in the papers: no guard, no pass over the rest
  double tolerance;                // of neighbouring segments, relative to max(1, |state|)
  int64_t rows, columns;           // a tile: so many runs of steps by so many groups
  int64_t whole_rows, whole_columns;  // the same where each sequence is one run
  int64_t every;                   // steps between saved states
  int64_t threads;
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel, or null
  const int64_t* starts;           // [batch], where joined sequences begin
  const int64_t* lengths;          // [batch], or null where all have `steps`
  const uint8_t* reset;            // not 0: the state starts anew before this step; or null
  int64_t reset_batch, reset_time;
  View x[Lanes::kInputTensors + 1];
  const real* params[Lanes::kParamTensors + 1];
  const real* h0;                  // [states, batch, channels], or null
  // forward
  View y[Lanes::kOutputTensors + 1];
  View z[Lanes::kStateTensors];    // the states after each step
  real* h_last;                    // [states, batch, channels]
  real* saved;                     // [slots, states, channels], or null
  double* status;                  // sweeps, largest mismatch, converged, first step of the rest
  // backward: the gradients of y, z and h_last (null for zero), then those of all arguments
  View dy[Lanes::kOutputTensors + 1];
  View dz[Lanes::kStateTensors];
  const real* dh_last;
  View dx[Lanes::kInputTensors + 1];
  real* dparams[Lanes::kParamTensors + 1];
  real* dh0;
  // Jacobians along the sequence: [steps, batch, groups, kStates, kStates]
  real* jacobians;
  // workspace; a run is one segment of one sequence
  int64_t* run_starts;             // [batch + 1], the first run of each sequence
  real* begins;                    // [runs, kStates, groups]
  real* ends;                      // [runs, kStates, groups]
  real* products;                  // [runs, kStates * kStates, groups]
  double* verdicts;                // [batch, 2], then a flag for each run
  double* param_sums;              // [runs, params, groups]
  real* shared_sums;               // [blocks of lanes, batch * extent, shared inputs]
};

static int64_t length_of(const Args& a, int64_t sequence) {
  return a.lengths ? a.lengths[sequence] : a.steps;
}

// Where a step of a sequence lies in its row of memory.
static int64_t time_of(const Args& a, int64_t sequence, int64_t step) {
  const int64_t start = a.joined ? a.starts[sequence] : 0;
  return start + (a.reverse ? length_of(a, sequence) - 1 - step : step);
}

// Where the states before a step lie in `saved`; no two sequences meet.
static int64_t slot_of(const Args& a, int64_t sequence, int64_t step) {
  const int64_t before = a.joined ? a.starts[sequence] / a.every + sequence
                                  : sequence * ((a.extent + a.every - 1) / a.every);
  return before + step / a.every;
}

// Fresh memory of a large result comes in pages; the first touch of each costs more than the step
// that writes there, so ask for large ones.
static void ask_for_large_pages(const Args& a, const View& view) {
#ifdef MADV_HUGEPAGE
  const int64_t channels = a.groups * Lanes::kGroup, page = 4096, worth = 4 << 20;
  const int64_t rows = a.joined ? 1 : a.batch;
  const int64_t last = (rows - 1) * view.batch + (a.extent - 1) * view.time;
  const int64_t first = (int64_t(view.data) + page - 1) / page * page;
  const int64_t bytes = int64_t(view.data + last + channels) / page * page - first;
  if (view.data && view.channel == 1 && bytes >= worth)
    madvise(reinterpret_cast<void*>(first), size_t(bytes), MADV_HUGEPAGE);
#endif
}

// Sequences of unequal length end before their row of memory does: what follows is 0.
static void clear_tails(const Args& a, const View& view) {
  if (!view.data || !a.lengths || a.joined) return;
  const int64_t channels = a.groups * Lanes::kGroup;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t time = a.lengths[b]; time < a.extent; ++time)
      for (int64_t c = 0; c < (view.channel ? channels : 1); ++c)
        from_real(real(0), view.data[b * view.batch + time * view.time + c * view.channel]);
}

}  // namespace rnncc
