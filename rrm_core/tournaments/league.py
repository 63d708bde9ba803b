"""Tournaments in which nobody is out: a list of matches, known beforehand or round after round, and what everyone has won in them."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from rrm_core._validate import require_shape
from rrm_core.tournaments.inputs import ArrayLike, require_shares
from rrm_core.tournaments.ops import pairwise_wins
from rrm_core.tournaments.schedulers import Pairs, Scheduler, balance


def ranked(taking: Tensor, *keys: Tensor) -> Tensor:
    """Those taking part by the first key [B, n], highest first, equals by the next key, then the lower id: int64 [B, n], -1 at the end for others."""
    order = torch.arange(taking.shape[1]).expand(taking.shape)
    for key in (*reversed(keys), taking.to(torch.int8)):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
    return order.masked_fill(~taking.gather(1, order), -1)


class League(Scheduler):
    """What they share: outcomes match by match, wins and points."""

    _STATE: tuple[str, ...] = ("outcome", "taking")

    def __init__(self, num_problems: int, num_candidates: int, votes: int, both_orders: bool, mask: ArrayLike | None) -> None:
        super().__init__(num_problems, num_candidates, votes, both_orders, mask)
        self._outcome = torch.empty(0, self._calls, dtype=torch.float64)  # [matches recorded, calls], shares of first

    @abstractmethod
    def _schedule(self) -> Pairs:
        """Every match known so far, once, those of this round last."""

    @abstractmethod
    def _scheduled(self) -> int:
        """How many these are."""

    @abstractmethod
    def _check_schedule(self) -> None:
        """Raises if the tensors of the schedule cannot be a state; that of who takes part has been checked."""

    def _stages(self) -> tuple[int, ...]:
        """How many matches can have been recorded, given the schedule."""
        return (0, self._scheduled())

    @property
    def done(self) -> bool:
        return len(self._outcome) == self._scheduled()

    def _matches(self) -> Pairs:
        return Pairs(*(ids[len(self._outcome) :] for ids in self._schedule()))

    def _settle(self, shares: Tensor) -> None:
        self._outcome = torch.cat((self._outcome, shares))

    def _check(self) -> None:
        require_shape("state['taking']", self._taking, (self.num_problems, self.num_candidates))
        self._check_schedule()
        require_shape("state['outcome']", self._outcome, *((matches, self._calls) for matches in self._stages()))
        require_shares("state['outcome']", self._outcome)

    def _credit(self, first: Tensor, second: Tensor) -> Tensor:
        """Adds up what every match [M] is worth to its first and its second, float64 [B, n]; NaN is worth nothing."""
        matches, total = self._schedule(), torch.zeros(self.num_problems * self.num_candidates, dtype=torch.float64)
        for ids, worth in ((matches.first, first), (matches.second, second)):
            total.index_add_(0, matches.problem * self.num_candidates + ids, worth.double().nan_to_num(0.0))
        return total.view(self.num_problems, self.num_candidates)

    def _points(self) -> Tensor:
        decided = ((balance(self._outcome) + 1) / 2).masked_fill(self._outcome.isnan().all(1), float("nan"))
        return self._credit(decided, 1 - decided)

    def _votes_won(self) -> Tensor:
        """Without the last digits, so that sums of the same votes in another order are equal."""
        return self._credit(self._outcome.nansum(1), (1 - self._outcome).nansum(1)).round(decimals=9)

    def _met(self) -> Tensor:
        """Matches of everyone."""
        each = torch.ones(self._scheduled())
        return self._credit(each, each)

    def wins(self) -> Tensor:
        """What everyone won against everyone, each valid vote a game of its own: float64 [B, n, n], as ``bradley_terry`` takes it."""
        self._require_done("wins")
        problem, first, second = (ids.repeat_interleave(self._calls) for ids in self._schedule())
        problems, n = self._taking.shape
        return pairwise_wins(first, second, self._outcome.flatten(), problem=problem, num_problems=problems, num_candidates=n)

    def points(self) -> Tensor:
        """Matches won, ties half, float64 [B, n]; a match without a valid vote is worth nothing to either."""
        self._require_done("points")
        return self._points()

    @property
    def champion(self) -> Tensor:
        """The first of ``ranking``, int64 [B]; -1 where nobody takes part."""
        return self.ranking[:, 0]
