// The ops of kernels/cpu/tournaments_ratings.cpp under the CPU key, with the schemas of rrm_core/tournaments/schema.py.
#include <memory>

#include "bindings_tournaments.h"

namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> davidson(Tensor wins, Tensor ties, OptionalTensor mask,
                                                                                    OptionalTensor log_tie, double prior, bool errors,
                                                                                    int64_t max_iter, double tol) {
  const int64_t batch = problems_of(wins), n = wins.size(1);
  const DoubleArray won(in_float64(wins), batch * n * n), tied(in_float64(ties), batch * n * n), given(in_float64(log_tie), batch);
  const Array<bool, ScalarType::Bool> taking(mask, batch * n);
  const DoubleResult rating(wins, {batch, n}), error(wins, errors ? Sizes{batch, n} : Sizes{0}), slope(wins, {batch, n});
  const DoubleResult found(wins, {batch}), score(wins, {batch}), curvature(wins, {batch});
  const Int64Result status(wins, {batch}), iterations(wins, {batch});
  const rrm::Davidson job{won.data,    tied.data,  taking.data, given.data, n,          prior,          tol,         max_iter,       errors,
                          rating.data, error.data, slope.data,  found.data, score.data, curvature.data, status.data, iterations.data};
  share(batch, 500 * n * n, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<double[]> scratch(new double[rrm::davidson_scratch(n)]);
    rrm::table().tournaments_ratings->davidson(job, scratch.get(), begin, end);
  });
  return {rating.tensor, error.tensor, found.tensor, score.tensor, curvature.tensor, slope.tensor, status.tensor, iterations.tensor};
}

std::tuple<Tensor, Tensor, Tensor> power_iteration(Tensor matrix, Tensor start, Tensor shift, double teleport, int64_t max_iter, double tol) {
  const int64_t batch = problems_of(matrix), n = matrix.size(1);
  const DoubleArray cells(in_float64(matrix), batch * n * n), from(in_float64(start), batch * n), shifts(in_float64(shift), batch);
  const DoubleResult vector(matrix, {batch, n});
  const ResultOf<bool, ScalarType::Bool> converged(matrix, {batch});
  const Int64Result iterations(matrix, {batch});
  const rrm::PowerIteration job{cells.data, from.data, shifts.data, teleport, n, max_iter, tol, vector.data, converged.data, iterations.data};
  share(batch, 10 * n * n, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<double[]> scratch(new double[n]);
    rrm::table().tournaments_ratings->power_iteration(job, scratch.get(), begin, end);
  });
  return {vector.tensor, converged.tensor, iterations.tensor};
}

Tensor pair_scores(Tensor wins, int64_t kind) {
  STD_TORCH_CHECK(0 <= kind && kind <= 2, "kind: expected 0, 1 or 2");
  const int64_t batch = problems_of(wins), n = wins.size(1);
  const DoubleArray counts(in_float64(wins), batch * n * n);
  const DoubleResult score(wins, {batch, n});
  share(batch, 2 * n * n, [&](int64_t begin, int64_t end) {
    rrm::table().tournaments_ratings->pair_scores(counts.data, rrm::PairScore{kind}, n, score.data, begin, end);
  });
  return score.tensor;
}

Tensor resampled_wins(Tensor first, Tensor second, Tensor outcome, OptionalTensor weight, Tensor offsets, Tensor draws, int64_t num_candidates) {
  STD_TORCH_CHECK(draws.dim() == 2 && offsets.dim() == 1 && offsets.size(0) > 0, "draws: expected [R, M]; offsets: expected [B + 1]");
  const int64_t matches = first.numel(), replicates = draws.size(0), problems = offsets.size(0) - 1, n = num_candidates;
  const Int64Array i(first, matches), j(second, matches), ends(offsets, problems + 1);
  const DoubleArray share_of_win(in_float64(outcome), matches), weights(in_float64(weight), matches);
  const Array<int32_t, ScalarType::Int> drawn(draws, replicates * matches);
  bool grouped = ends.data[0] == 0 && ends.data[problems] == matches;
  for (int64_t b = 0; b < problems; ++b) grouped &= ends.data[b] <= ends.data[b + 1];
  STD_TORCH_CHECK(grouped, "offsets: expected to ascend from 0 to the number of matches");
  STD_TORCH_CHECK(1 <= n && n <= 46340, "num_candidates: expected 1 to 46340");  // whose square an int32 holds
  std::vector<rrm::Points> points(matches);                                      // of those that can't be, nothing to the first cell
  for (int64_t k = 0; k < matches; ++k) {
    const int64_t a = i.data[k], b = j.data[k];
    const double w = weights.data ? weights.data[k] : 1.0, share_of_first = share_of_win.data[k];
    if (0 <= a && a < n && 0 <= b && b < n) points[k] = {int32_t(a * n + b), int32_t(b * n + a), w * share_of_first, w * (1.0 - share_of_first)};
  }
  Tensor wins = zeros(first, {replicates, problems, n, n}, ScalarType::Double);
  auto* won = static_cast<double*>(wins.mutable_data_ptr());
  const rrm::Resampling job{points.data(), ends.data, drawn.data, matches, problems, n};
  share(replicates, 5 * matches, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<int32_t[]> counts(new int32_t[matches]);
    rrm::table().tournaments_ratings->resampled_wins(job, won, counts.get(), begin, end);
  });
  return wins;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("davidson", TORCH_BOX(&davidson));
  m.impl("power_iteration", TORCH_BOX(&power_iteration));
  m.impl("pair_scores", TORCH_BOX(&pair_scores));
  m.impl("resampled_wins", TORCH_BOX(&resampled_wins));
}
