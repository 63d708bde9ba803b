// The policy loss over blocks of tokens: sums for the forward, gradients for the backward, each in one pass over the inputs. Compiled once per
// instruction set into the namespace RRM_ISA.
#include "losses.h"

#include "elementary.h"
#include "table.h"

namespace {

using namespace rrm;

typedef uint8_t ByteVec __attribute__((vector_size(kLanes)));

inline Vec either(IntVec which, Vec a, Vec b) {
  return which ? a : b;
}

// A NaN in a stays.
inline Vec minimum(Vec a, Vec b) {
  return b < a ? b : a;
}

inline Vec maximum(Vec a, Vec b) {
  return b > a ? b : a;
}

// kLanes tokens from one on, of which `there` exist; zeros for those that don't count.
struct Tokens {
  int64_t first;
  int there;
  IntVec counts;

  Tokens(const LossJob& job, int64_t at, int64_t end) : first(at), there(end - at < kLanes ? int(end - at) : kLanes) {
    ByteVec bytes{};
    if (there == kLanes) {
      if (job.mask) std::memcpy(&bytes, job.mask + first, kLanes);
    } else {
      for (int i = 0; i < kLanes; ++i) bytes[i] = i < there && (!job.mask || job.mask[first + i]);
    }
    counts = there == kLanes && !job.mask ? ~IntVec{} : __builtin_convertvector(bytes, IntVec) != 0;
  }
  Vec operator()(const float* values) const {
    Vec v{};
    if (there == kLanes)
      v = load(values + first);
    else
      std::memcpy(&v, values + first, there * sizeof(float));
    return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(v) & counts);
  }
};

// One sequence's own.
struct Shared {
  Vec advantage, ratio, log_ratio, weight;

  Shared(const LossJob& job, int64_t s) {
    const SequenceFacts& f = job.facts[s];
    advantage = splat(job.advantage_per_sequence ? job.advantages[s] : 0.0f);
    log_ratio = splat(static_cast<float>(f.log_ratio));
    weight = splat(static_cast<float>(f.weight));
    ratio = splat(0.0f);
    if (job.sequence_ratio) ratio = exponential(log_ratio).value;
  }
};

// A token's part of the loss without the divergence, and its derivative with respect to the log ratio, or where that has none, the log probability.
struct Term {
  Vec advantage, ratio, loss, slope, divergence, divergence_slope;
};

inline Term term(const LossJob& job, const Tokens& token, const Shared& shared) {
  Term t;
  const Vec x = token(job.logprob), old = job.old ? token(job.old) : x;
  t.advantage = job.advantage_per_sequence ? either(token.counts, shared.advantage, Vec{}) : token(job.advantages);
  IntVec outside{};  // of the clamp; a NaN is not
  t.ratio = shared.ratio;
  if (!job.sequence_ratio) {
    Vec log_ratio = x - old;
    outside = (log_ratio > job.clamp) | (log_ratio < -job.clamp);
    log_ratio = either(log_ratio > job.clamp, splat(job.clamp), log_ratio);
    log_ratio = either(log_ratio < -job.clamp, splat(-job.clamp), log_ratio);
    t.ratio = job.old ? exponential(log_ratio).value : splat(1.0f) + log_ratio;  // NaN stays
  }
  const Vec bounded = minimum(maximum(t.ratio, splat(job.clip_low)), splat(job.clip_high));
  if (job.objective == Objective::kPpo) {
    const Vec plain = t.ratio * t.advantage, clipped = bounded * t.advantage;
    const IntVec is_clipped = (clipped < plain);
    t.loss = -either(is_clipped, clipped, plain);
    t.slope = either(is_clipped, Vec{}, -plain);
    const Vec most = -job.dual_clip * t.advantage;
    const IntVec capped = (t.advantage < 0.0f) & (t.loss > most);
    t.loss = either(capped, most, t.loss);
    t.slope = either(capped, Vec{}, t.slope);
    t.slope = either(outside, Vec{}, t.slope);
  } else {
    const Vec factor = job.objective == Objective::kCispo ? bounded * t.advantage : t.advantage;
    t.loss = -factor * x;
    t.slope = -factor;
  }
  if (job.rollout) {
    Vec weight = shared.weight;
    if (!job.sequence_rollout) weight = minimum(exponential(old - token(job.rollout)).value, splat(job.rollout_clip));
    t.loss *= weight;
    t.slope *= weight;
  }
  t.divergence = t.divergence_slope = Vec{};
  if (!job.reference) return t;
  const Vec away = x - token(job.reference);
  if (job.divergence == Divergence::kK1) {
    t.divergence = away;
    t.divergence_slope = splat(1.0f);
  } else if (job.divergence == Divergence::kK2) {
    t.divergence = 0.5f * away * away;
    t.divergence_slope = away;
  } else {
    const Exponential e = exponential(-away);
    t.divergence = e.excess;
    const IntVec is_near = (away < 0.3f) & (away > -0.3f);
    t.divergence_slope = job.divergence == Divergence::kK3 ? either(is_near, away - e.excess, 1.0f - e.value) : away;  // 1 - exp(-away)
  }
  return t;
}

