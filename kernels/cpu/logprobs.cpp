// Log-probabilities of chosen tokens, from logits or from hidden states: statistics per column block, one merge in block order, then the results.
// Compiled once per instruction set into the namespace RRM_ISA.
#include "logprobs.h"

#include "logprobs_tiles.h"

namespace {

template <class T>
void logits_partials_of(const Job& job, int64_t begin, int64_t end) {
  alignas(64) float x[kLogitsBlock];
  for (int64_t task = begin; task < end; ++task) {
    const int64_t i = task / job.num_blocks, block = task % job.num_blocks, first = block * kLogitsBlock;
    const int64_t n = smaller(job.vocab - first, kLogitsBlock);
    const T* from = static_cast<const T*>(job.logits) + job.rows[i].source + first * job.column_stride;
    const Range range = load_block(from, job.column_stride, n, x);
    // the next block: of this row, or the first of the next
    const bool last = first + n == job.vocab, none = job.column_stride != 1 || (last && i + 1 == job.num_rows);
    const T* ahead = last && !none ? static_cast<const T*>(job.logits) + job.rows[i + 1].source : from + n;
    finish_block(job, i, block, x, first, n, range, ahead, none ? 0 : kPadColumns * sizeof(T));
  }
}

template <class T>
void pack_hidden_of(const Job& job, int64_t begin, int64_t end) {
  using P = Product<T>;
  const int64_t padded = round_up(job.hidden_size, kHiddenPad);
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(job.hidden) + job.rows[i].source;
    const Packed<P> row(job.packed, i, job.num_rows, padded);
    for (int64_t k = 0; k < padded; k += P::kStep) {
      typename P::Hidden* out = row.first + k / P::kStep * row.step;
      if (job.column_stride == 1 && k + P::kStep <= job.hidden_size) {
        P::pack_step(x + k, out);
        continue;
      }
      for (int64_t j = 0; j < P::kStep; ++j) out[j] = k + j < job.hidden_size ? P::pack(x[(k + j) * job.column_stride]) : typename P::Hidden{};
    }
  }
}

template <class T>
void linear_partials_of(const Job& job, int64_t begin, int64_t end) {
  alignas(64) float x[kTaskRows * kLinearBlock];
  const int64_t groups = (job.num_rows + kTaskRows - 1) / kTaskRows;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t block = task / groups, i = task % groups * kTaskRows, first = block * kLinearBlock;
    const int64_t n = smaller(job.vocab - first, kLinearBlock), rows = smaller(job.num_rows - i, kTaskRows);
    linear_block<T>(job, i, rows, first, n, x, kLinearBlock);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = x + r * kLinearBlock;
      for (int64_t c = n; c < round_up(n, kPadColumns); ++c) row[c] = -kInfinity;
      finish_block(job, i + r, block, row, first, n, block_range(row, round_up(n, kPadColumns)), nullptr, 0);
    }
  }
}

// The wanted logits alone, some at a time in the order of their ids, with the bits the partials' kernels give them. Neighbours with the same ids
// (a set of labels) share a tile.
template <class T>
void selected_of(const Job& job, int64_t begin, int64_t end) {
  const int64_t padded = round_up(job.hidden_size, kHiddenPad);
  for (int64_t i = begin; i < end;) {
    const int64_t* ids = job.rows[i].ids;
    const auto read = [&](int64_t row) { return static_cast<const T*>(job.logits) + job.rows[row].source; };
    const Packed<Product<T>> packed(job.packed, i, job.num_rows, padded);
    int64_t rows = 1;
    if (job.hidden)
      while (rows < packed.tile_rows && i + rows < end && job.rows[i + rows].ids == ids) ++rows;
    for (int64_t k = 0; k < job.width;) {
      float x[kTileRows][kLanes] = {};
      int64_t where[kLanes], n = 0;
      const T* columns[kLanes];
      for (; k < job.width && n < kLanes; ++k) {
        if (ids[k] < 0 || ids[k] >= job.vocab) continue;
        columns[n] = job.hidden ? static_cast<const T*>(job.weight) + ids[k] * job.weight_stride : read(i) + ids[k] * job.column_stride;
        where[n++] = k;
      }
      for (int64_t c = 0; c < n; c += kTileColumns)
        if (job.hidden)
          dot_rows<Product<T>>(rows, packed.first, packed.step, TileColumns<T>(columns, c, n).rows, job.hidden_size, x[0] + c, kLanes, 0);
        else
          for (int64_t j = c; j < smaller(n, c + kTileColumns); ++j) x[0][j] = to_float(*columns[j]);
      for (int64_t r = 0; r < rows; ++r) {
        if (job.bias)
          for (int64_t c = 0; c < n; ++c) x[r][c] += job.bias[ids[where[c]]];
        float slope[kLanes];
        cap(x[r], kLanes, job.softcap, slope);
        for (int64_t c = 0; c < n; ++c) job.selected[(i + r) * job.width + where[c]] = x[r][c];
        if (job.softcap == 0.0f) continue;
        for (int64_t c = 0; c < n; ++c) job.slopes[(i + r) * job.width + where[c]] = slope[c];
      }
    }
    i += rows;
  }
}

