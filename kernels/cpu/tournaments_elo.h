// Matches one after the other: how they are read, and Elo ratings.
#pragma once

#include <math.h>

#include "doubles.h"
#include "tournaments.h"

namespace {

struct Match {
  int64_t first, second;
  double share, weight;  // weight NaN where it or the share is impossible
};

// The k-th match, unless it is to be skipped.
inline bool read(const rrm::Matches& m, int64_t k, Match* match) {
  const int64_t id = m.order ? m.order[k] : k;
  if (m.order && (id < 0 || id >= m.total)) return false;
  const int64_t n = m.num_candidates, i = m.first[id], j = m.second[id];
  const double share = m.outcome[id], weight = m.weight ? m.weight[id] : 1.0;
  if (i < 0 || i >= n || j < 0 || j >= n || i == j || share != share) return false;
  const bool possible = share >= 0.0 && share <= 1.0 && weight >= 0.0 && weight < HUGE_VAL;
  *match = {i, j, share, possible ? weight : double(NAN)};
  return true;
}

constexpr int kPowers = 128;

// 2^(k / kPowers).
struct Powers {
  double of[kPowers];

  Powers() {
    for (int k = 0; k < kPowers; ++k) of[k] = exp2(double(k) / kPowers);
  }
};

inline uint64_t bits_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// 1 / (1 + exp(x)) to about two units in the last place. For short chains of dependent operations, as a match waits for the one before it: the next
// power of 2^(1/128) from a table, and a short series for the rest, |r| <= log(2) / 256. The same bits in a lane of a vector as alone.
template <class V>
V expected_share(V x, const Powers& powers) {
  constexpr double kRound = 0x1.8p52, kFar = -708.0;
  const V down = x > 0.0 ? -x : x, near = down < kFar ? V{} + kFar : down;
  const V shifted = near * (kPowers * 0x1.71547652b82fep0) + kRound, whole = shifted - kRound;
  const V r = (near - whole * (0x1.62e42feep-1 / kPowers)) - whole * (0x1.a39ef35793c76p-33 / kPowers);
  const V square = r * r, series = (r + square * 0.5) + (square * r) * ((1.0 / 6.0 + r * (1.0 / 24.0)) + square * (1.0 / 120.0));
  V power;
  for (size_t q = 0; q < sizeof(V) / sizeof(double); ++q) {
    double step, found;
    std::memcpy(&step, reinterpret_cast<const char*>(&shifted) + q * sizeof step, sizeof step);
    const uint64_t index = bits_of(step);  // its last bits are the whole number, in two's complement
    const uint64_t scaled = bits_of(powers.of[index & (kPowers - 1)]) + ((index & ~uint64_t{kPowers - 1}) << 45);
    std::memcpy(&found, &scaled, sizeof found);
    std::memcpy(reinterpret_cast<char*>(&power) + q * sizeof found, &found, sizeof found);
  }
  const V small = power + power * series, part = small / (1.0 + small), rest = 1.0 / (1.0 + small);
  return x > 0.0 ? part : x == x ? rest : x;
}

constexpr double kMostPerPoint = 0x1p1000;
// Problems whose matches go side by side, in lanes.
constexpr int64_t kAbreast = 8;

struct Step {
  double apart[kAbreast], gain[kAbreast], share[kAbreast];
  double *first[kAbreast], *second[kAbreast];

  // Puts a match into lane q, or somebody idle.
  void place(int64_t q, double* idle) {
    first[q] = idle;
    second[q] = idle + 1;
    apart[q] = gain[q] = share[q] = 0.0;
  }

  void place(int64_t q, const Match& match, const rrm::Elo& e, double unit, double* rating) {
    first[q] = rating + match.first;
    second[q] = rating + match.second;
    apart[q] = (*second[q] - *first[q]) * unit;
    gain[q] = e.k * match.weight;
    share[q] = match.share;
  }

  void move(int64_t q) {
    *first[q] += gain[q];
    *second[q] -= gain[q];
  }
};

void elo(const rrm::Matches& m, const rrm::Elo& e, int64_t begin, int64_t end) {
  const int64_t n = m.num_candidates;
  static const Powers powers;  // of this function: nothing of an instruction set may run before it has been chosen
  const double per_point = log(10.0) / e.scale, unit = per_point < kMostPerPoint ? per_point : kMostPerPoint;  // times 0 it must stay 0
  double idle[2] = {};
  for (int64_t k = begin * n; k < end * n; ++k) e.rating[k] = e.init;
  for (int64_t b = begin; b < end; b += kAbreast) {
    const int64_t abreast = end - b < kAbreast ? end - b : kAbreast;
    int64_t counted[kAbreast] = {}, longest = 0;
    for (int64_t q = 0; q < abreast; ++q) {
      const int64_t matches = m.offsets[b + q + 1] - m.offsets[b + q];
      longest = longest > matches ? longest : matches;
    }
    for (int64_t t = 0; t < longest; ++t) {
      Step step;
      for (int64_t q = 0; q < (abreast == 1 ? 1 : kAbreast); ++q) {
        const int64_t k = q < abreast ? m.offsets[b + q] + t : 0;
        Match match;
        const bool met = q < abreast && k < m.offsets[b + q + 1] && read(m, k, &match);
        if (met)
          step.place(q, match, e, unit, e.rating + (b + q) * n);
        else
          step.place(q, idle);
        counted[q] += met;
      }
      if (abreast == 1) {
        step.gain[0] *= step.share[0] - expected_share(step.apart[0], powers);
        step.move(0);
        continue;
      }
      for (int64_t q = 0; q < kAbreast; q += kDoubles)
        store(step.gain + q, load(step.gain + q) * (load(step.share + q) - expected_share(load(step.apart + q), powers)));
      for (int64_t q = 0; q < kAbreast; ++q) step.move(q);
    }
    for (int64_t q = 0; e.counted && q < abreast; ++q) e.counted[b + q] = counted[q];
  }
}

}  // namespace
