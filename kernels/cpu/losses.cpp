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

// kLanes tokens that all count.
struct Whole {
  int64_t first;

  Vec operator()(const float* values) const {
    return load(values + first);
  }
  Vec counted(Vec v) const {
    return v;
  }
  void write(float* values, Vec v) const {
    store(values + first, v);
  }
};

// kLanes tokens from one on, of which `there` exist; zeros for those that don't count.
struct Some {
  int64_t first;
  int there;
  IntVec counts;

  Some(const LossJob& job, int64_t at, int64_t end) : first(at), there(end - at < kLanes ? int(end - at) : kLanes) {
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
    return counted(v);
  }
  Vec counted(Vec v) const {
    return reinterpret_cast<Vec>(reinterpret_cast<IntVec>(v) & counts);
  }
  void write(float* values, Vec v) const {
    const Vec some = counted(v);
    std::memcpy(values + first, &some, there * sizeof(float));
  }
};

// Whether kLanes tokens that exist count, every one.
inline bool all_count(const LossJob& job, int64_t first) {
  if (!job.mask) return true;
  bool ones[kLanes];
  std::memset(ones, 1, sizeof ones);
  return std::memcmp(job.mask + first, ones, sizeof ones) == 0;
}

// The jobs most asked for, which the compiler then knows: PPO of token ratios with old log probabilities and no rollout's, dual clip or clamp; and
// with the divergence k3.
enum class Kind { kAny, kClipped, kClippedK3 };

Kind kind_of(const LossJob& job) {
  const bool bounded = job.dual_clip < kInfinity || job.clamp < kInfinity;
  if (job.objective != Objective::kPpo || job.sequence_ratio || !job.old || job.rollout || bounded) return Kind::kAny;
  if (!job.reference) return Kind::kClipped;
  return job.divergence == Divergence::kK3 ? Kind::kClippedK3 : Kind::kAny;
}

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

// Of N vectors of tokens in step, as one's latency is the others' time.
template <Kind kKind, class Tokens, int N>
inline void terms_of(const LossJob& job, const Tokens (&tokens)[N], const Shared& shared, Term (&terms)[N]) {
  constexpr bool kAny = kKind == Kind::kAny;
  const bool token_ratio = !kAny || !job.sequence_ratio, has_old = !kAny || job.old, has_rollout = kAny && job.rollout;
  const bool has_reference = kAny ? job.reference != nullptr : kKind == Kind::kClippedK3;
  const Objective objective = kAny ? job.objective : Objective::kPpo;
  const Divergence divergence = kAny ? job.divergence : Divergence::kK3;
  const bool takes_exponential[] = {token_ratio && has_old, has_reference && divergence >= Divergence::kK3};
  Vec x[N], old[N], away[N], powers[2][N];
  Exponential exponential_of[2][N] = {};
  IntVec outside[N];  // of the clamp; a NaN is not
  for (int i = 0; i < N; ++i) {
    x[i] = tokens[i](job.logprob);
    old[i] = has_old ? tokens[i](job.old) : x[i];
    away[i] = has_reference ? x[i] - tokens[i](job.reference) : Vec{};
    powers[0][i] = x[i] - old[i];
    powers[1][i] = -away[i];
    if (!kAny) continue;
    outside[i] = (powers[0][i] > job.clamp) | (powers[0][i] < -job.clamp);
    powers[0][i] = either(powers[0][i] > job.clamp, splat(job.clamp), powers[0][i]);
    powers[0][i] = either(powers[0][i] < -job.clamp, splat(-job.clamp), powers[0][i]);
  }
  for (int k = 0; k < 2; ++k)
    if (takes_exponential[k]) exponentials(powers[k], exponential_of[k]);
  for (int i = 0; i < N; ++i) {
    Term& t = terms[i];
    t.advantage = job.advantage_per_sequence ? tokens[i].counted(shared.advantage) : tokens[i](job.advantages);
    t.ratio = !token_ratio ? shared.ratio : has_old ? exponential_of[0][i].value : splat(1.0f) + powers[0][i];  // NaN stays
    const Vec bounded = minimum(maximum(t.ratio, splat(job.clip_low)), splat(job.clip_high));
    if (objective == Objective::kPpo) {
      const Vec plain = t.ratio * t.advantage, clipped = bounded * t.advantage;
      const IntVec is_clipped = (clipped < plain);
      t.loss = -either(is_clipped, clipped, plain);
      t.slope = either(is_clipped, Vec{}, -plain);
      if (kAny) {
        const Vec most = -job.dual_clip * t.advantage;
        const IntVec capped = (t.advantage < 0.0f) & (t.loss > most);
        t.loss = either(capped, most, t.loss);
        t.slope = either(capped, Vec{}, t.slope);
        if (token_ratio) t.slope = either(outside[i], Vec{}, t.slope);
      }
    } else {
      const Vec factor = objective == Objective::kCispo ? bounded * t.advantage : t.advantage;
      t.loss = -factor * x[i];
      t.slope = -factor;
    }
    if (has_rollout) {
      Vec weight = shared.weight;
      if (!job.sequence_rollout) weight = minimum(exponential(old[i] - tokens[i](job.rollout)).value, splat(job.rollout_clip));
      t.loss *= weight;
      t.slope *= weight;
    }
    t.divergence = t.divergence_slope = Vec{};
    if (!has_reference) continue;
    if (divergence == Divergence::kK1) {
      t.divergence = away[i];
      t.divergence_slope = splat(1.0f);
    } else if (divergence == Divergence::kK2) {
      t.divergence = 0.5f * away[i] * away[i];
      t.divergence_slope = away[i];
    } else {
      const Exponential e = exponential_of[1][i];
      t.divergence = e.excess;
      const IntVec is_near = (away[i] < 0.3f) & (away[i] > -0.3f);  // 1 - exp(-away)
      t.divergence_slope = divergence == Divergence::kK3 ? either(is_near, away[i] - e.excess, 1.0f - e.value) : away[i];
    }
  }
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

// f(vectors of tokens, what they share, their sequence) where some of the tokens count, skip(tokens) elsewhere.
template <class F, class Skip>
inline void for_tokens(const LossJob& job, int64_t block, const F& f, const Skip& skip) {
  const int64_t s = job.sequence_of_block[block];
  const Sequence& sequence = job.sequences[s];
  const int64_t begin = sequence.begin + (block - sequence.first_block) * kLossBlock;
  const int64_t end = sequence.end - begin < kLossBlock ? sequence.end : begin + kLossBlock;
  const Shared shared(job, s);
  int64_t at = begin;
  while (at < end) {
    if (end - at >= 2 * kLanes && all_count(job, at) && all_count(job, at + kLanes)) {
      const Whole tokens[] = {{at}, {at + kLanes}};
      f(tokens, shared, s);
      at += 2 * kLanes;
      continue;
    }
    const Some tokens[] = {{job, at, end}};
    if (any(tokens[0].counts))
      f(tokens, shared, s);
    else
      skip(tokens[0]);
    at += kLanes;
  }
}

void sequence_sums(const LossJob& job, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    Sums<3> found;
    for_tokens(
        job, b,
        [&](const auto& tokens, const Shared&, int64_t) {
          for (const auto& token : tokens) {
            const Vec x = token(job.logprob), old = job.old ? token(job.old) : x;
            found.some[0] += token.counted(splat(1.0f));
            found.some[1] += x - old;
            if (job.rollout) found.some[2] += old - token(job.rollout);
            found.step();
          }
        },
        [](const Some&) {});
    found.flush();
    job.sums[b].count = found.of(0);
    job.sums[b].log_ratio = found.of(1);
    job.sums[b].mismatch = found.of(2);
  }
}

