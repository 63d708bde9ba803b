"""Everybody against everybody, or against some."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core._validate import require_shape
from rrm_core.tournaments.inputs import ArrayLike, require_all, seeded, whole
from rrm_core.tournaments.league import League, ranked
from rrm_core.tournaments.schedulers import Pairs


class RoundRobin(League):
    """Everybody meets everybody, or as many as asked for, in one round.

    Takes ``votes * n * (n - 1) / 2`` judge calls per problem with n candidates, with d opponents ``votes * ceil(n * min(d, n - 1) / 2)``; twice as
    many with both orders.

    Args:
        num_problems, num_candidates: B and n, at least 0 and 1.
        opponents: d, how many others each candidate meets; all when None. Those of a problem are seated in a circle at random, and each meets the
            d // 2 next to it on either side, for odd d also the one opposite; when both d and n are odd, one candidate has one more. No pair meets
            twice, and from d = 2 on nobody is cut off from the others, as ratings need it.
        seed: of the circles; of no effect when everybody meets everybody.
        votes: judge calls per match and order. The valid ones decide by their mean: above 0.5 ``first`` has won; even ones are a tie.
        both_orders: whether each match is judged as often with first and second swapped: a judge that looks at nothing but the position gives every
            pair a tie. Otherwise the lower id is first, and in a circle everyone is as often first as second, or one more or less.
        mask: bool [B, n], True for candidates who take part; all when None.

    Source: RRM (arXiv:2505.14674), which rates the outcomes by Elo; ``wins()`` and ``pairs()`` are what the ratings of this module take.

    Raises:
        TypeError, ValueError: an argument doesn't fit.
    """

    _SETTINGS = (*League._SETTINGS, "opponents")
    _STATE = (*League._STATE, "circle")

    def __init__(
        self,
        num_problems: int,
        num_candidates: int,
        *,
        opponents: int | None = None,
        seed: int = 0,
        votes: int = 1,
        both_orders: bool = False,
        mask: ArrayLike | None = None,
    ) -> None:
        super().__init__(num_problems, num_candidates, votes, both_orders, mask)
        self.opponents = None if opponents is None else whole("opponents", opponents, 1)
        lots = torch.rand(self._taking.shape, dtype=torch.float64, generator=seeded(seed))
        # [B, n] those taking part, then -1; in the order of their ids when everybody meets everybody
        self._circle = ranked(self._taking) if opponents is None else ranked(self._taking, lots)

    def _sizes(self) -> tuple[Tensor, Tensor]:
        """How many take part, and how many each meets: int64 [B] each."""
        each = self._taking.sum(1)
        return each, (each - 1).clamp(min=0, max=self.opponents)

    def _scheduled(self) -> int:
        each, degree = self._sizes()
        return int(((each * degree + 1) // 2).sum())

    def _schedule(self) -> Pairs:
        n, (each, degree) = self.num_candidates, (size.view(-1, 1, 1) for size in self._sizes())
        if self.opponents is None:
            place, other = torch.triu_indices(n, n, 1)
            problem, match = (other < each.squeeze(1)).nonzero(as_tuple=True)
            return Pairs(problem, self._circle[problem, place[match]], self._circle[problem, other[match]])
        place, ahead = torch.arange(n).unsqueeze(1), torch.arange(1, min(self.opponents, n - 1) // 2 + 1)
        near = (place < each) & (ahead <= degree // 2)
        # for an odd number of candidates, half of the chords next to the diameter, one candidate being on two of them
        opposite = (place < (each + 1) // 2) & (degree % 2 == 1)
        problem, place, step = torch.cat((near, opposite), 2).nonzero(as_tuple=True)
        steps = torch.cat((ahead.expand(len(each), 1, -1), each // 2), 2).squeeze(1)
        return Pairs(problem, self._circle[problem, place], self._circle[problem, (place + steps[problem, step]) % each.flatten()[problem]])

    def _check_schedule(self) -> None:
        circle, n = self._circle, self.num_candidates
        require_shape("state['circle']", circle, self._taking.shape)
        seated = torch.arange(n) < self._taking.sum(1, keepdim=True)
        everyone = circle.masked_fill(~seated, n).sort(1).values == ranked(self._taking).masked_fill(~seated, n)
        require_all("state['circle']", everyone & (seated | (circle == -1)), "each candidate who takes part once, then -1", circle)

    @property
    def ranking(self) -> Tensor:
        """All candidates by points per match, best first, int64 [B, n]; among equals the one that won more votes per match, then the lower id. Those
        who take no part are left out, with -1 at the end. Everyone has as many matches, but for one candidate when both d and n are odd."""
        self._require_done("ranking")
        met = self._met().clamp(min=1)
        return ranked(self._taking, self._points() / met, self._votes_won() / met)
