// Vectors as wide as the instruction set of the translation unit that includes this file. Everything here has internal linkage, so that no inline
// function compiled for one instruction set can be merged by the linker into code meant for another.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Some intrinsics below are the masked ones with a full mask: GCC 12 warns inside its own header about the others.

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kLanes = kVectorBytes / 4;
constexpr float kInfinity = __builtin_inff();

typedef float Vec __attribute__((vector_size(kVectorBytes)));
typedef int32_t IntVec __attribute__((vector_size(kVectorBytes)));
typedef uint32_t UintVec __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfVec __attribute__((vector_size(kVectorBytes / 2)));

// Storage types of the sixteen-bit formats; float stands for itself.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline Vec splat(float x) {
  return x - Vec{};
}

// a * b + c with one rounding where the instruction set has it. Contraction is off in the build, so this is the only place that fuses.
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) {
  std::memcpy(p, &v, sizeof v);
}

inline HalfVec load_half(const uint16_t* p) {
  HalfVec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Vec load(const BFloat16* p) {
  return reinterpret_cast<Vec>(__builtin_convertvector(load_half(&p->bits), UintVec) << 16);
}

inline Vec load(const Float16* p) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  // Rebias the exponent by a multiplication, which also normalises subnormals; infinities and NaN keep an all-ones exponent.
  const UintVec h = __builtin_convertvector(load_half(&p->bits), UintVec);
  const UintVec magnitude = (h & 0x7fff) << 13;
  const Vec rebiased = reinterpret_cast<Vec>(magnitude) * 0x1p112f;
  const Vec special = reinterpret_cast<Vec>(magnitude | 0x7f800000);
  const Vec value = (h & 0x7c00) == 0x7c00 ? special : rebiased;
  return reinterpret_cast<Vec>(reinterpret_cast<UintVec>(value) | ((h & 0x8000) << 16));
#endif
}

inline float to_float(float x) {
  return x;
}

template <class T>
inline float to_float(T x) {
  T lanes[kLanes] = {x};
  return load(lanes)[0];
}

inline float horizontal_max(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

// Pairwise, upper half onto lower half, always over the same tree.
inline float horizontal_sum(Vec v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256 y = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0), _mm512_maskz_extractf32x8_ps(0xff, v, 1));
#else
  const __m256 y = v;
#endif
  const __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  const __m128 pair = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

// exp(x) for x <= 0 to about one unit in the last place: exactly 0 below the smallest normal result (-inf included), NaN for NaN.
// Cody-Waite reduction to |r| <= log(2)/2, then 1 + r + r^2 q(r) with q minimax for the relative error (3e-9).
inline Vec exp_nonpositive(Vec x) {
  constexpr float kSmallest = -87.33f, kRound = 0x1.8p23f;
  const Vec clamped = x < kSmallest ? splat(kSmallest) : x;
  const Vec shifted = fma(clamped, splat(1.44269504f), splat(kRound));
  const Vec n = shifted - kRound;
  const Vec r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), clamped));  // the first product is exact, fused or not
  Vec q = splat(1.3814596e-3f);
  q = fma(q, r, splat(8.3687175e-3f));
  q = fma(q, r, splat(4.166839e-2f));
  q = fma(q, r, splat(0.16666521f));
  q = fma(q, r, splat(0.49999994f));
  const Vec mantissa = fma(r * r, q, r) + 1.0f;
  const IntVec exponent = (reinterpret_cast<IntVec>(shifted) - 0x4b400000 + 127) << 23;
  const Vec value = mantissa * reinterpret_cast<Vec>(exponent);
  return x < kSmallest ? Vec{} : value;
}

// tanh(x) to a few units in the last place, relative: x + x^3 P(x^2) near 0 (minimax, 4e-9), (1 - e) / (1 + e) with e = exp(-2|x|) elsewhere.
inline Vec tanh(Vec x) {
  const IntVec sign = reinterpret_cast<IntVec>(x) & INT32_MIN;
  const Vec magnitude = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(x) & INT32_MAX);
  const Vec square = x * x;
  Vec p = splat(-5.7170326e-3f);
  p = fma(p, square, splat(2.0650575e-2f));
  p = fma(p, square, splat(-5.3743493e-2f));
  p = fma(p, square, splat(0.13331491f));
  p = fma(p, square, splat(-0.33333284f));
  const Vec near_zero = fma(x * square, p, x);
  const Vec e = exp_nonpositive(-2.0f * magnitude);
  const Vec far = (1.0f - e) / (1.0f + e);
  const Vec signed_far = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(far) | sign);
  return magnitude < 0.625f ? near_zero : signed_far;
}

}  // namespace
