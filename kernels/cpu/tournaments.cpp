// Wins, Elo and Bradley-Terry ratings, in float64. Compiled once per instruction set into the namespace RRM_ISA.
#include "tournaments.h"

#include "tournaments_elo.h"
#include "tournaments_newton.h"

namespace {

using namespace rrm;

constexpr double kTiny = 0x1p-1022;

void count(const Matches& m, double* wins, double* ties, int64_t begin, int64_t end) {
  const int64_t n = m.num_candidates;
  for (int64_t b = begin; b < end; ++b)
    for (int64_t k = m.offsets[b]; k < m.offsets[b + 1]; ++k) {
      Match match;
      if (!read(m, k, &match)) continue;
      const int64_t forth = (b * n + match.first) * n + match.second, back = (b * n + match.second) * n + match.first;
      if (ties && match.share == 0.5) {
        ties[forth] += match.weight;
        ties[back] += match.weight;
      } else {
        wins[forth] += match.weight * match.share;
        wins[back] += match.weight * (1.0 - match.share);
      }
    }
}

// ---- bradley_terry

// One problem and what becomes of it.
struct Case {
  int64_t* members;  // candidates who take part
  double *won, *lost, *games, *theta, *error;
  Problem q;
  Status status;
  bool fitted;
  Fit result;
};

// The scratch memory of a thread, in rows of whole vectors.
struct Scratch {
  int64_t stride;
  double *won, *lost, *games, *strength;  // of lanes, see tournaments_sweeps.h
  double *hessian, *spread, *ascent, *step, *row;
  int64_t* left;
  Case cases[kMostLanes];

