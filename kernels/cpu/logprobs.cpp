// Log-probabilities of chosen tokens, from logits or from hidden states: statistics per column block, one merge in block order, then the results.
// Compiled once per instruction set into the namespace RRM_ISA.
#include "logprobs.h"

#include "dot.h"
#include "softmax.h"

namespace {

using namespace rrm;

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// In place: (z + bias), then softcap * tanh(z / softcap), then z / temperature. n is a multiple of kLanes.
void scale_logits(float* z, int64_t n, float softcap, float temperature) {
  if (softcap != 0.0f)
    for (int64_t i = 0; i < n; i += kLanes) store(z + i, softcap * tanh(load(z + i) / softcap));
  if (temperature != 1.0f)
    for (int64_t i = 0; i < n; i += kLanes) store(z + i, load(z + i) / temperature);
}

// Columns [first, first + n) of row i are in z, which has room up to a multiple of kPadColumns: scale, record the selected ones, reduce.
void finish_block(const Job& job, int64_t i, int64_t block, float* z, int64_t first, int64_t n) {
  const Row& row = job.rows[i];
  const int64_t padded = round_up(n, kPadColumns);
  for (int64_t c = n; c < padded; ++c) z[c] = 0.0f;
  if (job.bias)
    for (int64_t c = 0; c < n; ++c) z[c] += job.bias[first + c];
  scale_logits(z, padded, job.softcap, row.temperature);
  for (int64_t k = 0; k < job.width; ++k) {
    const int64_t column = row.ids[k] - first;
    if (column < 0 || column >= n) continue;
    job.selected[i * job.width + k] = z[column];
    if (job.separate_selected) z[column] = -kInfinity;
  }
  for (int64_t c = n; c < padded; ++c) z[c] = -kInfinity;
  job.partials[i * job.num_blocks + block] = reduce_block(z, padded);
}

template <class T>
void logits_partials_of(const Job& job, int64_t begin, int64_t end) {
  float z[kLogitsBlock];
  for (int64_t task = begin; task < end; ++task) {
    const int64_t i = task / job.num_blocks, block = task % job.num_blocks;
    const int64_t first = block * kLogitsBlock;
    const int64_t n = job.vocab - first < kLogitsBlock ? job.vocab - first : kLogitsBlock;
    const T* x = static_cast<const T*>(job.logits) + job.rows[i].source + first * job.column_stride;
    int64_t j = 0;
    if (job.column_stride == 1)
      for (; j + kLanes <= n; j += kLanes) store(z + j, load(x + j));
    for (; j < n; ++j) z[j] = to_float(x[j * job.column_stride]);
    finish_block(job, i, block, z, first, n);
  }
}

template <class T>
void pack_hidden_of(const Job& job, int64_t begin, int64_t end) {
  const int64_t padded = round_up(job.hidden_size, kHiddenPad);
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(job.hidden) + job.rows[i].source;
    auto* out = static_cast<typename Product<T>::Hidden*>(job.packed) + i * padded;
    for (int64_t k = 0; k < job.hidden_size; ++k) out[k] = Product<T>::pack(x[k * job.column_stride]);
    for (int64_t k = job.hidden_size; k < padded; ++k) out[k] = {};
  }
}

template <class T>
void linear_partials_of(const Job& job, int64_t begin, int64_t end) {
  using Hidden = typename Product<T>::Hidden;
  const int64_t padded = round_up(job.hidden_size, kHiddenPad);
  const int64_t groups = (job.num_rows + kTaskRows - 1) / kTaskRows;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t block = task / groups, group = task % groups;
    const int64_t first = block * kLinearBlock;
    const int64_t n = job.vocab - first < kLinearBlock ? job.vocab - first : kLinearBlock;
    const T* weight[kLinearBlock];
    for (int64_t c = 0; c < n; ++c) weight[c] = static_cast<const T*>(job.weight) + (first + c) * job.weight_stride;
    const int64_t last_row = (group + 1) * kTaskRows < job.num_rows ? (group + 1) * kTaskRows : job.num_rows;
    for (int64_t i = group * kTaskRows; i < last_row;) {
      float z[kTileRows][kLinearBlock];
      const Hidden* hidden = static_cast<const Hidden*>(job.packed) + i * padded;
      const int64_t rows = last_row - i < kTileRows ? last_row - i : kTileRows;
      dot_rows<Product<T>>(rows, hidden, padded, weight, n, job.hidden_size, z[0], kLinearBlock);
      for (int64_t r = 0; r < rows; ++r, ++i) finish_block(job, i, block, z[r], first, n);
    }
  }
}

