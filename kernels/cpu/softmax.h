// Softmax statistics: of a block of logits x under a temperature T, merged over blocks, and of a few log-weights. All in the form that leaves the
// largest term out of the sum, so that a probability near 1 keeps the digits of its complement.
#pragma once

#include <math.h>

#include "elementary.h"
#include "table.h"

namespace {

using rrm::Partial;
using rrm::Tempered;

// Columns a block is padded to: independent sums keep both the rounding error and the latency of a long sum down.
constexpr int kSums = kLanes == 4 ? 8 : 4;
constexpr int kPadColumns = kSums * kLanes;
// Vectors whose exponentials are formed in step: what the registers, 32 with AVX-512, hold beside the sums.
constexpr int kInStep = kLanes == 16 ? 4 : 2;

inline float total(const Vec (&parts)[kSums]) {
  Vec sums[kSums];
  for (int j = 0; j < kSums; ++j) sums[j] = parts[j];
  for (int n = kSums / 2; n > 0; n /= 2)
    for (int j = 0; j < n; ++j) sums[j] += sums[j + n];
  return horizontal_sum(sums[0]);
}

// The largest and smallest of some columns; a NaN among them makes neither certain.
struct Range {
  float max, min;
};

// Vectors of columns taken in, kSums at a time.
struct RangeOfColumns {
  Vec largest[kSums], smallest[kSums];

  RangeOfColumns() {
    for (auto& v : largest) v = splat(-kInfinity);
    for (auto& v : smallest) v = splat(kInfinity);
  }
  void add(const Vec (&x)[kSums]) {
    for (int j = 0; j < kSums; ++j) largest[j] = x[j] > largest[j] ? x[j] : largest[j];
    for (int j = 0; j < kSums; ++j) smallest[j] = x[j] < smallest[j] ? x[j] : smallest[j];
  }
  Range range() const {
    Vec top = largest[0], least = smallest[0];
    for (int j = 1; j < kSums; ++j) top = largest[j] > top ? largest[j] : top;
    for (int j = 1; j < kSums; ++j) least = smallest[j] < least ? smallest[j] : least;
    return {horizontal_max(top), -horizontal_max(-least)};
  }
};

inline Range block_range(const float* x, int64_t n) {
  RangeOfColumns found;
  for (int64_t i = 0; i < n; i += kPadColumns) {
    Vec v[kSums];
    for (int j = 0; j < kSums; ++j) v[j] = load(x + i + j * kLanes);
    found.add(v);
  }
  return found.range();
}

// The first of x[0, n) that equals `value`, which one does.
inline int64_t find(const float* x, float value) {
  const auto among = [&](int64_t first) {
    IntVec found{};
    for (int j = 0; j < kSums; ++j) found |= load(x + first + j * kLanes) == value;
    return any(found);
  };
  int64_t i = 0;
  while (!among(i)) i += kPadColumns;
  while (x[i] != value) ++i;
  return i;
}

// weight = exp(distance / T) of distances from the largest x. Bounded: distances below the least that counts may occur; they become it, the weight 0.
template <bool kBounded, int N>
inline void weigh(Vec (&distance)[N], const Tempered& t, Vec (&weight)[N]) {
  const Vec least = splat(t.least);
  if constexpr (kBounded)
    for (int j = 0; j < N; ++j) distance[j] = least > distance[j] ? least : distance[j];  // NaN stays
  exp2_scaled(distance, {splat(t.high), splat(t.low)}, weight);
  if constexpr (kBounded)
    for (int j = 0; j < N; ++j) weight[j] = distance[j] == least ? Vec{} : weight[j];
}

// rest + 1 and -moment of x[0, n) around `shift`.
template <bool kBounded>
inline void sum_block(const float* x, int64_t n, float shift, const Tempered& tempered, const char* ahead, int64_t step, float* rest, float* moment) {
  Vec rests[kSums] = {}, moments[kSums] = {};
  for (int64_t i = 0; i < n; i += kPadColumns) {
    for (int64_t line = 0; line < step; line += 64) __builtin_prefetch(ahead + line);
    ahead += step;
#pragma GCC unroll 4
    for (int first = 0; first < kSums; first += kInStep) {
      Vec distance[kInStep], weight[kInStep];
      for (int j = 0; j < kInStep; ++j) distance[j] = load(x + i + (first + j) * kLanes) - shift;
      weigh<kBounded>(distance, tempered, weight);
      for (int j = 0; j < kInStep; ++j) rests[first + j] += weight[j];
      for (int j = 0; j < kInStep; ++j) moments[first + j] = fma(weight[j], distance[j], moments[first + j]);
    }
  }
  *rest = total(rests);
  *moment = total(moments);
}

// x[0, n): n is a multiple of kPadColumns, columns that don't exist hold -inf; a place that holds the maximum is overwritten. NaN makes rest and
// moment NaN. `ahead`: memory that comes next, `step` bytes of it fetched for every kPadColumns columns.
inline Partial reduce_block(float* x, int64_t n, Range range, const Tempered& tempered, const char* ahead, int64_t step) {
  const float max = range.max;
  const bool empty = max == -kInfinity;
  if (max == kInfinity) {
    float nan = 0.0f;
    for (int64_t i = 0; i < n; ++i) nan = x[i] != x[i] ? x[i] : nan;
    return {max, nan, nan};
  }
  // Where no column is far off, none has to be looked at for that; the maximum's place then weighs 1e-12 of any other, if rounding leaves it there.
  const float least = tempered.least, away_from_all = max + least, distance = away_from_all - max;
  const bool bounded = !(range.min - max > 0.7f * least && distance >= 1.005f * least && distance < 0.9f * least);
  if (!empty) x[find(x, max)] = bounded ? -kInfinity : away_from_all;
  float rest, away;
  (bounded ? sum_block<true> : sum_block<false>)(x, n, empty ? 0.0f : max, tempered, ahead, step, &rest, &away);
  return {max, away == away ? rest - (empty ? 1.0f : 0.0f) : away, -away};
}

struct Statistics {
  double max, rest, moment;

