// The tournament ops under the CPU key, with the schemas of rrm_core/tournaments/schema.py.
#include <memory>

#include "bindings_tournaments.h"

namespace {

// The matches of an op, and their grouping by problem along an order of all of them; matches of no problem fall out.
struct MatchList {
  int64_t total;
  Int64Array first, second, problem;
  DoubleArray outcome, weight;

  MatchList(const Tensor& first, const Tensor& second, const Tensor& outcome, const OptionalTensor& problem, const OptionalTensor& weight)
      : total(first.numel()),
        first(first, total),
        second(second, total),
        problem(problem, total),
        outcome(in_float64(outcome), total),
        weight(in_float64(weight), total) {}
};

struct Grouped {
  std::vector<int64_t> offsets, order;
  rrm::Matches matches;

  Grouped(const MatchList& list, const int64_t* along, int64_t num_problems, int64_t num_candidates) : offsets(num_problems + 1) {
    matches = {list.first.data, list.second.data, list.outcome.data, list.weight.data, along, nullptr, list.total, num_candidates};
    const int64_t* problem = list.problem.data;
    if (!problem) {
      if (num_problems > 0) std::fill(offsets.begin() + 1, offsets.end(), list.total);
    } else {
      group(problem, along, num_problems, list.total);
    }
    matches.offsets = offsets.data();
  }

 private:
  void group(const int64_t* problem, const int64_t* along, int64_t num_problems, int64_t total) {
    const auto of = [&](int64_t k) -> int64_t {  // num_problems: of none
      const int64_t id = along ? along[k] : k;
      const bool known = id >= 0 && id < total && problem[id] >= 0 && problem[id] < num_problems;
      return known ? problem[id] : num_problems;
    };
    bool grouped = true;
    std::vector<int64_t> next(num_problems + 2);
    for (int64_t k = 0, before = 0; k < total; ++k) {
      const int64_t p = of(k);
      grouped = grouped && before <= p;
      before = p;
      ++next[p + 1];
    }
    std::partial_sum(next.begin(), next.end(), next.begin());
    std::copy_n(next.begin(), num_problems + 1, offsets.begin());
    if (grouped) return;
    order.resize(total);
    for (int64_t k = 0; k < total; ++k) order[next[of(k)]++] = along ? along[k] : k;
    matches.order = order.data();
  }
};

Tensor zeros(const Tensor& like, const Sizes& sizes) {
  return torch::stable::new_zeros(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.data(), sizes.size()), ScalarType::Double);
}

void count(const Grouped& grouped, int64_t num_problems, Tensor& wins, Tensor* ties) {
  auto* won = static_cast<double*>(wins.mutable_data_ptr());
  auto* tied = ties ? static_cast<double*>(ties->mutable_data_ptr()) : nullptr;
  share(num_problems, 4 * grouped.matches.total / std::max<int64_t>(1, num_problems),
        [&](int64_t begin, int64_t end) { rrm::table().tournaments->count(grouped.matches, won, tied, begin, end); });
}

Tensor pairwise_wins(Tensor first, Tensor second, Tensor outcome, OptionalTensor problem, OptionalTensor weight, int64_t num_problems,
                     int64_t num_candidates) {
  const MatchList list(first, second, outcome, problem, weight);
  Tensor wins = zeros(first, {num_problems, num_candidates, num_candidates});
  count(Grouped(list, nullptr, num_problems, num_candidates), num_problems, wins, nullptr);
  return wins;
}

std::tuple<Tensor, Tensor> pairwise_counts(Tensor first, Tensor second, Tensor outcome, OptionalTensor problem, OptionalTensor weight,
                                           int64_t num_problems, int64_t num_candidates) {
  const MatchList list(first, second, outcome, problem, weight);
  const Sizes sizes{num_problems, num_candidates, num_candidates};
  Tensor wins = zeros(first, sizes), ties = zeros(first, sizes);
  count(Grouped(list, nullptr, num_problems, num_candidates), num_problems, wins, &ties);
  return {wins, ties};
}

std::tuple<Tensor, Tensor> elo(Tensor first, Tensor second, Tensor outcome, OptionalTensor problem, OptionalTensor weight, OptionalTensor orders,
                               int64_t num_problems, int64_t num_candidates, double k, double init, double scale) {
  const MatchList list(first, second, outcome, problem, weight);
  const rrm::TournamentKernels& kernels = *rrm::table().tournaments;
  const DoubleResult rating(first, {num_problems, num_candidates});
  const Int64Result counted(first, {num_problems});
  if (!orders) {
    const Grouped grouped(list, nullptr, num_problems, num_candidates);
    share(num_problems, 20 * list.total / std::max<int64_t>(1, num_problems),
          [&](int64_t begin, int64_t end) { kernels.elo(grouped.matches, {k, init, scale, rating.data, counted.data}, begin, end); });
    return {rating.tensor, counted.tensor};
  }
  STD_TORCH_CHECK(orders->dim() == 2 && orders->size(0) > 0, "orders: expected [R, M] with R > 0");
  const int64_t rounds = orders->size(0), cells = num_problems * num_candidates;
  const Int64Array order(orders, rounds * list.total);
  const DoubleResult each(first, {rounds, cells});
  share(rounds, 30 * list.total, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Grouped grouped(list, order.data + r * list.total, num_problems, num_candidates);
      kernels.elo(grouped.matches, {k, init, scale, each.data + r * cells, r == 0 ? counted.data : nullptr}, 0, num_problems);
    }
  });
  for (int64_t cell = 0; cell < cells; ++cell) {
    double sum = 0.0;
    for (int64_t r = 0; r < rounds; ++r) sum += each.data[r * cells + cell];
    rating.data[cell] = sum / double(rounds);
  }
  return {rating.tensor, counted.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> bradley_terry(Tensor wins, OptionalTensor mask, double prior, bool stderr_wanted, int64_t max_iter,
                                                         double tol) {
  STD_TORCH_CHECK(wins.dim() == 3 && wins.size(1) == wins.size(2), "wins: expected [B, n, n]");
  const int64_t batch = wins.size(0), n = wins.size(1);
  const DoubleArray counts(in_float64(wins), batch * n * n);
  const Array<bool, ScalarType::Bool> taking(mask, batch * n);
  const DoubleResult rating(wins, {batch, n}), error(wins, stderr_wanted ? Sizes{batch, n} : Sizes{0});
  const Int64Result status(wins, {batch}), iterations(wins, {batch});
  const rrm::BradleyTerry job{counts.data, taking.data,    n, prior, tol, max_iter, rating.data, stderr_wanted ? error.data : nullptr,
                              status.data, iterations.data};
  share(batch, 25 * n * n, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<double[]> scratch(new double[rrm::bradley_terry_scratch(n)]);
    rrm::table().tournaments->bradley_terry(job, scratch.get(), begin, end);
  });
  return {rating.tensor, error.tensor, status.tensor, iterations.tensor};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("pairwise_wins", TORCH_BOX(&pairwise_wins));
  m.impl("pairwise_counts", TORCH_BOX(&pairwise_counts));
  m.impl("elo", TORCH_BOX(&elo));
  m.impl("bradley_terry", TORCH_BOX(&bradley_terry));
}
