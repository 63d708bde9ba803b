// The tournament kernels against loops over the matches, and ratings against what defines them: points expected and points made.
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

// Matches of problems of unequal size, with and without weights and an order that names matches out of range; some are to be skipped.
void test_matches(const Table& table, int64_t problems, int64_t n, bool weighted, bool ordered) {
  std::mt19937 generator(n);
  std::vector<int64_t> first, second, order, offsets(1, 0);
  std::vector<double> outcome, weight;
  for (int64_t b = 0; b < problems; ++b) {
    for (int64_t k = generator() % 9; k > 0; --k) {
      first.push_back(int64_t(generator() % (n + 1)));  // n is nobody
      second.push_back(generator() % 7 ? int64_t(generator() % n) : -1);
      outcome.push_back(generator() % 5 ? (generator() % 5) / 4.0 : kNaN);
      weight.push_back(generator() % 9 ? (generator() % 8) / 8.0 : -1.0);
    }
    offsets.push_back(first.size());
  }
  const int64_t total = first.size();
  for (int64_t k = 0; k < total; ++k) order.push_back(generator() % 5 ? int64_t(generator() % total) : (generator() % 2 ? total : -1));
  const Matches matches{
      first.data(), second.data(), outcome.data(), weighted ? weight.data() : nullptr, ordered ? order.data() : nullptr, offsets.data(), total, n};
  std::vector<double> wins(problems * n * n), won(wins), decided(wins), ties(wins), expected(problems * n, 1000.0), rating(problems * n, kNaN);
  std::vector<int64_t> counted(problems, -1), valid(problems, 0);
  for (int64_t b = 0; b < problems; ++b)
    for (int64_t at = offsets[b]; at < offsets[b + 1]; ++at) {
      const int64_t k = ordered ? order[at] : at;
      if (k < 0 || k >= total) continue;
      const int64_t i = first[k], j = second[k];
      if (i >= n || j < 0 || i == j || std::isnan(outcome[k])) continue;
      const double w = !weighted ? 1.0 : weight[k] < 0 ? kNaN : weight[k];
      wins[(b * n + i) * n + j] += w * outcome[k];
      wins[(b * n + j) * n + i] += w * (1 - outcome[k]);
      const double gain = 32.0 * w * (outcome[k] - 1 / (1 + std::pow(10.0, (expected[b * n + j] - expected[b * n + i]) / 400)));
      expected[b * n + i] += gain;
      expected[b * n + j] -= gain;
      ++valid[b];
    }
  for (int64_t begin : {int64_t{0}, problems / 3}) {
    const int64_t end = begin ? problems : problems / 3;
    table.tournaments->count(matches, won.data(), nullptr, begin, end);
    table.tournaments->count(matches, decided.data(), ties.data(), begin, end);
    table.tournaments->elo(matches, {32.0, 1000.0, 400.0, rating.data(), counted.data()}, begin, end);
  }
  for (size_t c = 0; c < wins.size(); ++c) {
    check_close(table.name, "wins", won[c], wins[c], 0);
    check_close(table.name, "wins and half the ties", decided[c] + ties[c] / 2, wins[c], 1e-12);
  }
  for (size_t c = 0; c < rating.size(); ++c) check_close(table.name, "Elo", rating[c], expected[c], 1e-10);
  for (int64_t b = 0; b < problems; ++b) check(counted[b] == valid[b], table.name, "matches counted", counted[b], valid[b]);
}

// Everybody meets everybody, or only the next one, which needs Newton; some take no part.
void test_ratings(const Table& table, int64_t batch, int64_t n, double prior, bool chain) {
  std::mt19937 generator(n);
  std::vector<double> wins(batch * n * n), rating(batch * n, kNaN), error(batch * n, kNaN), scratch(bradley_terry_scratch(n));
  std::vector<int64_t> status(batch, -1), iterations(batch, -1);
  const auto mask = std::make_unique<bool[]>(batch * n);
  for (size_t c = 0; c < wins.size(); ++c) {
    const int64_t i = c / n % n, j = c % n;
    wins[c] = i == j ? kNaN : !chain || i - j == 1 || j - i == 1 ? 1 + generator() % 4 : 0;
  }
  for (int64_t c = 0; c < batch * n; ++c) mask[c] = chain ? c % n > 0 : generator() % 8 > 0;
  const BradleyTerry job{wins.data(),  nullptr,       mask.get(),       n, prior, 1e-10, 60, Errors::kHessian, rating.data(),
                         error.data(), status.data(), iterations.data()};
  table.tournaments->bradley_terry(job, scratch.data(), 0, batch / 2);
  table.tournaments->bradley_terry(job, scratch.data(), batch / 2, batch);
  for (int64_t b = 0; b < batch; ++b) {
    double sum = 0, size = 0;
    check(status[b] == 0 && iterations[b] >= 0 && iterations[b] <= 60, table.name, "status", status[b], 0);
    for (int64_t i = 0; i < n; ++i) {
      if (!mask[b * n + i]) {
        check(rating[b * n + i] == -INFINITY && std::isnan(error[b * n + i]), table.name, "rating of who takes no part", rating[b * n + i],
              -INFINITY);
        continue;
      }
      double off = 0, games = 0;
      for (int64_t j = 0; j < n; ++j) {
        if (j == i || !mask[b * n + j]) continue;
        const double won = wins[(b * n + i) * n + j], both = won + wins[(b * n + j) * n + i];
        off += won - both / (1 + std::exp(rating[b * n + j] - rating[b * n + i]));
        games += both;
      }
      check_close(table.name, "points above the expected", off, 0, prior ? prior / 2 : 1e-9 * games);  // the prior pulls by no more than that
      check(error[b * n + i] >= 0 && error[b * n + i] < 100, table.name, "error", error[b * n + i], 1);
      sum += rating[b * n + i];
      ++size;
    }
    check_close(table.name, "mean of the ratings", size ? sum / size : 0, 0, 1e-12);
  }
}

}  // namespace

void test_tournaments(const Table& table) {
  for (int64_t n : {2, 3, 9})
    for (bool weighted : {false, true})
      for (bool ordered : {false, true}) test_matches(table, 23, n, weighted, ordered);
  for (int64_t n : {1, 2, 7, 8, 9, 17, 32, 33, 50, 100})
    for (double prior : {0.0, 0.1})
      for (bool chain : {false, true}) test_ratings(table, n < 33 ? 19 : 2, n, prior, chain);
}
