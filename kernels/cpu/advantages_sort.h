// Rows by ascending id, those of one id in their order. Internal linkage (see simd.h).
#pragma once

#include <cstdint>

#include "advantages.h"

namespace {

rrm::IdRange range_of_ids(const int64_t* ids, int64_t n) {
  rrm::IdRange r{n > 0 ? ids[0] : 0, n > 0 ? ids[0] : 0, true};
  bool falls = false;
  for (int64_t i = 1; i < n; ++i) {
    r.low = ids[i] < r.low ? ids[i] : r.low;
    r.high = ids[i] > r.high ? ids[i] : r.high;
    falls |= ids[i] < ids[i - 1];
  }
  r.ascending = !falls;
  return r;
}

// Each id's rows are counted two places after it, begin one place after it until they are put down, and then where the table says.
void count_ids(const int64_t* ids, int64_t n, int64_t low, int64_t span, int64_t* starts, int64_t* order) {
  for (int64_t i = 0; i < n; ++i) ++starts[ids[i] - low + 2];
  for (int64_t k = 2; k < span + 2; ++k) starts[k] += starts[k - 1];
  for (int64_t i = 0; i < n; ++i) order[starts[ids[i] - low + 1]++] = i;
}

// A radix sort from the lowest bit in which ids differ, without the digits that all share.
const int64_t* sort_ids(const int64_t* ids, int64_t n, int64_t* order, int64_t* scratch) {
  constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
  uint64_t differ = 0;
  for (int64_t i = 0; i < n; ++i) differ |= static_cast<uint64_t>(ids[i] ^ ids[0]);
  const auto ascending = [](int64_t id) { return static_cast<uint64_t>(id) ^ (uint64_t{1} << 63); };
  const int64_t *keys = ids, *rows = nullptr;  // rows: null for 0, 1, 2, ...
  int64_t* buffers[2][2] = {{scratch, order}, {scratch + n, scratch + 2 * n}};
  int next = 0;
  for (int shift = differ ? __builtin_ctzll(differ) : 64; shift < 64; shift += kDigitBits) {
    const auto digit = [=](int64_t id) { return ascending(id) >> shift & (kDigits - 1); };
    if ((differ >> shift & (kDigits - 1)) == 0) continue;
    int64_t starts[kDigits] = {}, sum = 0;
    for (int64_t i = 0; i < n; ++i) ++starts[digit(keys[i])];
    for (int64_t& start : starts) {
      const int64_t count = start;
      start = sum;
      sum += count;
    }
    int64_t *new_keys = buffers[next][0], *new_rows = buffers[next][1];
    for (int64_t i = 0; i < n; ++i) {
      const int64_t to = starts[digit(keys[i])]++;
      new_keys[to] = keys[i];
      new_rows[to] = rows ? rows[i] : i;
    }
    keys = new_keys;
    rows = new_rows;
    next = 1 - next;
  }
  if (rows != order)
    for (int64_t i = 0; i < n; ++i) order[i] = rows ? rows[i] : i;
  return keys;
}

}  // namespace
