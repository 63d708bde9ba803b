// The advantage ops under the CPU key, with the schemas of rrm_core/advantages/schema.py.
#include <cmath>
#include <memory>

#include "bindings.h"

namespace {

// Rows worth a thread of their own.
constexpr int64_t kThreadRows = int64_t{1} << 14;

// Ids in a table of no more than so many entries an id, and some, are counted, others sorted.
constexpr int64_t kSpanPerRow = 4, kLeastSpan = 1024;

// Rows by group.
struct Sorted {
  std::unique_ptr<int64_t[]> order;  // [N]; null where rows lie by group already
  std::vector<int64_t> offsets;      // into order, [groups + 1]
};

// Groups are the ids from 0 to num_groups - 1, or those that occur.
Sorted sort_rows(const int64_t* ids, int64_t n, std::optional<int64_t> num_groups) {
  const rrm::AdvantageKernels& kernels = *rrm::table().advantages;
  const rrm::IdRange range = kernels.range_of_ids(ids, n);
  const uint64_t reach = static_cast<uint64_t>(range.high) - static_cast<uint64_t>(range.low);
  Sorted s;
  if (!range.ascending && reach < static_cast<uint64_t>(kSpanPerRow * n + kLeastSpan)) {
    const int64_t span = reach + 1;
    std::vector<int64_t> starts(span + 2);
    s.order = std::make_unique_for_overwrite<int64_t[]>(n);
    kernels.count_ids(ids, n, range.low, span, starts.data(), s.order.get());
    if (num_groups) {
      s.offsets.resize(*num_groups + 1);
      for (int64_t g = 0; g <= *num_groups; ++g) s.offsets[g] = g < range.low ? 0 : g > range.high ? n : starts[g - range.low];
    } else {
      int64_t groups = 0;
      for (int64_t k = 0; k < span; ++k) {
        starts[groups] = starts[k];
        groups += starts[k] < starts[k + 1];
      }
      starts[groups] = n;
      starts.resize(groups + 1);
      s.offsets = std::move(starts);
    }
    return s;
  }
  std::unique_ptr<int64_t[]> scratch;
  const int64_t* sorted = ids;
  if (!range.ascending) {
    s.order = std::make_unique_for_overwrite<int64_t[]>(n);
    scratch = std::make_unique_for_overwrite<int64_t[]>(3 * n);
    sorted = kernels.sort_ids(ids, n, s.order.get(), scratch.get());
  }
  if (num_groups) {
    s.offsets.resize(*num_groups + 1);
    int64_t i = 0;
    for (int64_t g = 0; g <= *num_groups; ++g) {
      while (i < n && sorted[i] < g) ++i;
      s.offsets[g] = i;
    }
  } else {
    for (int64_t i = 0; i < n; ++i)
      if (i == 0 || sorted[i] != sorted[i - 1]) s.offsets.push_back(i);
    s.offsets.push_back(n);
  }
  return s;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> group_advantages(Tensor rewards, OptionalTensor ids, OptionalTensor offsets,
                                                                    std::optional<int64_t> num_groups, OptionalTensor mask, OptionalTensor each,
                                                                    int64_t baseline, double eps, bool population, bool divide, bool raw_singletons) {
  const int64_t n = rewards.numel(), wanted = num_groups.value_or(0);
  const ScalarType type = rewards.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "rewards: expected float32 or float64");
  STD_TORCH_CHECK(baseline >= 0 && baseline <= static_cast<int64_t>(rrm::Baseline::kTopTwo), "baseline: expected 0 to 5");
  STD_TORCH_CHECK(!each || (each->scalar_type() == type && each->numel() == n), "each: expected N elements of the rewards' dtype");
  STD_TORCH_CHECK(wanted >= 0 && (ids || offsets || (wanted > 0 ? n % wanted == 0 : n == 0)), "num_groups: expected a divisor of N");
  STD_TORCH_CHECK(!offsets || offsets->numel() > 0, "offsets: expected at least one");
  Kept kept;
  const Array<bool, ScalarType::Bool> counted(mask, n);
  const Int64Array id(ids, n), start(offsets, offsets ? offsets->numel() : 0);
  const Sorted sorted = ids ? sort_rows(id.data, n, num_groups) : Sorted{};
  const int64_t groups = ids ? sorted.offsets.size() - 1 : offsets ? offsets->numel() - 1 : wanted;
  const Tensor advantage = empty(rewards, {n}, type), mean = empty(rewards, {groups}, type), std = empty(rewards, {groups}, type);
  const Tensor size = empty(rewards, {groups}, ScalarType::Long), keep = empty(rewards, {groups}, ScalarType::Bool);
  const rrm::GroupsJob job{.wide = type == ScalarType::Double,
                           .rewards = kept.data(rewards),
                           .mask = counted.data,
                           .each = kept.data(each),
                           .order = sorted.order.get(),
                           .offsets = ids ? sorted.offsets.data() : start.data,
                           .group_size = groups > 0 ? n / groups : 0,
                           .num_rows = n,
                           .baseline = static_cast<rrm::Baseline>(baseline),
                           .eps = eps,
                           .population = population,
                           .divide = divide,
                           .raw_singletons = raw_singletons,
                           .advantage = advantage.mutable_data_ptr(),
                           .mean = mean.mutable_data_ptr(),
                           .std = std.mutable_data_ptr(),
                           .size = static_cast<int64_t*>(size.mutable_data_ptr()),
                           .keep = static_cast<bool*>(keep.mutable_data_ptr())};
  const int64_t grain = std::max<int64_t>(1, kThreadRows * groups / std::max<int64_t>(1, n));
  torch::stable::parallel_for(0, groups, grain, [&](int64_t begin, int64_t end) { rrm::table().advantages->groups(job, begin, end); });
  const auto leave_out = [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t row = job.order ? job.order[p] : p;
      job.wide ? static_cast<double*>(job.advantage)[row] = kNaN : static_cast<float*>(job.advantage)[row] = kNaN;
    }
  };
  leave_out(0, job.begin(0));
  leave_out(job.begin(groups), n);
  return {advantage, mean, std, size, keep};
}

