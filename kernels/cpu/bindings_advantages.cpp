// The advantage ops under the CPU key, with the schemas of rrm_core/advantages/schema.py.
#include <memory>

#include "bindings.h"

namespace {

// Rows worth a thread of their own.
constexpr int64_t kThreadRows = int64_t{1} << 14;

Tensor empty(const Tensor& like, int64_t size, ScalarType type) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(&size, 1), type);
}

std::tuple<Tensor, Tensor> group_order(Tensor ids, std::optional<int64_t> num_groups) {
  const int64_t n = ids.numel();
  const Int64Array source(ids, n);
  const Tensor order = empty(ids, n, ScalarType::Long);
  const auto scratch = std::make_unique_for_overwrite<int64_t[]>(3 * n);
  const int64_t* sorted = rrm::table().advantages->sort_ids(source.data, n, static_cast<int64_t*>(order.mutable_data_ptr()), scratch.get());
  std::vector<int64_t> starts;
  if (num_groups) {
    STD_TORCH_CHECK(*num_groups >= 0, "num_groups: expected at least 0");
    starts.reserve(*num_groups + 1);
    int64_t i = 0;
    for (int64_t g = 0; g <= *num_groups; ++g) {
      while (i < n && sorted[i] < g) ++i;
      starts.push_back(i);
    }
  } else {
    for (int64_t i = 0; i < n; ++i)
      if (i == 0 || sorted[i] != sorted[i - 1]) starts.push_back(i);
    starts.push_back(n);
  }
  const Tensor offsets = empty(ids, starts.size(), ScalarType::Long);
  std::copy(starts.begin(), starts.end(), static_cast<int64_t*>(offsets.mutable_data_ptr()));
  return {order, offsets};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> group_advantages(Tensor rewards, OptionalTensor order, OptionalTensor offsets, int64_t group_size,
                                                                    OptionalTensor mask, int64_t estimator, double eps, bool raw_singletons) {
  const int64_t n = rewards.numel();
  const ScalarType type = rewards.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "rewards: expected float32 or float64");
  STD_TORCH_CHECK(estimator >= 0 && estimator <= static_cast<int64_t>(rrm::Estimator::kRloo), "estimator: expected 0, 1 or 2");
  STD_TORCH_CHECK(offsets ? offsets->numel() > 0 : group_size > 0 && n % group_size == 0, "groups: expected offsets, or a size that divides N");
  const Tensor values = torch::stable::contiguous(rewards);
  const Array<bool, ScalarType::Bool> counted(mask, n);
  const Int64Array rows(order, n), starts(offsets, offsets ? offsets->numel() : 0);
  STD_TORCH_CHECK(!order || std::all_of(rows.data, rows.data + n, [n](int64_t row) { return row >= 0 && row < n; }), "order: expected rows");
  const int64_t groups = offsets ? offsets->numel() - 1 : n / group_size;
  const Tensor advantage = empty(rewards, n, type), mean = empty(rewards, groups, type), std = empty(rewards, groups, type);
  const Tensor size = empty(rewards, groups, ScalarType::Long), keep = empty(rewards, groups, ScalarType::Bool);
  const rrm::GroupsJob job{.wide = type == ScalarType::Double,
                           .rewards = values.const_data_ptr(),
                           .mask = counted.data,
                           .order = rows.data,
                           .offsets = starts.data,
                           .group_size = group_size,
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
      const int64_t row = rows.data ? rows.data[p] : p;
      job.wide ? static_cast<double*>(job.advantage)[row] = kNaN : static_cast<float*>(job.advantage)[row] = kNaN;
    }
  };
  leave_out(0, job.begin(0));
  leave_out(job.begin(groups), n);
  return {advantage, mean, std, size, keep};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("group_order", TORCH_BOX(&group_order));
  m.impl("group_advantages", TORCH_BOX(&group_advantages));
}
