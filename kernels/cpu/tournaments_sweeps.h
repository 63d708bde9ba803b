// Gauss-Seidel for Bradley-Terry ratings: fast where everybody meets everybody. The formulas are those of
// rrm_core/tournaments/reference_bradley_terry.py; the fixed opponent of strength 1 is written out.
#pragma once

#include <math.h>

#include "doubles.h"

namespace {

// Sweeps that are worth more than Newton's steps, and how much more exactly they should meet the criterion, being of first order.
constexpr int64_t kMostSweeps = 40;
constexpr double kSweepTolerance = 0.25;
// Strengths this far from 1 are left to Newton, who works with their logarithms.
constexpr double kFaint = 1e-290, kHuge = 1e290;

// Those who take part. Rows have a stride of whole vectors; what fills them up has no games.
struct Problem {
  int64_t n, stride;
  const double* won;    // [n, stride]
  const double* lost;   // [n, stride], the transpose
  const double* games;  // [n], virtual ones included
  double half;          // half the prior
  double tol;
};

struct Fit {
  int64_t steps;
  bool converged;
};

enum Status : int64_t { kConverged, kNoMle, kDisconnected, kNotConverged };

// Whether paths lead from the first candidate to all others along what a has won of b, or b of a. left: [n] scratch.
inline bool reaches_all(const Problem& q, const double* a, const double* b, int64_t* left) {
  for (int64_t i = 0; i < q.n; ++i) left[i] = i;
  // left: those found and gone through, [done, found) found, then those not found
  int64_t found = 1;
  for (int64_t done = 0; done < found && found < q.n; ++done) {
    const int64_t row = left[done] * q.stride;
    for (int64_t k = found; k < q.n; ++k) {
      const int64_t j = left[k];
      if (!(a[row + j] > 0.0 || b[row + j] > 0.0)) continue;
      left[k] = left[found];
      left[found++] = j;
    }
  }
  return found >= q.n;
}

inline double worse(double a, double b) {
  return a > b || a != a ? a : b;  // NaN stays
}

// Whether sweeps with these two residuals, one after the other, promise to be there after `left` more.
inline bool promising(double before, double residual, double tol, int64_t left) {
  return log(tol / residual) > log(residual / before) * double(left);
}

inline bool is_time_to_ask(int64_t steps) {
  return steps >= 4 && (steps & (steps - 1)) == 0;
}

// With a prior, what moves all strengths together to where the fixed opponent holds them, one Newton step on the logarithm of the factor: games
// among themselves don't tell, and sweeps alone would take thousands.
inline double common_factor(double off, double curvature) {
  const double move = off / curvature;
  return exp(move < -1.0 ? -1.0 : move > 1.0 ? 1.0 : move);
}

inline void shift(const Problem& q, double* strength) {
  double off = 0.0, curvature = 0.0;
  for (int64_t i = 0; i < q.n; ++i) {
    const double chance = strength[i] / (strength[i] + 1.0);
    off += 0.5 - chance;
    curvature += chance * (1.0 - chance);
  }
  const double factor = common_factor(off, curvature);
  for (int64_t i = 0; i < q.n; ++i) strength[i] *= factor;
}

// Newman's iteration, p_i <- (sum_j won_ij p_j / (p_i + p_j)) / (sum_j lost_ij / (p_i + p_j)), one candidate after the other, those with a small
// residual left alone: a sweep that moves nobody is the proof of convergence. Gives up when its rate says that it won't get there in time.
inline Fit gauss_seidel(const Problem& q, double* strength, int64_t most) {
  const double tol = kSweepTolerance * q.tol;
  double before = 0.0;
  for (int64_t steps = 0;;) {
    double residual = 0.0;
    for (int64_t i = 0; i < q.n; ++i) {
      const double p = strength[i];
      DoubleVec ups{}, downs{};
      for (int64_t j = 0; j < q.stride; j += kDoubles) {
        const DoubleVec other = load(strength + j), inverse = 1.0 / (p + other);
        ups += load(q.won + i * q.stride + j) * (other * inverse);
        downs += load(q.lost + i * q.stride + j) * inverse;
      }
      const double up = horizontal_sum(ups) + q.half / (p + 1.0), down = horizontal_sum(downs) + q.half / (p + 1.0);
      const double off = fabs(up - p * down) / q.games[i];
      residual = worse(off, residual);
      if (off <= tol) continue;
      strength[i] = up / down;
      if (!(strength[i] > kFaint && strength[i] < kHuge)) return {steps, false};
    }
    if (residual <= tol) return {steps, true};
    if (steps == most) return {steps, false};
    ++steps;
    if (q.half > 0.0) shift(q, strength);
    if (is_time_to_ask(steps) && !promising(before, residual, tol, most - steps)) return {steps, false};
    before = residual;
  }
}

// The same for one problem a lane: won, lost [n, n, kDoubles], games and strength [n, kDoubles]. Places without a candidate have no wins and
// infinitely many games, of which nothing is ever off.
struct Lanes {
  int64_t n;
  const double *won, *lost, *games;
  double half, tol;
};

struct LaneSums {
  DoubleVec up, down;
};

inline LaneSums pull(const Lanes& q, const double* strength, int64_t i) {
  const DoubleVec p = load(strength + i * kDoubles), fixed = q.half / (p + 1.0);
  LaneSums sums{fixed, fixed};
  for (int64_t j = 0; j < q.n; ++j) {
    const int64_t cell = (i * q.n + j) * kDoubles;
    const DoubleVec other = load(strength + j * kDoubles), inverse = 1.0 / (p + other);
    sums.up += load(q.won + cell) * (other * inverse);
    sums.down += load(q.lost + cell) * inverse;
  }
  return sums;
}

inline void shift(const Lanes& q, double* strength, LongVec active) {
  DoubleVec off{}, curvature{}, factor;
  for (int64_t i = 0; i < q.n; ++i) {
    const DoubleVec p = load(strength + i * kDoubles), chance = p / (p + 1.0);
    const LongVec taken = load(q.games + i * kDoubles) < HUGE_VAL;
    off += taken ? 0.5 - chance : DoubleVec{};
    curvature += taken ? chance * (1.0 - chance) : DoubleVec{};
  }
  for (int l = 0; l < kDoubles; ++l) factor[l] = active[l] ? common_factor(off[l], curvature[l]) : 1.0;
  for (int64_t i = 0; i < q.n; ++i) store(strength + i * kDoubles, load(strength + i * kDoubles) * factor);
}

inline void gauss_seidel(const Lanes& q, double* strength, int64_t most, Fit* fits) {
  const double tol = kSweepTolerance * q.tol;
  DoubleVec before{};
  LongVec active = LongVec{} == 0;
  for (int l = 0; l < kDoubles; ++l) fits[l] = {0, false};
  for (int64_t steps = 0;;) {
    DoubleVec residual{}, strongest = splat(1.0), weakest = splat(1.0);
    for (int64_t i = 0; i < q.n; ++i) {
      const DoubleVec p = load(strength + i * kDoubles);
      const LaneSums sums = pull(q, strength, i);
      const DoubleVec gap = sums.up - p * sums.down, off = (gap < 0.0 ? -gap : gap) / load(q.games + i * kDoubles);
      residual = (off > residual) | (off != off) ? off : residual;
      const DoubleVec moved = active & ~(off <= tol) ? sums.up / sums.down : p;
      strongest = moved < strongest ? strongest : moved;
      weakest = moved > weakest ? weakest : moved;
      store(strength + i * kDoubles, moved);
    }
    const LongVec inside = (strongest < kHuge) & (weakest > kFaint);
    for (int l = 0; l < kDoubles; ++l) {
      if (!active[l]) continue;
      fits[l] = {steps, inside[l] && residual[l] <= tol};
      const bool asked = is_time_to_ask(steps + 1) && !promising(before[l], residual[l], tol, most - steps - 1);
      if (fits[l].converged || !inside[l] || steps == most || asked) active[l] = 0;
    }
    bool any = false;
    for (int l = 0; l < kDoubles; ++l) any |= active[l] != 0;
    if (!any) return;
    ++steps;
    if (q.half > 0.0) shift(q, strength, active);
    before = residual;
  }
}

}  // namespace
