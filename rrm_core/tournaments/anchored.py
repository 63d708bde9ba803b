"""Everybody against a few."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core._validate import require, require_in_range, require_shape
from rrm_core.tournaments.inputs import ArrayLike, array, require_all, seeded, whole
from rrm_core.tournaments.league import League, ranked
from rrm_core.tournaments.ratings import bradley_terry
from rrm_core.tournaments.schedulers import Pairs


class Anchored(League):
    """Everybody meets a small pool of anchors and nobody else, in one round; the anchors meet each other too.

    Takes ``votes * (a * (n - a) + a * (a - 1) / 2)`` judge calls per problem with n candidates, a of them anchors; twice as many with both orders.

    Args:
        num_problems, num_candidates: B and n, at least 0 and 1.
        anchors: how many, drawn at random in each problem among those taking part, all where these are fewer; or int64 [B, a], the anchors of each
            problem, who must take part, -1 for none.
        seed: of the draw; of no effect on named anchors.
        votes: judge calls per match and order. The valid ones decide by their mean: above 0.5 ``first`` has won; even ones are a tie.
        both_orders: whether each match is judged as often with first and second swapped. Otherwise every other anchor is ``second`` instead of
            ``first`` against those who are no anchors, so that these are all shown alike.
        mask: bool [B, n], True for candidates who take part; all when None.

    Source: Reasoning Arena (arXiv:2606.09380), which fits Bradley-Terry ratings to such matches.

    Raises:
        TypeError, ValueError: an argument doesn't fit.
    """

    _STATE = (*League._STATE, "anchors")

    def __init__(
        self,
        num_problems: int,
        num_candidates: int,
        *,
        anchors: int | ArrayLike,
        seed: int = 0,
        votes: int = 1,
        both_orders: bool = False,
        mask: ArrayLike | None = None,
    ) -> None:
        super().__init__(num_problems, num_candidates, votes, both_orders, mask)
        lots = torch.rand(self._taking.shape, dtype=torch.float64, generator=seeded(seed))
        if isinstance(anchors, int):
            self._anchors = ranked(self._taking, lots)[:, : whole("anchors", anchors, 1)]
        else:
            self._anchors = array("anchors", anchors, torch.int64).cpu().clone()
            require_shape("anchors", self._anchors, (self.num_problems, "a"))
            self._require_anchors("anchors")
        self._pool = self._anchors.shape[1]

    def _require_anchors(self, name: str) -> None:
        anchors, n = self._anchors, self.num_candidates
        require(anchors.shape[1] > 0, name, f"shape [{self.num_problems}, a] with a > 0", list(anchors.shape))
        require_in_range(name, anchors, n, also=-1)
        nobody = anchors < 0
        require_all(name, nobody | self._taking.gather(1, anchors.clamp(min=0)), "candidates who take part", anchors)
        inorder = anchors.sort(1).values
        again = (inorder[:, 1:] == inorder[:, :-1]) & (inorder[:, 1:] >= 0)
        require_all(name, ~again, "each anchor once", inorder[:, 1:])

    @property
    def anchors(self) -> Tensor:
        """int64 [B, a], a at most n; -1 for none."""
        return self._anchors.clone()

    def _scheduled(self) -> int:
        each, a = self._taking.sum(1), (self._anchors >= 0).sum(1)
        return int((a * (each - a) + a * (a - 1) // 2).sum())

    def _schedule(self) -> Pairs:
        n, number = self.num_candidates, torch.arange(self._pool).unsqueeze(1)
        # [B, n]: which anchor it is, the size of the pool for none; [B, n + 1] before -1 is dropped
        own = torch.full((self.num_problems, n + 1), self._pool)
        own = own.scatter(1, self._anchors.remainder(n + 1), number.T.expand(self.num_problems, -1))[:, :n]
        meet = (self._anchors >= 0).unsqueeze(2) & self._taking.unsqueeze(1) & (own.unsqueeze(1) > number)
        problem, k, other = meet.nonzero(as_tuple=True)
        anchor, leads = self._anchors[problem, k], k % 2 == 0
        return Pairs(problem, torch.where(leads, anchor, other), torch.where(leads, other, anchor))

    def _check_schedule(self) -> None:
        require_shape("state['anchors']", self._anchors, (self.num_problems, self._pool))
        self._require_anchors("state['anchors']")

    @property
    def ranking(self) -> Tensor:
        """All candidates by their rating, ``bradley_terry(wins(), mask=mask).rating``, best first, int64 [B, n]; among equals (to six digits after
        the point) the lower id. Those who take no part are left out, with -1 at the end. Points would not do: anchors have more matches than
        others."""
        self._require_done("ranking")
        return ranked(self._taking, bradley_terry(self.wins(), mask=self._taking).rating.round(decimals=6))
