// What forward and backward of the log-probability ops share: where rows of logits come from, and passes over them.
#pragma once

#include <memory>

#include "bindings.h"

namespace {

// Partials and packed elements that one pass over the rows may keep, and work (in vector operations) worth a thread of its own.
constexpr int64_t kPassPartials = int64_t{1} << 18;
constexpr int64_t kPassPacked = int64_t{1} << 21;
constexpr int64_t kThreadCost = int64_t{1} << 14;

inline rrm::DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return rrm::DType::kFloat32;
    case ScalarType::BFloat16: return rrm::DType::kBFloat16;
    case ScalarType::Half: return rrm::DType::kFloat16;
    default: STD_TORCH_CHECK(false, "dtype: expected float32, bfloat16 or float16");
  }
  return rrm::DType::kFloat32;
}

// Where the logits of n rows come from, with what keeps it alive.
struct Source {
  rrm::Job job{};
  Tensor base, weight;      // base: logits or hidden
  Sizes leading{};          // of the results
  int64_t n = 0, unit = 1;  // rows of a pass are a multiple of it
  Int64Array rows{};        // [n] rows of base, or all of them in order
  FloatArray bias{}, temperature{};
  Sizes row_sizes{}, row_strides{};  // of base, without its last dimension

  void set_row_layout() {
    row_sizes.assign(base.sizes().begin(), base.sizes().end() - 1);
    row_strides.assign(base.strides().begin(), base.strides().end() - 1);
  }

  // Rows of a pass, once the job's width is known.
  int64_t pass_rows() const {
    const int64_t most = std::min(kPassPartials / job.num_blocks, kPassPacked / std::max(job.width, job.hidden_size));
    return std::max(unit, most / unit * unit);
  }

  // The i-th row, if base has it.
  std::optional<rrm::Row> row(int64_t i, const int64_t* ids) const {
    int64_t from = rows.data ? rows.data[i] : i, offset = 0;
    if (from < 0 || from >= product(row_sizes)) return std::nullopt;
    for (size_t d = row_sizes.size(); d-- > 0;) {
      offset += from % row_sizes[d] * row_strides[d];
      from /= row_sizes[d];
    }
    const float t = temperature.data ? temperature.data[i] : 1.0f;
    return rrm::Row{i, offset, ids, rrm::Tempered(t > 0.0f ? t : kNaN)};
  }
};

inline Source from_logits(const Tensor& logits, const OptionalTensor& temperature) {
  STD_TORCH_CHECK(logits.dim() >= 1 && logits.size(logits.dim() - 1) > 0, "logits: expected [..., V] with V > 0");
  Source s{.base = logits, .weight = logits};
  s.set_row_layout();
  s.leading = s.row_sizes;
  s.n = product(s.leading);
  s.temperature = FloatArray(temperature, s.n);
  s.job.dtype = dtype_of(logits);
  s.job.logits = logits.const_data_ptr();
  s.job.column_stride = logits.stride(logits.dim() - 1);
  s.job.vocab = logits.size(logits.dim() - 1);
  s.job.num_blocks = ceil_div(s.job.vocab, rrm::kLogitsBlock);
  return s;
}

