// The advantage kernels against loops over one group at a time.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"

namespace {

using namespace rrm;

// Rewards of which some are NaN, in groups of these sizes, whole or by offsets that begin with a row of no group; maybe in shuffled rows and masked.
template <class T>
void test_groups(const Table& table, const std::vector<int64_t>& sizes, bool by_offsets, bool shuffled, bool masked, Baseline baseline, bool divide) {
  std::mt19937 generator(sizes.size());
  std::normal_distribution<T> distribution(100, 1);
  const int64_t groups = sizes.size(), outside = by_offsets, n = std::accumulate(sizes.begin(), sizes.end(), outside);
  std::vector<T> rewards(n), each(n), advantage(n, -1), mean(groups), std(groups);
  std::vector<int64_t> order(n), offsets(1, outside), size(groups);
  const auto mask = std::make_unique<bool[]>(n), keep = std::make_unique<bool[]>(groups);
  for (int64_t i = 0; i < n; ++i) {
    rewards[i] = generator() % 16 ? distribution(generator) : std::numeric_limits<T>::quiet_NaN();
    mask[i] = !masked || generator() % 8;
    each[i] = generator() % 9;
  }
  for (int64_t s : sizes) offsets.push_back(offsets.back() + s);
  std::iota(order.begin(), order.end(), 0);
  if (shuffled) std::shuffle(order.begin(), order.end(), generator);
  GroupsJob job{};
  job.wide = sizeof(T) == 8;
  job.rewards = rewards.data();
  job.mask = masked ? mask.get() : nullptr;
  job.order = shuffled ? order.data() : nullptr;
  job.offsets = by_offsets ? offsets.data() : nullptr;
  job.group_size = sizes.empty() ? 1 : sizes[0];
  job.num_rows = n;
  job.each = each.data();
  job.baseline = baseline;
  job.divide = divide;
  job.eps = 1e-3;
  job.advantage = advantage.data();
  job.mean = mean.data();
  job.std = std.data();
  job.size = size.data();
  job.keep = keep.get();
  table.advantages->groups(job, 0, groups / 3);
  table.advantages->groups(job, groups / 3, groups);

  for (int64_t g = 0; g < groups; ++g) {
    double sum = 0, squares = 0, count = 0, weights = 0, weighted = 0, first = -INFINITY, second = -INFINITY;
    for (int pass = 0; pass < 2; ++pass)
      for (int64_t p = offsets[g]; p < offsets[g + 1]; ++p) {
        const double x = rewards[order[p]], own = each[order[p]];
        if (std::isnan(x) || !mask[order[p]]) continue;
        if (pass == 0) {
          sum += x;
          ++count;
          weights += own;
          weighted += own * x;
          second = std::max(second, std::min(first, x));
          first = std::max(first, x);
        } else {
          squares += (x - sum / count) * (x - sum / count);
        }
      }
    const double centre = sum / count, spread = count > 1 ? std::sqrt(squares / (count - 1)) : 0.0;
    const double tolerance = job.wide ? 1e-11 : 1e-5;  // of rewards around 100
    check(size[g] == count, table.name, "size", size[g], count);
    check(keep[g] == (count > 1), table.name, "keep", keep[g], count > 1);
    check_close(table.name, "mean", mean[g], centre, tolerance);
    check_close(table.name, "std", std[g], spread, tolerance);
    const double scale = divide ? 1 / (spread + 1e-3) : 1;
    for (int64_t p = offsets[g]; p < offsets[g + 1]; ++p) {
      const double x = rewards[order[p]];
      double expected = (x - centre) * scale;
      if (baseline == Baseline::kOthers) expected *= count / (count - 1);
      if (baseline == Baseline::kWeighted) expected = (x - (weights > 0 ? weighted / weights : centre)) * scale;
      if (baseline == Baseline::kShare) expected = (x - centre) / (centre + 1e-3);
      if (baseline == Baseline::kTopTwo) expected = x == first ? (first - second) * scale : 0.0;
      if (count < 2) expected = 0.0;
      if (baseline == Baseline::kGiven) expected = x - each[order[p]];
      if (std::isnan(x) || !mask[order[p]]) expected = 0.0;
      check_close(table.name, "advantage", advantage[order[p]], expected, tolerance);
    }
  }
  if (outside) check(advantage[order[0]] == -1, table.name, "a row of no group", advantage[order[0]], -1);
}

template <class T>
void test_whitening(const Table& table, int64_t n, bool masked, bool weighted) {
  std::mt19937 generator(n);
  std::normal_distribution<T> distribution(100, 1);
  const int64_t blocks = (n + kWhitenBlock - 1) / kWhitenBlock;
  std::vector<T> values(n), weights(n), out(n);
  std::vector<WeightedMoments> moments(blocks);
  const auto mask = std::make_unique<bool[]>(n);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = generator() % 16 ? distribution(generator) : std::numeric_limits<T>::quiet_NaN();
    mask[i] = generator() % 8;
    weights[i] = generator() % 5;
  }
  WhitenJob job{sizeof(T) == 8, values.data(), masked ? mask.get() : nullptr, weighted ? weights.data() : nullptr, n, moments.data(), 90.0, 0.5,
                out.data()};
  table.advantages->moments(job, 0, blocks);
  table.advantages->whiten(job, 0, blocks);
  for (int64_t b = 0; b < blocks; ++b) {
    double total = 0, sum = 0, squares = 0;
    for (int pass = 0; pass < 2; ++pass)
      for (int64_t i = b * kWhitenBlock; i < std::min(n, (b + 1) * kWhitenBlock); ++i) {
        const double w = std::isnan(values[i]) || (masked && !mask[i]) ? 0.0 : weighted ? double{weights[i]} : 1.0;
        if (pass == 1) check_close(table.name, "a whitened value", out[i], w == 0 ? 0.0 : (values[i] - 90.0) * 0.5, 1e-5);
        if (w == 0) continue;
        if (pass == 0) {
          total += w;
          sum += w * values[i];
        } else {
          squares += w * (values[i] - sum / total) * (values[i] - sum / total);
        }
      }
    check_close(table.name, "weight of a block", moments[b].weight, total, 0);
    if (total == 0) continue;
    check_close(table.name, "mean of a block", moments[b].mean, sum / total, 1e-9);
    check_close(table.name, "squares of a block", moments[b].squares, squares, 1e-6);
  }
}

