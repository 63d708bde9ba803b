// What the tournament kernels are given. The meaning of the results is in rrm_core/tournaments/reference.py and reference_bradley_terry.py.
#pragma once

#include <cstdint>

namespace rrm {

// Matches by problem: those of problem b are order[offsets[b]] to order[offsets[b + 1] - 1], or offsets[b] to offsets[b + 1] - 1 without an order.
struct Matches {
  const int64_t* first;   // [total]
  const int64_t* second;  // [total]
  const double* outcome;  // [total]
  const double* weight;   // [total] or null
  const int64_t* order;   // null, or match ids, of which those outside [0, total) are skipped
  const int64_t* offsets;
  int64_t total, num_candidates;
};

struct Elo {
  double k, init, scale;
  double* rating;    // [B, n]
  int64_t* counted;  // [B] or null
};

enum class Errors : int64_t { kNone, kHessian, kSandwich };

struct BradleyTerry {
  const double* wins;  // [B, n, n]
  const double* ties;  // [B, n, n], half a win each way, or null
  const bool* mask;    // [B, n] or null
  int64_t n;
  double prior, tol;
  int64_t max_iter;
  Errors errors;
  double* rating;       // [B, n]
  double* error;        // [B, n] unless kNone
  int64_t* status;      // [B]
  int64_t* iterations;  // [B]
};

// Problems of up to so many candidates share vectors, one a lane; larger ones fill vectors on their own. By size alone, so that a problem's bits
// don't depend on its neighbours.
constexpr int64_t kLaneCandidates = 32, kMostLanes = 8;
constexpr int64_t lanes_of(int64_t n) {
  return n <= kLaneCandidates ? kMostLanes : 1;
}

// Doubles of scratch memory a thread needs for bradley_terry.
constexpr int64_t bradley_terry_scratch(int64_t n) {
  const int64_t stride = (n + kMostLanes - 1) / kMostLanes * kMostLanes, lanes = lanes_of(n);
  return (lanes > 1 ? 2 * lanes * n * (n + 1) : 0) + (2 * n + 4) * stride + lanes * (2 * n + 4) * stride;
}

// All of them: problems in [begin, end).
struct TournamentKernels {
  // wins [B, n, n] and ties [B, n, n], or all in wins if ties is null; both zero at the start.
  void (*count)(const Matches&, double* wins, double* ties, int64_t begin, int64_t end);
  void (*elo)(const Matches&, const Elo&, int64_t begin, int64_t end);
  void (*bradley_terry)(const BradleyTerry&, double* scratch, int64_t begin, int64_t end);
};

}  // namespace rrm
