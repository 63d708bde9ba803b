// The voting kernels against plain loops: who is counted, what is added up, who wins.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "check.h"

namespace {

using namespace rrm;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// The results of one kernel, and what both have in common.
struct Votes {
  std::unique_ptr<bool[]> valid, mask;
  std::vector<double> draws, score;
  std::vector<int64_t> winner, used, tied;
  Ballots ballots;

  Votes(int64_t batch, int64_t k, int64_t n, bool all, std::mt19937& generator)
      : valid(new bool[batch * k]), mask(new bool[batch * n]), draws(batch), score(batch * n, kNaN), winner(batch, -9), used(winner), tied(winner) {
    for (int64_t j = 0; j < batch * k; ++j) valid[j] = all || generator() % 4 > 0;
    for (int64_t c = 0; c < batch * n; ++c) mask[c] = all || generator() % 4 > 0;
    for (double& draw : draws) draw = all ? 0.0 : (generator() % 1000) / 1000.0;
    ballots = {all ? nullptr : valid.get(),
               all ? nullptr : mask.get(),
               all ? nullptr : draws.data(),
               k,
               n,
               winner.data(),
               score.data(),
               used.data(),
               tied.data()};
  }

  void check_problem(const char* table, int64_t b, const std::vector<double>& sums, int64_t counted) const {
    const int64_t n = ballots.n;
    double top = -INFINITY;
    std::vector<int64_t> best;
    for (int64_t c = 0; c < n; ++c)
      if (mask[b * n + c] && sums[c] >= top) {
        if (sums[c] > top) best.clear();
        top = sums[c];
        best.push_back(c);
      }
    if (counted == 0) best.clear();
    const int64_t size = best.size(), expected = size ? best[int64_t(draws[b] * size)] : -1;
    for (int64_t c = 0; c < n; ++c) check_close(table, "score of a vote", score[b * n + c], mask[b * n + c] ? sums[c] : -INFINITY, 0);
    check(winner[b] == expected, table, "winner of a vote", winner[b], expected);
    check(used[b] == counted, table, "votes counted", used[b], counted);
    check(tied[b] == size, table, "candidates tied", tied[b], size);
  }
};

void test_sums(const Table& table, int64_t batch, int64_t k, int64_t n, bool all) {
  std::mt19937 generator(k * n);
  Votes votes(batch, k, n, all, generator);
  std::vector<double> scores(batch * k * n), meta(batch * k);
  std::vector<int64_t> shown(batch * k * n), named(n);
  std::vector<uint64_t> keys(k);
  for (double& x : scores) x = generator() % 40 ? generator() % 10 / 10.0 : (generator() % 2 ? kNaN : INFINITY);
  for (double& x : meta) x = generator() % 9 ? int64_t(generator() % 5) - 2.0 : (generator() % 2 ? kNaN : -INFINITY);
  for (int64_t sample = 0; sample < batch * k; ++sample) {
    int64_t* row = shown.data() + sample * n;
    for (int64_t i = 0; i < n; ++i) row[i] = i;
    std::shuffle(row, row + n, generator);
    if (generator() % 6 == 0) row[0] = generator() % 2 ? n : row[n - 1];  // no permutation, unless n is 1
  }
  const int64_t k_meta = k / 2 + 1;
  const SampledScores samples{scores.data(), all ? nullptr : shown.data(), all ? nullptr : meta.data(), k_meta};
  table.votes->sum(votes.ballots, samples, keys.data(), named.data(), 0, batch / 3);
  table.votes->sum(votes.ballots, samples, keys.data(), named.data(), batch / 3, batch);
  for (int64_t b = 0; b < batch; ++b) {
    std::vector<int64_t> usable;
    for (int64_t j = 0; j < k; ++j) {
      bool good = votes.valid[b * k + j] && (all || !std::isnan(meta[b * k + j]));
      std::vector<int64_t> sorted(n);
      for (int64_t i = 0; i < n; ++i) sorted[i] = all ? i : shown[(b * k + j) * n + i];
      for (int64_t i = 0; i < n; ++i) good &= sorted[i] >= n || !votes.mask[b * n + sorted[i]] || std::isfinite(scores[(b * k + j) * n + i]);
      std::sort(sorted.begin(), sorted.end());
      for (int64_t i = 0; i < n; ++i) good &= sorted[i] == i;
      if (good) usable.push_back(j);
    }
    if (!all) {
      std::stable_sort(usable.begin(), usable.end(), [&](int64_t i, int64_t j) { return meta[b * k + i] > meta[b * k + j]; });
      usable.resize(std::min<size_t>(usable.size(), k_meta));
      std::sort(usable.begin(), usable.end());
    }
    std::vector<double> sums(n);
    for (int64_t j : usable)
      for (int64_t i = 0; i < n; ++i) sums[all ? i : shown[(b * k + j) * n + i]] += scores[(b * k + j) * n + i];
    votes.check_problem(table.name, b, sums, usable.size());
  }
}

void test_majority(const Table& table, int64_t batch, int64_t k, int64_t n, bool all) {
  std::mt19937 generator(k + n);
  Votes votes(batch, k, n, all, generator);
  std::vector<int64_t> cast(batch * k);
  std::vector<double> weight(batch * k);
  for (int64_t& vote : cast) vote = int64_t(generator() % (n + 2)) - 1;  // one too many on either side
  for (double& w : weight) w = generator() % 5 / 10.0;
  table.votes->majority(votes.ballots, cast.data(), all ? nullptr : weight.data(), 0, batch / 3);
  table.votes->majority(votes.ballots, cast.data(), all ? nullptr : weight.data(), batch / 3, batch);
  for (int64_t b = 0; b < batch; ++b) {
    std::vector<double> sums(n);
    int64_t counted = 0;
    for (int64_t j = b * k; j < (b + 1) * k; ++j) {
      if (cast[j] < 0 || cast[j] >= n || !votes.mask[b * n + cast[j]] || !votes.valid[j]) continue;
      sums[cast[j]] += all ? 1.0 : weight[j];
      ++counted;
    }
    votes.check_problem(table.name, b, sums, counted);
  }
}

}  // namespace

void test_votes(const Table& table) {
  for (int64_t k : {0, 1, 2, 5, 33})
    for (int64_t n : {1, 2, 3, 8, 50})
      for (bool all : {false, true}) {
        test_sums(table, 19, k, n, all);
        test_majority(table, 19, k, n, all);
      }
}
