// The policy loss under the CPU key, with the schemas of rrm_core/losses/schema.py.
#include "bindings_losses.h"

rrm::LossResults rrm::policy_loss(Tensor logprob, OptionalTensor old_logprob, Tensor advantages, OptionalTensor mask, OptionalTensor cu_seqlens,
                                  OptionalTensor ref_logprob, OptionalTensor rollout_logprob, OptionalTensor normalizer, int64_t objective,
                                  bool sequence_ratio, double clip_low, double clip_high, std::optional<double> dual_clip,
                                  std::optional<double> log_ratio_clamp, double kl_coef, int64_t kl, int64_t reduction, double rollout_clip,
                                  bool sequence_rollout) {
  Inputs in(logprob, old_logprob, advantages, mask, cu_seqlens, ref_logprob, rollout_logprob,
            {objective, sequence_ratio, clip_low, clip_high, dual_clip, log_ratio_clamp, kl_coef, kl, reduction, rollout_clip, sequence_rollout});
  const int64_t rows = in.sequences.size();
  const Tensor facts = empty(logprob, {rows, 4}, ScalarType::Double);
  std::vector<rrm::LossSums> sums(in.blocks());
  in.job.facts = static_cast<rrm::SequenceFacts*>(facts.mutable_data_ptr());
  std::fill_n(in.job.facts, rows, rrm::SequenceFacts{0.0, 0.0, 0.0, 1.0});
  in.job.sums = sums.data();
  const std::vector<bool> stopped = sequence_ratio || (sequence_rollout && rollout_logprob) ? share(in, sums) : std::vector<bool>(rows);
  in.run(rrm::table().losses->loss_sums);

  std::vector<double> count(rows), loss(rows), gradient(rows);
  double tokens = 0, divergence = 0, ratio = 0, low = 0, high = 0, largest = 0, sequences = 0;
  for_blocks(in, sums, [&](int64_t i, const rrm::LossSums& s) {
    count[i] += s.count;
    loss[i] += s.loss;
    gradient[i] += s.gradient;
    tokens += s.count;
    divergence += s.divergence;
    ratio += s.ratio;
    low += s.low;
    high += s.high;
    if (s.largest_ratio > largest || s.largest_ratio != s.largest_ratio) largest = s.largest_ratio;
  });
  for (int64_t i = 0; i < rows; ++i) sequences += count[i] > 0;
  const double divisor = denominator(reduction, tokens, sequences, normalizer);
  double total = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const double some = std::max(1.0, count[i]);
    in.job.facts[i].scale = scale(reduction, divisor, count[i]);
    in.job.facts[i].gradient = stopped[i] ? 0.0 : gradient[i] / some;
    total += loss[i] * in.job.facts[i].scale;
  }
  const double all = std::max(1.0, tokens);
  return {scalar(logprob, total),
          scalar(logprob, divergence / all),
          scalar(logprob, low / all),
          scalar(logprob, high / all),
          scalar(logprob, ratio / all),
          scalar(logprob, largest),
          facts};
}

namespace {

Tensor policy_loss_backward(Tensor grad_loss, Tensor facts, Tensor logprob, OptionalTensor old_logprob, Tensor advantages, OptionalTensor mask,
                            OptionalTensor cu_seqlens, OptionalTensor ref_logprob, OptionalTensor rollout_logprob, OptionalTensor /*normalizer*/,
                            int64_t objective, bool sequence_ratio, double clip_low, double clip_high, std::optional<double> dual_clip,
                            std::optional<double> log_ratio_clamp, double kl_coef, int64_t kl, int64_t reduction, double rollout_clip,
                            bool sequence_rollout) {
  Inputs in(logprob, old_logprob, advantages, mask, cu_seqlens, ref_logprob, rollout_logprob,
            {objective, sequence_ratio, clip_low, clip_high, dual_clip, log_ratio_clamp, kl_coef, kl, reduction, rollout_clip, sequence_rollout});
  STD_TORCH_CHECK(facts.scalar_type() == ScalarType::Double && facts.numel() == static_cast<int64_t>(4 * in.sequences.size()),
                  "facts: the forward's");
  const Tensor kept = torch::stable::contiguous(facts);
  const Tensor gradient = empty(logprob, Sizes(logprob.sizes().begin(), logprob.sizes().end()), ScalarType::Float);
  in.job.facts = static_cast<rrm::SequenceFacts*>(kept.mutable_data_ptr());
  in.job.gradient = static_cast<float*>(gradient.mutable_data_ptr());
  in.job.upstream = *FloatArray(grad_loss, 1).data;
  if (cu_seqlens) std::fill_n(in.job.gradient, in.tokens, 0.0f);
  in.run(rrm::table().losses->gradients);
  return gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("policy_loss", TORCH_BOX(&rrm::policy_loss));
  m.impl("policy_loss_backward", TORCH_BOX(&policy_loss_backward));
}
