// Whitening: moments of blocks of numbers in double, and what is made of them once they are merged. Internal linkage (see simd.h).
#pragma once

#include "advantages.h"

namespace {

using rrm::kWhitenBlock;
using rrm::WeightedMoments;
using rrm::WhitenJob;

// A block's values in double, 0 where they don't count, and their weights.
struct WhitenBlock {
  double value[kWhitenBlock], weight[kWhitenBlock];

  template <class T>
  void load(const WhitenJob& job, int64_t from, int64_t n) {
    const T *values = static_cast<const T*>(job.values) + from, *weights = static_cast<const T*>(job.weights);
    for (int64_t i = 0; i < n; ++i) {
      const double x = values[i];
      const bool counts = x == x && (!job.mask || job.mask[from + i]);
      value[i] = counts ? x : 0.0;
      weight[i] = counts ? (weights ? double{weights[from + i]} : 1.0) : 0.0;
    }
  }
};

// Differences from a value that counts, so that those of equal values are exactly 0.
WeightedMoments moments_of(const WhitenBlock& block, int64_t n) {
  int64_t first = 0;
  while (first < n && block.weight[first] == 0.0) ++first;
  if (first == n) return {};
  const double from = block.value[first];
  double weight = 0.0, away = 0.0, squares = 0.0;
  for (int64_t i = 0; i < n; ++i) weight += block.weight[i];
  for (int64_t i = 0; i < n; ++i) away += block.weight[i] == 0.0 ? 0.0 : block.weight[i] * (block.value[i] - from);
  const double mean = from + away / weight;
  for (int64_t i = 0; i < n; ++i) squares += block.weight[i] == 0.0 ? 0.0 : block.weight[i] * ((block.value[i] - mean) * (block.value[i] - mean));
  return {weight, mean, squares};
}

// f(number of a block, its numbers, where they begin, how many they are)
template <class T, class F>
void for_whiten_blocks(const WhitenJob& job, int64_t begin, int64_t end, const F& f) {
  for (int64_t b = begin; b < end; ++b) {
    WhitenBlock block;
    const int64_t from = b * kWhitenBlock, n = job.n - from < kWhitenBlock ? job.n - from : kWhitenBlock;
    block.load<T>(job, from, n);
    f(b, block, from, n);
  }
}

template <class T>
void moments_in(const WhitenJob& job, int64_t begin, int64_t end) {
  for_whiten_blocks<T>(job, begin, end, [&](int64_t b, const WhitenBlock& block, int64_t, int64_t n) { job.moments[b] = moments_of(block, n); });
}

template <class T>
void whiten_in(const WhitenJob& job, int64_t begin, int64_t end) {
  for_whiten_blocks<T>(job, begin, end, [&](int64_t, const WhitenBlock& block, int64_t from, int64_t n) {
    T* out = static_cast<T*>(job.out) + from;
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(block.weight[i] == 0.0 ? 0.0 : (block.value[i] - job.mean) * job.scale);
  });
}

void moments(const WhitenJob& job, int64_t begin, int64_t end) {
  job.wide ? moments_in<double>(job, begin, end) : moments_in<float>(job, begin, end);
}

void whiten(const WhitenJob& job, int64_t begin, int64_t end) {
  job.wide ? whiten_in<double>(job, begin, end) : whiten_in<float>(job, begin, end);
}

}  // namespace
