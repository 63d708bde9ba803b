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

inline UintVec splat_bits(uint32_t x) {
  return x - UintVec{};
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
#if defined(__AVX2__) && !defined(__AVX512F__)
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
#else
  return reinterpret_cast<Vec>(__builtin_convertvector(load_half(&p->bits), UintVec) << 16);
#endif
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

// Rounded to nearest, ties to even; NaN stays NaN.
inline void store(BFloat16* p, Vec v) {
#if defined(__AVX512BF16__)
  const __m256bh half = _mm512_cvtneps_pbh(v);
  std::memcpy(p, &half, sizeof half);
#else
  const UintVec bits = reinterpret_cast<UintVec>(v);
  const UintVec rounded = (bits + (0x7fff + ((bits >> 16) & 1))) >> 16;
  const HalfVec half = __builtin_convertvector(v == v ? rounded : (bits >> 16) | 0x40, HalfVec);
  std::memcpy(&p->bits, &half, sizeof half);
#endif
}

inline void store(Float16* p, Vec v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  // Adding 1/2 rounds what becomes subnormal; the rest is rounded in its own bits. From 65520 on it is infinite.
  const UintVec bits = reinterpret_cast<UintVec>(v), magnitude = bits & 0x7fffffff;
  const UintVec subnormal = reinterpret_cast<UintVec>(reinterpret_cast<Vec>(magnitude) + 0.5f) - 0x3f000000;
  const UintVec normal = (magnitude + (0xfff + ((magnitude >> 13) & 1)) - 0x38000000) >> 13;
  UintVec half = magnitude < 0x38800000 ? subnormal : normal;
  half = magnitude >= 0x477ff000 ? splat_bits(0x7c00) : half;
  half = magnitude > 0x7f800000 ? splat_bits(0x7e00) : half;
  const HalfVec result = __builtin_convertvector(half | ((bits >> 16) & 0x8000), HalfVec);
  std::memcpy(&p->bits, &result, sizeof result);
#endif
}

inline float to_float(float x) {
  return x;
}

inline float to_float(BFloat16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float to_float(Float16 x) {
  Float16 lanes[kLanes] = {x};
  return load(lanes)[0];
}

template <class T>
inline T from_float(float x) {
  T lanes[kLanes];
  store(lanes, splat(x));
  return lanes[0];
}

// Whether some lane is set; every lane is all ones or zero.
inline bool any(IntVec v) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(v)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(v)) != 0;
#else
  return (v[0] | v[1] | v[2] | v[3]) != 0;
#endif
}

inline float horizontal_max(Vec v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256 y = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, v, 0), _mm512_maskz_extractf32x8_ps(0xff, v, 1));
#else
  const __m256 y = v;
#endif
  const __m128 x = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  const __m128 pair = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
#else
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
#endif
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

}  // namespace
