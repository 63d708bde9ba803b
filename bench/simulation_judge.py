"""A judge whose every call is a coin of its own: what schedulers and votes are tried on."""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core.tournaments import Pairs
from rrm_core.tournaments.schedulers import Scheduler

ACCURACIES = (0.55, 0.65, 0.75, 0.85, 0.9)
_QUANTILES, _STEEPEST, _HALVINGS = 1 << 13, 1e3, 60


class Judge(NamedTuple):
    """Says that first beats second with probability sigmoid(slope * (strength_first - strength_second) + bias). strength [B, n]; ``bias`` goes to
    whoever is shown first; a share ``invalid`` of the verdicts cannot be read; a share ``repeats`` is what the judge always says of that pair, drawn
    with the same probability, so that votes cannot make up for it."""

    strength: Tensor
    slope: float
    bias: float = 0.0
    invalid: float = 0.0
    repeats: float = 0.0

    def log_odds(self, pairs: Pairs) -> Tensor:
        odds: Tensor = self.slope * (self.strength[pairs.problem, pairs.first] - self.strength[pairs.problem, pairs.second]) + self.bias
        return odds

    def verdicts(self, pairs: Pairs, generator: torch.Generator) -> Tensor:
        """float64 [K]: 1 for first, 0 for second, NaN for an invalid verdict."""
        odds = self.log_odds(pairs)
        says, unreadable = torch.rand(2, len(odds), dtype=torch.float64, generator=generator)
        if self.repeats > 0:
            again = torch.rand(len(odds), dtype=torch.float64, generator=generator) < self.repeats
            says = torch.where(again, self._always(pairs), says)
        verdict: Tensor = (says < odds.sigmoid()).double()
        return verdict.masked_fill(unreadable < self.invalid, float("nan"))

    def _always(self, pairs: Pairs) -> Tensor:
        """A number in [0, 1) for each pair, one less it with the pair swapped: the same whenever they meet."""
        low, high = torch.minimum(pairs.first, pairs.second), torch.maximum(pairs.first, pairs.second)
        problems, n = self.strength.shape
        fixed = torch.rand(problems, n, n, dtype=torch.float64, generator=stream(0, "always", n))[pairs.problem, low, high]
        return torch.where(pairs.first == low, fixed, 1 - fixed)


class Played(NamedTuple):
    """A tournament that is done, and its calls [K] each, as the ratings take them."""

    tournament: Scheduler
    pairs: Pairs
    outcome: Tensor


def slope_of(accuracy: float) -> float:
    """The slope with which a judge of standard normal strengths is right about a random pair with this probability, 1 included."""
    if accuracy == 1:
        return math.inf
    upper_half = 0.5 + (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / (2 * _QUANTILES)
    gap = math.sqrt(2) * torch.special.ndtri(upper_half)  # of strengths, stronger less weaker
    low, high = 0.0, _STEEPEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if (middle * gap).sigmoid().mean() < accuracy else (low, middle)
    return middle


def strengths(problems: int, n: int, seed: int) -> Tensor:
    return torch.randn(problems, n, dtype=torch.float64, generator=stream(seed, "strengths", n))


def subseed(seed: int, *names: object) -> int:
    """A seed for one thing that is drawn, the same whatever else is: two of one seed would be one stream, lots that know the strengths."""
    return seed + zlib.crc32(repr(names).encode())


def stream(seed: int, *names: object) -> torch.Generator:
    return torch.Generator().manual_seed(subseed(seed, *names))


def play(tournament: Scheduler, judge: Judge, generator: torch.Generator) -> Played:
    rounds: list[tuple[Pairs, Tensor]] = []
    while not tournament.done:
        pairs = tournament.pairs()
        rounds.append((pairs, judge.verdicts(pairs, generator)))
        tournament.record(rounds[-1][1])
    together = Pairs(*(torch.cat(ids) for ids in zip(*(pairs for pairs, _ in rounds), strict=True)))
    return Played(tournament, together, torch.cat([outcome for _, outcome in rounds]))
