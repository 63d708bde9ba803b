// C += A B with A and B packed into panels, register-tiled. Sums along the inner size run in chains of kChain terms, whose totals are added to C in
// order: an element of C has the same bits whatever the panels and tasks around it.
#pragma once

#include "simd.h"
#include "table.h"

namespace {

// Rows and vectors of a tile of C: accumulators fill the register file but for one row of B and one element of A.
constexpr int kPanelRows = kVectorBytes == 64 ? 12 : 6;
constexpr int kPanelVectors = 2;
constexpr int kPanelColumns = kPanelVectors * kLanes;
static_assert(rrm::kPanelPad % kPanelRows == 0 && rrm::kHiddenPad % kPanelColumns == 0);

// The tile's sums over `depth` terms of a panel of A [depth, kPanelRows] and one of B [depth, kPanelColumns].
inline void multiply_panels(const float* a, const float* b, int64_t depth, Vec (&sum)[kPanelRows][kPanelVectors]) {
  for (auto& row : sum)
    for (auto& v : row) v = Vec{};
  for (int64_t k = 0; k < depth; ++k, a += kPanelRows, b += kPanelColumns) {
    Vec column[kPanelVectors];
    for (int j = 0; j < kPanelVectors; ++j) column[j] = load(b + j * kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kPanelRows; ++i) {
      const Vec x = splat(a[i]);
      for (int j = 0; j < kPanelVectors; ++j) sum[i][j] = fma(x, column[j], sum[i][j]);
    }
  }
}

// c[i * stride + j] += the tile's element, of its first `rows` rows and `columns` columns.
inline void add_tile(const Vec (&sum)[kPanelRows][kPanelVectors], float* c, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i, c += stride) {
    if (columns >= kPanelColumns) {
      for (int j = 0; j < kPanelVectors; ++j) store(c + j * kLanes, load(c + j * kLanes) + sum[i][j]);
    } else {
      for (int64_t j = 0; j < columns; ++j) c[j] += sum[i][j / kLanes][j % kLanes];
    }
  }
}

// Rows [first_row, last_row), which begin a panel, and columns [first_column, last_column), likewise, of C += A B.
inline void multiply_block(const rrm::PanelProduct& p, int64_t first_row, int64_t last_row, int64_t first_column, int64_t last_column) {
  for (int64_t k = 0; k < p.depth; k += rrm::kChain) {
    const int64_t depth = p.depth - k < rrm::kChain ? p.depth - k : rrm::kChain;
    for (int64_t column = first_column; column < last_column; column += kPanelColumns) {
      const float* b = p.b + column * p.b_depth + k * kPanelColumns;
      for (int64_t row = first_row; row < last_row; row += kPanelRows) {
        Vec sum[kPanelRows][kPanelVectors];
        const int64_t rows = last_row - row < kPanelRows ? last_row - row : kPanelRows;
        float* c = p.c + row * p.c_stride + column;
        for (int64_t i = 0; i < rows; ++i) __builtin_prefetch(c + i * p.c_stride, 1);
        multiply_panels(p.a + row * p.a_depth + k * kPanelRows, b, depth, sum);
        add_tile(sum, c, p.c_stride, rows, last_column - column);
      }
    }
  }
}

}  // namespace
