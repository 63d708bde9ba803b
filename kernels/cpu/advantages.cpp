// Group statistics and advantages in double, each group's sums over its rows one after the other, so that its bits depend on nothing else: neither on
// the other groups nor on the instruction set. Groups lie side by side in the lanes of a vector; a long group is computed alone.
#include "advantages.h"

#include "advantages_outcome.h"
#include "advantages_sort.h"
#include "advantages_tiles.h"
#include "advantages_whiten.h"

namespace {

template <class T>
void one_group(const GroupsJob& job, int64_t group) {
  const int64_t begin = job.begin(group), count = job.end(group) - begin;
  const auto read = [&](int, int64_t j) { return reward_at<T>(job, begin + j); };
  const auto each = [&](int, int64_t j) { return each_at<T>(job, begin + j); };
  Outcome<double> found[1];
  outcomes<double>(job, count, read, each, found);
  const Outcome<double>& o = found[0];
  for (int64_t j = 0; j < count; ++j) {
    const double x = read(0, j);
    static_cast<T*>(job.advantage)[row_at(job, begin + j)] = static_cast<T>(x == x ? o.advantage(job, x, each(0, j)) : 0.0);
  }
  static_cast<T*>(job.mean)[group] = static_cast<T>(o.mean);
  static_cast<T*>(job.std)[group] = static_cast<T>(o.std);
  job.size[group] = static_cast<int64_t>(o.size);
  job.keep[group] = o.above > 0.0;
}

template <class T>
void groups_of(const GroupsJob& job, int64_t begin, int64_t end) {
  while (begin < end) {
    const Tile tile(job, begin, end);
    if (tile.count == 0) {
      one_group<T>(job, begin++);
    } else if (tile.longest <= 8) {
      begin += compute_short<T, 8>(job, tile, end);
    } else if (tile.longest <= 16) {
      begin += compute_short<T, 16>(job, tile, end);
    } else {
      compute<T, kTileRows, false>(job, {tile});
      begin += tile.count;
    }
  }
}

void groups(const GroupsJob& job, int64_t begin, int64_t end) {
  job.wide ? groups_of<double>(job, begin, end) : groups_of<float>(job, begin, end);
}

}  // namespace

namespace rrm::RRM_ISA {

extern const AdvantageKernels advantages;
const AdvantageKernels advantages = {groups, range_of_ids, count_ids, sort_ids, moments, whiten};

}  // namespace rrm::RRM_ISA
