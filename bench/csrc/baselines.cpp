// What a user would write by hand: plain loops in float64, one problem after the other, shared out over threads.
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

// Newman's iteration (Gauss-Seidel): strengths s, prior / 2 games won and lost against a fixed opponent of strength 1. That opponent alone
// holds their common factor, too weakly for the sweeps, so each is followed by a Newton step on the factor.
void bradley_terry_one(const double* wins, int64_t n, double prior, double tol, int64_t max_sweeps, double* rating) {
  std::vector<double> s(n, 1.0);
  for (int64_t sweep = 0; sweep < max_sweeps; sweep++) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
      double won = prior / 2 / (s[i] + 1), lost = won, games = prior;
      for (int64_t j = 0; j < n; j++) {
        if (j == i) continue;
        const double share = 1 / (s[i] + s[j]);
        won += wins[i * n + j] * s[j] * share;
        lost += wins[j * n + i] * share;
        games += wins[i * n + j] + wins[j * n + i];
      }
      if (games == 0) continue;
      worst = std::fmax(worst, std::fabs(won - s[i] * lost) / games);  // points won beyond the expected, per game
      s[i] = won / lost;
    }
    if (worst <= tol) break;
    double slope = 0, curvature = 0;
    for (int64_t i = 0; i < n; i++) {
      const double chance = s[i] / (s[i] + 1);
      slope += 0.5 - chance;
      curvature += chance * (1 - chance);
    }
    const double factor = std::exp(std::fmin(1.0, std::fmax(-1.0, slope / curvature)));
    for (int64_t i = 0; i < n; i++) s[i] *= factor;
  }
  double mean = 0;
  for (int64_t i = 0; i < n; i++) mean += (rating[i] = std::log(s[i])) / n;
  for (int64_t i = 0; i < n; i++) rating[i] -= mean;
}

}  // namespace

// wins [B, n, n] -> rating [B, n]; prior > 0.
extern "C" void baseline_bradley_terry(
    const double* wins, int64_t problems, int64_t n, double prior, double tol, int64_t max_sweeps, double* rating, int threads) {
  std::vector<std::thread> others;
  auto part = [=](int t) {
    for (int64_t b = problems * t / threads; b < problems * (t + 1) / threads; b++)
      bradley_terry_one(wins + b * n * n, n, prior, tol, max_sweeps, rating + b * n);
  };
  for (int t = 1; t < threads; t++) others.emplace_back(part, t);
  part(0);
  for (auto& other : others) other.join();
}
