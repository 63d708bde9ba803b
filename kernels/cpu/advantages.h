// What the advantage kernels are given. The meaning of the results is in rrm_core/advantages/reference.py.
#pragma once

#include <cstdint>

namespace rrm {

// What a reward is compared with, or in the last case, which reward counts: as BASELINES in rrm_core/advantages/reference.py.
enum class Baseline : int64_t { kMean, kOthers, kWeighted, kGiven, kShare, kTopTwo };

// Rows in groups. Group g has the positions from offsets[g] to offsets[g + 1], or group_size of them from g * group_size; position p is row order[p],
// or p itself. Offsets may be any numbers; the entries of order are rows.
struct GroupsJob {
  bool wide;            // rewards, advantage, mean and std are float64, not float32
  const void* rewards;  // [num_rows]
  const bool* mask;     // [num_rows] or null
  const void* each;     // [num_rows] weights (kWeighted) or baselines (kGiven), of the rewards' type; or null
  const int64_t* order;
  const int64_t* offsets;
  int64_t group_size, num_rows;
  Baseline baseline;
  double eps;
  bool population;  // std without Bessel's correction
  bool divide;      // by std + eps
  bool raw_singletons;
  void* advantage;  // [num_rows]; only the rows of groups are written
  void* mean;       // [groups], as the three below
  void* std;
  int64_t* size;
  bool* keep;

  int64_t clamped(int64_t position) const {
    return position < 0 ? 0 : position > num_rows ? num_rows : position;
  }
  int64_t begin(int64_t group) const {
    return offsets ? clamped(offsets[group]) : group * group_size;
  }
  int64_t end(int64_t group) const {
    const int64_t from = begin(group), to = begin(group + 1);
    return to < from ? from : to;
  }
};

// Of ids: the extremes, and whether each is at least the one before. Of none: 0, 0, true.
struct IdRange {
  int64_t low, high;
  bool ascending;
};

// Blocks of numbers to be whitened; part of the numeric contract.
constexpr int64_t kWhitenBlock = 4096;

// Of some numbers with weights: the sum of these, the mean, the weighted sum of squared differences from it.
struct WeightedMoments {
  double weight, mean, squares;
};

struct WhitenJob {
  bool wide;           // values, weights and out are float64, not float32
  const void* values;  // [n]
  const bool* mask;    // [n] or null
  const void* weights;
  int64_t n;
  WeightedMoments* moments;  // [blocks]
  double mean, scale;        // out = (value - mean) * scale
  void* out;                 // [n]
};

struct AdvantageKernels {
  // Groups in [begin, end).
  void (*groups)(const GroupsJob&, int64_t begin, int64_t end);
  IdRange (*range_of_ids)(const int64_t* ids, int64_t n);
  // order [n]: as below. ids are in [low, low + span), and the rows of id low + k come to be from starts[k] to starts[k + 1]; starts [span + 2]:
  // zeros.
  void (*count_ids)(const int64_t* ids, int64_t n, int64_t low, int64_t span, int64_t* starts, int64_t* order);
  // order [n]: the indices of ids [n] by ascending id, equal ids in their order. scratch: [3 n]. Returns the ids in that order.
  const int64_t* (*sort_ids)(const int64_t* ids, int64_t n, int64_t* order, int64_t* scratch);
  // Blocks in [begin, end).
  void (*moments)(const WhitenJob&, int64_t begin, int64_t end);
  void (*whiten)(const WhitenJob&, int64_t begin, int64_t end);
};

}  // namespace rrm
