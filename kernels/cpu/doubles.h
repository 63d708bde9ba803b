// Vectors of doubles as wide as the instruction set of the translation unit that includes this file, with internal linkage (see simd.h).
#pragma once

#include "simd.h"

namespace {

constexpr int kDoubles = kVectorBytes / 8;

typedef double DoubleVec __attribute__((vector_size(kVectorBytes)));
typedef int64_t LongVec __attribute__((vector_size(kVectorBytes)));

inline DoubleVec splat(double x) {
  return x - DoubleVec{};
}

inline DoubleVec load(const double* p) {
  DoubleVec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(double* p, DoubleVec v) {
  std::memcpy(p, &v, sizeof v);
}

// Upper half onto lower half, always over the same tree.
inline double horizontal_sum(DoubleVec v) {
  double lanes[kDoubles];
  store(lanes, v);
  for (int width = kDoubles / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

inline double horizontal_max(DoubleVec v) {
  double largest = v[0];
  for (int i = 1; i < kDoubles; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}

inline double dot(const double* x, const double* y, int64_t n) {
  DoubleVec even{}, odd{};
  int64_t k = 0;
  for (; k + 2 * kDoubles <= n; k += 2 * kDoubles) {
    even += load(x + k) * load(y + k);
    odd += load(x + k + kDoubles) * load(y + k + kDoubles);
  }
  double sum = horizontal_sum(even + odd);
  for (; k < n; ++k) sum += x[k] * y[k];
  return sum;
}

// exp(x) for x <= 0 to about one unit in the last place; 0 below -708 (where doubles turn subnormal), NaN for NaN. Cody-Waite reduction to
// |r| <= log(2) / 2, then Taylor's series: r^14 / 14! is below 5e-18.
inline DoubleVec exp_nonpositive(DoubleVec x) {
  constexpr double kSmallest = -708.0, kRound = 0x1.8p52;
  const DoubleVec clamped = x < kSmallest ? splat(kSmallest) : x;
  const DoubleVec shifted = clamped * 0x1.71547652b82fep0 + kRound;
  const DoubleVec n = shifted - kRound;
  const DoubleVec r = (clamped - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;  // the first product is exact
  constexpr double kTaylor[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0,
                                1.0 / 5040.0,       1.0 / 720.0,       1.0 / 120.0,      1.0 / 24.0,      1.0 / 6.0,      0.5};
  DoubleVec q = splat(kTaylor[0]);
  for (int k = 1; k < 12; ++k) q = q * r + kTaylor[k];
  const DoubleVec mantissa = (r * r * q + r) + 1.0;
  const LongVec exponent = (reinterpret_cast<LongVec>(shifted) - 0x4338000000000000 + 1023) << 52;
  const DoubleVec value = mantissa * reinterpret_cast<DoubleVec>(exponent);
  return x < kSmallest ? DoubleVec{} : value;
}

}  // namespace
