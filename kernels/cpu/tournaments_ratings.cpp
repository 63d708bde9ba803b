// Davidson ratings, power iteration, scores of pairs and resampled wins, in float64. Compiled once per instruction set into the namespace RRM_ISA.
#include "tournaments_ratings.h"

#include "tournaments_davidson.h"

namespace {

using namespace rrm;

// ---- davidson

struct Scratch {
  int64_t stride;
  double *won, *lost, *tied, *hessian, *games, *theta, *ascent, *slope, *step, *left, *error;
  int64_t *members, *queue;

  Scratch(double* memory, int64_t n) : stride((n + 7) / 8 * 8) {
    static_assert(sizeof(int64_t) == sizeof(double) && kDoubles <= 8);
    const auto take = [&](int64_t rows) { return (memory += rows * stride) - rows * stride; };
    won = take(n);
    lost = take(n);
    tied = take(n);
    hessian = take(n);
    games = take(1);
    theta = take(1);
    ascent = take(1);
    slope = take(1);
    step = take(1);
    left = take(1);
    error = take(1);
    members = reinterpret_cast<int64_t*>(take(1));
    queue = reinterpret_cast<int64_t*>(take(1));
  }
};

// Fills in wins and ties of the members; false if the numbers are none.
bool pack(const Davidson& t, const Scratch& s, int64_t b, TieProblem* p) {
  Problem& q = p->q;
  bool fine = true;
  double tied_games = 0.0;
  for (int64_t i = 0; i < q.n; ++i) {
    double games = 0.0;
    for (int64_t j = 0; j < q.stride; ++j) {
      const int64_t cell = i * q.stride + j;
      const bool pair = j < q.n && j != i;
      const int64_t forth = pair ? (b * t.n + s.members[i]) * t.n + s.members[j] : 0, back = pair ? (b * t.n + s.members[j]) * t.n + s.members[i] : 0;
      s.won[cell] = pair ? t.wins[forth] : 0.0;
      s.lost[cell] = pair ? t.wins[back] : 0.0;
      s.tied[cell] = pair ? 0.5 * (t.ties[forth] + t.ties[back]) : 0.0;
      fine &= s.won[cell] >= 0.0 && s.lost[cell] >= 0.0 && (!pair || (t.ties[forth] >= 0.0 && t.ties[back] >= 0.0));
      games += s.won[cell] + s.lost[cell] + s.tied[cell];
      tied_games += s.tied[cell];
    }
    p->total += games / 2.0;
    s.games[i] = games + t.prior > 0x1p-1022 ? games + t.prior : 0x1p-1022;
  }
  p->total = p->total + t.prior > 0x1p-1022 ? p->total + t.prior : 0x1p-1022;
  return fine && __builtin_isfinite(p->total) && __builtin_isfinite(tied_games);
}

bool any_tie(const TieProblem& p) {
  for (int64_t cell = 0; cell < p.q.n * p.q.stride; ++cell)
    if (p.tied[cell] > 0.0) return true;
  return false;
}

Status status_of(const TieProblem& p, const Scratch& s) {
  const Problem& q = p.q;
  for (int64_t cell = 0; cell < q.n * q.stride; ++cell) s.hessian[cell] = s.lost[cell] + s.tied[cell];
  if (!reaches_all(q, s.won, s.hessian, s.queue)) return kDisconnected;
  const bool strong = reaches_all(q, s.won, s.tied, s.queue) && reaches_all(q, s.lost, s.tied, s.queue);
  return strong && (p.fixed || (any_tie(p) && ties_are_surprising(p, s.step))) ? kConverged : kNoMle;
}

void davidson(const Davidson& t, double* memory, int64_t begin, int64_t end) {
  const Scratch s(memory, t.n);
  for (int64_t b = begin; b < end; ++b) {
    int64_t members = 0;
    for (int64_t i = 0; i < t.n; ++i) {
      if (!t.mask || t.mask[b * t.n + i]) s.members[members++] = i;
      t.rating[b * t.n + i] = -HUGE_VAL;
    }
    TieProblem p{
        {members, (members + kDoubles - 1) / kDoubles * kDoubles, s.won, s.lost, s.games, t.prior / 2.0, t.tol}, s.tied, 0.0, t.given != nullptr};
    TieState state{s.theta, s.hessian, s.ascent, s.slope, s.step, t.given ? t.given[b] : 0.0, 0.0, 0.0};
    const bool fine = pack(t, s, b, &p) && state.eta == state.eta;
    Status status = fine ? status_of(p, s) : kNotConverged;
    Fit fit{0, true};
    const bool fitted = fine && (t.prior > 0.0 || status == kConverged);
    double mean = 0.0;
    if (fitted) {
      for (int64_t i = 0; i < p.q.stride; ++i) s.theta[i] = 0.0;
      fit = newton(p, &state, t.max_iter, s.left);
      if (!fit.converged) status = kNotConverged;
      for (int64_t i = 0; i < members; ++i) mean += s.theta[i] / double(members);
      standard_errors(p, &state, s.left, s.error, t.errors ? s.ascent : nullptr);
      t.log_tie[b] = state.eta;
      t.score[b] = state.of_eta;
      t.curvature[b] = state.curvature;
    }
    for (int64_t i = 0; i < members; ++i) {
      const int64_t at = b * t.n + s.members[i];
      t.rating[at] = fitted ? s.theta[i] - mean : double(NAN);
      if (!fitted) continue;
      t.slope[at] = s.step[i];
      if (t.errors) t.error[at] = s.ascent[i];
    }
    t.status[b] = status;
    t.iterations[b] = fit.steps;
  }
}

// ---- power_iteration

void power_iteration(const PowerIteration& t, double* next, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    const double *matrix = t.matrix + b * t.n * t.n, *start = t.start + b * t.n;
    double* x = t.vector + b * t.n;
    for (int64_t i = 0; i < t.n; ++i) x[i] = start[i];
    t.converged[b] = false;
    for (t.iterations[b] = 0; !t.converged[b] && t.iterations[b] < t.max_iter; ++t.iterations[b]) {
      double sum = 0.0, moved = 0.0;
      for (int64_t i = 0; i < t.n; ++i) sum += next[i] = dot(matrix + i * t.n, x, t.n) + t.shift[b] * x[i] + t.teleport * start[i];
      for (int64_t i = 0; i < t.n; ++i) {
        moved += fabs(next[i] / sum - x[i]);
        x[i] = next[i] / sum;
      }
      t.converged[b] = moved <= t.tol;
    }
  }
}