rrm::WeightedMoments merge(const std::vector<rrm::WeightedMoments>& blocks) {
  rrm::WeightedMoments all{};
  for (const rrm::WeightedMoments& b : blocks) {
    if (b.weight == 0.0) continue;
    const double weight = all.weight + b.weight, away = all.weight == 0.0 ? 0.0 : b.mean - all.mean;
    all = {weight, all.weight == 0.0 ? b.mean : all.mean + away * (b.weight / weight),
           all.squares + b.squares + away * away * (all.weight * (b.weight / weight))};
  }
  return all;
}

std::tuple<Tensor, Tensor, Tensor> whiten(Tensor values, OptionalTensor mask, OptionalTensor weights, double eps, bool of_variance) {
  const int64_t n = values.numel(), blocks = ceil_div(n, rrm::kWhitenBlock);
  const ScalarType type = values.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "values: expected float32 or float64");
  STD_TORCH_CHECK(!weights || (weights->scalar_type() == type && weights->numel() == n), "weights: expected the values' shape and dtype");
  Kept kept;
  const Array<bool, ScalarType::Bool> counted(mask, n);
  const Tensor out = empty(values, Sizes(values.sizes().begin(), values.sizes().end()), type);
  const Tensor statistics[2] = {empty(values, {}, type), empty(values, {}, type)};
  std::vector<rrm::WeightedMoments> moments(blocks);
  rrm::WhitenJob job{.wide = type == ScalarType::Double,
                     .values = kept.data(values),
                     .mask = counted.data,
                     .weights = kept.data(weights),
                     .n = n,
                     .moments = moments.data(),
                     .mean = 0.0,
                     .scale = 0.0,
                     .out = out.mutable_data_ptr()};
  const int64_t grain = kThreadRows / rrm::kWhitenBlock;
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) { rrm::table().advantages->moments(job, begin, end); });
  const rrm::WeightedMoments all = merge(moments);
  const double sum = all.squares / std::max(1.0, all.weight - 1.0), variance = std::isfinite(sum) ? sum : kNaN, std = std::sqrt(variance);
  job.mean = all.weight > 0.0 && variance == variance ? all.mean : kNaN;
  job.scale = variance == 0.0 ? 0.0 : of_variance ? 1.0 / std::sqrt(variance + eps) : 1.0 / (std + eps);
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) { rrm::table().advantages->whiten(job, begin, end); });
  const double found[2] = {job.mean, std};
  for (int i = 0; i < 2; ++i)
    job.wide ? *static_cast<double*>(statistics[i].mutable_data_ptr()) = found[i]
             : *static_cast<float*>(statistics[i].mutable_data_ptr()) = static_cast<float>(found[i]);
  return {out, statistics[0], statistics[1]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("group_advantages", TORCH_BOX(&group_advantages));
  m.impl("whiten", TORCH_BOX(&whiten));
}
