// The advantage ops under the CPU key, with the schemas of rrm_core/advantages/schema.py.
#include <memory>

#include "bindings.h"

namespace {

// Rows worth a thread of their own.
constexpr int64_t kThreadRows = int64_t{1} << 14;

Tensor empty(const Tensor& like, int64_t size, ScalarType type) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(&size, 1), type);
}

// Rows by group.
struct Sorted {
  std::unique_ptr<int64_t[]> order;  // [N]
  std::vector<int64_t> offsets;      // into order, [groups + 1]
};

// Groups are the ids from 0 to num_groups - 1, or those that occur.
Sorted sort_rows(const int64_t* ids, int64_t n, std::optional<int64_t> num_groups) {
  Sorted s{std::make_unique_for_overwrite<int64_t[]>(n), {}};
  const auto scratch = std::make_unique_for_overwrite<int64_t[]>(3 * n);
  const int64_t* sorted = rrm::table().advantages->sort_ids(ids, n, s.order.get(), scratch.get());
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
                                                                    std::optional<int64_t> num_groups, OptionalTensor mask, int64_t estimator,
                                                                    double eps, bool raw_singletons) {
  const int64_t n = rewards.numel(), wanted = num_groups.value_or(0);
  const ScalarType type = rewards.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "rewards: expected float32 or float64");
  STD_TORCH_CHECK(estimator >= 0 && estimator <= static_cast<int64_t>(rrm::Estimator::kRloo), "estimator: expected 0, 1 or 2");
  STD_TORCH_CHECK(wanted >= 0 && (ids || offsets || (wanted > 0 ? n % wanted == 0 : n == 0)), "num_groups: expected a divisor of N");
  STD_TORCH_CHECK(!offsets || offsets->numel() > 0, "offsets: expected at least one");
  const Tensor values = torch::stable::contiguous(rewards);
  const Array<bool, ScalarType::Bool> counted(mask, n);
  const Int64Array id(ids, n), start(offsets, offsets ? offsets->numel() : 0);
  const Sorted sorted = ids ? sort_rows(id.data, n, num_groups) : Sorted{};
  const int64_t groups = ids ? sorted.offsets.size() - 1 : offsets ? offsets->numel() - 1 : wanted;
  const Tensor advantage = empty(rewards, n, type), mean = empty(rewards, groups, type), std = empty(rewards, groups, type);
  const Tensor size = empty(rewards, groups, ScalarType::Long), keep = empty(rewards, groups, ScalarType::Bool);
  const rrm::GroupsJob job{.wide = type == ScalarType::Double,
                           .rewards = values.const_data_ptr(),
                           .mask = counted.data,
                           .order = sorted.order.get(),
                           .offsets = ids ? sorted.offsets.data() : start.data,
                           .group_size = groups > 0 ? n / groups : 0,
                           .num_rows = n,
                           .estimator = static_cast<rrm::Estimator>(estimator),
                           .eps = eps,
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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("group_advantages", TORCH_BOX(&group_advantages));
}
