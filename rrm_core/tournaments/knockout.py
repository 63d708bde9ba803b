"""Single elimination."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rrm_core._validate import require, require_in_range, require_shape
from rrm_core.tournaments.inputs import ArrayLike, array, require_all, seeded
from rrm_core.tournaments.schedulers import Pairs, Scheduler, balance

TieRule = Literal["first", "second", "random"]


def _bracket(rounds: int) -> list[int]:
    """Which seed starts in each of 2 ** rounds places, so that 0 and 1 can only meet in the final, 0 to 3 in the semifinals, and so on."""
    seeds = [0]
    for r in range(rounds):
        seeds = [s for seed in seeds for s in (seed, (2 << r) - 1 - seed)]
    return seeds


class Knockout(Scheduler):
    """Single elimination: who loses a match is out, the champion is left after ceil(log2(n)) rounds.

    Takes ``votes * (n - 1)`` judge calls per problem with n candidates, twice as many with both orders, whatever n is: in a bracket of the next
    power of two, those seeded first have byes in the first round.

    Args:
        num_problems, num_candidates: B and n, at least 0 and 1.
        seed: of the random bracket and the random tie-breaks.
        votes: judge calls per match and order. The valid ones decide by their mean: above 0.5 ``first`` goes on.
        both_orders: whether each match is judged as often with first and second swapped; a judge of positions then leaves it to ``on_tie``.
        on_tie: who goes on when they are even or none is valid: "first" or "second" of the pair, or either at "random".
        order: int64 [B, n], each problem's candidates in order of seeding, best first; drawn at random when None.
        mask: bool [B, n], True for candidates who take part; all when None.

    Source: RRM (arXiv:2505.14674) and PairJudge (arXiv:2501.13007), who pair at random.

    Raises:
        TypeError, ValueError: an argument doesn't fit.
    """

    _SETTINGS = (*Scheduler._SETTINGS, "on_tie")
    _STATE = ("slots", "lost_to", "lost_round", "coins")

    def __init__(
        self,
        num_problems: int,
        num_candidates: int,
        *,
        seed: int,
        votes: int = 1,
        both_orders: bool = False,
        on_tie: TieRule = "first",
        order: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> None:
        super().__init__(num_problems, num_candidates, votes, both_orders, mask)
        require(on_tie in ("first", "second", "random"), "on_tie", "'first', 'second' or 'random'", repr(on_tie))
        self.on_tie = on_tie
        sizes, generator = (self.num_problems, self.num_candidates), seeded(seed)
        drawn = torch.rand(sizes, dtype=torch.float64, generator=generator).argsort(dim=1, stable=True)
        seeding = drawn if order is None else array("order", order, torch.int64).cpu()
        require_shape("order", seeding, sizes)
        require_all("order", seeding.sort(1).values == torch.arange(self.num_candidates), "each candidate once per problem", seeding.sort(1).values)
        out = ~self._taking.gather(1, seeding)
        seeding = seeding.masked_fill(out, -1).gather(1, out.to(torch.int8).argsort(dim=1, stable=True))
        self._rounds = (self.num_candidates - 1).bit_length()
        size = 1 << self._rounds
        empty = seeding.new_full((self.num_problems, size - self.num_candidates), -1)
        # [B, entrants of this round], -1 for nobody; neighbours meet
        self._slots = torch.cat((seeding, empty), 1)[:, _bracket(self._rounds)]
        self._lost_to, self._lost_round = torch.full(sizes, -1), torch.full(sizes, -1)
        self._coins = torch.rand(self.num_problems, size - 1, generator=generator) < 0.5  # of every match there can be, round after round
        self._skip_rounds_without_matches()

    @property
    def done(self) -> bool:
        return self._slots.shape[1] == 1

    def _playing(self) -> Tensor:
        """[B, matches of this round]"""
        matches = self._slots.shape[1] // 2  # none for the champion alone
        return (self._slots[:, : 2 * matches : 2] >= 0) & (self._slots[:, 1::2] >= 0)

    def _matches(self) -> Pairs:
        problem, match = self._playing().nonzero(as_tuple=True)
        place = 2 * match
        return Pairs(problem, self._slots[problem, place], self._slots[problem, place + 1])

    def _settle(self, shares: Tensor) -> None:
        problem, first, second = self._matches()
        width, size = self._slots.shape[1], 1 << self._rounds
        coins = self._coins[:, size - width : size - width // 2][self._playing()]
        on_tie = coins if self.on_tie == "random" else torch.full_like(coins, self.on_tie == "first")
        ahead = balance(shares)
        first_wins = (ahead > 0) | ((ahead == 0) & on_tie)
        winner, loser = torch.where(first_wins, first, second), torch.where(first_wins, second, first)
        self._lost_to[problem, loser] = winner
        self._lost_round[problem, loser] = self._rounds - width.bit_length() + 1
        self._advance(winner)
        self._skip_rounds_without_matches()

    def _advance(self, winner: Tensor) -> None:
        """To the next round, with byes for who met nobody."""
        playing = self._playing()
        self._slots = self._slots[:, ::2].maximum(self._slots[:, 1::2])
        self._slots[playing] = winner

    def _skip_rounds_without_matches(self) -> None:
        while not self.done and not bool(self._playing().any()):
            self._advance(self._slots.new_empty(0))

    def _check(self) -> None:
        widths = [1 << r for r in range(self._rounds + 1)]
        require_shape("state['slots']", self._slots, *((self.num_problems, width) for width in widths))
        require_in_range("state['slots']", self._slots, self.num_candidates, also=-1)
        for name, lost, end in (("lost_to", self._lost_to, self.num_candidates), ("lost_round", self._lost_round, self._rounds)):
            require_shape(f"state[{name!r}]", lost, (self.num_problems, self.num_candidates))
            require_in_range(f"state[{name!r}]", lost, end, also=-1)
        require_shape("state['coins']", self._coins, (self.num_problems, widths[-1] - 1))

    @property
    def champion(self) -> Tensor:
        """Who won, int64 [B]; -1 where nobody takes part."""
        self._require_done("champion")
        return self._slots[:, 0].clone()

    @property
    def ranking(self) -> Tensor:
        """All candidates, best first, int64 [B, n]: the later out the better, and among those out in one round, as those who beat them. Candidates
        who take no part are left out, with -1 at the end."""
        champion = self.champion.unsqueeze(1)
        n = self.num_candidates
        out = self._lost_round < 0
        key = torch.full_like(self._lost_round, 2 * n).masked_fill(out, 3 * n).masked_fill(torch.arange(n) == champion, 0)
        for r in reversed(range(self._rounds)):
            place = key.argsort(1).argsort(1)
            lost = self._lost_round == r
            key = torch.where(lost, n + place.gather(1, self._lost_to.clamp(min=0)), torch.where(key < 2 * n, place, key))
        ranking = key.argsort(1)
        return ranking.masked_fill(key.gather(1, ranking) == 3 * n, -1)
