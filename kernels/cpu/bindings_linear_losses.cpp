// The policy loss from hidden states under the CPU key, with the schema of rrm_core/losses/schema.py. The loss of one token never asks for another's
// log probability here, so that a chunk's gradients are known as soon as its logits are.
#include "bindings_logprobs.h"
#include "bindings_losses.h"

namespace {

constexpr int64_t kNoLabel = std::numeric_limits<int64_t>::min();  // rows that don't count are no rows here

struct Needs {
  bool hidden, weight, bias;

  bool any() const {
    return hidden || weight || bias;
  }
};

// A batch's tokens, those that count as rows of the head, and what is found of each.
struct Batch {
  Source& head;
  Inputs& in;
  std::vector<rrm::SequenceFacts> facts;
  std::vector<rrm::Row> rows{};                                   // output: the token
  size_t sequence = 0;                                            // the first that is not over
  double entropy_coef, of_entropy = 0.0, weighted_entropy = 0.0;  // sums
  float *logprob, *entropy;
  std::vector<float> logsumexp, statistics, grad_logprob, grad_entropy, nothing;

  Batch(Source& source, Inputs& inputs, const int64_t* ids, int64_t reduction, const OptionalTensor& normalizer, double coefficient, float* logprobs,
        float* entropies)
      : head(source),
        in(inputs),
        facts(inputs.sequences.size(), {0.0, 0.0, 0.0, 1.0}),
        entropy_coef(coefficient),
        logprob(logprobs),
        entropy(entropies),
        logsumexp(inputs.tokens),
        statistics(3 * inputs.tokens),
        grad_logprob(inputs.tokens),
        grad_entropy(inputs.tokens),
        nothing(inputs.tokens) {
    const int64_t sequences = facts.size();
    std::vector<double> count(sequences);
    double nonempty = 0.0;
    for (int64_t i = 0; i < sequences; ++i) {
      for (int64_t t = in.sequences[i].begin; t < in.sequences[i].end; ++t) {
        if (in.job.mask && !in.job.mask[t]) continue;
        rows.push_back(*head.row(t, ids + t));
        ++count[i];
      }
      nonempty += count[i] > 0;
    }
    in.job.facts = facts.data();
    if (in.job.sequence_rollout && in.job.rollout) {
      std::vector<rrm::LossSums> sums(in.blocks());
      in.job.sums = sums.data();
      in.job.logprob = in.job.old;
      share(in, sums);
      in.job.logprob = logprob;
    }
    const double divisor = denominator(reduction, rows.size(), nonempty, normalizer);
    for (int64_t i = 0; i < sequences; ++i) facts[i].scale = scale(reduction, divisor, count[i]);
    in.job.gradient = grad_logprob.data();
    in.job.upstream = 1.0;
  }

  // What the loss says of the log probabilities of rows [first, first + n), and the bonus of their entropies. Rows come in order.
  void differentiate(int64_t first, int64_t n) {
    const int64_t begin = rows[first].output, end = rows[first + n - 1].output + 1;
    std::vector<rrm::Sequence> pieces;
    std::vector<rrm::SequenceFacts> of_pieces;
    std::vector<float> advantages;
    std::vector<int64_t> piece_of_block;
    while (in.sequences[sequence].end <= begin) ++sequence;
    for (size_t i = sequence; i < in.sequences.size() && in.sequences[i].begin < end; ++i) {
      const rrm::Sequence piece{std::max(begin, in.sequences[i].begin), std::min(end, in.sequences[i].end), int64_t(piece_of_block.size())};
      if (piece.begin >= piece.end) continue;
      piece_of_block.resize(piece_of_block.size() + ceil_div(piece.end - piece.begin, rrm::kLossBlock), pieces.size());
      pieces.push_back(piece);
      of_pieces.push_back(facts[i]);
      if (in.job.advantage_per_sequence) advantages.push_back(in.job.advantages[i]);
      std::fill(grad_entropy.begin() + piece.begin, grad_entropy.begin() + piece.end, static_cast<float>(-entropy_coef * facts[i].scale));
      for (int64_t t = piece.begin; t < piece.end; ++t) {
        if (in.job.mask && !in.job.mask[t]) continue;
        of_entropy += entropy[t];
        weighted_entropy += entropy[t] * facts[i].scale;
      }
    }
    rrm::LossJob job = in.job;
    job.sequences = pieces.data();
    job.sequence_of_block = piece_of_block.data();
    job.facts = of_pieces.data();
    if (job.advantage_per_sequence) job.advantages = advantages.data();
    rrm::table().losses->gradients(job, 0, piece_of_block.size());
  }
};

// Gradients of hidden states and head in float32, zeros until something is added.
struct Gradients {
  Needs need;
  Tensor hidden, weight, bias;
  std::vector<double> sums;

