// The log-probability ops under the CPU key, with the schemas of rrm_core/logprobs/schema.py.
#include "bindings_logprobs.h"

namespace {

using TokenResults = std::tuple<Tensor, Tensor, Tensor, Tensor>;

TokenResults token_results(Source s, const Tensor& token_ids, int64_t ignore_index) {
  const Sizes shape(token_ids.sizes().begin(), token_ids.sizes().end());
  s.job.width = shape.size() > s.leading.size() ? shape.back() : 1;
  const Int64Array ids(token_ids, s.n * s.job.width);
  const Result logprob(s.base, shape), entropy(s.base, s.leading), logsumexp(s.base, s.leading), statistics(s.base, with(s.leading, 3));
  const rrm::TokenOutputs outputs{ignore_index, logprob.data, entropy.data, logsumexp.data, statistics.data};
  std::vector<rrm::Row> rows;
  rows.reserve(s.n);
  for (int64_t i = 0; i < s.n; ++i) {
    const int64_t* row_ids = ids.data + i * s.job.width;
    if (std::all_of(row_ids, row_ids + s.job.width, [&](int64_t id) { return id == ignore_index; })) {
      std::fill_n(logprob.data + i * s.job.width, s.job.width, 0.0f);
      entropy.data[i] = logsumexp.data[i] = 0.0f;
      std::fill_n(statistics.data + 3 * i, 3, 0.0f);
    } else if (const auto row = s.row(i, row_ids)) {
      rows.push_back(*row);
    }
  }
  for_each_pass(s.job, rows, s.pass_rows(), true,
                [&](const rrm::Job& job, size_t) { run(rrm::table().logprobs->token_outputs, job.num_rows, 8 * job.num_blocks, job, outputs); });
  return {logprob.tensor, entropy.tensor, logsumexp.tensor, statistics.tensor};
}

using ScoreResults = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

ScoreResults score_results(Source s, const Tensor& form_ids, const OptionalTensor& values, const OptionalTensor& row_sets, bool full_vocab) {
  STD_TORCH_CHECK(form_ids.dim() == 3 && form_ids.numel() > 0, "form_ids: expected [sets, labels, forms]");
  const int64_t sets = form_ids.size(0), labels = form_ids.size(1), forms = form_ids.size(2);
  const Int64Array ids(form_ids, sets * labels * forms), set_of(row_sets, s.n);
  const FloatArray label_values(values, sets * labels);
  s.job.width = labels * forms;
  s.job.separate_selected = true;
  const Sizes none{0}, per_label = with(s.leading, labels);
  const Result logprob(s.base, full_vocab ? per_label : none), conditional(s.base, per_label), log_mass(s.base, full_vocab ? s.leading : none),
      expected(s.base, values ? s.leading : none), variance(s.base, values ? s.leading : none), entropy(s.base, s.leading),
      statistics(s.base, with(s.leading, 3));
  std::vector<rrm::Row> rows;
  std::vector<const float*> row_values;
  rows.reserve(s.n);
  for (int64_t i = 0; i < s.n; ++i) {
    const int64_t set = set_of.data ? set_of.data[i] : 0;
    if (set < 0 || set >= sets) continue;
    if (const auto row = s.row(i, ids.data + set * s.job.width)) {
      rows.push_back(*row);
      if (values) row_values.push_back(label_values.data + set * labels);
    }
  }
  std::vector<double> scratch(std::min<int64_t>(s.pass_rows(), rows.size()) * 2 * (labels + 1));
  rrm::ScoreOutputs outputs{labels,           forms,         scratch.data(), full_vocab,    nullptr,      logprob.data,
                            conditional.data, log_mass.data, expected.data,  variance.data, entropy.data, statistics.data};
  for_each_pass(s.job, rows, s.pass_rows(), full_vocab, [&](const rrm::Job& job, size_t first) {
    outputs.values = values ? row_values.data() + first : nullptr;
    run(rrm::table().logprobs->score_outputs, job.num_rows, 8 * (full_vocab ? job.num_blocks : 1) + 64 * job.width, job, outputs);
  });
  return {logprob.tensor, conditional.tensor, log_mass.tensor, expected.tensor, variance.tensor, entropy.tensor, statistics.tensor};
}

// ---- the ops, with the schemas of rrm_core/logprobs/schema.py

TokenResults token_logprobs(Tensor logits, Tensor token_ids, OptionalTensor temperature, int64_t ignore_index) {
  return token_results(from_logits(logits, temperature), token_ids, ignore_index);
}

// batch_invariant is granted always.
TokenResults linear_token_logprobs(Tensor hidden, Tensor weight, Tensor token_ids, OptionalTensor rows, OptionalTensor bias,
                                   OptionalTensor temperature, std::optional<double> softcap, int64_t ignore_index, int64_t vocab_size,
                                   bool /*batch_invariant*/) {
  return token_results(from_hidden(hidden, weight, rows, bias, temperature, softcap, vocab_size), token_ids, ignore_index);
}

ScoreResults score_token_logprobs(Tensor hidden, Tensor weight, Tensor form_ids, OptionalTensor values, OptionalTensor rows, OptionalTensor row_sets,
                                  OptionalTensor bias, OptionalTensor temperature, std::optional<double> softcap, bool full_vocab, int64_t vocab_size,
                                  bool /*batch_invariant*/) {
  return score_results(from_hidden(hidden, weight, rows, bias, temperature, softcap, vocab_size), form_ids, values, row_sets, full_vocab);
}

ScoreResults score_token_logprobs_from_logits(Tensor logits, Tensor form_ids, OptionalTensor values, OptionalTensor row_sets,
                                              OptionalTensor temperature, bool full_vocab) {
  return score_results(from_logits(logits, temperature), form_ids, values, row_sets, full_vocab);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("token_logprobs", TORCH_BOX(&token_logprobs));
  m.impl("linear_token_logprobs", TORCH_BOX(&linear_token_logprobs));
  m.impl("score_token_logprobs", TORCH_BOX(&score_token_logprobs));
  m.impl("score_token_logprobs_from_logits", TORCH_BOX(&score_token_logprobs_from_logits));
}
