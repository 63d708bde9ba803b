// Where a row's logits x come from: stored, or tiles of the product of packed hidden rows with the head. Shared by forward and backward.
#pragma once

#include "dot.h"
#include "elementary.h"

namespace {

using namespace rrm;

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

template <class F>
void by_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat32: return f(float{});
    case DType::kBFloat16: return f(BFloat16{});
    case DType::kFloat16: return f(Float16{});
  }
}

// x[0, n) from memory, `stride` elements apart.
template <class T>
void load_block(const T* from, int64_t stride, int64_t n, float* x) {
  int64_t j = 0;
  if (stride == 1)
    for (; j + kLanes <= n; j += kLanes) store(x + j, load(from + j));
  for (; j < n; ++j) x[j] = to_float(from[j * stride]);
}

// In place: softcap * tanh(x / softcap). n is a multiple of kLanes.
inline void cap(float* x, int64_t n, float softcap) {
  if (softcap == 0.0f) return;
  for (int64_t i = 0; i < n; i += kLanes) store(x + i, softcap * tanh(load(x + i) / softcap));
}

// x of `rows` packed rows from i on, which begins a tile, and columns [first, first + n), n at most kLinearBlock: x[r * stride + c]. The columns up
// to the next multiple of kLanes are written too.
template <class T>
void linear_block(const Job& job, int64_t i, int64_t rows, int64_t first, int64_t n, float* x, int64_t stride) {
  const int64_t padded = round_up(job.hidden_size, kHiddenPad);
  const T* weight[kLinearBlock];
  for (int64_t c = 0; c < n; ++c) weight[c] = static_cast<const T*>(job.weight) + (first + c) * job.weight_stride;
  for (int64_t c = 0; c < n; c += kTileColumns) {
    const TileColumns<T> tile(weight, c, n);
    for (int64_t r = 0; r < rows; r += kTileRows) {
      const Packed<Product<T>> packed(job.packed, i + r, job.num_rows, padded);
      dot_rows<Product<T>>(packed.tile_rows, packed.first, packed.step, tile.rows, job.hidden_size, x + r * stride + c, stride,
                           r == 0 ? kTileColumns * job.weight_stride : 0);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x + r * stride;
    for (int64_t c = n; c < round_up(n, kLanes); ++c) row[c] = 0.0f;
    if (job.bias)
      for (int64_t c = 0; c < n; ++c) row[c] += job.bias[first + c];
    cap(row, round_up(n, kLanes), job.softcap);
  }
}

}  // namespace
