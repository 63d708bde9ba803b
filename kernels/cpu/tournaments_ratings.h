// What the kernels of ratings other than Bradley-Terry's are given. The meaning of the results is in rrm_core/tournaments/reference_davidson.py and
// reference_scores.py.
#pragma once

#include <cstdint>

namespace rrm {

struct Davidson {
  const double *wins, *ties;  // [B, n, n], wins outright
  const bool* mask;           // [B, n] or null
  const double* given;        // [B] log of the tie strengths, or null
  int64_t n;
  double prior, tol;
  int64_t max_iter;
  bool errors;
  double *rating, *error, *slope;  // [B, n], error only if wanted
  double *log_tie, *score, *curvature;
  int64_t *status, *iterations;  // [B]
};

// Doubles of scratch memory a thread needs for davidson; 8: the widest vector.
constexpr int64_t davidson_scratch(int64_t n) {
  const int64_t stride = (n + 7) / 8 * 8;
  return (4 * n + 9) * stride;
}

// x <- matrix x + shift x + teleport start, made to add up to 1, from start.
struct PowerIteration {
  const double *matrix, *start, *shift;  // [B, n, n], [B, n], [B]
  double teleport;
  int64_t n, max_iter;
  double tol;
  double* vector;  // [B, n]
  bool* converged;
  int64_t* iterations;  // [B]
};

enum class PairScore : int64_t { kBorda, kWinRate, kCopeland };

// What a match adds to two cells of its problem's [n, n].
struct Points {
  int32_t forth, back;
  double won, lost;
};

// Matches grouped by problem: those of problem b are offsets[b] to offsets[b + 1] - 1.
struct Resampling {
  const Points* points;    // [M]
  const int64_t* offsets;  // [B + 1]
  const int32_t* draws;    // [R, M], 31 bits each
  int64_t matches, problems, n;
};

struct TournamentRatingKernels {
  // Problems in [begin, end).
  void (*davidson)(const Davidson&, double* scratch, int64_t begin, int64_t end);
  void (*power_iteration)(const PowerIteration&, double* scratch /* [n] */, int64_t begin, int64_t end);
  // wins [B, n, n] -> score [B, n].
  void (*pair_scores)(const double* wins, PairScore, int64_t n, double* score, int64_t begin, int64_t end);
  // Replicates in [begin, end): wins [R, B, n, n], zero at the start; counts [M] scratch.
  void (*resampled_wins)(const Resampling&, double* wins, int32_t* counts, int64_t begin, int64_t end);
};

}  // namespace rrm
