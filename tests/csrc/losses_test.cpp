// The policy-loss kernels against loops over tokens in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "check.h"

namespace {

using namespace rrm;

struct Options {
  Objective objective;
  Divergence divergence;
  bool sequence_ratio, sequence_rollout, with_old, with_reference, with_rollout, masked, per_sequence;
  float dual_clip, clamp;
};

// Sequences of these lengths side by side, one token of none before them.
void test_loss(const Table& table, const std::vector<int64_t>& lengths, const Options& o) {
  std::mt19937 generator(lengths.size());
  std::normal_distribution<float> normal(0, 0.4f);
  std::vector<Sequence> sequences;
  std::vector<int64_t> sequence_of_block;
  int64_t tokens = 1;
  for (int64_t n : lengths) {
    sequences.push_back({tokens, tokens + n, int64_t(sequence_of_block.size())});
    sequence_of_block.resize(sequence_of_block.size() + (n + kLossBlock - 1) / kLossBlock, sequences.size() - 1);
    tokens += n;
  }
  const int64_t rows = sequences.size(), blocks = sequence_of_block.size();
  std::vector<float> x(tokens), old(tokens), reference(tokens), rollout(tokens), advantages(tokens), gradient(tokens, -7);
  const auto mask = std::make_unique<bool[]>(tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    x[t] = -1 + normal(generator);
    old[t] = x[t] + normal(generator);
    reference[t] = x[t] + normal(generator);
    rollout[t] = x[t] + 0.1f * normal(generator);
    advantages[t] = normal(generator);
    mask[t] = !o.masked || generator() % 4;
    if (!mask[t]) x[t] = old[t] = reference[t] = rollout[t] = std::numeric_limits<float>::quiet_NaN();
  }
  std::vector<SequenceFacts> facts(rows, {0.25, 0.0, 0.0, 1.0});
  std::vector<LossSums> sums(blocks);
  LossJob job{};
  job.logprob = x.data();
  job.old = o.with_old ? old.data() : nullptr;
  job.advantages = advantages.data();
  job.advantage_per_sequence = o.per_sequence;
  job.mask = o.masked ? mask.get() : nullptr;
  job.reference = o.with_reference ? reference.data() : nullptr;
  job.rollout = o.with_rollout ? rollout.data() : nullptr;
  job.sequences = sequences.data();
  job.sequence_of_block = sequence_of_block.data();
  job.facts = facts.data();
  job.sums = sums.data();
  job.objective = o.objective;
  job.divergence = o.divergence;
  job.sequence_ratio = o.sequence_ratio;
  job.sequence_rollout = o.sequence_rollout;
  job.clip_low = 0.8f;
  job.clip_high = 1.3f;
  job.dual_clip = o.dual_clip;
  job.clamp = o.clamp;
  job.kl_coef = 0.5f;
  job.rollout_clip = 1.02f;
  job.gradient = gradient.data();
  job.upstream = 2.0;
  const LossKernels& kernels = *table.losses;
  kernels.sequence_sums(job, 0, blocks);
  std::vector<LossSums> shared = sums;
  for (int64_t i = 0; i < rows; ++i) {
    double count = 0, log_ratio = 0, mismatch = 0;
    for (int64_t b = 0; b < blocks; ++b)
      if (sequence_of_block[b] == i) {
        count += shared[b].count;
        log_ratio += shared[b].log_ratio;
        mismatch += shared[b].mismatch;
      }
    facts[i].log_ratio = log_ratio / std::max(1.0, count);
    facts[i].weight = std::min<double>(std::exp(mismatch), job.rollout_clip);
    facts[i].gradient = 0.125 * i;
  }
  kernels.loss_sums(job, 0, blocks);
  kernels.gradients(job, 0, blocks);

  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t i = sequence_of_block[b], begin = sequences[i].begin + (b - sequences[i].first_block) * kLossBlock;
    LossSums all{};
    for (int64_t t = begin; t < std::min(sequences[i].end, begin + kLossBlock); ++t) {
      if (!mask[t]) {
        check(gradient[t] == 0, table.name, "gradient of a token that doesn't count", gradient[t], 0);
        continue;
      }
      const double p = x[t], q = o.with_old ? old[t] : p, a = advantages[o.per_sequence ? i : t];
      double log_ratio = o.sequence_ratio ? facts[i].log_ratio : p - q;
      const bool inside = o.sequence_ratio || std::fabs(log_ratio) <= o.clamp;
      if (!o.sequence_ratio) log_ratio = std::clamp<double>(log_ratio, -o.clamp, o.clamp);
      const double r = std::exp(log_ratio), clipped = std::clamp(r, 0.8, 1.3);
      double loss, slope;
      if (o.objective == Objective::kPpo) {
        loss = -std::min(r * a, clipped * a);
        slope = clipped * a < r * a || !inside ? 0.0 : -r * a;
        if (a < 0 && loss > -o.dual_clip * a) {
          loss = -o.dual_clip * a;
          slope = 0;
        }
      } else {
        slope = o.objective == Objective::kCispo ? -clipped * a : -a;
        loss = slope * p;
      }
      if (o.with_rollout) {
        const double weight = o.sequence_rollout ? facts[i].weight : std::min<double>(std::exp(q - rollout[t]), job.rollout_clip);
        loss *= weight;
        slope *= weight;
      }
      const double d = o.with_reference ? p - reference[t] : 0.0;
      double divergence = std::expm1(-d) + d, of_divergence = o.divergence == Divergence::kK3 ? -std::expm1(-d) : d;
      if (o.divergence == Divergence::kK1) {
        divergence = d;
        of_divergence = 1;
      }
      if (o.divergence == Divergence::kK2) divergence = d * d / 2;
      all.count += 1;
      all.loss += loss + (o.with_reference ? 0.5 * divergence : 0.0);
      all.divergence += o.with_reference ? divergence : 0.0;
      all.ratio += r;
      all.gradient += slope;
      if (o.sequence_ratio && o.objective == Objective::kPpo) slope = facts[i].gradient;
      check_close(table.name, "gradient", gradient[t], 0.5 * (slope + (o.with_reference ? 0.5 * of_divergence : 0.0)), 1e-5);
    }
    check(sums[b].count == all.count, table.name, "tokens", sums[b].count, all.count);
    check_close(table.name, "loss", sums[b].loss, all.loss, 1e-3);
    check_close(table.name, "divergence", sums[b].divergence, all.divergence, 1e-3);
    check_close(table.name, "ratio", sums[b].ratio, all.ratio, 1e-3);
    check_close(table.name, "slope", sums[b].gradient, all.gradient, 1e-3);
  }
  check(gradient[0] == -7, table.name, "a token of no sequence", gradient[0], -7);
}

}  // namespace

void test_losses(const Table& table) {
  const std::vector<int64_t> lengths = {1, 7, 0, 8, 9, 31, 2048, 2049, 5000, 16};
  for (Objective objective : {Objective::kPpo, Objective::kCispo, Objective::kReinforce})
    for (Divergence divergence : {Divergence::kK1, Divergence::kK2, Divergence::kK3, Divergence::kK3WithK2Gradient})
      for (int bits = 0; bits < 64; bits += 5)
        test_loss(table, lengths,
                  {objective, divergence, bool(bits & 1), bool(bits & 2), bool(bits & 4), bool(bits & 8), bool(bits & 16), bool(bits & 32),
                   bool(bits & 3), bits & 2 ? 1.5f : INFINITY, bits & 8 ? 0.3f : INFINITY});
}