  bool is_distribution() const {
    return max > -kInfinity && max < kInfinity;
  }
  // log sum exp(x / T) relative to its largest term.
  double log_total() const {
    return is_distribution() ? log1p(rest) : double(NAN);
  }
};

// In block order, relative to the largest maximum; its first block contributes its rest as it stands.
inline Statistics merge(const Partial* partials, int64_t n, double temperature) {
  Partial top{-kInfinity, -1.0f, 0.0f};
  int64_t top_block = -1;
  for (int64_t b = 0; b < n; ++b)
    if (partials[b].max > top.max) {
      top = partials[b];
      top_block = b;
    }
  Statistics all{top.max, top.rest, top.moment};
  for (int64_t b = 0; b < n; ++b) {
    if (b == top_block) continue;
    const Partial& p = partials[b];
    const double weight = 1.0 + p.rest;
    if (p.max == -kInfinity || top.max == kInfinity) {
      all.rest += weight - (p.max == -kInfinity ? 0.0 : 1.0);  // NaN from a NaN in the block
      continue;
    }
    const double away = double(top.max) - p.max, scale = p.max == top.max ? 1.0 : exp(-away / temperature);
    all.rest += scale * weight;
    all.moment += scale * (p.moment + weight * away);
  }
  return all;
}

// log sum exp((x - from) / T).
inline double log_sum(const Statistics& s, double from, double temperature) {
  return s.is_distribution() ? (s.max - from) / temperature + log1p(s.rest) : s.max + s.rest;  // infinite, or NaN
}

// The same of a few log-weights: out[i] = log_weights[i] - logsumexp(log_weights), which is returned. `out` may be `log_weights`.
// -inf has probability 0; all of them -inf, a NaN or a +inf gives NaN everywhere.
inline double log_normalise(const double* log_weights, double* out, int64_t n) {
  int64_t top = 0;
  for (int64_t i = 1; i < n; ++i)
    if (log_weights[i] > log_weights[top]) top = i;
  const double max = log_weights[top];
  double rest = 0.0;
  for (int64_t i = 0; i < n; ++i)
    if (i != top) rest += exp(log_weights[i] - max);
  const bool infinite = max == kInfinity || max == -kInfinity;
  const double log_total = infinite ? double(NAN) : log1p(rest);
  for (int64_t i = 0; i < n; ++i) out[i] = (log_weights[i] - max) - log_total;
  return infinite ? max : max + log_total;
}

// What log-weights are relative to, so that a complement of the largest keeps its digits: the largest x, where it is a number.
inline double origin(double top) {
  return __builtin_isfinite(top) ? top : 0.0;
}

// log sum exp((x - from) / T), to full precision where one term dominates.
inline double log_sum_exp(const float* x, int64_t n, double from, double temperature) {
  int64_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] != x[i]) return NAN;
    if (x[i] > x[top]) top = i;
  }
  const double max = x[top];
  if (max == -kInfinity || max == kInfinity) return max;
  double rest = 0.0;
  for (int64_t i = 0; i < n; ++i)
    if (i != top) rest += exp((x[i] - max) / temperature);
  return (max - from) / temperature + log1p(rest);
}

}  // namespace
