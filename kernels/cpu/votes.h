// What the voting kernels are given. The meaning of the results is in rrm_core/tournaments/reference_votes.py.
#pragma once

#include <cstdint>

namespace rrm {

// What both votes have in common.
struct Ballots {
  const bool* valid;    // [B, k] or null
  const bool* mask;     // [B, n] or null
  const double* draws;  // [B] or null
  int64_t k, n;
  int64_t* winner;  // [B]
  double* score;    // [B, n]
  int64_t* used;    // [B]
  int64_t* tied;    // [B]
};

struct SampledScores {
  const double* scores;        // [B, k, n]
  const int64_t* permutation;  // [B, k, n] or null
  const double* meta;          // [B, k] or null
  int64_t k_meta;
};

// All of them: problems in [begin, end).
struct VoteKernels {
  // keys: [k], named: [n], scratch.
  void (*sum)(const Ballots&, const SampledScores&, uint64_t* keys, int64_t* named, int64_t begin, int64_t end);
  // votes [B, k], weight [B, k] or null.
  void (*majority)(const Ballots&, const int64_t* votes, const double* weight, int64_t begin, int64_t end);
};

}  // namespace rrm
