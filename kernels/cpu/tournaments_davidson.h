// Davidson ratings: Bradley-Terry with ties of their own, by Newton with a line search, as in rrm_core/tournaments/reference_davidson.py.
#pragma once

#include "tournaments_newton.h"

namespace {

// Of the members of one problem, rows in a stride of whole vectors.
struct TieProblem {
  Problem q;           // won and lost: outright
  const double* tied;  // [n, stride]
  double total;        // games in all, virtual ones of the ties included
  bool fixed;          // whether the log of the tie strength is given
};

// Where an iteration stands: theta [n], eta the log of the tie strength.
struct TieState {
  double *theta, *hessian, *ascent, *slope, *step;  // hessian [n, stride] without the gauge; slope: of the ascent by eta, negated; all [n]
  double eta, of_eta, curvature;                    // the ascent by eta, and its slope negated
};

struct Chances {
  DoubleVec win, loss, tie;
};

inline DoubleVec larger(DoubleVec a, DoubleVec b) {
  return a > b ? a : b;
}

inline Chances chances_of(DoubleVec x, double eta) {
  const DoubleVec half = 0.5 * x, top = larger(larger(half, -half), splat(eta));
  const DoubleVec win = exp_nonpositive(half - top), loss = exp_nonpositive(-half - top), tie = exp_nonpositive(splat(eta) - top);
  const DoubleVec inverse = 1.0 / (win + loss + tie);
  return {win * inverse, loss * inverse, tie * inverse};
}

// A tie of equals.
inline double even_chance(double eta) {
  return 1.0 / (1.0 + 2.0 * exp(-eta));
}

inline double ascend(const TieProblem& p, TieState* s) {
  const Problem& q = p.q;
  double residual = 0.0, of_eta = 0.0, curvature_of_eta = 0.0;
  for (int64_t i = 0; i < q.n; ++i) {
    DoubleVec ups{}, downs{}, curvatures{}, slopes{}, evens{}, spreads{};
    double* row = s->hessian + i * q.stride;
    for (int64_t j = 0; j < q.stride; j += kDoubles) {
      const DoubleVec won = load(q.won + i * q.stride + j), lost = load(q.lost + i * q.stride + j), tied = load(p.tied + i * q.stride + j);
      const Chances c = chances_of(s->theta[i] - load(s->theta + j), s->eta);
      const DoubleVec games = won + lost + tied, off = 0.5 * (c.loss - c.win);
      ups += won * (c.loss + 0.5 * c.tie) + 0.5 * tied * c.loss;
      downs += lost * (c.win + 0.5 * c.tie) + 0.5 * tied * c.win;
      const DoubleVec curvature = games * (c.win * c.loss + 0.25 * (c.win + c.loss) * c.tie);
      curvatures += curvature;
      slopes += games * c.tie * off;
      evens += tied * (c.win + c.loss) - (won + lost) * c.tie;
      spreads += games * c.tie * (c.win + c.loss);
      store(row + j, -curvature);
    }
    const double small = exp(-fabs(s->theta[i])), large = 1.0 / (1.0 + small), rest = small * large;
    const double up = horizontal_sum(ups) + q.half * (s->theta[i] > 0.0 ? rest : large);
    const double down = horizontal_sum(downs) + q.half * (s->theta[i] > 0.0 ? large : rest);
    s->ascent[i] = up - down;
    s->slope[i] = horizontal_sum(slopes);
    row[i] = horizontal_sum(curvatures) + 2.0 * q.half * large * rest;
    of_eta += 0.5 * horizontal_sum(evens);
    curvature_of_eta += 0.5 * horizontal_sum(spreads);
    residual = worse(fabs(s->ascent[i]) / q.games[i], residual);
  }
  s->of_eta = of_eta;
  s->curvature = curvature_of_eta;
  if (p.fixed) return residual;
  const double even = even_chance(s->eta);  // of as many virtual games of equals as the prior says, half of them tied
  s->of_eta += 2.0 * q.half * (0.5 - even);
  s->curvature += 2.0 * q.half * even * (1.0 - even);
  return worse(fabs(s->of_eta) / p.total, residual);
}

// The negative log posterior at part of the step, up to a constant.
inline double loss(const TieProblem& p, const TieState& s, double of_eta, double part) {
  const Problem& q = p.q;
  const double eta = s.eta + part * of_eta;
  double sum = 0.0;
  for (int64_t i = 0; i < q.n; ++i) {
    const double t = s.theta[i] + part * s.step[i];
    for (int64_t j = 0; j < i; ++j) {
      const double won = q.won[i * q.stride + j], lost = q.lost[i * q.stride + j], tied = p.tied[i * q.stride + j];
      if (won + lost + tied == 0.0) continue;
      const double half = (t - (s.theta[j] + part * s.step[j])) / 2.0, side = fabs(half), top = side > eta ? side : eta;
      const double norm = top + log(exp(half - top) + exp(-half - top) + exp(eta - top));
      sum += won * (norm - half) + lost * (norm + half) + tied * (norm - eta);
    }
    if (q.half > 0.0) sum += q.half * (softplus(t) + softplus(-t));
  }
  if (!p.fixed && q.half > 0.0) {
    const double top = eta > 0.0 ? eta : 0.0, norm = top + log(exp(eta - top) + 2.0 * exp(-top));
    sum += q.half * ((norm - eta) + norm);
  }
  return sum;
}

// Newton's step for theta, in s->step; returns that for eta. factor: of the Hessian of theta.
inline double step_of(const TieProblem& p, TieState* s, double* left) {
  const Problem& q = p.q;
  for (int64_t i = 0; i < q.stride; ++i) {
    s->step[i] = i < q.n ? s->ascent[i] : 0.0;
    left[i] = i < q.n ? s->slope[i] : 0.0;
  }
  solve(q, s->hessian, s->step);
  solve(q, s->hessian, left);
  double of_eta = s->of_eta;
  for (int64_t i = 0; i < q.n; ++i) {
    of_eta -= s->slope[i] * s->step[i];
    s->curvature -= s->slope[i] * left[i];
  }
  const double move = p.fixed || !(s->curvature > 0.0) ? 0.0 : of_eta / s->curvature;
  for (int64_t i = 0; i < q.n; ++i) s->step[i] -= move * left[i];
  return move;
}

inline Fit newton(const TieProblem& p, TieState* s, int64_t most, double* left) {
  constexpr double kShortest = 0x1p-24;
  for (int64_t steps = 0;; ++steps) {
    const double residual = ascend(p, s);
    if (!(residual > p.q.tol) || steps >= most) return {steps, residual <= p.q.tol};
    cholesky(p.q, s->hessian);
    const double of_eta = step_of(p, s, left), before = loss(p, *s, of_eta, 0.0);
    double promised = s->of_eta * of_eta, part = 1.0;
    for (int64_t i = 0; i < p.q.n; ++i) promised += s->ascent[i] * s->step[i];
    const double rounding = 64.0 * kEpsilon * before;  // what the loss can't tell
    while (part > kShortest && !(loss(p, *s, of_eta, part) <= before - 1e-4 * part * promised + rounding)) part /= 4.0;
    for (int64_t i = 0; i < p.q.n; ++i) s->theta[i] += part * s->step[i];
    s->eta += part * of_eta;
  }
}

// error [n]: sqrt(diag(P V P)) with V the inverse of the Hessian's block of theta, plus z z^T / curvature where eta is free too. s->step becomes
// the negative of P z, what one more unit of eta does to the ratings; s->curvature what eta's Hessian has left without theta.
inline void standard_errors(const TieProblem& p, TieState* s, double* left, double* row, double* error) {
  const Problem& q = p.q;
  ascend(p, s);
  cholesky(q, s->hessian);
  step_of(p, s, left);
  double mean = 0.0;
  for (int64_t i = 0; i < q.n; ++i) mean += left[i] / double(q.n);
  for (int64_t i = 0; i < q.n; ++i) s->step[i] = mean - left[i];
  if (!error) return;
  factor_errors(q, s->hessian, row, error);
  if (p.fixed) return;
  for (int64_t i = 0; i < q.n; ++i) error[i] = sqrt(error[i] * error[i] + s->step[i] * s->step[i] / s->curvature);
}

// Whether ties and wins pin strengths and tie strength down together: some way round has more wins than ties on it. Otherwise strengths two apart
// for every win and at most two for every tie exist, and all may grow along them. deep: [n] scratch.
inline bool ties_are_surprising(const TieProblem& p, double* deep) {
  const Problem& q = p.q;
  for (int64_t i = 0; i < q.n; ++i) deep[i] = 0.0;
  for (int64_t round = 0; round <= q.n; ++round) {
    bool moved = false;
    for (int64_t i = 0; i < q.n; ++i)
      for (int64_t j = 0; j < q.n; ++j) {
        const int64_t cell = i * q.stride + j;
        if (!(q.won[cell] > 0.0) && !(p.tied[cell] > 0.0)) continue;
        const double bound = deep[i] + (q.won[cell] > 0.0 ? -1.0 : 1.0);
        if (bound >= deep[j]) continue;
        deep[j] = bound;
        moved = true;
      }
    if (!moved) return false;
  }
  return true;
}

}  // namespace
