// Bradley-Terry ratings by damped Newton, and their standard errors, as in rrm_core/tournaments/reference_bradley_terry.py.
#pragma once

#include "tournaments_sweeps.h"

namespace {

constexpr double kEpsilon = 0x1p-52;
// How far a Newton step may take a difference back toward 0: freely tried, and proven.
constexpr double kLongMove = 4.0, kSafeMove = 0.5;
// Columns the Cholesky factorisation takes at once.
constexpr int64_t kPanel = 48;

// The gradient of the log posterior [n], the Hessian's negative [n, stride] without the gauge. Returns the residual.
inline double ascend(const Problem& q, const double* theta, double* ascent, double* hessian) {
  double residual = 0.0;
  for (int64_t i = 0; i < q.n; ++i) {
    DoubleVec ups{}, downs{}, curvatures{};
    double* row = hessian + i * q.stride;
    for (int64_t j = 0; j < q.stride; j += kDoubles) {
      const DoubleVec x = theta[i] - load(theta + j), won = load(q.won + i * q.stride + j), lost = load(q.lost + i * q.stride + j);
      const DoubleVec small = exp_nonpositive(x > 0.0 ? -x : x), large = 1.0 / (1.0 + small), rest = small * large;
      const DoubleVec curvature = (won + lost) * large * rest;
      ups += won * (x > 0.0 ? rest : large);
      downs += lost * (x > 0.0 ? large : rest);
      curvatures += curvature;
      store(row + j, -curvature);
    }
    const double small = exp(-fabs(theta[i])), large = 1.0 / (1.0 + small), rest = small * large;
    const double up = horizontal_sum(ups) + q.half * (theta[i] > 0.0 ? rest : large);
    const double down = horizontal_sum(downs) + q.half * (theta[i] > 0.0 ? large : rest);
    ascent[i] = up - down;
    row[i] = horizontal_sum(curvatures) + 2.0 * q.half * large * rest;
    residual = worse(fabs(ascent[i]) / q.games[i], residual);
  }
  return residual;
}

// The lower Cholesky factor in place, in panels of columns whose rows stay in the cache.
inline void cholesky(const Problem& q, double* a) {
  double stiffness = 0.0;
  if (q.half == 0.0) {  // without a prior only differences count: any stiffness of the mean will do
    for (int64_t i = 0; i < q.n; ++i) stiffness += a[i * q.stride + i];
    stiffness = stiffness > 0.0 ? stiffness / (double(q.n) * double(q.n)) : 1.0;
  }
  for (int64_t i = 0; i < q.n; ++i) {
    for (int64_t j = 0; j <= i; ++j) a[i * q.stride + j] += stiffness;
    // Enough to keep rounding from breaking the factorisation, too little to be seen in a rating
    a[i * q.stride + i] += 8.0 * double(q.n + 1) * kEpsilon * q.games[i];
  }
  for (int64_t first = 0; first < q.n; first += kPanel) {
    const int64_t last = first + kPanel < q.n ? first + kPanel : q.n;
    for (int64_t i = first; i < q.n; ++i)
      for (int64_t j = first; j < last && j <= i; ++j) a[i * q.stride + j] -= dot(a + i * q.stride, a + j * q.stride, first);
    for (int64_t j = first; j < last; ++j) {
      const double* above = a + j * q.stride + first;
      const double pivot = sqrt(a[j * q.stride + j] - dot(above, above, j - first));
      a[j * q.stride + j] = pivot;
      for (int64_t i = j + 1; i < q.n; ++i) {
        double* row = a + i * q.stride;
        row[j] = (row[j] - dot(row + first, above, j - first)) / pivot;
      }
    }
  }
}

// factor factor^T x = b, in place.
inline void solve(const Problem& q, const double* factor, double* x) {
  for (int64_t i = 0; i < q.n; ++i) x[i] = (x[i] - dot(factor + i * q.stride, x, i)) / factor[i * q.stride + i];
  for (int64_t i = q.n - 1; i >= 0; --i) {
    x[i] /= factor[i * q.stride + i];
    for (int64_t j = 0; j < i; ++j) x[j] -= factor[i * q.stride + j] * x[i];
  }
}

// The largest factor up to 1 with which no difference further than `limit` from 0 moves back toward 0 by more than `limit`.
inline double damping(const Problem& q, const double* theta, const double* step, double limit) {
  DoubleVec back{};
  for (int64_t i = 0; i < q.n; ++i)
    for (int64_t j = 0; j < q.stride; j += kDoubles) {
      const DoubleVec x = theta[i] - load(theta + j), move = load(step + j) - step[i];
      const DoubleVec games = load(q.won + i * q.stride + j) + load(q.lost + i * q.stride + j);
      back = (games > 0.0) & (x > limit) & (move > back) ? move : back;
    }
  double most = horizontal_max(back);
  if (q.half > 0.0)
    for (int64_t i = 0; i < q.n; ++i) {
      const double move = theta[i] > 0.0 ? -step[i] : step[i];
      if (fabs(theta[i]) > limit && move > most) most = move;
    }
  return limit < most ? limit / most : 1.0;
}

inline double softplus(double x) {
  return log1p(exp(-fabs(x))) + (x > 0.0 ? x : 0.0);
}

// The negative log posterior at theta + part * step, up to a constant.
inline double loss(const Problem& q, const double* theta, const double* step, double part) {
  double sum = 0.0;
  for (int64_t i = 0; i < q.n; ++i) {
    const double t = theta[i] + part * step[i];
    for (int64_t j = 0; j < i; ++j) {
      const double won = q.won[i * q.stride + j], lost = q.lost[i * q.stride + j];
      if (won + lost == 0.0) continue;
      const double x = t - (theta[j] + part * step[j]), small = softplus(-fabs(x)), large = small + fabs(x);
      sum += x > 0.0 ? won * small + lost * large : won * large + lost * small;
    }
    if (q.half > 0.0) sum += q.half * (softplus(t) + softplus(-t));
  }
  return sum;
}

// The part of Newton's step with which the loss falls for certain, or a longer one if the loss falls with it.
inline double part_of_step(const Problem& q, const double* theta, const double* step, const double* ascent) {
  const double freely = damping(q, theta, step, kLongMove), safe = damping(q, theta, step, kSafeMove);
  if (safe >= freely) return freely;
  double promised = 0.0;
  for (int64_t i = 0; i < q.n; ++i) promised += ascent[i] * step[i];
  return loss(q, theta, step, freely) <= loss(q, theta, step, 0.0) - 1e-4 * freely * promised ? freely : safe;
}

inline Fit newton(const Problem& q, double* theta, int64_t most, double* hessian, double* ascent, double* step) {
  for (int64_t steps = 0;; ++steps) {
    const double residual = ascend(q, theta, ascent, hessian);
    if (!(residual > q.tol) || steps >= most) return {steps, residual <= q.tol};
    cholesky(q, hessian);
    for (int64_t i = 0; i < q.stride; ++i) step[i] = i < q.n ? ascent[i] : 0.0;
    solve(q, hessian, step);
    const double part = part_of_step(q, theta, step, ascent);
    for (int64_t i = 0; i < q.n; ++i) theta[i] += part * step[i];
  }
}

// sqrt(diag(P H^-1 P)) [n] = the column norms of L^-1 P, P the projection onto mean 0. The factor's inverse takes its place, row by row.
inline void factor_errors(const Problem& q, double* hessian, double* inverse, double* error) {
  for (int64_t i = 0; i < q.n; ++i) error[i] = 0.0;
  for (int64_t i = 0; i < q.n; ++i) {
    double* row = hessian + i * q.stride;
    for (int64_t j = 0; j <= i; ++j) inverse[j] = j < i ? 0.0 : 1.0;
    for (int64_t k = 0; k < i; ++k)
      for (int64_t j = 0; j <= k; ++j) inverse[j] -= row[k] * hessian[k * q.stride + j];
    const double pivot = row[i];
    double sum = 0.0;
    for (int64_t j = 0; j <= i; ++j) sum += inverse[j] /= pivot;
    for (int64_t j = 0; j < q.n; ++j) {
      const double off = (j <= i ? inverse[j] : 0.0) - sum / double(q.n);
      error[j] += off * off;
    }
    for (int64_t j = 0; j <= i; ++j) row[j] = inverse[j];
  }
  for (int64_t i = 0; i < q.n; ++i) error[i] = sqrt(error[i]);
}

inline void standard_errors(const Problem& q, const double* theta, double* hessian, double* ascent, double* error) {
  ascend(q, theta, ascent, hessian);
  cholesky(q, hessian);
  factor_errors(q, hessian, ascent, error);
}

// sqrt(diag(P H^-1 G H^-1 P)) [n]: G has what every game's surprise squared adds, spread [n, stride] between two candidates. inverse: of the factor
// of H, as standard_errors leaves it. With u the k-th row of P H^-1, the k-th is the sum over pairs of spread_ij (u_i - u_j)^2.
inline void sandwich_errors(const Problem& q, const double* inverse, const double* spread, double* mean, double* row, double* error) {
  const auto times_row = [&](int64_t m, double factor, double* to) {
    for (int64_t j = 0; j <= m; ++j) to[j] += factor * inverse[m * q.stride + j];
  };
  for (int64_t j = 0; j < q.stride; ++j) mean[j] = 0.0;
  for (int64_t m = 0; m < q.n; ++m) {
    double sum = 0.0;
    for (int64_t j = 0; j <= m; ++j) sum += inverse[m * q.stride + j];
    times_row(m, sum / double(q.n), mean);
  }
  for (int64_t k = 0; k < q.n; ++k) {
    for (int64_t j = 0; j < q.stride; ++j) row[j] = j < q.n ? -mean[j] : 0.0;
    for (int64_t m = k; m < q.n; ++m) times_row(m, inverse[m * q.stride + k], row);
    DoubleVec sums{};
    for (int64_t i = 0; i < q.n; ++i)
      for (int64_t j = 0; j < q.stride; j += kDoubles) {
        const DoubleVec apart = row[i] - load(row + j);
        sums += load(spread + i * q.stride + j) * apart * apart;
      }
    error[k] = sqrt(horizontal_sum(sums) / 2.0);
  }
}

}  // namespace