  Gradients(const Source& s, const Tensor& of_weight, Needs needs)
      : need(needs), hidden(like(needs.hidden, s.base)), weight(like(needs.weight, of_weight)), sums(needs.bias ? s.job.vocab : 0) {
    bias = zeros(of_weight, {needs.bias ? of_weight.size(0) : 0}, ScalarType::Float);
  }
  float* of_weight() const {
    return need.weight ? static_cast<float*>(weight.mutable_data_ptr()) : nullptr;
  }
  void finish() const {
    std::copy(sums.begin(), sums.end(), static_cast<float*>(bias.mutable_data_ptr()));
  }

 private:
  static Tensor like(bool needed, const Tensor& t) {
    return zeros(t, needed ? Sizes(t.sizes().begin(), t.sizes().end()) : Sizes{0}, ScalarType::Float);
  }
};

void run_chunks(Batch& batch, Gradients& out) {
  const rrm::LogprobKernels& forward = *rrm::table().logprobs;
  const rrm::LogprobBackwardKernels& backward = *rrm::table().logprobs_backward;
  const rrm::LinearLossKernels& kernels = *rrm::table().linear_losses;
  const rrm::Job& head = batch.head.job;
  const int64_t n = batch.rows.size(), h = head.hidden_size, blocks = head.num_blocks, padded = ceil_div(h, rrm::kHiddenPad) * rrm::kHiddenPad;
  const int64_t pieces = ceil_div(blocks, rrm::kPieceBlocks), most = std::min(n, rrm::kTaskRows);
  const auto floats = [](int64_t count) { return std::make_unique_for_overwrite<float[]>(count); };
  const auto packed = floats(most * padded), logits = floats(blocks * rrm::kTaskRows * rrm::kLinearBlock),
             states = floats(out.need.weight ? rrm::kTaskRows * padded : 0), of_hidden = floats(out.need.hidden ? pieces * most * h : 0);
  ask_for_huge_pages(logits.get(), blocks * rrm::kTaskRows * rrm::kLinearBlock * sizeof(float));
  const auto partials = std::make_unique_for_overwrite<rrm::Partial[]>(most * blocks);
  std::vector<rrm::Line> lines(most);
  std::vector<float> selected(most), chosen(most);
  const std::vector<int64_t> order(most);  // one id a row
  const rrm::TokenOutputs outputs{kNoLabel, batch.logprob, batch.entropy, batch.logsumexp.data(), batch.statistics.data()};
  const rrm::TokenGradients grads{batch.grad_logprob.data(), batch.grad_entropy.data(), batch.nothing.data(), batch.entropy, order.data(),
                                  batch.statistics.data()};
  rrm::HeadChunk chunk{};
  rrm::Job& job = chunk.rows.job;
  job = head;
  job.packed = packed.get();
  job.partials = partials.get();
  job.selected = selected.data();
  chunk.rows.lines = lines.data();
  chunk.rows.chosen = chosen.data();
  chunk.logits = logits.get();
  chunk.states = states.get();
  chunk.of_weight = out.of_weight();
  chunk.of_bias = out.need.bias ? out.sums.data() : nullptr;
  chunk.of_hidden = out.need.hidden ? of_hidden.get() : nullptr;
  chunk.out = static_cast<float*>(out.hidden.mutable_data_ptr());
  for (int64_t first = 0; first < n; first += rrm::kTaskRows) {
    job.rows = batch.rows.data() + first;
    job.num_rows = std::min(n - first, rrm::kTaskRows);
    std::fill_n(selected.begin(), job.num_rows, kNaN);
    run(forward.pack_hidden, job.num_rows, h / 8, job);
    run(kernels.logits, blocks, kThreadCost, chunk);
    run(forward.token_outputs, job.num_rows, 8 * blocks, job, outputs);
    batch.differentiate(first, job.num_rows);
    if (!out.need.any()) continue;
    backward.token_lines(chunk.rows, grads, 0, job.num_rows);
    if (out.need.weight)
      run(backward.pack_panels, job.num_rows, h / 8,
          rrm::PanelRows{job.dtype, job.hidden, job.rows, 0, job.column_stride, h, rrm::kTaskRows, states.get()});
    run(kernels.gradients, blocks, kThreadCost, chunk);
    if (!out.need.hidden) continue;
    run(kernels.hidden_pieces, pieces * ceil_div(h, rrm::kPieceColumns), kThreadCost, chunk);
    run(kernels.hidden_rows, job.num_rows, pieces * h, chunk);
  }
  out.finish();
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Results linear_policy_loss(Tensor hidden, Tensor weight, Tensor token_ids, OptionalTensor bias, OptionalTensor temperature,
                           std::optional<double> softcap, int64_t vocab_size, OptionalTensor old_logprob, Tensor advantages, OptionalTensor mask,
                           OptionalTensor cu_seqlens, OptionalTensor ref_logprob, OptionalTensor rollout_logprob, OptionalTensor normalizer,
                           int64_t objective, double clip_low, double clip_high, std::optional<double> dual_clip,
                           std::optional<double> log_ratio_clamp, double kl_coef, int64_t kl, int64_t reduction, double rollout_clip,
                           bool sequence_rollout, double entropy_coef, bool need_hidden, bool need_weight, bool need_bias) {
  Source head = from_hidden(hidden, weight, std::nullopt, bias, temperature, softcap, vocab_size);
  STD_TORCH_CHECK(head.n == token_ids.numel(), "token_ids: expected one for each hidden state");
  STD_TORCH_CHECK(!sequence_rollout || !rollout_logprob || old_logprob, "old_logprob: needed for a sequence's rollout weight");
  head.job.width = 1;
  const Int64Array ids(token_ids, head.n);
  const Sizes shape(token_ids.sizes().begin(), token_ids.sizes().end());
  const Tensor logprob = zeros(hidden, shape, ScalarType::Float), entropies = zeros(hidden, shape, ScalarType::Float);
  Inputs in(logprob, old_logprob, advantages, mask, cu_seqlens, ref_logprob, rollout_logprob,
            {objective, false, clip_low, clip_high, dual_clip, log_ratio_clamp, kl_coef, kl, reduction, rollout_clip, sequence_rollout});
  Batch batch(head, in, ids.data, reduction, normalizer, entropy_coef, static_cast<float*>(logprob.mutable_data_ptr()),
              static_cast<float*>(entropies.mutable_data_ptr()));
  Gradients out(head, weight, {need_hidden, need_weight, need_bias && bias});
  run_chunks(batch, out);
  const auto [loss, divergence, low, high, mean, largest, facts] =
      rrm::policy_loss(logprob, old_logprob, advantages, mask, cu_seqlens, ref_logprob, rollout_logprob, normalizer, objective, false, clip_low,
                       clip_high, dual_clip, log_ratio_clamp, kl_coef, kl, reduction, rollout_clip, sequence_rollout);
  const float value = *static_cast<const float*>(loss.const_data_ptr());
  return {scalar(hidden, entropy_coef == 0.0 ? value : value - entropy_coef * batch.weighted_entropy),
          divergence,
          low,
          high,
          mean,
          largest,
          scalar(hidden, batch.of_entropy / std::max<double>(1.0, batch.rows.size())),
          logprob,
          out.hidden,
          out.weight,
          out.bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("linear_policy_loss", TORCH_BOX(&linear_policy_loss));
}
