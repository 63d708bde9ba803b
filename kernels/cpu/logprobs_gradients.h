// Pieces of dL/dx from logits at hand, and of the right side of the products with it.
#pragma once

#include "logprobs_backward.h"
#include "logprobs_tiles.h"
#include "panels.h"

namespace {

// x[0, n) becomes the row's line there, up to a multiple of kPadColumns. Bounded: see `weigh`. moments: see `Gradients`, or null.
template <bool kBounded>
void draw_line(const Line& line, const Tempered& tempered, int64_t n, float* x, float* moments) {
  Vec first[kSums] = {}, second[kSums] = {};
  for (int64_t c = 0; c < n; c += kPadColumns) {
#pragma GCC unroll 4
    for (int j = 0; j < kSums; j += kInStep) {
      float* at = x + c + j * kLanes;
      Vec distance[kInStep], weight[kInStep];
      for (int i = 0; i < kInStep; ++i) distance[i] = load(at + i * kLanes) - line.max;
      weigh<kBounded>(distance, tempered, weight);
      for (int i = 0; i < kInStep; ++i) store(at + i * kLanes, weight[i] * fma(splat(line.b), distance[i], splat(line.a)));
      if (!moments) continue;
      for (int i = 0; i < kInStep; ++i) {
        const Vec away = distance[i] - line.centre, weighted = weight[i] * away;
        first[j + i] += weighted;
        second[j + i] = fma(weighted, away, second[j + i]);
      }
    }
  }
  if (!moments) return;
  moments[0] = total(first);
  moments[1] = total(second);
}

// x[0, n) of row i, columns from `first` on, becomes dL/dx, with room up to a multiple of kPadColumns; min: the smallest of them. slope: of the
// softcap at each, or null.
inline void gradient_block(const Gradients& g, int64_t i, int64_t first, int64_t n, float min, float* x, const float* slope, float* moments) {
  const Row& row = g.job.rows[i];
  const Line& line = g.lines[i];
  (min - line.max > row.tempered.least ? draw_line<false> : draw_line<true>)(line, row.tempered, n, x, moments);
  for (int64_t k = 0; k < g.job.width; ++k) {
    const int64_t id = row.ids[k];
    if (id >= first && id < first + n) x[id - first] = g.chosen[i * g.job.width + k];
  }
  for (int64_t c = 0; slope && c < n; c += kLanes) store(x + c, load(x + c) * load(slope + c));
}

template <class T>
void pack_panels_of(const PanelRows& p, int64_t begin, int64_t end) {
  for (int64_t first = 0; first < p.columns; first += kPanelColumns) {
    float* panel = p.panels + first * p.depth + begin * kPanelColumns;
    const int64_t n = smaller(p.columns - first, kPanelColumns);
    for (int64_t k = begin; k < end; ++k, panel += kPanelColumns) {
      const T* from = static_cast<const T*>(p.source) + (p.rows ? p.rows[k].source : k * p.stride) + first * p.column_stride;
      if (n == kPanelColumns && p.column_stride == 1) {
        for (int j = 0; j < kPanelVectors; ++j) store(panel + j * kLanes, load(from + j * kLanes));
      } else {
        for (int64_t j = 0; j < kPanelColumns; ++j) panel[j] = j < n ? to_float(from[j * p.column_stride]) : 0.0f;
      }
    }
  }
}

}  // namespace
