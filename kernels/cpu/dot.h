// Products of hidden rows with weight rows, register-tiled. The sum along the hidden size runs in one order, lane by lane, whatever the tile: that is
// what makes a logit's bits independent of the batch around it.
#pragma once

#include "simd.h"
#include "table.h"

namespace {

// How hidden and weight elements of storage type T meet: kStep of each a step, hidden packed as Hidden.
template <class T>
struct Product {
  using Weight = T;
  using Hidden = float;
  static constexpr int kStep = kLanes;
  using A = Vec;
  using B = Vec;
  static A load_hidden(const Hidden* p) {
    return load(p);
  }
  static B load_weight(const Weight* p) {
    return load(p);
  }
  static Vec accumulate(Vec sum, A a, B b) {
    return fma(a, b, sum);
  }
  static Hidden pack(T x) {
    return to_float(x);
  }
};

#if defined(__AVX512BF16__)
// Products of bfloat16 are exact in float32; the instruction adds two of them to each lane, one after the other.
template <>
struct Product<BFloat16> {
  using Weight = BFloat16;
  using Hidden = BFloat16;
  static constexpr int kStep = 2 * kLanes;
  using A = __m512bh;
  using B = __m512bh;
  static A load_hidden(const Hidden* p) {
    return (__m512bh)_mm512_loadu_si512(p);
  }
  static B load_weight(const Weight* p) {
    return (__m512bh)_mm512_loadu_si512(p);
  }
  static Vec accumulate(Vec sum, A a, B b) {
    return _mm512_dpbf16_ps(sum, a, b);
  }
  static Hidden pack(BFloat16 x) {
    return x;
  }
};
#endif

// out[r * out_stride + c] = <hidden row r, weight row c>. Hidden rows are zero-padded to kHiddenPad, weight rows end at `size`.
template <class P, int R, int C>
inline void dot_tile(const typename P::Hidden* hidden, int64_t hidden_stride, const typename P::Weight* const* weight, int64_t size, float* out,
                     int64_t out_stride) {
  Vec sum[R][C] = {};
  int64_t k = 0;
  for (; k + P::kStep <= size; k += P::kStep) {
    typename P::A a[R];
    for (int r = 0; r < R; ++r) a[r] = P::load_hidden(hidden + r * hidden_stride + k);
    for (int c = 0; c < C; ++c) {
      const typename P::B b = P::load_weight(weight[c] + k);
      for (int r = 0; r < R; ++r) sum[r][c] = P::accumulate(sum[r][c], a[r], b);
    }
  }
  if (k < size) {
    for (int c = 0; c < C; ++c) {
      typename P::Weight tail[P::kStep] = {};
      std::memcpy(tail, weight[c] + k, (size - k) * sizeof tail[0]);
      const typename P::B b = P::load_weight(tail);
      for (int r = 0; r < R; ++r) sum[r][c] = P::accumulate(sum[r][c], P::load_hidden(hidden + r * hidden_stride + k), b);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) out[r * out_stride + c] = horizontal_sum(sum[r][c]);
}

// Accumulators fill the register file but for the operands: 32 registers with AVX-512, 16 without.
constexpr int kTileRows = kVectorBytes == 64 ? 4 : 2;
constexpr int kTileColumns = 4;

// The products of R rows with `columns` weight rows. A last group of fewer than kTileColumns repeats its last column, into room the caller leaves.
template <class P, int R>
inline void dot_columns(const typename P::Hidden* hidden, int64_t hidden_stride, const typename P::Weight* const* weight, int64_t columns,
                        int64_t size, float* out, int64_t out_stride) {
  for (int64_t c = 0; c < columns; c += kTileColumns) {
    const typename P::Weight* tile[kTileColumns];
    for (int j = 0; j < kTileColumns; ++j) tile[j] = weight[c + j < columns ? c + j : columns - 1];
    dot_tile<P, R, kTileColumns>(hidden, hidden_stride, tile, size, out + c, out_stride);
  }
}

template <class P, int R = kTileRows>
inline void dot_rows(int64_t rows, const typename P::Hidden* hidden, int64_t hidden_stride, const typename P::Weight* const* weight, int64_t columns,
                     int64_t size, float* out, int64_t out_stride) {
  if constexpr (R > 1) {
    if (rows < R) return dot_rows<P, R - 1>(rows, hidden, hidden_stride, weight, columns, size, out, out_stride);
  }
  dot_columns<P, R>(hidden, hidden_stride, weight, columns, size, out, out_stride);
}

}  // namespace