void store_statistics(float* out, double top, double log_total) {
  out[0] = static_cast<float>(top);
  out[1] = __builtin_isfinite(top) ? static_cast<float>(log_total) : NAN;
  out[2] = static_cast<float>(log_total - out[1]);
}

void token_outputs(const Job& job, const TokenOutputs& out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Row& row = job.rows[i];
    const double temperature = row.tempered.temperature;
    const Statistics s = merge(job.partials + i * job.num_blocks, job.num_blocks, temperature);
    const double log_total = s.log_total();
    for (int64_t k = 0; k < job.width; ++k) {
      const double away = (job.selected[i * job.width + k] - s.max) / temperature;
      out.logprob[row.output * job.width + k] = row.ids[k] == out.ignore_index ? 0.0f : float(away - log_total);
    }
    out.entropy[row.output] = float(log_total + s.moment / temperature / (1.0 + s.rest));
    out.logsumexp[row.output] = float(log_sum(s, 0.0, temperature));
    store_statistics(out.statistics + 3 * row.output, s.max, log_total);
  }
}

void score_outputs(const Job& job, const ScoreOutputs& out, int64_t begin, int64_t end) {
  const int64_t labels = out.num_labels, forms = out.forms_per_label;
  for (int64_t i = begin; i < end; ++i) {
    double* weights = out.scratch + i * 2 * (labels + 1);
    double* normalised = weights + labels + 1;
    const Row& row = job.rows[i];
    const int64_t n = row.output;
    const double temperature = row.tempered.temperature;
    const float* x = job.selected + i * job.width;
    const auto missing = [&](int64_t l) { return row.ids[l * forms] == kPadId; };
    float top = -kInfinity;
    for (int64_t k = 0; k < job.width; ++k) top = x[k] > top ? x[k] : top;
    Statistics others{-kInfinity, -1.0, 0.0};
    if (out.full_vocab) others = merge(job.partials + i * job.num_blocks, job.num_blocks, temperature);
    top = others.max > top ? float(others.max) : top;
    const double from = origin(top);
    for (int64_t l = 0; l < labels; ++l) weights[l] = log_sum_exp(x + l * forms, forms, from, temperature);
    double log_total;
    if (out.full_vocab) {
      weights[labels] = log_sum(others, from, temperature);
      log_total = log_normalise(weights, normalised, labels + 1);
      if (!__builtin_isfinite(log_total)) weights[0] = NAN;  // no distribution: the whole row says so
      for (int64_t l = 0; l < labels; ++l) out.logprob[n * labels + l] = missing(l) ? -kInfinity : float(normalised[l]);
      double mass[2] = {0.0, weights[labels]};
      mass[0] = log_normalise(weights, weights, labels);
      log_normalise(mass, mass, 2);
      out.log_mass[n] = float(mass[0]);
    } else {
      log_total = log_normalise(weights, weights, labels);
    }
    store_statistics(out.statistics + 3 * n, top, log_total);
    double *q = normalised, entropy = 0.0, expected = 0.0, variance = 0.0;
    for (int64_t l = 0; l < labels; ++l) {
      q[l] = exp(weights[l]);
      out.conditional[n * labels + l] = missing(l) ? -kInfinity : float(weights[l]);
      if (weights[l] != -kInfinity) entropy -= q[l] * weights[l];
    }
    out.entropy[n] = float(entropy);
    if (!out.values) continue;
    const float* values = out.values[i];
    for (int64_t l = 0; l < labels; ++l) expected += q[l] * values[l];
    for (int64_t l = 0; l < labels; ++l) variance += q[l] * (values[l] - expected) * (values[l] - expected);
    out.expected[n] = float(expected);
    out.variance[n] = float(variance);
  }
}

void logits_partials(const Job& job, int64_t begin, int64_t end) {
  by_dtype(job.dtype, [&](auto x) { logits_partials_of<decltype(x)>(job, begin, end); });
}

void pack_hidden(const Job& job, int64_t begin, int64_t end) {
  by_dtype(job.dtype, [&](auto x) { pack_hidden_of<decltype(x)>(job, begin, end); });
}

void linear_partials(const Job& job, int64_t begin, int64_t end) {
  by_dtype(job.dtype, [&](auto x) { linear_partials_of<decltype(x)>(job, begin, end); });
}

void selected(const Job& job, int64_t begin, int64_t end) {
  by_dtype(job.dtype, [&](auto x) { selected_of<decltype(x)>(job, begin, end); });
}

}  // namespace

namespace rrm::RRM_ISA {

extern const LogprobKernels logprobs;
const LogprobKernels logprobs = {logits_partials, pack_hidden, linear_partials, selected, token_outputs, score_outputs};

}  // namespace rrm::RRM_ISA
