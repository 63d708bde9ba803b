// Softmax statistics: of a block of logits, merged over blocks, and of a few log-weights. All in the form that leaves the largest term out of the
// sum, so that a probability near 1 keeps the digits of its complement.
#pragma once

#include <math.h>

#include "simd.h"
#include "table.h"

namespace {

using rrm::Partial;

// Columns a block is padded to: independent sums keep both the rounding error and the latency of a long sum down.
constexpr int kSums = 4;
constexpr int kPadColumns = kSums * kLanes;

inline float total(const Vec (&parts)[kSums]) {
  return horizontal_sum((parts[0] + parts[2]) + (parts[1] + parts[3]));
}

// z[0, n): n is a multiple of kPadColumns, columns that don't exist hold -inf. NaN makes rest and moment NaN; +inf makes max +inf and rest its count
// - 1.
inline Partial reduce_block(const float* z, int64_t n) {
  Vec largest = splat(-kInfinity);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec x = load(z + i);
    largest = x > largest ? x : largest;
  }
  const float max = horizontal_max(largest);
  const bool empty = max == -kInfinity;
  const float shift = empty ? 0.0f : max;
  Vec sum[kSums] = {}, moment[kSums] = {}, ties[kSums] = {};
  for (int64_t i = 0; i < n; i += kPadColumns)
    for (int j = 0; j < kSums; ++j) {
      const Vec x = load(z + i + j * kLanes);
      const Vec distance = shift - x;
      const Vec weight = x == max ? Vec{} : exp_nonpositive(-distance);
      sum[j] += weight;
      moment[j] += weight == 0.0f ? Vec{} : weight * distance;
      ties[j] += x == max ? splat(1.0f) : Vec{};
    }
  return {max, total(sum) + ((empty ? 0.0f : total(ties)) - 1.0f), total(moment)};
}

struct Statistics {
  double max, rest, moment;

  double log_sum() const {
    return max + log1p(rest);
  }
};

// In block order, relative to the largest maximum; its first block contributes its rest as it stands.
inline Statistics merge(const Partial* partials, int64_t n) {
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
    if (p.max == -kInfinity) {
      all.rest += weight;  // 0, or NaN from a NaN in the block
      continue;
    }
    const double scale = p.max == top.max ? 1.0 : exp(double(p.max) - top.max);
    all.rest += scale * weight;
    all.moment += scale * (p.moment + weight * (double(top.max) - p.max));
  }
  return all;
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

// log sum exp(x), to full precision where one term dominates.
inline double log_sum_exp(const float* x, int64_t n) {
  int64_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] != x[i]) return NAN;
    if (x[i] > x[top]) top = i;
  }
  const double max = x[top];
  if (max == -kInfinity || max == kInfinity) return max;
  double rest = 0.0;
  for (int64_t i = 0; i < n; ++i)
    if (i != top) rest += exp(x[i] - max);
  return max + log1p(rest);
}

}  // namespace