// By counting where a table of the ids is small, and by sorting.
void test_sort(const Table& table, int64_t n, int64_t low, int64_t high) {
  std::mt19937_64 generator(n);
  std::uniform_int_distribution<int64_t> distribution(low, high);
  std::vector<int64_t> ids(n), order(n), scratch(3 * n), expected(n);
  for (int64_t& id : ids) id = distribution(generator);
  const int64_t* sorted = table.advantages->sort_ids(ids.data(), n, order.data(), scratch.data());
  std::iota(expected.begin(), expected.end(), 0);
  std::stable_sort(expected.begin(), expected.end(), [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
  for (int64_t i = 0; i < n; ++i) {
    check(order[i] == expected[i], table.name, "order", order[i], expected[i]);
    check(sorted[i] == ids[expected[i]], table.name, "a sorted id", sorted[i], ids[expected[i]]);
  }
  const IdRange range = table.advantages->range_of_ids(ids.data(), n);
  check(range.low == (n ? *std::min_element(ids.begin(), ids.end()) : 0), table.name, "the lowest id", range.low, n);
  check(range.high == (n ? *std::max_element(ids.begin(), ids.end()) : 0), table.name, "the highest id", range.high, n);
  check(range.ascending == std::is_sorted(ids.begin(), ids.end()), table.name, "ascending", range.ascending, n);
  check(table.advantages->range_of_ids(sorted, n).ascending, table.name, "ascending once sorted", n, low);
  if (static_cast<uint64_t>(range.high) - static_cast<uint64_t>(range.low) > 1 << 20) return;
  const int64_t span = range.high - range.low + 1;
  std::vector<int64_t> starts(span + 2), counted(n);
  table.advantages->count_ids(ids.data(), n, range.low, span, starts.data(), counted.data());
  for (int64_t i = 0; i < n; ++i) check(counted[i] == expected[i], table.name, "order by counting", counted[i], expected[i]);
  for (int64_t k = 0; k <= span; ++k) {
    const int64_t before = std::count_if(ids.begin(), ids.end(), [&](int64_t id) { return id - range.low < k; });
    check(starts[k] == before, table.name, "where an id starts", starts[k], before);
  }
}

}  // namespace

void test_advantages(const Table& table) {
  std::vector<int64_t> ragged;
  for (int64_t i = 0; i < 70; ++i) ragged.push_back(i % 23);
  for (int64_t i = 0; i < 60; ++i) ragged.push_back(i < 40 ? 8 : 16);
  ragged.insert(ragged.end(), {1023, 3, 1024, 1025, 1, 1500, 0});
  for (Baseline baseline : {Baseline::kMean, Baseline::kOthers, Baseline::kWeighted, Baseline::kGiven, Baseline::kShare, Baseline::kTopTwo})
    for (bool shuffled : {false, true})
      for (bool masked : {false, true}) {
        const bool divide = baseline == Baseline::kTopTwo || (baseline == Baseline::kMean && shuffled);
        for (int64_t size : {1, 2, 7, 8, 9, 16, 17, 40, 1100})
          test_groups<float>(table, std::vector<int64_t>(19, size), false, shuffled, masked, baseline, divide);
        test_groups<double>(table, std::vector<int64_t>(9, 11), false, shuffled, masked, baseline, divide);
        test_groups<float>(table, ragged, true, shuffled, masked, baseline, divide);
        test_groups<double>(table, ragged, true, shuffled, masked, baseline, divide);
      }
  test_groups<float>(table, {}, true, false, false, Baseline::kMean, true);
  for (int64_t n : {1, 100, 4096, 4097, 9000})
    for (bool masked : {false, true})
      for (bool weighted : {false, true}) {
        test_whitening<float>(table, n, masked, weighted);
        test_whitening<double>(table, n, masked, weighted);
      }
  for (int64_t n : {0, 1, 2, 1000}) {
    test_sort(table, n, 0, 0);
    test_sort(table, n, -3, 3);
    test_sort(table, n, 0, 1 << 20);
    test_sort(table, n, INT64_MIN, INT64_MAX);
    test_sort(table, n, INT64_MIN, INT64_MIN + 9);
    test_sort(table, n, INT64_MAX - 9, INT64_MAX);
  }
}