template <Kind kKind>
void loss_sums_of(const LossJob& job, int64_t begin, int64_t end) {
  const Vec one = splat(1.0f);
  const bool clips = job.objective != Objective::kReinforce;
  for (int64_t b = begin; b < end; ++b) {
    Sums<5> found;
    Vec largest{};
    IntVec low{}, high{};  // less how many; tokens that don't count have no advantage
    for_tokens(
        job, b,
        [&]<class Tokens, int N>(const Tokens(&tokens)[N], const Shared& shared, int64_t) {
          Term terms[N];
          terms_of<kKind>(job, tokens, shared, terms);
          for (int i = 0; i < N; ++i) {
            const Term& t = terms[i];
            const Vec parts[] = {one, job.kl_coef != 0.0f ? t.loss + job.kl_coef * t.divergence : t.loss, t.divergence, t.ratio, t.slope};
            for (int k = 0; k < (kKind == Kind::kAny ? 5 : 4); ++k) found.some[k] += tokens[i].counted(parts[k]);
            found.step();
            low += (t.ratio < job.clip_low) & (t.advantage < 0.0f);
            high += (t.ratio > job.clip_high) & (t.advantage > 0.0f);
            largest = maximum(largest, tokens[i].counted(t.ratio));
          }
        },
        [](const Some&) {});
    LossSums& sums = job.sums[b];
    found.flush();
    sums.count = found.of(0);
    sums.loss = found.of(1);
    sums.divergence = found.of(2);
    sums.ratio = found.of(3);
    sums.gradient = found.of(4);
    sums.low = sums.high = 0.0;
    sums.largest_ratio = sums.ratio == sums.ratio ? 0.0f : __builtin_nanf("");
    for (int i = 0; i < kLanes; ++i) {
      sums.low -= clips ? low[i] : 0;
      sums.high -= clips ? high[i] : 0;
      sums.largest_ratio = largest[i] > sums.largest_ratio ? largest[i] : sums.largest_ratio;
    }
  }
}

template <Kind kKind>
void gradients_of(const LossJob& job, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    for_tokens(
        job, b,
        [&]<class Tokens, int N>(const Tokens(&tokens)[N], const Shared& shared, int64_t s) {
          const SequenceFacts& f = job.facts[s];
          const float scale = static_cast<float>(job.upstream * f.scale);
          Term terms[N];
          terms_of<kKind>(job, tokens, shared, terms);
          for (int i = 0; i < N; ++i) {
            Vec slope = terms[i].slope;
            if (job.sequence_ratio && job.objective == Objective::kPpo) slope = splat(static_cast<float>(f.gradient));
            if (job.kl_coef != 0.0f) slope += job.kl_coef * terms[i].divergence_slope;
            tokens[i].write(job.gradient, slope * scale);
          }
        },
        [&](const Some& token) { token.write(job.gradient, Vec{}); });
  }
}

template <class F>
void by_kind(const LossJob& job, const F& f) {
  switch (kind_of(job)) {
    case Kind::kAny: return f.template operator()<Kind::kAny>();
    case Kind::kClipped: return f.template operator()<Kind::kClipped>();
    case Kind::kClippedK3: return f.template operator()<Kind::kClippedK3>();
  }
}

void loss_sums(const LossJob& job, int64_t begin, int64_t end) {
  by_kind(job, [&]<Kind kKind> { loss_sums_of<kKind>(job, begin, end); });
}

void gradients(const LossJob& job, int64_t begin, int64_t end) {
  by_kind(job, [&]<Kind kKind> { gradients_of<kKind>(job, begin, end); });
}

}  // namespace

namespace rrm::RRM_ISA {

extern const LossKernels losses;
const LossKernels losses = {sequence_sums, loss_sums, gradients};

}  // namespace rrm::RRM_ISA
