// What a group's rewards say, in double, its sums over its rows one after the other. Internal linkage (see simd.h).
#pragma once

#include "advantages.h"
#include "doubles.h"

namespace {

using rrm::Baseline;
using rrm::GroupsJob;

inline double square_root(double x) {
  return __builtin_sqrt(x);
}

inline DoubleVec square_root(DoubleVec x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_pd(0xff, x);
#elif defined(__AVX2__)
  return _mm256_sqrt_pd(x);
#else
  for (int i = 0; i < kDoubles; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

// Of one group (V is double), or of one in each lane.
template <class V>
struct Outcome {
  V size, mean, std, above, centre, scale, top;

  // Of a reward that counts, and what belongs to it alone.
  V advantage(const GroupsJob& job, V x, V each) const {
    if (job.baseline == Baseline::kTopTwo) return x == top ? (top - centre) * scale : scale - scale;
    return (x - (job.baseline == Baseline::kGiven ? each : centre)) * scale;
  }
};

// read(j): the j-th reward, NaN where it doesn't count. each(j): what belongs to it.
template <class V, class Read, class Each>
V weighted_mean(int64_t count, const Read& read, const Each& each, V smallest, V mean) {
  V weight{}, above{};
  for (int64_t j = 0; j < count; ++j) {
    const V x = read(j), w = x == x ? each(j) : V{};
    weight += w;
    above += x == x ? w * (x - smallest) : V{};
  }
  return weight > V{} ? smallest + above / weight : mean;
}

template <class V, class Read>
void two_largest(int64_t count, const Read& read, V* first, V* second) {
  *first = *second = V{} - __builtin_inf();
  for (int64_t j = 0; j < count; ++j) {
    const V x = read(j), lower = x > *first ? *first : x;
    *first = x > *first ? x : *first;
    *second = lower > *second ? lower : *second;
  }
}

// What a group's sums came to; its smallest reward.
template <class V>
struct Sums {
  V size{}, smallest = V{} + __builtin_inf(), above{}, mean{}, squares{};
};

template <class V, class Read, class Each>
Outcome<V> outcome(const GroupsJob& job, int64_t count, const Read& read, const Each& each, const Sums<V>& sums) {
  const V zero{}, one = zero + 1.0, nan = zero + __builtin_nan("");
  const V others = sums.size - 1.0, divisor = job.population ? sums.size : others;
  const V std = square_root(sums.squares / (divisor < one ? one : divisor));
  V scale = one, centre = sums.mean, top = sums.mean;
  if (job.divide) scale = 1.0 / (std + job.eps);
  if (job.baseline == Baseline::kOthers) scale = sums.size / others;
  if (job.baseline == Baseline::kShare) scale = 1.0 / (sums.mean + job.eps);
  if (job.baseline == Baseline::kWeighted) centre = weighted_mean<V>(count, read, each, sums.smallest, sums.mean);
  if (job.baseline == Baseline::kTopTwo) two_largest<V>(count, read, &top, &centre);
  scale = sums.above > zero ? scale : zero;  // else every reward is the mean
  if (job.baseline == Baseline::kTopTwo) centre = sums.above > zero ? centre : top;
  if (job.baseline == Baseline::kGiven) {
    scale = one;
  } else if (job.raw_singletons) {
    centre = sums.size == one ? zero : centre;
    scale = sums.size == one ? one : scale;
  }
  const V blank = sums.squares - sums.squares;  // 0, or NaN where an infinite reward broke the sums
  return {sums.size, sums.mean + blank, std + blank, blank == zero ? sums.above : nan, centre, scale + blank, top};
}

// Of kVectors at once, as one's latency is the others' time. read(i, j): the j-th reward of vector i; each(i, j): what belongs to it.
template <class V, int kVectors, class Read, class Each>
void outcomes(const GroupsJob& job, int64_t count, const Read& read, const Each& each, Outcome<V> (&found)[kVectors]) {
  const V zero{}, one = zero + 1.0;
  Sums<V> sums[kVectors];
  for (int64_t j = 0; j < count; ++j)
    for (int i = 0; i < kVectors; ++i) {
      const V x = read(i, j);
      sums[i].size += x == x ? one : zero;
      sums[i].smallest = x < sums[i].smallest ? x : sums[i].smallest;
    }
  for (int64_t j = 0; j < count; ++j)
    for (int i = 0; i < kVectors; ++i) {
      const V x = read(i, j);
      sums[i].above += x == x ? x - sums[i].smallest : zero;
    }
  for (int i = 0; i < kVectors; ++i) sums[i].mean = sums[i].smallest + sums[i].above / sums[i].size;
  for (int64_t j = 0; j < count; ++j)
    for (int i = 0; i < kVectors; ++i) {
      const V x = read(i, j), centred = x - sums[i].mean;
      sums[i].squares += x == x ? centred * centred : zero;
    }
  for (int i = 0; i < kVectors; ++i)
    found[i] = outcome<V>(job, count, [&](int64_t j) { return read(i, j); }, [&](int64_t j) { return each(i, j); }, sums[i]);
}

inline int64_t row_at(const GroupsJob& job, int64_t position) {
  return job.order ? job.order[position] : position;
}

template <class T>
double reward_at(const GroupsJob& job, int64_t position) {
  const int64_t row = row_at(job, position);
  return job.mask && !job.mask[row] ? __builtin_nan("") : static_cast<const T*>(job.rewards)[row];
}

// 0 where rows have nothing of their own.
template <class T>
double each_at(const GroupsJob& job, int64_t position) {
  return job.each ? static_cast<const T*>(job.each)[row_at(job, position)] : 0.0;
}

}  // namespace
