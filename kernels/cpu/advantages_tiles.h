// Groups side by side in the lanes of vectors: rewards are read along rows and transposed, so that a vector has one reward of each group. Internal
// linkage (see simd.h).
#pragma once

#include <utility>

#include "advantages_outcome.h"

namespace {

constexpr int kGroupLanes = kDoubles;
template <class T>
using LanesOf __attribute__((vector_size(kGroupLanes * sizeof(T)))) = T;
constexpr std::make_integer_sequence<int, kGroupLanes> kAllLanes;
// Rows of the longest group that shares a vector with others; a multiple of the lanes.
constexpr int64_t kTileRows = 1024;

template <int... kLane>
LongVec lane_numbers(std::integer_sequence<int, kLane...>) {
  return LongVec{kLane...};
}

// Blocks of kHalf lanes change places between rows kHalf apart.
template <int kHalf, int... kLane>
void exchange(DoubleVec (&rows)[kGroupLanes], std::integer_sequence<int, kLane...>) {
  constexpr LongVec kUpper = {(kLane & kHalf ? kGroupLanes + (kLane ^ kHalf) : kLane)...};
  constexpr LongVec kLower = {(kLane & kHalf ? kGroupLanes + kLane : kLane | kHalf)...};
  for (int i = 0; i < kGroupLanes; ++i) {
    if (i & kHalf) continue;
    const DoubleVec a = rows[i], b = rows[i + kHalf];
    rows[i] = __builtin_shuffle(a, b, kUpper);
    rows[i + kHalf] = __builtin_shuffle(a, b, kLower);
  }
}

// Rows become columns.
inline void transpose(DoubleVec (&rows)[kGroupLanes]) {
#if defined(__AVX512F__)
  exchange<4>(rows, kAllLanes);
#endif
#if defined(__AVX2__)
  exchange<2>(rows, kAllLanes);
#endif
  exchange<1>(rows, kAllLanes);
}

// No more groups than there are lanes, from `first` on, and where their rows are.
struct Tile {
  int64_t first;
  int count = 0;
  int64_t begin[kGroupLanes] = {}, end[kGroupLanes] = {};
  int64_t shortest = kTileRows, longest = 0;

  // Ends before a group of more than kTileRows.
  Tile(const GroupsJob& job, int64_t at, int64_t last) : first(at) {
    for (; count < kGroupLanes && first + count < last; ++count) {
      const int64_t from = job.begin(first + count), to = job.end(first + count), rows = to - from;
      if (rows > kTileRows) break;
      begin[count] = from;
      end[count] = to;
      shortest = rows < shortest ? rows : shortest;
      longest = rows > longest ? rows : longest;
    }
  }

