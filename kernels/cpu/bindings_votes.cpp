// The ops of votes under the CPU key, with the schemas of rrm_core/tournaments/schema.py.
#include <memory>

#include "bindings_tournaments.h"

namespace {

using BoolArray = Array<bool, ScalarType::Bool>;
using Results = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// What both ops have in common, kept alive.
struct Election {
  BoolArray valid, mask;
  DoubleArray draws;
  Int64Result winner, used, tied;
  DoubleResult score;
  rrm::Ballots ballots;

  Election(const Tensor& like, const OptionalTensor& valid, const OptionalTensor& mask, const OptionalTensor& draws, int64_t batch, int64_t k,
           int64_t n)
      : valid(valid, batch * k),
        mask(mask, batch * n),
        draws(in_float64(draws), batch),
        winner(like, {batch}),
        used(like, {batch}),
        tied(like, {batch}),
        score(like, {batch, n}),
        ballots{this->valid.data, this->mask.data, this->draws.data, k, n, winner.data, score.data, used.data, tied.data} {}

  Results results() const {
    return {winner.tensor, score.tensor, used.tensor, tied.tensor};
  }
};

Results sum_vote(Tensor scores, OptionalTensor permutation, OptionalTensor valid, OptionalTensor mask, OptionalTensor meta, OptionalTensor draws,
                 int64_t k_meta) {
  STD_TORCH_CHECK(scores.dim() == 3, "scores: expected [B, k, n]");
  const int64_t batch = scores.size(0), k = scores.size(1), n = scores.size(2);
  const Election election(scores, valid, mask, draws, batch, k, n);
  const DoubleArray sampled(in_float64(scores), batch * k * n), rated(in_float64(meta), batch * k);
  const Int64Array shown(permutation, batch * k * n);
  const rrm::SampledScores samples{sampled.data, shown.data, rated.data, k_meta};
  share(batch, 2 * k * n + (meta ? 16 * k : 0), [&](int64_t begin, int64_t end) {
    const std::unique_ptr<uint64_t[]> keys(new uint64_t[k]);
    const std::unique_ptr<int64_t[]> named(new int64_t[n]);
    rrm::table().votes->sum(election.ballots, samples, keys.get(), named.get(), begin, end);
  });
  return election.results();
}

Results majority_vote(Tensor votes, OptionalTensor weight, OptionalTensor valid, OptionalTensor mask, OptionalTensor draws, int64_t num_candidates) {
  STD_TORCH_CHECK(votes.dim() == 2, "votes: expected [B, k]");
  const int64_t batch = votes.size(0), k = votes.size(1);
  const Election election(votes, valid, mask, draws, batch, k, num_candidates);
  const Int64Array named(votes, batch * k);
  const DoubleArray weights(in_float64(weight), batch * k);
  share(batch, 2 * (k + num_candidates),
        [&](int64_t begin, int64_t end) { rrm::table().votes->majority(election.ballots, named.data, weights.data, begin, end); });
  return election.results();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rrm, CPU, m) {
  m.impl("sum_vote", TORCH_BOX(&sum_vote));
  m.impl("majority_vote", TORCH_BOX(&majority_vote));
}
