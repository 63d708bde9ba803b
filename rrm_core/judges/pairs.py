"""Matches of a tournament judged vote by vote, none more than it takes to decide them."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rrm_core.judges.caller import Asked, Caller
from rrm_core.judges.system import Pairwise
from rrm_core.tournaments import Pairs, vote_status

Rule: TypeAlias = Literal["majority", "beta", "sprt"]


class Tally(NamedTuple):
    """Of each match [M]: votes for first and against (a tie is neither), valid verdicts, calls."""

    for_: Tensor
    against: Tensor
    valid: Tensor
    spent: Tensor

    @property
    def outcome(self) -> Tensor:
        """What the majority says: 1, 0 or, where it is even, 0.5 for first, NaN without a valid verdict: float64 [M]. Shares of votes would depend on
        when these were stopped."""
        return (((self.for_ - self.against).sign().double() + 1) / 2).masked_fill(self.valid == 0, float("nan"))


def confidence(for_: Tensor, against: Tensor) -> Tensor:
    """That the majority is right, under a uniform prior on its share: P(Bin(a + b + 1, 1/2) <= a) of a >= b votes, float64; a half of none."""
    more, total = torch.maximum(for_, against).unsqueeze(-1).double(), (for_ + against + 1).unsqueeze(-1).double()
    k = torch.arange(int(total.max()) + 1 if total.numel() else 0, dtype=torch.float64)
    log_choices = torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma((total - k).clamp(min=0) + 1)
    return torch.where(k <= more, (log_choices - total * torch.tensor(2.0, dtype=torch.float64).log()).exp(), 0.0).sum(-1)


class Voting(NamedTuple):
    """How many votes a match may have, in which orders they are shown (in turns, where both), and when they are enough (see ``vote_status``)."""

    max_votes: int
    both_orders: bool
    rule: Rule
    options: dict[str, float]  # of the rule

    def wanted(self, tally: Tally) -> Tensor:
        """How many more votes each match needs before it could be decided, were they all for its leader: int64 [M], 0 where it is. To ask for
        so many at once wastes none."""
        more, fewer = torch.maximum(tally.for_, tally.against), torch.minimum(tally.for_, tally.against)
        wanted = torch.zeros_like(more)
        for extra in range(self.max_votes):
            spent = (tally.spent + extra).clamp(max=self.max_votes)
            shown = torch.minimum(more + extra, spent - fewer)
            open_ = ~vote_status(shown, fewer, max_votes=self.max_votes, spent=spent, rule=self.rule, **self.options).decided
            if not bool(open_.any()):
                break
            wanted += (open_ & (wanted == extra)).to(torch.int64)
        return wanted


def play(caller: Caller, system: Pairwise, pairs: Pairs, round_: int, voting: Voting) -> Tally:
    """Judges the matches of a round, until they are decided or the budget is spent; then closest matches come first."""
    nothing = torch.zeros(len(pairs.first), dtype=torch.int64)
    tally = Tally(*[nothing] * 4)
    lots = [caller.seed_of((round_, *match)) & 1 for match in zip(*(x.tolist() for x in pairs), strict=True)]
    turn = torch.tensor(lots, dtype=torch.int64)  # who is shown first first
    while bool((wanted := _affordable(voting.wanted(tally), tally, caller.left)).any()):
        match = torch.arange(len(nothing)).repeat_interleave(wanted)
        vote = torch.arange(len(match)) - (wanted.cumsum(0) - wanted)[match] + tally.spent[match]
        swapped = ((vote + turn[match]) % 2 == 1) & voting.both_orders
        as_is = pairs.first[match], pairs.second[match]
        first, second = torch.where(swapped, as_is[1], as_is[0]), torch.where(swapped, as_is[0], as_is[1])
        columns = zip(*(x.tolist() for x in (pairs.problem[match], first, second, vote)), strict=True)
        entries = caller([Asked((round_, p, a, b, v), p, (a, b)) for p, a, b, v in columns])
        outcome = system.parse([entry.text for entry in entries], [entry.finished for entry in entries]).outcome
        tally = _counted(tally, match, torch.where(swapped, 1 - outcome, outcome))
    return tally


def _affordable(wanted: Tensor, tally: Tally, left: int | None) -> Tensor:
    """What the budget allows of the votes wanted: one by one, to the match with the smallest lead, were they all for its leader."""
    if left is None or int(wanted.sum()) <= left:
        return wanted
    match = torch.arange(len(wanted)).repeat_interleave(wanted)
    given = torch.arange(len(match)) - (wanted.cumsum(0) - wanted)[match]
    chosen = ((tally.for_ - tally.against).abs()[match] + given).argsort(stable=True)[:left]
    return match[chosen].bincount(minlength=len(wanted))


def _counted(tally: Tally, match: Tensor, outcome: Tensor) -> Tally:
    found = outcome > 0.5, outcome < 0.5, ~outcome.isnan(), torch.ones_like(match)
    return Tally(*(to.index_add(0, match, what.to(torch.int64)) for to, what in zip(tally, found, strict=True)))