// ---- pair_scores

void pair_scores(const double* wins, PairScore kind, int64_t n, double* score, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b)
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0.0, met = 0.0;
      for (int64_t j = 0; j < n; ++j) {
        const double won = wins[(b * n + i) * n + j], lost = wins[(b * n + j) * n + i], games = won + lost;
        if (j == i || games == 0.0) continue;
        met += 1.0;
        sum += kind == PairScore::kBorda     ? won
               : kind == PairScore::kWinRate ? won / games
               : won > lost                  ? 1.0
               : won == lost                 ? 0.5
               : won < lost                  ? 0.0
                                             : games;
      }
      score[b * n + i] = kind == PairScore::kWinRate ? sum / met : sum;
    }
}

// ---- resampled_wins

void resampled_wins(const Resampling& t, double* wins, int32_t* counts, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const int32_t* draws = t.draws + r * t.matches;
    for (int64_t k = 0; k < t.matches; ++k) counts[k] = 0;
    for (int64_t b = 0; b < t.problems; ++b) {
      const int64_t from = t.offsets[b], size = t.offsets[b + 1] - from;
      for (int64_t k = from; k < from + size; ++k) ++counts[from + ((int64_t{draws[k]} & 0x7fffffff) * size >> 31)];
    }
    for (int64_t b = 0; b < t.problems; ++b) {
      double* of_problem = wins + (r * t.problems + b) * t.n * t.n;
      for (int64_t k = t.offsets[b]; k < t.offsets[b + 1]; ++k) {
        const Points& p = t.points[k];
        const double times = double(counts[k]);
        of_problem[p.forth] += times * p.won;
        of_problem[p.back] += times * p.lost;
      }
    }
  }
}

}  // namespace

namespace rrm::RRM_ISA {

extern const TournamentRatingKernels tournaments_ratings;
const TournamentRatingKernels tournaments_ratings = {davidson, power_iteration, pair_scores, resampled_wins};

}  // namespace rrm::RRM_ISA
