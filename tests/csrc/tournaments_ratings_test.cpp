// Davidson ratings against what defines them, scores of pairs, power iteration and resampled wins against plain loops.
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

namespace {

using namespace rrm;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Counts {
  std::vector<double> wins, ties;

  Counts(int64_t batch, int64_t n, std::mt19937& generator) : wins(batch * n * n), ties(batch * n * n) {
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) {
          wins[(b * n + i) * n + j] = i == j ? kNaN : 1 + generator() % 4;
          if (i < j) ties[(b * n + i) * n + j] = ties[(b * n + j) * n + i] = 1 + generator() % 3;
        }
  }
};

// At the maximum every candidate's points, and the ties, are the expected ones, but for what the prior pulls.
void test_davidson(const Table& table, int64_t batch, int64_t n, double prior, bool given) {
  std::mt19937 generator(n);
  const Counts counts(batch, n, generator);
  std::array<bool, 256> mask{};  // batch * n
  for (int64_t c = 0; c < batch * n; ++c) mask[c] = c % n < 2 || generator() % 8 > 0;
  std::vector<double> known(batch, 0.3), rating(batch * n, kNaN), error(rating), slope(rating), log_tie(batch, kNaN), score(log_tie),
      curvature(log_tie), scratch(davidson_scratch(n));
  std::vector<int64_t> status(batch, -1), iterations(batch, -1);
  const Davidson job{counts.wins.data(),
                     counts.ties.data(),
                     mask.data(),
                     given ? known.data() : nullptr,
                     n,
                     prior,
                     1e-11,
                     60,
                     true,
                     rating.data(),
                     error.data(),
                     slope.data(),
                     log_tie.data(),
                     score.data(),
                     curvature.data(),
                     status.data(),
                     iterations.data()};
  table.tournaments_ratings->davidson(job, scratch.data(), 0, batch / 2);
  table.tournaments_ratings->davidson(job, scratch.data(), batch / 2, batch);
  for (int64_t b = 0; b < batch; ++b) {
    double sum = 0, size = 0, ties_off = 0, all = 0;
    check(status[b] == 0 && iterations[b] > 0 && iterations[b] <= 60, table.name, "status of Davidson", status[b], 0);
    check(curvature[b] > 0, table.name, "curvature", curvature[b], 1);
    if (given) check(log_tie[b] == known[b], table.name, "tie strength", log_tie[b], known[b]);
    const double nu = std::exp(log_tie[b]);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = b * n + i;
      if (!mask[at]) {
        check(rating[at] == -INFINITY && std::isnan(error[at]), table.name, "who takes no part", rating[at], -INFINITY);
        continue;
      }
      double off = 0, games = 0;
      for (int64_t j = 0; j < n; ++j) {
        if (j == i || !mask[b * n + j]) continue;
        const int64_t forth = (b * n + i) * n + j, back = (b * n + j) * n + i;
        const double x = (rating[at] - rating[b * n + j]) / 2, win = std::exp(x), loss = std::exp(-x), norm = win + loss + nu;
        const double played = counts.wins[forth] + counts.wins[back] + counts.ties[forth];
        off += counts.wins[forth] + counts.ties[forth] / 2 - played * (win + nu / 2) / norm;
        ties_off += (counts.ties[forth] - played * nu / norm) / 2;
        games += played;
      }
      check_close(table.name, "points above Davidson's", off, 0, prior ? prior / 2 : 1e-9 * games);
      check(error[at] >= 0 && error[at] < 100 && std::isfinite(slope[at]), table.name, "error", error[at], 1);
      sum += rating[at];
      all += games;
      ++size;
    }
    check_close(table.name, "mean of the ratings", sum / size, 0, 1e-12);
    check_close(table.name, "what ties add", score[b], ties_off, given ? 1e-9 * all : prior + 1e-9 * all);
    if (!given) check_close(table.name, "ties above the expected", ties_off, 0, prior + 1e-9 * all);
  }
}

