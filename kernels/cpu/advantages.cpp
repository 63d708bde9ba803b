// Group statistics and advantages in double, each group's sums over its rows one after the other, so that its bits depend on nothing else: neither on
// the other groups nor on the instruction set. Groups lie side by side in the lanes of a vector; a long group is computed alone.
#include "advantages.h"

#include <utility>

#include "advantages_whiten.h"
#include "doubles.h"

namespace {

using rrm::Baseline;
using rrm::GroupsJob;

constexpr int kGroupLanes = kDoubles;
template <class T>
using LanesOf __attribute__((vector_size(kGroupLanes * sizeof(T)))) = T;
constexpr std::make_integer_sequence<int, kGroupLanes> kAllLanes;
// Rows of the longest group that shares a vector with others; a multiple of the lanes.
constexpr int64_t kTileRows = 1024;

double square_root(double x) {
  return __builtin_sqrt(x);
}

DoubleVec square_root(DoubleVec x) {
  for (int i = 0; i < kGroupLanes; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
}

// Of one group (V is double) or of one in each lane.
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

template <class V, class Read, class Each>
Outcome<V> outcome(const GroupsJob& job, int64_t count, const Read& read, const Each& each) {
  const V zero{}, one = zero + 1.0, nan = zero + __builtin_nan("");
  V smallest = zero + __builtin_inf(), size = zero, above = zero, squares = zero;
  for (int64_t j = 0; j < count; ++j) {
    const V x = read(j);
    size += x == x ? one : zero;
    smallest = x < smallest ? x : smallest;
  }
  for (int64_t j = 0; j < count; ++j) {
    const V x = read(j);
    above += x == x ? x - smallest : zero;
  }
  const V mean = smallest + above / size;
  for (int64_t j = 0; j < count; ++j) {
    const V x = read(j), centred = x - mean;
    squares += x == x ? centred * centred : zero;
  }
  const V others = size - 1.0, divisor = job.population ? size : others, std = square_root(squares / (divisor < one ? one : divisor));
  V scale = one, centre = mean, top = mean;
  if (job.divide) scale = 1.0 / (std + job.eps);
  if (job.baseline == Baseline::kOthers) scale = size / others;
  if (job.baseline == Baseline::kShare) scale = 1.0 / (mean + job.eps);
  if (job.baseline == Baseline::kWeighted) centre = weighted_mean<V>(count, read, each, smallest, mean);
  if (job.baseline == Baseline::kTopTwo) two_largest<V>(count, read, &top, &centre);
  scale = above > zero ? scale : zero;  // else every reward is the mean
  if (job.baseline == Baseline::kTopTwo) centre = above > zero ? centre : top;
  if (job.baseline == Baseline::kGiven) {
    scale = one;
  } else if (job.raw_singletons) {
    centre = size == one ? zero : centre;
    scale = size == one ? one : scale;
  }
  const V blank = squares - squares;  // 0, or NaN where an infinite reward broke the sums
  return {size, mean + blank, std + blank, blank == zero ? above : nan, centre, scale + blank, top};
}

template <class T>
void write_group(const GroupsJob& job, int64_t group, double size, double mean, double std, double above) {
  static_cast<T*>(job.mean)[group] = static_cast<T>(mean);
  static_cast<T*>(job.std)[group] = static_cast<T>(std);
  job.size[group] = static_cast<int64_t>(size);
  job.keep[group] = above > 0.0;
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

template <class T>
void one_group(const GroupsJob& job, int64_t group) {
  const int64_t begin = job.begin(group), count = job.end(group) - begin;
  const auto read = [&](int64_t j) { return reward_at<T>(job, begin + j); };
  const auto each = [&](int64_t j) { return each_at<T>(job, begin + j); };
  const Outcome<double> o = outcome<double>(job, count, read, each);
  for (int64_t j = 0; j < count; ++j) {
    const double x = read(j);
    static_cast<T*>(job.advantage)[row_at(job, begin + j)] = static_cast<T>(x == x ? o.advantage(job, x, each(j)) : 0.0);
  }
  write_group<T>(job, group, o.size, o.mean, o.std, o.above);
}

template <int... kLane>
LongVec lane_numbers(std::integer_sequence<int, kLane...>) {
  return LongVec{kLane...};
}

// kGroupLanes rewards of one group from a position on, NaN from `end` on.
template <class T>
DoubleVec load_rewards(const GroupsJob& job, int64_t position, int64_t end) {
  const DoubleVec nan = DoubleVec{} + __builtin_nan("");
  if (job.mask || position + kGroupLanes > job.num_rows) {
    DoubleVec v = nan;
    for (int i = 0; i < kGroupLanes && position + i < end; ++i) v[i] = reward_at<T>(job, position + i);
    return v;
  }
  const T* rewards = static_cast<const T*>(job.rewards);
  LanesOf<T> x;
  if (job.order)
    for (int i = 0; i < kGroupLanes; ++i) x[i] = rewards[job.order[position + i]];
  else
    std::memcpy(&x, rewards + position, sizeof x);
  return lane_numbers(kAllLanes) < end - position ? __builtin_convertvector(x, DoubleVec) : nan;
}

template <class T>
void store_advantages(const GroupsJob& job, DoubleVec v, int64_t position, int64_t end) {
  const LanesOf<T> x = __builtin_convertvector(v, LanesOf<T>);
  T* to = static_cast<T*>(job.advantage);
  if (!job.order && position + kGroupLanes <= end)
    std::memcpy(to + position, &x, sizeof x);
  else
    for (int i = 0; i < kGroupLanes && position + i < end; ++i) to[row_at(job, position + i)] = x[i];
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

// Groups [first, first + count), no more than there are lanes, none longer than `longest` <= kTileRows.
template <class T>
void tile_of_groups(const GroupsJob& job, int64_t first, int count, int64_t longest) {
  DoubleVec tile[kTileRows], own[kTileRows], square[kGroupLanes];
  int64_t begin[kGroupLanes] = {}, end[kGroupLanes] = {};
  for (int i = 0; i < count; ++i) {
    begin[i] = job.begin(first + i);
    end[i] = job.end(first + i);
  }
  for (int64_t j = 0; j < longest; j += kGroupLanes) {
    for (int i = 0; i < kGroupLanes; ++i) square[i] = load_rewards<T>(job, begin[i] + j, end[i]);
    transpose(square);
    std::memcpy(tile + j, square, sizeof square);
  }
  for (int64_t j = 0; job.each && j < longest; ++j)
    for (int i = 0; i < kGroupLanes; ++i) own[j][i] = begin[i] + j < end[i] ? each_at<T>(job, begin[i] + j) : 0.0;
  const auto each = [&](int64_t j) { return job.each ? own[j] : DoubleVec{}; };
  const Outcome<DoubleVec> o = outcome<DoubleVec>(job, longest, [&](int64_t j) { return tile[j]; }, each);
  for (int64_t j = 0; j < longest; j += kGroupLanes) {
    for (int i = 0; i < kGroupLanes; ++i) square[i] = tile[j + i] == tile[j + i] ? o.advantage(job, tile[j + i], each(j + i)) : DoubleVec{};
    transpose(square);
    for (int i = 0; i < kGroupLanes; ++i) store_advantages<T>(job, square[i], begin[i] + j, end[i]);
  }
  for (int i = 0; i < count; ++i) write_group<T>(job, first + i, o.size[i], o.mean[i], o.std[i], o.above[i]);
}

template <class T>
void groups_of(const GroupsJob& job, int64_t begin, int64_t end) {
  while (begin < end) {
    int count = 0;
    int64_t longest = 0;
    for (; count < kGroupLanes && begin + count < end; ++count) {
      const int64_t rows = job.end(begin + count) - job.begin(begin + count);
      if (rows > kTileRows) break;
      longest = rows > longest ? rows : longest;
    }
    if (count == 0) {
      one_group<T>(job, begin++);
    } else {
      tile_of_groups<T>(job, begin, count, longest);
      begin += count;
    }
  }
}

void groups(const GroupsJob& job, int64_t begin, int64_t end) {
  job.wide ? groups_of<double>(job, begin, end) : groups_of<float>(job, begin, end);
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

namespace rrm::RRM_ISA {

extern const AdvantageKernels advantages;
const AdvantageKernels advantages = {groups, sort_ids, moments, whiten};

}  // namespace rrm::RRM_ISA
