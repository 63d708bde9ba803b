// What the policy loss's bindings share: its inputs as the kernels see them, and what sequences know before their tokens.
#pragma once

#include <cmath>

#include "bindings.h"

namespace rrm {

using LossResults = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

LossResults policy_loss(Tensor logprob, OptionalTensor old_logprob, Tensor advantages, OptionalTensor mask, OptionalTensor cu_seqlens,
                        OptionalTensor ref_logprob, OptionalTensor rollout_logprob, OptionalTensor normalizer, int64_t objective, bool sequence_ratio,
                        double clip_low, double clip_high, std::optional<double> dual_clip, std::optional<double> log_ratio_clamp, double kl_coef,
                        int64_t kl, int64_t reduction, double rollout_clip, bool sequence_rollout);

}  // namespace rrm

namespace {

constexpr int64_t kThreadBlocks = 8;

enum Reduction : int64_t { kTokenMean, kSequenceMean, kSequenceSum, kConstant };

// The numbers among an op's arguments, in the schema's order.
struct Options {
  int64_t objective;
  bool sequence_ratio;
  double clip_low, clip_high;
  std::optional<double> dual_clip, log_ratio_clamp;
  double kl_coef;
  int64_t kl, reduction;
  double rollout_clip;
  bool sequence_rollout;
};

struct Inputs {
  Kept kept;
  std::vector<rrm::Sequence> sequences;
  std::vector<int64_t> sequence_of_block;
  rrm::LossJob job{};
  int64_t tokens;

  Inputs(const Tensor& logprob, const OptionalTensor& old, const Tensor& advantages, const OptionalTensor& mask, const OptionalTensor& cu_seqlens,
         const OptionalTensor& reference, const OptionalTensor& rollout, const Options& o)
      : tokens(logprob.numel()) {
    STD_TORCH_CHECK(logprob.dim() == (cu_seqlens ? 1 : 2), "logprob: expected [B, T], or [T] with cu_seqlens");
    STD_TORCH_CHECK(o.objective >= 0 && o.objective <= 2 && o.kl >= 0 && o.kl <= 3 && o.reduction >= 0 && o.reduction <= 3, "options: out of range");
    set_sequences(logprob, cu_seqlens);
    const int64_t rows = sequences.size();
    job.logprob = floats(logprob, tokens);
    job.old = old ? floats(*old, tokens) : nullptr;
    job.reference = reference ? floats(*reference, tokens) : nullptr;
    job.rollout = rollout ? floats(*rollout, tokens) : nullptr;
    job.advantage_per_sequence = advantages.dim() < logprob.dim() || (cu_seqlens && advantages.numel() == rows);
    job.advantages = floats(advantages, job.advantage_per_sequence ? rows : tokens);
    if (mask) {
      STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool && mask->numel() == tokens, "mask: expected a bool for every token");
      job.mask = static_cast<const bool*>(kept.data(*mask));
    }
    job.sequences = sequences.data();
    job.sequence_of_block = sequence_of_block.data();
    job.objective = static_cast<rrm::Objective>(o.objective);
    job.sequence_ratio = o.sequence_ratio;
    job.sequence_rollout = o.sequence_rollout;
    job.clip_low = static_cast<float>(1.0 - o.clip_low);
    job.clip_high = static_cast<float>(1.0 + o.clip_high);
    job.dual_clip = static_cast<float>(o.dual_clip.value_or(INFINITY));
    job.clamp = static_cast<float>(o.log_ratio_clamp.value_or(INFINITY));
    job.kl_coef = reference ? static_cast<float>(o.kl_coef) : 0.0f;
    job.divergence = static_cast<rrm::Divergence>(o.kl);
    job.rollout_clip = static_cast<float>(o.rollout_clip);
  }

  int64_t blocks() const {
    return sequence_of_block.size();
  }
  template <class Kernel>
  void run(Kernel kernel) const {
    torch::stable::parallel_for(0, blocks(), kThreadBlocks, [&](int64_t begin, int64_t end) { kernel(job, begin, end); });
  }

 private:
  const float* floats(const Tensor& t, int64_t count) {
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.numel() == count, "expected ", count, " float32 numbers");
    return static_cast<const float*>(kept.data(t));
  }

  void set_sequences(const Tensor& logprob, const OptionalTensor& cu_seqlens) {
    const int64_t rows = cu_seqlens ? std::max<int64_t>(1, cu_seqlens->numel()) - 1 : logprob.size(0), length = cu_seqlens ? 0 : logprob.size(1);
    const Int64Array cu(cu_seqlens, rows + 1);
    sequences.resize(rows);
    int64_t covered = 0;  // no token is of two sequences
    for (int64_t i = 0; i < rows; ++i) {
      rrm::Sequence& s = sequences[i];
      s.begin = cu.data ? std::clamp<int64_t>(cu.data[i], covered, tokens) : i * length;
      s.end = cu.data ? std::clamp<int64_t>(cu.data[i + 1], s.begin, tokens) : s.begin + length;
      covered = s.end;
      s.first_block = blocks();
      sequence_of_block.resize(blocks() + ceil_div(s.end - s.begin, rrm::kLossBlock), i);
    }
  }
};

inline Tensor scalar(const Tensor& like, double value) {
  const Tensor t = empty(like, {}, ScalarType::Float);
  *static_cast<float*>(t.mutable_data_ptr()) = static_cast<float>(value);
  return t;
}

// For each sequence, f(sequence, the sums of one of its blocks).
template <class F>
void for_blocks(const Inputs& in, const std::vector<rrm::LossSums>& sums, const F& f) {
  for (int64_t b = 0; b < in.blocks(); ++b) f(in.sequence_of_block[b], sums[b]);
}

// What tokens need of their sequence before anything else. True where the clamp stops the gradient.
inline std::vector<bool> share(Inputs& in, std::vector<rrm::LossSums>& sums) {
  const int64_t rows = in.sequences.size();
  std::vector<double> count(rows), log_ratio(rows), mismatch(rows);
  in.run(rrm::table().losses->sequence_sums);
  for_blocks(in, sums, [&](int64_t i, const rrm::LossSums& s) {
    count[i] += s.count;
    log_ratio[i] += s.log_ratio;
    mismatch[i] += s.mismatch;
  });
  std::vector<bool> stopped(rows);
  for (int64_t i = 0; i < rows; ++i) {
    const double mean = log_ratio[i] / std::max(1.0, count[i]), clamp = in.job.clamp;
    stopped[i] = mean > clamp || mean < -clamp;
    in.job.facts[i].log_ratio = mean > clamp ? clamp : mean < -clamp ? -clamp : mean;
    const double weight = std::exp(mismatch[i]);
    in.job.facts[i].weight = weight > in.job.rollout_clip ? in.job.rollout_clip : weight;
  }
  return stopped;
}

// What a loss is divided by.
inline double denominator(int64_t reduction, double tokens, double sequences, const OptionalTensor& normalizer) {
  return normalizer ? *FloatArray(normalizer, 1).data : std::max(1.0, reduction == kTokenMean ? tokens : sequences);
}

// 1 / denominator, or that over the tokens of the sequence.
inline double scale(int64_t reduction, double denominator, double tokens) {
  return 1.0 / (reduction == kSequenceMean ? denominator * std::max(1.0, tokens) : denominator);
}

}  // namespace