void test_pair_scores(const Table& table, int64_t batch, int64_t n) {
  std::mt19937 generator(n);
  Counts counts(batch, n, generator);
  for (double& won : counts.wins)
    if (generator() % 3 == 0) won = 0;
  for (const PairScore kind : {PairScore::kBorda, PairScore::kWinRate, PairScore::kCopeland}) {
    std::vector<double> score(batch * n, 7.0);
    table.tournaments_ratings->pair_scores(counts.wins.data(), kind, n, score.data(), 0, batch);
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < n; ++i) {
        double sum = 0, met = 0;
        for (int64_t j = 0; j < n; ++j) {
          const double won = counts.wins[(b * n + i) * n + j], lost = counts.wins[(b * n + j) * n + i];
          if (j == i || won + lost == 0) continue;
          ++met;
          sum += kind == PairScore::kBorda ? won : kind == PairScore::kWinRate ? won / (won + lost) : won > lost ? 1 : won == lost ? 0.5 : 0;
        }
        const double expected = kind == PairScore::kWinRate ? sum / met : sum, got = score[b * n + i];
        check(got == expected || (std::isnan(got) && std::isnan(expected)), table.name, "score of pairs", got, expected);
      }
  }
}

void test_power_iteration(const Table& table, int64_t batch, int64_t n) {
  std::mt19937 generator(n);
  std::vector<double> matrix(batch * n * n), start(batch * n, 1.0 / double(n)), shift(batch, 0.5), vector(batch * n, kNaN), scratch(n);
  std::vector<int64_t> iterations(batch, -1);
  bool converged[8] = {};
  for (double& cell : matrix) cell = 0.25 + (generator() % 8) / 8.0;
  const PowerIteration job{matrix.data(), start.data(), shift.data(), 0.1, n, 500, 1e-13, vector.data(), converged, iterations.data()};
  table.tournaments_ratings->power_iteration(job, scratch.data(), 0, batch);
  for (int64_t b = 0; b < batch; ++b) {
    check(converged[b] && iterations[b] > 0 && iterations[b] < 500, table.name, "power iteration", iterations[b], 1);
    std::vector<double> next(n);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) next[i] += matrix[(b * n + i) * n + j] * vector[b * n + j];
      sum += next[i] += 0.5 * vector[b * n + i] + 0.1 * start[b * n + i];
    }
    for (int64_t i = 0; i < n; ++i) check_close(table.name, "fixed point", next[i] / sum, vector[b * n + i], 1e-12);
  }
}

void test_resampled(const Table& table, int64_t replicates, int64_t problems, int64_t n) {
  std::mt19937 generator(n);
  std::vector<int64_t> offsets(1, 0);
  std::vector<Points> points;
  for (int64_t b = 0; b < problems; ++b) {
    for (int64_t k = generator() % 7; k > 0; --k) {
      const int64_t i = generator() % n, j = (i + 1 + generator() % (n - 1)) % n;
      points.push_back({int32_t(i * n + j), int32_t(j * n + i), (generator() % 8) / 8.0, (generator() % 8) / 8.0});
    }
    offsets.push_back(points.size());
  }
  const int64_t matches = points.size();
  std::vector<int32_t> draws(replicates * matches), counts(matches);
  for (int32_t& draw : draws) draw = generator() % 5 ? int32_t(generator()) : int32_t(0x7fffffff);
  std::vector<double> wins(replicates * problems * n * n), expected(wins);
  const Resampling job{points.data(), offsets.data(), draws.data(), matches, problems, n};
  table.tournaments_ratings->resampled_wins(job, wins.data(), counts.data(), 0, replicates / 2);
  table.tournaments_ratings->resampled_wins(job, wins.data(), counts.data(), replicates / 2, replicates);
  for (int64_t r = 0; r < replicates; ++r)
    for (int64_t b = 0; b < problems; ++b)
      for (int64_t k = offsets[b]; k < offsets[b + 1]; ++k) {
        const int64_t draw = draws[r * matches + k] & 0x7fffffff, size = offsets[b + 1] - offsets[b];
        const Points& p = points[offsets[b] + (draw * size >> 31)];
        expected[(r * problems + b) * n * n + p.forth] += p.won;
        expected[(r * problems + b) * n * n + p.back] += p.lost;
      }
  for (size_t c = 0; c < wins.size(); ++c) check_close(table.name, "resampled wins", wins[c], expected[c], 0);
}

}  // namespace

void test_tournaments_ratings(const Table& table) {
  for (int64_t n : {2, 3, 7, 8, 9, 17, 40})
    for (double prior : {0.0, 0.1})
      for (bool given : {false, true}) test_davidson(table, 5, n, prior, given);
  for (int64_t n : {1, 2, 5, 16}) test_pair_scores(table, 3, n);
  for (int64_t n : {1, 2, 7, 16, 33}) test_power_iteration(table, 3, n);
  for (int64_t n : {2, 3, 6}) test_resampled(table, 9, 4, n);
}
