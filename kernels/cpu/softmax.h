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
constexpr int kSums = 4;
constexpr int kPadColumns = kSums * kLanes;

inline float total(const Vec (&parts)[kSums]) {
  return horizontal_sum((parts[0] + parts[2]) + (parts[1] + parts[3]));
}

// Of distances x - max, which are kept above the least that counts: exp((x - max) / T), 0 there.
struct Weights {
  Split scale;
  Vec least;

  explicit Weights(const Tempered& t) : scale{splat(t.high), splat(t.low)}, least(splat(t.least)) {}

  template <int N>
  void operator()(Vec (&distance)[N], Vec (&weight)[N]) const {
    for (int j = 0; j < N; ++j) distance[j] = least > distance[j] ? least : distance[j];  // NaN stays
    exp2_scaled(distance, scale, weight);
    for (int j = 0; j < N; ++j) weight[j] = distance[j] == least ? Vec{} : weight[j];
  }
};

inline float block_max(const float* x, int64_t n) {
  Vec largest[kSums];
  for (auto& v : largest) v = splat(-kInfinity);
  for (int64_t i = 0; i < n; i += kPadColumns)
    for (int j = 0; j < kSums; ++j) {
      const Vec v = load(x + i + j * kLanes);
      largest[j] = v > largest[j] ? v : largest[j];
    }
  for (int j = 1; j < kSums; ++j) largest[0] = largest[j] > largest[0] ? largest[j] : largest[0];
  return horizontal_max(largest[0]);
}

// The first of x[0, n) that equals `value`, which one does.
inline int64_t find(const float* x, float value) {
  int64_t i = 0;
  while (!any((load(x + i) == value) | (load(x + i + kLanes) == value) | (load(x + i + 2 * kLanes) == value) | (load(x + i + 3 * kLanes) == value)))
    i += kPadColumns;
  while (x[i] != value) ++i;
  return i;
}

// x[0, n): n is a multiple of kPadColumns, columns that don't exist hold -inf; a place that holds the maximum is overwritten. NaN makes rest and
// moment NaN. `ahead`: memory that comes next, `step` bytes of it fetched for every kPadColumns columns.
inline Partial reduce_block(float* x, int64_t n, const Tempered& tempered, const char* ahead, int64_t step) {
  const float max = block_max(x, n);
  const bool empty = max == -kInfinity;
  if (max == kInfinity) {
    float nan = 0.0f;
    for (int64_t i = 0; i < n; ++i) nan = x[i] != x[i] ? x[i] : nan;
    return {max, nan, nan};
  }
  if (!empty) x[find(x, max)] = -kInfinity;
  const Vec shift = splat(empty ? 0.0f : max);
  const Weights weights(tempered);
  Vec rest[kSums] = {}, moment[kSums] = {};
  for (int64_t i = 0; i < n; i += kPadColumns) {
    for (int64_t line = 0; line < step; line += 64) __builtin_prefetch(ahead + line);
    ahead += step;
    for (int half = 0; half < kSums; half += 2) {
      Vec distance[2], weight[2];
      for (int j = 0; j < 2; ++j) distance[j] = load(x + i + (half + j) * kLanes) - shift;
      weights(distance, weight);
      for (int j = 0; j < 2; ++j) rest[half + j] += weight[j];
      for (int j = 0; j < 2; ++j) moment[half + j] = fma(weight[j], distance[j], moment[half + j]);
    }
  }
  const float away = -total(moment);
  return {max, away == away ? total(rest) - (empty ? 1.0f : 0.0f) : away, away};
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

inline double log_sum(const Statistics& s, double temperature) {
  return s.is_distribution() ? s.max / temperature + log1p(s.rest) : s.max + s.rest;  // infinite, or NaN
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

// log sum exp(x / T), to full precision where one term dominates.
inline double log_sum_exp(const float* x, int64_t n, double temperature) {
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
  return max / temperature + log1p(rest);
}

}  // namespace