// Sums of float32 numbers, in float64 after some steps, so that no chain of them is long.
template <int N>
struct Sums {
  static constexpr int kSteps = 16;
  double total[N][kLanes] = {};
  Vec some[N] = {};
  int steps = 0;

  void flush() {
    for (int k = 0; k < N; ++k) {
      for (int i = 0; i < kLanes; ++i) total[k][i] += some[k][i];
      some[k] = Vec{};
    }
    steps = 0;
  }
  void step() {
    if (++steps == kSteps) flush();
  }
  double of(int k) const {
    double sum = 0.0;
    for (int i = 0; i < kLanes; ++i) sum += total[k][i];
    return sum;
  }
};

// f(tokens, what they share, their sequence) where some of the tokens count, skip(tokens) elsewhere.
template <class F, class Skip>
void for_tokens(const LossJob& job, int64_t block, const F& f, const Skip& skip) {
  const int64_t s = job.sequence_of_block[block];
  const Sequence& sequence = job.sequences[s];
  const int64_t begin = sequence.begin + (block - sequence.first_block) * kLossBlock;
  const int64_t end = sequence.end - begin < kLossBlock ? sequence.end : begin + kLossBlock;
  const Shared shared(job, s);
  for (int64_t at = begin; at < end; at += kLanes) {
    const Tokens token(job, at, end);
    if (any(token.counts))
      f(token, shared, s);
    else
      skip(token);
  }
}

void sequence_sums(const LossJob& job, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    Sums<3> found;
    for_tokens(
        job, b,
        [&](const Tokens& token, const Shared&, int64_t) {
          const Vec x = token(job.logprob), old = job.old ? token(job.old) : x;
          found.some[0] += either(token.counts, splat(1.0f), Vec{});
          found.some[1] += x - old;
          if (job.rollout) found.some[2] += old - token(job.rollout);
          found.step();
        },
        [](const Tokens&) {});
    found.flush();
    job.sums[b].count = found.of(0);
    job.sums[b].log_ratio = found.of(1);
    job.sums[b].mismatch = found.of(2);
  }
}

void loss_sums(const LossJob& job, int64_t begin, int64_t end) {
  const Vec none{}, one = splat(1.0f);
  for (int64_t b = begin; b < end; ++b) {
    Sums<7> found;
    Vec largest{};
    for_tokens(
        job, b,
        [&](const Tokens& token, const Shared& shared, int64_t) {
          const Term t = term(job, token, shared);
          const Vec parts[] = {one,
                               job.kl_coef != 0.0f ? t.loss + job.kl_coef * t.divergence : t.loss,
                               t.divergence,
                               t.ratio,
                               either((t.ratio < job.clip_low) & (t.advantage < 0.0f), one, none),
                               either((t.ratio > job.clip_high) & (t.advantage > 0.0f), one, none),
                               t.slope};
          for (int k = 0; k < 7; ++k) found.some[k] += either(token.counts, parts[k], none);
          found.step();
          const Vec seen = either(token.counts, t.ratio, none);
          largest = either(seen > largest, seen, largest);
          largest = either(seen != seen, seen, largest);
        },
        [](const Tokens&) {});
    LossSums& sums = job.sums[b];
    found.flush();
    sums.count = found.of(0);
    sums.loss = found.of(1);
    sums.divergence = found.of(2);
    sums.ratio = found.of(3);
    sums.low = job.objective == Objective::kReinforce ? 0.0 : found.of(4);
    sums.high = job.objective == Objective::kReinforce ? 0.0 : found.of(5);
    sums.gradient = found.of(6);
    sums.largest_ratio = 0.0f;
    for (int i = 0; i < kLanes; ++i)
      sums.largest_ratio = largest[i] > sums.largest_ratio || largest[i] != largest[i] ? largest[i] : sums.largest_ratio;
  }
}

void gradients(const LossJob& job, int64_t begin, int64_t end) {
  const auto write = [&](const Tokens& token, Vec slope) {
    if (token.there == kLanes)
      store(job.gradient + token.first, slope);
    else
      std::memcpy(job.gradient + token.first, &slope, token.there * sizeof(float));
  };
  for (int64_t b = begin; b < end; ++b) {
    for_tokens(
        job, b,
        [&](const Tokens& token, const Shared& shared, int64_t s) {
          const SequenceFacts& f = job.facts[s];
          const Term t = term(job, token, shared);
          Vec slope = t.slope;
          if (job.sequence_ratio && job.objective == Objective::kPpo) slope = splat(static_cast<float>(f.gradient));
          if (job.kl_coef != 0.0f) slope += job.kl_coef * t.divergence_slope;
          slope = either(token.counts, slope * static_cast<float>(job.upstream * f.scale), Vec{});
          write(token, slope);
        },
        [&](const Tokens& token) { write(token, Vec{}); });
  }
}

}  // namespace

namespace rrm::RRM_ISA {

extern const LossKernels losses;
const LossKernels losses = {sequence_sums, loss_sums, gradients};

}  // namespace rrm::RRM_ISA