inline Source from_hidden(const Tensor& hidden, const Tensor& weight, const OptionalTensor& rows, const OptionalTensor& bias,
                          const OptionalTensor& temperature, std::optional<double> softcap, int64_t vocab_size) {
  const int64_t last = hidden.dim() - 1;
  STD_TORCH_CHECK(last >= 1 && weight.dim() == 2 && hidden.size(last) == weight.size(1) && weight.size(1) > 0,
                  "hidden, weight: expected [.., H] and [V, H] with H > 0");
  STD_TORCH_CHECK(hidden.scalar_type() == weight.scalar_type(), "hidden, weight: expected one dtype");
  STD_TORCH_CHECK(vocab_size > 0 && vocab_size <= weight.size(0), "vocab_size: expected 1 to V");
  Source s{.base = hidden, .weight = weight.stride(1) == 1 ? weight : torch::stable::contiguous(weight)};
  s.set_row_layout();
  s.n = rows ? rows->numel() : product(s.row_sizes);
  s.leading = {s.n};
  s.rows = Int64Array(rows, s.n);
  s.bias = FloatArray(bias, weight.size(0));
  s.temperature = FloatArray(temperature, s.n);
  s.job.dtype = dtype_of(hidden);
  s.job.hidden = hidden.const_data_ptr();
  s.job.hidden_size = hidden.size(last);
  s.job.column_stride = hidden.stride(last);
  s.job.weight = s.weight.const_data_ptr();
  s.job.weight_stride = s.weight.stride(0);
  s.job.bias = s.bias.data;
  s.job.softcap = static_cast<float>(softcap.value_or(0.0));
  s.job.vocab = vocab_size;
  s.job.num_blocks = ceil_div(vocab_size, rrm::kLinearBlock);
  s.unit = rrm::kTaskRows;
  return s;
}

// Runs kernel(args..., begin, end) over the tasks. The cost (in vector operations, roughly) decides how many threads share them, never what they do.
template <class Kernel, class... Args>
void run(Kernel kernel, int64_t tasks, int64_t cost, const Args&... args) {
  const int64_t grain = std::max<int64_t>(1, kThreadCost / std::max<int64_t>(1, cost));
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) { kernel(args..., begin, end); });
}

// out [rows, columns] of a dtype = from.
inline void cast_rows(const float* from, int64_t rows, int64_t columns, rrm::DType dtype, void* out) {
  std::vector<int64_t> each(rows + 1);
  std::iota(each.begin(), each.end(), int64_t{0});
  run(rrm::table().logprobs_backward->sum_rows, rows, columns / 8, rrm::SumOfRows{dtype, out, columns, from, each.data(), each.data()});
}

// Computes logits and statistics for one pass of rows after another (passes bound the scratch memory) and hands each to finish(job, first row).
template <class Finish>
void for_each_pass(rrm::Job job, const std::vector<rrm::Row>& rows, int64_t pass_rows, bool full_vocab, const Finish& finish) {
  const rrm::LogprobKernels& kernels = *rrm::table().logprobs;
  const int64_t padded = ceil_div(job.hidden_size, rrm::kHiddenPad) * rrm::kHiddenPad;
  const int64_t most = std::min<int64_t>(pass_rows, rows.size());
  const auto packed = std::make_unique_for_overwrite<float[]>(most * padded);
  const auto partials = std::make_unique_for_overwrite<rrm::Partial[]>(full_vocab ? most * job.num_blocks : 0);
  std::vector<float> selected(most * job.width), slopes(full_vocab || job.softcap == 0.0f ? 0 : selected.size());
  job.packed = packed.get();
  job.selected = selected.data();
  job.slopes = slopes.data();
  job.partials = partials.get();
  for (size_t first = 0; first < rows.size(); first += pass_rows) {
    job.rows = rows.data() + first;
    job.num_rows = std::min<int64_t>(pass_rows, rows.size() - first);
    for (int64_t i = 0; i < job.num_rows; ++i)
      for (int64_t k = 0; k < job.width; ++k)
        selected[i * job.width + k] = job.separate_selected && job.rows[i].ids[k] == rrm::kPadId ? -kInfinity : kNaN;
    const int64_t dot_cost = padded / 16;
    if (job.hidden) run(kernels.pack_hidden, job.num_rows, dot_cost, job);
    if (!full_vocab)
      run(kernels.selected, job.num_rows, job.width * dot_cost, job);
    else if (job.hidden)
      run(kernels.linear_partials, ceil_div(job.num_rows, rrm::kTaskRows) * job.num_blocks,
          std::min(job.num_rows, rrm::kTaskRows) * rrm::kLinearBlock * dot_cost, job);
    else
      run(kernels.logits_partials, job.num_rows * job.num_blocks, std::min(job.vocab, rrm::kLogitsBlock), job);
    finish(job, first);
  }
}

}  // namespace
