// Products of hidden rows with weight rows, register-tiled. The sum along the hidden size runs in one order, lane by lane, whatever the tile: that is
// what makes a logit's bits independent of the batch around it.
#pragma once

#include "simd.h"
#include "table.h"

namespace {

// Rows and columns of a tile: accumulators fill the register file but for the operands (32 registers with AVX-512, 16 without).
constexpr int kTileRows = kVectorBytes == 64 ? 6 : 3;
constexpr int kTileColumns = 4;
static_assert(rrm::kTaskRows % kTileRows == 0);
// Steps along the hidden size that are summed up before they are added to the total: a longer chain would lose digits.
constexpr int kDotChain = 256;

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
  static void pack_step(const T* x, Hidden* out) {
    store(out, load(x));
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
  static void pack_step(const BFloat16* x, Hidden* out) {
    std::memcpy(out, x, kStep * sizeof *x);
  }
};
#endif

// Row i of `rows` packed ones: kTileRows of them (the last time fewer) lie step by step beside each other, so that a tile reads one stream.
template <class P>
struct Packed {
  typename P::Hidden* first;  // step
  int64_t step;               // elements from one to the next
  int64_t tile_rows;          // of the row's tile from this one on

  Packed(void* packed, int64_t i, int64_t rows, int64_t padded_size) {
    const int64_t tile = i / kTileRows * kTileRows, in_tile = rows - tile < kTileRows ? rows - tile : kTileRows;
    first = static_cast<typename P::Hidden*>(packed) + tile * padded_size + (i - tile) * P::kStep;
    step = in_tile * P::kStep;
    tile_rows = in_tile - (i - tile);
  }
};

#if defined(__AVX512F__)
// Sums of a, b, c and d over the upper and lower half, then over those of their halves: a lane group each.
inline Vec fold(Vec a, Vec b, Vec c, Vec d) {
  const auto pick = []<int kWhich>(Vec x, Vec y) { return Vec(_mm512_maskz_shuffle_f32x4(0xffff, x, y, kWhich)); };
  const Vec ab = pick.template operator()<0x44>(a, b) + pick.template operator()<0xee>(a, b);
  const Vec cd = pick.template operator()<0x44>(c, d) + pick.template operator()<0xee>(c, d);
  return pick.template operator()<0x88>(ab, cd) + pick.template operator()<0xdd>(ab, cd);
}

// Sums within the groups of four lanes of a, b, c and d: lane 4 i + j of the result is that of group j of the i-th.
inline Vec fold_groups(Vec a, Vec b, Vec c, Vec d) {
  const Vec ab = Vec(_mm512_maskz_unpacklo_ps(0xffff, a, b)) + Vec(_mm512_maskz_unpackhi_ps(0xffff, a, b));
  const Vec cd = Vec(_mm512_maskz_unpacklo_ps(0xffff, c, d)) + Vec(_mm512_maskz_unpackhi_ps(0xffff, c, d));
  const Vec sums = Vec(_mm512_maskz_shuffle_ps(0xffff, ab, cd, 0x44)) + Vec(_mm512_maskz_shuffle_ps(0xffff, ab, cd, 0xee));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_maskz_permutexvar_ps(0xffff, order, sums);
}
#endif

// out[r * out_stride + c] = the sum over the lanes of sum[r][c], over one tree.
template <int R>
inline void store_sums(const Vec (&sum)[R][kTileColumns], float* out, int64_t out_stride) {
#if defined(__AVX512F__)
#pragma GCC unroll 2
  for (int first = 0; first < R; first += 4) {
    Vec row[4] = {};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      if (first + i < R) row[i] = fold(sum[first + i][0], sum[first + i][1], sum[first + i][2], sum[first + i][3]);
    const Vec sums = fold_groups(row[0], row[1], row[2], row[3]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      if (first + i < R) std::memcpy(out + (first + i) * out_stride, reinterpret_cast<const float*>(&sums) + 4 * i, 4 * sizeof(float));
  }
#else
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < kTileColumns; ++c) out[r * out_stride + c] = horizontal_sum(sum[r][c]);
#endif
}

// out[r * out_stride + c] = <hidden row r, weight row c> of R packed rows, their steps `step` elements apart, and kTileColumns weight rows of `size`
// elements. Ahead: the weight that comes next lies so many elements further and is fetched meanwhile (0: nothing is); a row of weight is often a
// page, where prefetchers stop.
template <class P, int R, bool kAhead>
inline void dot_tile(const typename P::Hidden* hidden, int64_t step, const typename P::Weight* const* weight, int64_t size, float* out,
                     int64_t out_stride, int64_t ahead) {
  Vec total[R][kTileColumns] = {};
  for (int64_t k = 0; k < size;) {
    Vec sum[R][kTileColumns] = {};
    const int64_t end = size - k < kDotChain * P::kStep ? size : k + kDotChain * P::kStep;
    for (; k + P::kStep <= end; k += P::kStep, hidden += step) {
      typename P::A a[R];
      for (int r = 0; r < R; ++r) a[r] = P::load_hidden(hidden + r * P::kStep);
      for (int c = 0; c < kTileColumns; ++c) {
        const typename P::B b = P::load_weight(weight[c] + k);
        if constexpr (kAhead) __builtin_prefetch(weight[c] + k + ahead);
        for (int r = 0; r < R; ++r) sum[r][c] = P::accumulate(sum[r][c], a[r], b);
      }
    }
    if (k < end) {
      for (int c = 0; c < kTileColumns; ++c) {
        typename P::Weight tail[P::kStep] = {};
        std::memcpy(tail, weight[c] + k, (size - k) * sizeof tail[0]);
        const typename P::B b = P::load_weight(tail);
        for (int r = 0; r < R; ++r) sum[r][c] = P::accumulate(sum[r][c], P::load_hidden(hidden + r * P::kStep), b);
      }
      k = size;
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < kTileColumns; ++c) total[r][c] += sum[r][c];
  }
  store_sums<R>(total, out, out_stride);
}

// The same for some rows of one tile.
template <class P, int R = kTileRows>
inline void dot_rows(int64_t rows, const typename P::Hidden* hidden, int64_t step, const typename P::Weight* const* weight, int64_t size, float* out,
                     int64_t out_stride, int64_t ahead) {
  if constexpr (R > 1) {
    if (rows < R) return dot_rows<P, R - 1>(rows, hidden, step, weight, size, out, out_stride, ahead);
  }
  if (ahead)
    dot_tile<P, R, true>(hidden, step, weight, size, out, out_stride, ahead);
  else
    dot_tile<P, R, false>(hidden, step, weight, size, out, out_stride, 0);
}

// kTileColumns of `columns` weight rows from column c on; the last one stands in for those that don't exist.
template <class W>
struct TileColumns {
  const W* rows[kTileColumns];

  TileColumns(const W* const* weight, int64_t c, int64_t columns) {
    for (int j = 0; j < kTileColumns; ++j) rows[j] = weight[c + j < columns ? c + j : columns - 1];
  }
};

}  // namespace
