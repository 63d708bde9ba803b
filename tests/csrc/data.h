// Random values in storage of a dtype.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "table.h"

using rrm::DType;

inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>(bits >> 16);  // truncation: the value is rounded, then used as it is
}

inline float from_bfloat16(uint16_t x) {
  const uint32_t bits = uint32_t{x} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float from_float16(uint16_t h) {
  const int exponent = (h >> 10) & 31, fraction = h & 1023;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * std::ldexp(exponent ? 1024.0f + fraction : fraction, (exponent ? exponent : 1) - 25);
}

// Values in storage of a dtype, with what they stand for.
struct Data {
  std::vector<uint8_t> bytes;
  std::vector<double> values;

  Data(DType dtype, const std::vector<float>& source) : bytes(source.size() * (dtype == DType::kFloat32 ? 4 : 2)), values(source.size()) {
    for (size_t i = 0; i < source.size(); ++i) {
      if (dtype == DType::kFloat32) {
        std::memcpy(&bytes[i * 4], &source[i], 4);
        values[i] = source[i];
        continue;
      }
      uint16_t half = to_bfloat16(source[i]);
      // as float16 any bits are a value; keep exponents small so that sums stay finite
      if (dtype == DType::kFloat16 && std::isfinite(source[i])) half = (half & 0x83ff) | ((half % 3 + 14) << 10);
      if (dtype == DType::kFloat16 && std::isinf(source[i])) half = source[i] < 0 ? 0xfc00 : 0x7c00;
      std::memcpy(&bytes[i * 2], &half, 2);
      values[i] = dtype == DType::kBFloat16 ? from_bfloat16(half) : from_float16(half);
    }
  }
};

inline std::vector<float> normal(size_t n, float scale, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0.0f, scale);
  std::vector<float> x(n);
  for (float& v : x) v = distribution(generator);
  return x;
}