// The wanted logits alone, up to kLanes at a time in the order of their ids, with the bits the partials' kernels give them.
template <class T>
void selected_of(const Job& job, int64_t begin, int64_t end) {
  const int64_t padded = round_up(job.hidden_size, kHiddenPad);
  for (int64_t i = begin; i < end; ++i) {
    const Row& row = job.rows[i];
    const auto* hidden = static_cast<const typename Product<T>::Hidden*>(job.packed) + i * padded;
    for (int64_t k = 0; k < job.width;) {
      float z[kLanes] = {};
      int64_t where[kLanes], n = 0;
      const T* columns[kLanes];
      for (; k < job.width && n < kLanes; ++k) {
        const int64_t id = row.ids[k];
        if (id < 0 || id >= job.vocab) continue;
        columns[n] = job.hidden ? static_cast<const T*>(job.weight) + id * job.weight_stride
                                : static_cast<const T*>(job.logits) + row.source + id * job.column_stride;
        where[n++] = k;
      }
      if (job.hidden)
        dot_rows<Product<T>>(1, hidden, padded, columns, n, job.hidden_size, z, 0);
      else
        for (int64_t c = 0; c < n; ++c) z[c] = to_float(*columns[c]);
      if (job.bias)
        for (int64_t c = 0; c < n; ++c) z[c] += job.bias[row.ids[where[c]]];
      scale_logits(z, kLanes, job.softcap, row.temperature);
      for (int64_t c = 0; c < n; ++c) job.selected[i * job.width + where[c]] = z[c];
    }
  }
}

void token_outputs(const Job& job, const TokenOutputs& out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Row& row = job.rows[i];
    const Statistics s = merge(job.partials + i * job.num_blocks, job.num_blocks);
    const bool finite = s.max > -kInfinity && s.max < kInfinity;
    const double log_total = finite ? log1p(s.rest) : double(NAN);
    for (int64_t k = 0; k < job.width; ++k)
      out.logprob[row.output * job.width + k] = row.ids[k] == out.ignore_index ? 0.0f : float((job.selected[i * job.width + k] - s.max) - log_total);
    out.entropy[row.output] = float(log_total + s.moment / (1.0 + s.rest));
    out.logsumexp[row.output] = float(s.log_sum());
  }
}

void score_outputs(const Job& job, const ScoreOutputs& out, int64_t begin, int64_t end) {
  const int64_t labels = out.num_labels;
  for (int64_t i = begin; i < end; ++i) {
    double* weights = out.scratch + i * 2 * (labels + 1);
    double* normalised = weights + labels + 1;
    const int64_t n = job.rows[i].output;
    const float* z = job.selected + i * job.width;
    const auto missing = [&](int64_t l) { return job.rows[i].ids[l * out.forms_per_label] == kPadId; };
    for (int64_t l = 0; l < labels; ++l) weights[l] = log_sum_exp(z + l * out.forms_per_label, out.forms_per_label);
    double log_total;
    if (out.full_vocab) {
      weights[labels] = merge(job.partials + i * job.num_blocks, job.num_blocks).log_sum();
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
    out.logsumexp[n] = float(log_total);
    double entropy = 0.0, expected = 0.0, variance = 0.0;
    for (int64_t l = 0; l < labels; ++l) {
      out.conditional[n * labels + l] = missing(l) ? -kInfinity : float(weights[l]);
      if (weights[l] != -kInfinity) entropy -= exp(weights[l]) * weights[l];
    }
    out.entropy[n] = float(entropy);
    if (!out.values) continue;
    const float* values = out.values[i];
    for (int64_t l = 0; l < labels; ++l) expected += exp(weights[l]) * values[l];
    for (int64_t l = 0; l < labels; ++l) variance += exp(weights[l]) * (values[l] - expected) * (values[l] - expected);
    out.expected[n] = float(expected);
    out.variance[n] = float(variance);
  }
}

template <class F>
void by_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat32: return f(float{});
    case DType::kBFloat16: return f(BFloat16{});
    case DType::kFloat16: return f(Float16{});
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
