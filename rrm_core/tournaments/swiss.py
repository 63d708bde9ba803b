"""A few rounds among equals."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core._validate import require, require_in_range, require_shape
from rrm_core.tournaments.inputs import ArrayLike, require_all, seeded, whole
from rrm_core.tournaments.league import League, ranked
from rrm_core.tournaments.pairing import pair_off
from rrm_core.tournaments.schedulers import Pairs


class Swiss(League):
    """Nobody is out; in each round candidates meet others of as many points, as nearly as can be, whom they have not met.

    Takes ``votes * rounds * floor(n / 2)`` judge calls per problem with n candidates, twice as many with both orders.

    In each round candidates stand by points, equals by lots drawn at the start. If they are odd, the lowest of those who have had the fewest byes has
    a bye, which is worth a point. Of the others the highest meets the nearest it has not met, and so on; where that leaves some who have met, they
    exchange opponents with another pair. Nobody meets anybody twice in the first ``floor(n / 2)`` rounds (proof in ``pair_off``), nor in
    ``ceil(log2(n))``; in later ones some may, as some must after n - 1 rounds (n, if n is odd).

    Args:
        num_problems, num_candidates: B and n, at least 0 and 1.
        rounds: at least 1; ceil(log2(n)) are usual.
        seed: of the lots.
        votes: judge calls per match and order. The valid ones decide by their mean: above 0.5 ``first`` has won a point; even ones are a tie, half a
            point each; without a valid one there is no point for either.
        both_orders: whether each match is judged as often with first and second swapped. Otherwise the one who has been first less often is first.
        mask: bool [B, n], True for candidates who take part; all when None.

    Source: V1 (arXiv:2603.04304) pairs by standing those who have not met; ArenaRL takes as many calls, with ``rounds=ceil(log2(n))``.

    Raises:
        TypeError, ValueError: an argument doesn't fit.
    """

    _SETTINGS = (*League._SETTINGS, "rounds")
    _STATE = (*League._STATE, "lots", "first", "second")

    def __init__(
        self,
        num_problems: int,
        num_candidates: int,
        *,
        rounds: int,
        seed: int,
        votes: int = 1,
        both_orders: bool = False,
        mask: ArrayLike | None = None,
    ) -> None:
        super().__init__(num_problems, num_candidates, votes, both_orders, mask)
        self.rounds = whole("rounds", rounds, 1)
        # [B, n], each candidate's lot: the lower the better
        self._lots = torch.rand(self._taking.shape, dtype=torch.float64, generator=seeded(seed)).argsort(1)
        self._first = self._second = torch.empty(0, dtype=torch.int64)  # of each match up to this round
        self._pair_round()

    def _round(self) -> Tensor:
        """The problem of each match of a round."""
        return torch.arange(self.num_problems).repeat_interleave(self._taking.sum(1) // 2)

    def _rounds_paired(self) -> int:
        return len(self._first) // max(1, len(self._round()))

    def _scheduled(self) -> int:
        return len(self._first)

    def _schedule(self) -> Pairs:
        return Pairs(self._round().repeat(self._rounds_paired()), self._first, self._second)

    def _stages(self) -> tuple[int, ...]:
        before = len(self._first) - len(self._round())
        return (before, len(self._first)) if self._rounds_paired() == self.rounds or before == len(self._first) else (before,)

    def _settle(self, shares: Tensor) -> None:
        super()._settle(shares)
        if self._rounds_paired() < self.rounds:
            self._pair_round()

    def _byes(self) -> Tensor:
        """Rounds without a match, int64 [B, n]; none of those who are alone."""
        out = ~self._taking | (self._taking.sum(1, keepdim=True) < 2)
        return (self._rounds_paired() - self._met().long()).masked_fill(out, 0)

    def _points(self) -> Tensor:
        return super()._points() + self._byes()

    def _pair_round(self) -> None:
        """Every match so far has been recorded."""
        (problems, n), (problem, first, second) = self._taking.shape, self._schedule()
        order = ranked(self._taking, self._points(), -self._lots)
        # the bye: the last among the fewest
        had = self._byes().gather(1, order.clamp(min=0)) * n - torch.arange(n)
        last = had.masked_fill(order < 0, torch.iinfo(torch.int64).max).argmin(1, keepdim=True)
        odd = self._taking.sum(1, keepdim=True) % 2 == 1
        out = (order < 0) | (odd & (torch.arange(n) == last))
        order = order.masked_fill(out, -1).gather(1, out.to(torch.int8).argsort(dim=1, stable=True))
        meetings = torch.zeros(problems * n * n, dtype=torch.int32)
        for one, other in ((first, second), (second, first)):
            meetings.index_add_(0, (problem * n + one) * n + other, torch.ones(len(one), dtype=torch.int32))
        pairs = pair_off(order, meetings.view(problems, n, n))
        now, match = (pairs[:, :, 0] >= 0).nonzero(as_tuple=True)
        pair = pairs[now, match]
        each = torch.ones(len(first))
        lead = (self._credit(each, -each) * n + self._lots)[now.unsqueeze(1), pair]  # who has been first more often, or drew the higher lot
        pair = torch.where((lead[:, 0] > lead[:, 1]).unsqueeze(1), pair.flip(1), pair)
        self._first, self._second = torch.cat((first, pair[:, 0])), torch.cat((second, pair[:, 1]))

    def _check_schedule(self) -> None:
        (problems, n), matches = self._taking.shape, len(self._round())
        require_shape("state['lots']", self._lots, (problems, n))
        require_all("state['lots']", self._lots.sort(1).values == torch.arange(n), "each lot once per problem", self._lots)
        require_shape("state['first']", self._first, ("M",))
        count = len(self._first)
        fits = count == matches * self._rounds_paired() and (matches == 0 or 0 < count <= matches * self.rounds)
        require(fits, "state['first']", f"1 to {self.rounds} rounds of {matches} matches", f"{count} matches")
        require_shape("state['second']", self._second, (count,))
        problem = self._round().repeat(self._rounds_paired())
        for name, ids in (("first", self._first), ("second", self._second)):
            require_in_range(f"state[{name!r}]", ids, n)
            require_all(f"state[{name!r}]", self._taking[problem, ids], "candidates who take part", ids)
        day = torch.arange(self._rounds_paired()).repeat_interleave(matches) * problems + problem
        busy = torch.bincount(torch.cat((day * n + self._first, day * n + self._second)))
        require_all("state['second']", busy <= 1, "each candidate at most once per round", busy)

    def buchholz(self) -> Tensor:
        """Points of all opponents, each as often as met, float64 [B, n]; a bye adds nothing."""
        self._require_done("buchholz")
        points, (problem, first, second) = self._points(), self._schedule()
        return self._credit(points[problem, second], points[problem, first])

    def points(self) -> Tensor:
        """Matches won, ties half, and byes, float64 [B, n]; a match without a valid vote is worth nothing to either."""
        return super().points()

    @property
    def ranking(self) -> Tensor:
        """All candidates by points, best first, int64 [B, n]; equals by ``buchholz()``, then votes won, then the lower id. Those who take no part are
        left out, with -1 at the end."""
        self._require_done("ranking")
        return ranked(self._taking, self._points(), self.buchholz(), self._votes_won())