  bool is_whole(int64_t rows) const {
    return count == kGroupLanes && shortest == rows && longest == rows;
  }
};

// kGroupLanes rewards of one group from a position on, NaN from `end` on. kWhole: all of them are there, and count.
template <class T, bool kWhole>
DoubleVec load_rewards(const GroupsJob& job, int64_t position, int64_t end) {
  const T* rewards = static_cast<const T*>(job.rewards);
  const DoubleVec nan = DoubleVec{} + __builtin_nan("");
  if (!kWhole && (job.mask || position + kGroupLanes > job.num_rows)) {
    DoubleVec v = nan;
    for (int i = 0; i < kGroupLanes && position + i < end; ++i) v[i] = reward_at<T>(job, position + i);
    return v;
  }
  LanesOf<T> x;
  if (job.order)
    for (int i = 0; i < kGroupLanes; ++i) x[i] = rewards[job.order[position + i]];
  else
    std::memcpy(&x, rewards + position, sizeof x);
  const DoubleVec v = __builtin_convertvector(x, DoubleVec);
  return kWhole || lane_numbers(kAllLanes) < end - position ? v : nan;
}

template <class T, bool kWhole>
void store_advantages(const GroupsJob& job, DoubleVec v, int64_t position, int64_t end) {
  const LanesOf<T> x = __builtin_convertvector(v, LanesOf<T>);
  T* to = static_cast<T*>(job.advantage);
  if (!job.order && (kWhole || position + kGroupLanes <= end))
    std::memcpy(to + position, &x, sizeof x);
  else
    for (int i = 0; i < kGroupLanes && (kWhole || position + i < end); ++i) to[row_at(job, position + i)] = x[i];
}

template <class T>
void write_groups(const GroupsJob& job, int64_t first, int count, const Outcome<DoubleVec>& o) {
  const LanesOf<T> mean = __builtin_convertvector(o.mean, LanesOf<T>), std = __builtin_convertvector(o.std, LanesOf<T>);
  const LanesOf<int64_t> size = __builtin_convertvector(__builtin_convertvector(o.size, LanesOf<int32_t>), LanesOf<int64_t>);
  const LanesOf<int8_t> keep = __builtin_convertvector(o.above > 0.0, LanesOf<int8_t>) & 1;
  std::memcpy(static_cast<T*>(job.mean) + first, &mean, count * sizeof(T));
  std::memcpy(static_cast<T*>(job.std) + first, &std, count * sizeof(T));
  std::memcpy(job.size + first, &size, count * sizeof(int64_t));
  std::memcpy(job.keep + first, &keep, count);
}

// kTiles tiles of as many lanes. kRows: how many rows are computed, or kTileRows: as many as the longest group has. Rows that a group doesn't have
// are NaN, which changes no sum. kWhole: every lane has a group, of just kRows rows, without a mask.
template <class T, int64_t kRows, bool kWhole, int kTiles>
void compute(const GroupsJob& job, const Tile (&tiles)[kTiles]) {
  const int64_t rows = kRows == kTileRows ? tiles[0].longest : kRows;
  static_assert(kTiles == 1 || kRows < kTileRows);
  DoubleVec reward[kTiles][kRows], own[kTiles][kRows], square[kGroupLanes];
  for (int k = 0; k < kTiles; ++k)
    for (int64_t j = 0; j < rows; j += kGroupLanes) {
      for (int i = 0; i < kGroupLanes; ++i) square[i] = load_rewards<T, kWhole>(job, tiles[k].begin[i] + j, tiles[k].end[i]);
      transpose(square);
      std::memcpy(reward[k] + j, square, sizeof square);
    }
  const bool has_own = job.each;
  if (has_own)
    for (int k = 0; k < kTiles; ++k)
      for (int64_t j = 0; j < rows; ++j)
        for (int i = 0; i < kGroupLanes; ++i) own[k][j][i] = tiles[k].begin[i] + j < tiles[k].end[i] ? each_at<T>(job, tiles[k].begin[i] + j) : 0.0;
  const auto each = [&](int k, int64_t j) { return has_own ? own[k][j] : DoubleVec{}; };
  Outcome<DoubleVec> found[kTiles];
  outcomes<DoubleVec>(job, rows, [&](int k, int64_t j) { return reward[k][j]; }, each, found);
  for (int k = 0; k < kTiles; ++k) {
    for (int64_t j = 0; j < rows; j += kGroupLanes) {
      for (int i = 0; i < kGroupLanes; ++i) {
        const DoubleVec x = reward[k][j + i];
        square[i] = x == x ? found[k].advantage(job, x, each(k, j + i)) : DoubleVec{};
      }
      transpose(square);
      for (int i = 0; i < kGroupLanes; ++i) store_advantages<T, kWhole>(job, square[i], tiles[k].begin[i] + j, tiles[k].end[i]);
    }
    write_groups<T>(job, tiles[k].first, kWhole ? kGroupLanes : tiles[k].count, found[k]);
  }
}

// The groups of a tile none of which is longer than kRows, and of the next one too where both are whole. Returns how many groups that were.
template <class T, int64_t kRows>
int64_t compute_short(const GroupsJob& job, const Tile& tile, int64_t last) {
  if (job.mask || !tile.is_whole(kRows)) {
    compute<T, kRows, false>(job, {tile});
    return tile.count;
  }
  const Tile next(job, tile.first + tile.count, last);
  if (!next.is_whole(kRows)) {
    compute<T, kRows, true>(job, {tile});
    return tile.count;
  }
  compute<T, kRows, true>(job, {tile, next});
  return 2 * kGroupLanes;
}

}  // namespace
