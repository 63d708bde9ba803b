// The whole interface between the torch side (bindings_*.cpp) and the kernels, which know pointers and sizes only. Every instruction set fills one
// table from the same sources; dispatch.cpp chooses one of them, once.
#pragma once

#include "advantages.h"
#include "linear_losses.h"
#include "logprobs.h"
#include "logprobs_backward.h"
#include "losses.h"
#include "tournaments.h"
#include "tournaments_ratings.h"
#include "votes.h"

namespace rrm {

struct Table {
  const char* name;
  const AdvantageKernels* advantages;
  const LinearLossKernels* linear_losses;
  const LogprobKernels* logprobs;
  const LogprobBackwardKernels* logprobs_backward;
  const LossKernels* losses;
  const TournamentKernels* tournaments;
  const TournamentRatingKernels* tournaments_ratings;
  const VoteKernels* votes;
};

// The tables this processor can run, best first; the last is the baseline. `count` receives their number.
const Table* runnable_tables(int* count);

// The best of them that ATEN_CPU_CAPABILITY allows, decided at the first call.
const Table& table();

}  // namespace rrm