  Scratch(double* memory, int64_t n) : stride((n + kMostLanes - 1) / kMostLanes * kMostLanes) {
    static_assert(sizeof(int64_t) == sizeof(double) && kDoubles <= kMostLanes);
    const auto take = [&](int64_t size) { return (memory += size) - size; };
    const int64_t lanes = lanes_of(n);
    won = take(lanes > 1 ? lanes * n * n : 0);
    lost = take(lanes > 1 ? lanes * n * n : 0);
    games = take(lanes > 1 ? lanes * n : 0);
    strength = take(lanes > 1 ? lanes * n : 0);
    hessian = take(n * stride);
    spread = take(n * stride);
    ascent = take(stride);
    step = take(stride);
    row = take(stride);
    left = reinterpret_cast<int64_t*>(take(stride));
    for (int64_t l = 0; l < lanes; ++l)
      cases[l] = {
          reinterpret_cast<int64_t*>(take(stride)), take(n * stride), take(n * stride), take(stride), take(stride), take(stride), {}, {}, {}, {}};
  }
};

// Fills in what the members won and lost among themselves; false if the numbers are no wins.
bool pack(const double* wins, const double* ties, int64_t n, const Case& c, double prior) {
  const auto [count, stride, won, lost, games, half, tol] = c.q;
  double total = 0.0;
  bool negative = false;
  for (int64_t i = 0; i < count; ++i) {
    const double *from = wins + c.members[i] * n, *even = ties ? ties + c.members[i] * n : nullptr;
    double* to = c.won + i * stride;
    for (int64_t j = 0; j < count; ++j) {
      const double win = from[c.members[j]], tie = even ? even[c.members[j]] : 0.0;
      to[j] = j == i ? 0.0 : win + tie / 2.0;
      total += to[j];
      negative |= j != i && (win < 0.0 || tie < 0.0);
    }
    for (int64_t j = count; j < stride; ++j) to[j] = 0.0;
  }
  if (negative || !__builtin_isfinite(total)) return false;
  for (int64_t block = 0; block < stride; block += kMostLanes)  // lines of the cache are filled as a whole
    for (int64_t j = 0; j < count; ++j)
      for (int64_t i = block; i < block + kMostLanes && i < stride; ++i) c.lost[j * stride + i] = i < count ? c.won[i * stride + j] : 0.0;
  for (int64_t i = 0; i < count; ++i) {
    DoubleVec played{};
    for (int64_t j = 0; j < stride; j += kDoubles) played += load(won + i * stride + j) + load(lost + i * stride + j);
    const double sum = horizontal_sum(played) + prior;
    c.games[i] = sum > kTiny ? sum : kTiny;
  }
  return true;
}

void prepare(const BradleyTerry& t, const Scratch& s, int64_t b, Case* c) {
  int64_t members = 0;
  for (int64_t i = 0; i < t.n; ++i)
    if (!t.mask || t.mask[b * t.n + i]) c->members[members++] = i;
  c->q = {members, (members + kDoubles - 1) / kDoubles * kDoubles, c->won, c->lost, c->games, t.prior / 2.0, t.tol};
  c->result = {0, true};
  c->fitted = false;
  c->status = kNotConverged;
  if (!pack(t.wins + b * t.n * t.n, t.ties ? t.ties + b * t.n * t.n : nullptr, t.n, *c, t.prior)) return;
  const Problem& q = c->q;
  const bool has_mle = reaches_all(q, q.won, q.won, s.left) && reaches_all(q, q.lost, q.lost, s.left);
  c->status = has_mle ? kConverged : reaches_all(q, q.won, q.lost, s.left) ? kNoMle : kDisconnected;
  c->fitted = t.prior > 0.0 || has_mle;
}

// Strengths in theta where that converges.
void sweep(const BradleyTerry& t, const Scratch& s, Case* cases, int64_t count) {
  const int64_t most = t.max_iter < kMostSweeps ? t.max_iter : kMostSweeps;
  if (lanes_of(t.n) == 1) {
    if (!cases->fitted) return;
    for (int64_t i = 0; i < cases->q.stride; ++i) cases->theta[i] = 1.0;
    cases->result = gauss_seidel(cases->q, cases->theta, most);
    return;
  }
  for (int64_t i = 0; i < t.n; ++i)
    for (int l = 0; l < kDoubles; ++l) {
      const bool taken = l < count && cases[l].fitted && i < cases[l].q.n;
      s.games[i * kDoubles + l] = taken ? cases[l].games[i] : HUGE_VAL;
      s.strength[i * kDoubles + l] = 1.0;
      for (int64_t j = 0; j < t.n; ++j) {
        const int64_t cell = (i * t.n + j) * kDoubles + l;
        const bool pair = taken && j < cases[l].q.n;
        s.won[cell] = pair ? cases[l].won[i * cases[l].q.stride + j] : 0.0;
        s.lost[cell] = pair ? cases[l].lost[i * cases[l].q.stride + j] : 0.0;
      }
    }
  Fit fits[kDoubles];
  gauss_seidel(Lanes{t.n, s.won, s.lost, s.games, t.prior / 2.0, t.tol}, s.strength, most, fits);
  for (int64_t l = 0; l < count; ++l) {
    if (!cases[l].fitted) continue;
    cases[l].result = fits[l];
    for (int64_t i = 0; i < cases[l].q.n; ++i) cases[l].theta[i] = s.strength[i * kDoubles + l];
  }
}

// What each game's surprise squared adds up to between every two members.
void spread_of(const BradleyTerry& t, int64_t b, const Case& c, double* spread) {
  for (int64_t i = 0; i < c.q.n; ++i)
    for (int64_t j = 0; j < c.q.stride; ++j) {
      double& cell = spread[i * c.q.stride + j];
      cell = 0.0;
      if (j >= c.q.n || j == i) continue;
      const int64_t forth = (b * t.n + c.members[i]) * t.n + c.members[j], back = (b * t.n + c.members[j]) * t.n + c.members[i];
      const double x = c.theta[i] - c.theta[j], small = exp(-fabs(x)), rest = small / (1.0 + small), large = 1.0 / (1.0 + small);
      const double chance = x > 0.0 ? large : rest, other = x > 0.0 ? rest : large, even = (chance - other) / 2.0;
      cell = t.wins[forth] * other * other + t.wins[back] * chance * chance + (t.ties ? t.ties[forth] * even * even : 0.0);
    }
}

void finish(const BradleyTerry& t, const Scratch& s, int64_t b, Case* c) {
  const Problem& q = c->q;
  double mean = 0.0;
  if (c->fitted) {
    for (int64_t i = 0; i < q.stride; ++i) c->theta[i] = c->result.converged && i < q.n ? log(c->theta[i]) : 0.0;
    // Newton starts anew: sweeps given up may have left candidates where the curvature is gone
    if (!c->result.converged) c->result = newton(q, c->theta, t.max_iter, s.hessian, s.ascent, s.step);
    if (!c->result.converged) c->status = kNotConverged;
    if (t.errors != Errors::kNone) standard_errors(q, c->theta, s.hessian, s.ascent, c->error);
    if (t.errors == Errors::kSandwich) {
      spread_of(t, b, *c, s.spread);
      sandwich_errors(q, s.hessian, s.spread, s.step, s.row, c->error);
    }
    for (int64_t i = 0; i < q.n; ++i) mean += c->theta[i];
    mean /= double(q.n);
  }
  for (int64_t i = 0; i < t.n; ++i) t.rating[b * t.n + i] = -HUGE_VAL;
  for (int64_t i = 0; i < q.n; ++i) {
    t.rating[b * t.n + c->members[i]] = c->fitted ? c->theta[i] - mean : double(NAN);
    if (t.errors != Errors::kNone && c->fitted) t.error[b * t.n + c->members[i]] = c->error[i];
  }
  t.status[b] = c->status;
  t.iterations[b] = c->result.steps;
}

void bradley_terry(const BradleyTerry& t, double* memory, int64_t begin, int64_t end) {
  Scratch s(memory, t.n);
  const int64_t abreast = lanes_of(t.n) == 1 ? 1 : kDoubles;
  for (int64_t b = begin; b < end; b += abreast) {
    const int64_t count = end - b < abreast ? end - b : abreast;
    for (int64_t l = 0; l < count; ++l) prepare(t, s, b + l, &s.cases[l]);
    sweep(t, s, s.cases, count);
    for (int64_t l = 0; l < count; ++l) finish(t, s, b + l, &s.cases[l]);
  }
}

}  // namespace

namespace rrm::RRM_ISA {

extern const TournamentKernels tournaments;
const TournamentKernels tournaments = {count, elo, bradley_terry};

}  // namespace rrm::RRM_ISA
