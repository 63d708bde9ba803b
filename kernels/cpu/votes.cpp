// Votes of judges, in float64. Compiled once per instruction set into the namespace RRM_ISA.
#include "votes.h"

#include <math.h>

#include <cstring>

namespace {

using namespace rrm;

constexpr uint64_t kSign = uint64_t{1} << 63;

inline bool takes_part(const Ballots& v, int64_t b, int64_t candidate) {
  return !v.mask || v.mask[b * v.n + candidate];
}

// What becomes of the sums in score: who wins, candidate number floor(draws * tied) of those who share the top.
void elect(const Ballots& v, int64_t b, int64_t used) {
  double* score = v.score + b * v.n;
  double top = -HUGE_VAL;
  bool broken = false;
  for (int64_t c = 0; c < v.n; ++c) {
    if (!takes_part(v, b, c)) score[c] = -HUGE_VAL;
    broken |= score[c] != score[c];
    top = score[c] > top ? score[c] : top;
  }
  int64_t tied = 0, rank = 0, winner = -1;
  for (int64_t c = 0; c < v.n; ++c) tied += score[c] == top && takes_part(v, b, c);
  if (used == 0 || broken) tied = 0;
  const double passed = v.draws ? v.draws[b] * double(tied) : 0.0;
  for (int64_t c = 0; winner < 0 && rank < tied; ++c)
    if (score[c] == top && takes_part(v, b, c) && (!(double(++rank) <= passed) || rank == tied)) winner = c;
  v.winner[b] = winner;
  v.used[b] = used;
  v.tied[b] = tied;
}

// ---- sum

// Whether sample j of problem b can be counted. named: of each candidate the sample that named it last.
bool usable(const Ballots& v, const SampledScores& s, int64_t b, int64_t j, int64_t* named) {
  const int64_t sample = b * v.k + j;
  const double* scores = s.scores + sample * v.n;
  if (v.valid && !v.valid[sample]) return false;
  int64_t bad = 0;
  if (!s.permutation) {
    for (int64_t c = 0; c < v.n; ++c) bad |= takes_part(v, b, c) & !(fabs(scores[c]) < HUGE_VAL);
    return bad == 0;
  }
  const int64_t* shown = s.permutation + sample * v.n;
  for (int64_t i = 0; i < v.n; ++i) {
    const int64_t c = shown[i];
    if (c < 0 || c >= v.n || named[c] == sample) return false;
    named[c] = sample;
    bad |= takes_part(v, b, c) & !(fabs(scores[i]) < HUGE_VAL);
  }
  return bad == 0;
}

// The higher a sample is rated, the larger; 0 if it cannot be counted.
inline uint64_t key_of(double rating) {
  rating += 0.0;  // -0 is 0
  uint64_t bits;
  std::memcpy(&bits, &rating, sizeof bits);
  return rating != rating ? 0 : bits & kSign ? ~bits : bits | kSign;
}

// The count-th largest of the keys, 0 if so many are not there.
uint64_t threshold(const uint64_t* keys, int64_t k, int64_t count) {
  uint64_t found = 0;
  for (uint64_t bit = kSign; bit; bit >>= 1) {
    int64_t as_high = 0;
    for (int64_t j = 0; j < k; ++j) as_high += keys[j] >= (found | bit);
    if (as_high >= count) found |= bit;
  }
  return found;
}

// Sets the keys of all but the `count` highest to 0; of equals the first are kept.
void keep_highest(uint64_t* keys, int64_t k, int64_t count) {
  const uint64_t least = threshold(keys, k, count);
  for (int64_t j = 0; j < k; ++j) count -= keys[j] > least;
  for (int64_t j = 0; j < k; ++j)
    if (keys[j] < least || (keys[j] == least && count-- <= 0)) keys[j] = 0;
}

void sum(const Ballots& v, const SampledScores& s, uint64_t* keys, int64_t* named, int64_t begin, int64_t end) {
  for (int64_t c = 0; c < v.n; ++c) named[c] = -1;
  for (int64_t b = begin; b < end; ++b) {
    double* score = v.score + b * v.n;
    for (int64_t c = 0; c < v.n; ++c) score[c] = 0.0;
    for (int64_t j = 0; j < v.k; ++j) keys[j] = !usable(v, s, b, j, named) ? 0 : s.meta ? key_of(s.meta[b * v.k + j]) : 1;
    if (s.meta) keep_highest(keys, v.k, s.k_meta);
    int64_t used = 0;
    for (int64_t j = 0; j < v.k; ++j) {
      if (keys[j] == 0) continue;
      const int64_t first = (b * v.k + j) * v.n;
      if (s.permutation) {
        for (int64_t i = 0; i < v.n; ++i) score[s.permutation[first + i]] += s.scores[first + i];
      } else {
        for (int64_t c = 0; c < v.n; ++c) score[c] += s.scores[first + c];
      }
      ++used;
    }
    elect(v, b, used);
  }
}

// ---- majority

void majority(const Ballots& v, const int64_t* votes, const double* weight, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    double* score = v.score + b * v.n;
    for (int64_t c = 0; c < v.n; ++c) score[c] = 0.0;
    int64_t used = 0;
    for (int64_t j = b * v.k; j < (b + 1) * v.k; ++j) {
      const int64_t c = votes[j];
      if (c < 0 || c >= v.n || !takes_part(v, b, c) || (v.valid && !v.valid[j])) continue;
      const double w = weight ? weight[j] : 1.0;
      score[c] += w >= 0.0 && w < HUGE_VAL ? w : double(NAN);
      ++used;
    }
    elect(v, b, used);
  }
}

}  // namespace

namespace rrm::RRM_ISA {

extern const VoteKernels votes;
const VoteKernels votes = {sum, majority};

}  // namespace rrm::RRM_ISA
