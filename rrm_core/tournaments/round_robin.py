"""Everybody against everybody."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rrm_core._validate import require_shape
from rrm_core.tournaments.inputs import ArrayLike, require_all
from rrm_core.tournaments.ops import pairwise_wins
from rrm_core.tournaments.schedulers import Pairs, Scheduler, balance
from rrm_core.tournaments.scores import borda


class RoundRobin(Scheduler):
    """Everybody meets everybody, in one round.

    Takes ``votes * n * (n - 1) / 2`` judge calls per problem with n candidates, twice as many with both orders.

    Args:
        num_problems, num_candidates: B and n, at least 0 and 1.
        votes: judge calls per match. The valid ones decide by their mean: above 0.5 ``first`` has won; even ones are a tie.
        both_orders: whether each pair meets twice, each once as ``first``: a judge that looks at nothing but the position gives every pair a tie.
        mask: bool [B, n], True for candidates who take part; all when None.

    Source: RRM (arXiv:2505.14674), which rates the outcomes by Elo; ``wins()`` and ``pairs()`` are what the ratings of this module take.

    Raises:
        TypeError, ValueError: an argument doesn't fit.
    """

    _SETTINGS = (*Scheduler._SETTINGS, "both_orders")
    _STATE = ("outcome", "taking")

    def __init__(self, num_problems: int, num_candidates: int, *, votes: int = 1, both_orders: bool = False, mask: ArrayLike | None = None) -> None:
        super().__init__(num_problems, num_candidates, votes, mask)
        if not isinstance(both_orders, bool):
            raise TypeError(f"both_orders: expected a bool, got {type(both_orders).__name__}")
        self.both_orders = both_orders
        self._outcome = torch.empty(0, self.votes, dtype=torch.float64)  # [matches, votes] once recorded

    @property
    def done(self) -> bool:
        return len(self._outcome) == self._count(self._taking)

    def _count(self, taking: Tensor) -> int:
        """Matches among those taking part."""
        each = taking.sum(1)
        return int((each * (each - 1)).sum()) // (1 if self.both_orders else 2)

    def _schedule(self) -> Pairs:
        first, second = torch.triu_indices(self.num_candidates, self.num_candidates, 1)
        if self.both_orders:
            first, second = torch.stack((first, second), 1).flatten(), torch.stack((second, first), 1).flatten()
        problem, match = (self._taking[:, first] & self._taking[:, second]).nonzero(as_tuple=True)
        return Pairs(problem, first[match], second[match])

    def _matches(self) -> Pairs:
        schedule = self._schedule()
        return Pairs(*(ids[:0] for ids in schedule)) if self.done else schedule

    def _settle(self, votes: Tensor) -> None:
        self._outcome = votes.clone()

    def _restored(self, state: Mapping[str, Tensor]) -> None:
        require_shape("state['taking']", state["taking"], self._taking.shape)
        require_shape("state['outcome']", state["outcome"], (0, self.votes), (self._count(state["taking"]), self.votes))
        outcome = state["outcome"]
        require_all("state['outcome']", ((outcome >= 0) & (outcome <= 1)) | outcome.isnan(), "values in [0, 1] or NaN", outcome)

    def _tally(self, outcome: Tensor) -> Tensor:
        """outcome: [matches, votes or 1]."""
        problem, first, second = (ids.repeat_interleave(outcome.shape[1]) for ids in self._schedule())
        share, (problems, n) = outcome.flatten(), self._taking.shape
        return pairwise_wins(first, second, share, problem=problem, num_problems=problems, num_candidates=n)

    def wins(self) -> Tensor:
        """What everyone won against everyone, each valid vote a game of its own: float64 [B, n, n], as ``bradley_terry`` takes it."""
        self._require_done("wins")
        return self._tally(self._outcome)

    def points(self) -> Tensor:
        """Matches won, ties half, float64 [B, n]; 0 for a match without a valid vote."""
        self._require_done("points")
        decided = (balance(self._outcome) + 1) / 2
        return borda(self._tally(decided.masked_fill(self._outcome.isnan().all(1), float("nan")).unsqueeze(1)))

    @property
    def ranking(self) -> Tensor:
        """All candidates by points, best first, int64 [B, n]; among equals the one that won more votes, then the lower id. Candidates who take
        no part are left out, with -1 at the end."""
        order = torch.arange(self.num_candidates).expand(self.num_problems, -1)
        for score in (borda(self.wins()), self.points().masked_fill(~self._taking, -1.0)):
            order = order.gather(1, score.gather(1, order).argsort(dim=1, descending=True, stable=True))
        return order.masked_fill(~self._taking.gather(1, order), -1)

    @property
    def champion(self) -> Tensor:
        """The first of ``ranking``, int64 [B]; -1 where nobody takes part."""
        return self.ranking[:, 0]
