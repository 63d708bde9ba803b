// Exponential and hyperbolic tangent of vectors of floats, with internal linkage (see simd.h).
#pragma once

#include "simd.h"

namespace {

// a * b + c, b of at most 12 significant bits, as if a * b were exact.
inline Vec fma_short(Vec a, Vec b, Vec c) {
#if defined(__AVX2__)
  return fma(a, b, c);
#else
  const Vec upper = reinterpret_cast<Vec>(reinterpret_cast<UintVec>(a) & 0xfffff000u);
  return (upper * b + c) + (a - upper) * b;
#endif
}

// A factor in two parts, the first of which has 12 significant bits.
struct Split {
  Vec high, low;
};

constexpr float kLog2eHigh = 0x1.716p0f, kLog2eLow = -1.7605285e-4f;  // log2(e)

// y = 2^(c x) for -126 <= c x <= 0 to about one unit in the last place; anything for NaN. The integer part of c x becomes the exponent, the rest f
// (|f| <= 1/2) goes through 1 + f q(f) with q minimax for the relative error (3e-9). N vectors go in step: one's latency is the others' time.
template <int N>
inline void exp2_scaled(const Vec (&x)[N], Split c, Vec (&y)[N]) {
  constexpr float kRound = 0x1.8p23f;
  constexpr float kQ[] = {0.00015326471f, 0.0013390807f, 0.009618506f, 0.0555036f, 0.24022648f, 0.6931472f, 1.0f};
  Vec shifted[N], f[N];
  for (int i = 0; i < N; ++i) shifted[i] = fma(x[i], c.high, splat(kRound));
  for (int i = 0; i < N; ++i) f[i] = kRound - shifted[i];
  for (int i = 0; i < N; ++i) f[i] = fma_short(x[i], c.high, f[i]);
  for (int i = 0; i < N; ++i) f[i] = fma(x[i], c.low, f[i]);
  for (int i = 0; i < N; ++i) y[i] = fma(splat(kQ[0]), f[i], splat(kQ[1]));
#pragma GCC unroll 5
  for (int k = 2; k < 7; ++k)
    for (int i = 0; i < N; ++i) y[i] = fma(y[i], f[i], splat(kQ[k]));
  for (int i = 0; i < N; ++i) y[i] = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(y[i]) + (reinterpret_cast<IntVec>(shifted[i]) << 23));
}

// e^x to about one unit in the last place, 0 and infinity beyond float's range, NaN for NaN; and e^x - 1 - x, which near 0 keeps its digits.
struct Exponential {
  Vec value, excess;
};

// x = n log(2) + f with |f| <= log(2) / 2 and e^f = 1 + f + f^2 q(f), q Taylor's (3e-9). N vectors go in step, as above.
template <int N>
inline void exponentials(const Vec (&x)[N], Exponential (&e)[N]) {
  constexpr float kRound = 0x1.8p23f;
  constexpr float kQ[] = {1.0f / 40320.0f, 1.0f / 5040.0f, 1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f};
  Vec bounded[N], n[N], f[N], q[N];
  for (int i = 0; i < N; ++i) bounded[i] = x[i] > 88.7f ? splat(88.7f) : x[i] < -87.3f ? splat(-87.3f) : x[i];  // NaN stays
  for (int i = 0; i < N; ++i) n[i] = fma(bounded[i], splat(1.44269504f), splat(kRound)) - kRound;
  for (int i = 0; i < N; ++i) f[i] = fma_short(n[i], splat(-0.693359375f), bounded[i]);
  for (int i = 0; i < N; ++i) f[i] = fma(n[i], splat(2.12194440e-4f), f[i]);
  for (int i = 0; i < N; ++i) q[i] = fma(splat(kQ[0]), f[i], splat(kQ[1]));
#pragma GCC unroll 5
  for (int k = 2; k < 7; ++k)
    for (int i = 0; i < N; ++i) q[i] = fma(q[i], f[i], splat(kQ[k]));
  for (int i = 0; i < N; ++i) {
    const Vec excess = f[i] * f[i] * q[i], mantissa = 1.0f + (f[i] + excess);
    const IntVec exponent = __builtin_convertvector(n[i], IntVec);
    Vec value = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(mantissa) + (exponent << 23));
    value = x[i] > 88.7f ? splat(kInfinity) : x[i] < -87.3f ? Vec{} : value;
    value = x[i] == x[i] ? value : x[i];
    e[i] = {value, n[i] == 0.0f ? excess : (value - 1.0f) - x[i]};
  }
}

inline Exponential exponential(Vec x) {
  const Vec xs[] = {x};
  Exponential e[1];
  exponentials(xs, e);
  return e[0];
}

// tanh(x) to about two units in the last place: x + x^3 P(x^2) near 0 (minimax, 4e-9), 1 - 2 e / (1 + e) with e = exp(-2|x|) elsewhere; and its
// slope 1 - tanh^2, which from there keeps its digits where tanh rounds to 1.
struct Tanh {
  Vec value, slope;
};

inline Tanh tanh(Vec x) {
  const IntVec sign = reinterpret_cast<IntVec>(x) & INT32_MIN;
  const Vec magnitude = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(x) & INT32_MAX);
  const Vec square = x * x;
  Vec p = splat(-5.7170326e-3f);
  p = fma(p, square, splat(2.0650575e-2f));
  p = fma(p, square, splat(-5.3743493e-2f));
  p = fma(p, square, splat(0.13331491f));
  p = fma(p, square, splat(-0.33333284f));
  const Vec near_zero = fma(x * square, p, x);
  const Vec bounded = magnitude > 20.0f ? splat(20.0f) : magnitude;  // beyond, the result is 1
  Vec e[1];
  exp2_scaled({-2.0f * bounded}, {splat(kLog2eHigh), splat(kLog2eLow)}, e);
  const Vec below_1 = 2.0f * e[0] / (1.0f + e[0]), far = 1.0f - below_1;
  const Vec signed_far = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(far) | sign);
  const IntVec is_far = magnitude >= 0.625f;
  return {is_far ? signed_far : near_zero, is_far ? below_1 * (2.0f - below_1) : 1.0f - near_zero * near_zero};
}

}  // namespace
