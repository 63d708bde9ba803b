// Where a row's logits x come from: stored, or tiles of the product of packed hidden rows with the head. Shared by forward and backward.
#pragma once

#include <type_traits>

#include "dot.h"
#include "softmax.h"

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

// x[0, n) from memory, `stride` elements apart, and -inf up to the next multiple of kPadColumns.
template <class T>
Range load_block(const T* from, int64_t stride, int64_t n, float* x) {
  RangeOfColumns found;
  int64_t i = 0;
  const auto take = [&](const auto* source) {
    Vec v[kSums];
    for (int j = 0; j < kSums; ++j) v[j] = load(source + j * kLanes);
    for (int j = 0; j < kSums; ++j) store(x + i + j * kLanes, v[j]);
    found.add(v);
    i += kPadColumns;
  };
  if (stride == 1)
    while (i + kPadColumns <= n) take(from + i);
  for (int64_t j = i; j < n; ++j) x[j] = to_float(from[j * stride]);
  for (int64_t j = n; j < round_up(n, kPadColumns); ++j) x[j] = -kInfinity;
  while (i < n) take(x + i);
  return found.range();
}

// wide[0, n) = row[0, n), and memory `ahead` elements further fetched.
template <class T>
void widen_row(const T* row, int64_t n, float* wide, int64_t ahead) {
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    store(wide + k, load(row + k));
    __builtin_prefetch(row + k + ahead);
  }
  for (; k < n; ++k) wide[k] = to_float(row[k]);
}

// In place: softcap * tanh(x / softcap); its slope too, where there is room for it. n is a multiple of kLanes.
inline void cap(float* x, int64_t n, float softcap, float* slope = nullptr) {
  if (softcap == 0.0f) return;
  for (int64_t i = 0; i < n; i += kLanes) {
    const Tanh t = tanh(load(x + i) / softcap);
    store(x + i, softcap * t.value);
    if (slope) store(slope + i, t.slope);
  }
}

// Elements of weight rows that are widened on the stack, once for all rows of a task; longer rows are widened by each tile for itself.
constexpr int64_t kWidened = 1 << 15;

// <hidden row, weight row> of `rows` packed rows from i on and one tile's columns: x[r * stride + c].
template <class P>
void dot_column(const Job& job, int64_t i, int64_t rows, const typename P::Weight* const* weight, float* x, int64_t stride, int64_t ahead) {
  const int64_t padded = round_up(job.hidden_size, kHiddenPad);
  for (int64_t r = 0; r < rows; r += kTileRows) {
    const Packed<P> packed(job.packed, i + r, job.num_rows, padded);
    dot_rows<P>(packed.tile_rows, packed.first, packed.step, weight, job.hidden_size, x + r * stride, stride, r == 0 ? ahead : 0);
  }
}

// x of `rows` packed rows from i on, which begins a tile, and columns [first, first + n), n at most kLinearBlock: x[r * stride + c]. The columns up
// to the next multiple of kLanes are written too. slope, laid out alike: of the softcap, if wanted.
template <class T>
void linear_block(const Job& job, int64_t i, int64_t rows, int64_t first, int64_t n, float* x, int64_t stride, float* slope = nullptr) {
  using P = Product<T>;
  constexpr bool kWiden = sizeof(T) < sizeof(float) && std::is_same_v<typename P::Hidden, float>;  // to the same bits
  const bool widen = kWiden && rows > kTileRows && kTileColumns * job.hidden_size <= kWidened;
  const T* weight[kLinearBlock];
  for (int64_t c = 0; c < n; ++c) weight[c] = static_cast<const T*>(job.weight) + (first + c) * job.weight_stride;
  for (int64_t c = 0; c < n; c += kTileColumns) {
    const TileColumns<T> tile(weight, c, n);
    if constexpr (kWiden) {
      if (widen) {
        alignas(64) float wide[kWidened];
        const float* columns[kTileColumns];
        for (int j = 0; j < kTileColumns; ++j) {
          columns[j] = wide + j * job.hidden_size;
          widen_row(tile.rows[j], job.hidden_size, wide + j * job.hidden_size, kTileColumns * job.weight_stride);
        }
        dot_column<Product<float>>(job, i, rows, columns, x + c, stride, 0);
        continue;
      }
    }
    dot_column<P>(job, i, rows, tile.rows, x + c, stride, kTileColumns * job.weight_stride);
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x + r * stride;
    for (int64_t c = n; c < round_up(n, kLanes); ++c) row[c] = 0.0f;
    if (job.bias)
      for (int64_t c = 0; c < n; ++c) row[c] += job.bias[first + c];
    cap(row, round_up(n, kLanes), job.softcap, slope ? slope + r * stride : nullptr);
  }
}

// Columns [first, first + n) of row i are in x, -inf after them up to a multiple of kPadColumns: record the selected ones, reduce.
inline void finish_block(const Job& job, int64_t i, int64_t block, float* x, int64_t first, int64_t n, Range range, const void* ahead, int64_t step) {
  const Row& row = job.rows[i];
  const int64_t padded = round_up(n, kPadColumns);
  bool masked = false;
  for (int64_t k = 0; k < job.width; ++k) {
    if (row.ids[k] < first || row.ids[k] >= first + n) continue;
    const int64_t column = row.ids[k] - first;
    job.selected[i * job.width + k] = x[column];
    if (job.separate_selected) x[column] = -kInfinity;
    masked = job.separate_selected;
  }
  if (masked) range = block_range(x, padded);
  job.partials[i * job.num_blocks + block] = reduce_block(x, padded, range, row.tempered, static_cast<const char*>(ahead), step);
}

}  // namespace
