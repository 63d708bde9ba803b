// What the policy-loss kernels are given. The meaning is in rrm_core/losses/reference.py.
#pragma once

#include <cstdint>

namespace rrm {

enum class Objective : int64_t { kPpo, kCispo, kReinforce };
enum class Divergence : int64_t { kK1, kK2, kK3, kK3WithK2Gradient };

// Tokens of one task: part of the numeric contract.
constexpr int64_t kLossBlock = 2048;

// A sequence: its tokens lie side by side.
struct Sequence {
  int64_t begin, end;
  int64_t first_block;  // of all sequences' blocks
};

// Sums over the tokens of a block that count.
struct LossSums {
  double count, log_ratio, mismatch;                    // both summed where sequences need them
  double loss, divergence, ratio, low, high, gradient;  // gradient: of the loss with respect to the log ratio
  float largest_ratio;
};

// What all tokens of a sequence share.
struct SequenceFacts {
  double scale;      // of the gradient: 1 / denominator, or that / tokens
  double log_ratio;  // of the sequence
  double gradient;   // of the loss with respect to each token's log probability through it, before scale
  double weight;     // of rollout mismatch, over the sequence
};

struct LossJob {
  const float* logprob;     // [tokens], as all that follow
  const float* old;         // or null: logprob itself
  const float* advantages;  // [tokens], or [sequences]
  const bool* mask;         // or null
  const float* reference;   // or null
  const float* rollout;     // or null
  bool advantage_per_sequence;
  const Sequence* sequences;
  const int64_t* sequence_of_block;
  SequenceFacts* facts;  // [sequences]
  LossSums* sums;        // [blocks]

  Objective objective;
  bool sequence_ratio, sequence_rollout;
  float clip_low, clip_high;  // bounds of the ratio
  float dual_clip;            // infinite: none
  float clamp;                // of the log ratio; infinite: none
  float kl_coef;
  Divergence divergence;
  float rollout_clip;

  float* gradient;  // [tokens] dL/dlogprob
  double upstream;  // dL
};

struct LossKernels {
  // Blocks in [begin, end). log_ratio, mismatch and count alone, where sequences need them first.
  void (*sequence_sums)(const LossJob&, int64_t begin, int64_t end);
  void (*loss_sums)(const LossJob&, int64_t begin, int64_t end);
  void (*gradients)(const LossJob&, int64_t begin, int64_t end);
};

}  // namespace rrm
