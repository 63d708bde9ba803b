"""What lists of matches say, in plain PyTorch, float64 throughout: points of every pair, and Elo ratings."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core._validate import values_readable

_NAN = float("nan")


class _Matches(NamedTuple):
    """Each [M]. ``weight`` is NaN where it or the outcome is impossible."""

    problem: Tensor
    share: Tensor
    weight: Tensor
    skipped: Tensor


def _read(
    first: Tensor, second: Tensor, outcome: Tensor, problem: Tensor | None, weight: Tensor | None, num_problems: int, num_candidates: int
) -> _Matches:
    problem = torch.zeros_like(first) if problem is None else problem
    share = outcome.to(torch.float64)
    weight = torch.ones_like(share) if weight is None else weight.to(torch.float64)
    n = num_candidates
    out_of_range = (first < 0) | (first >= n) | (second < 0) | (second >= n) | (problem < 0) | (problem >= num_problems)
    wrong = (share < 0) | (share > 1) | (weight < 0) | ~weight.isfinite()
    return _Matches(problem, share, weight.masked_fill(wrong, _NAN), out_of_range | (first == second) | share.isnan())


def _tally(points: Tensor, first: Tensor, second: Tensor, matches: _Matches, num_problems: int, num_candidates: int) -> Tensor:
    """points [M, 2] of first and second added up by pair [B, n, n]."""
    n, cells = num_candidates, num_problems * num_candidates**2
    # [M, 2], so that a cell adds up in the order of the matches; what is skipped goes to a cell behind the last
    cell = torch.stack(((matches.problem * n + first) * n + second, (matches.problem * n + second) * n + first), -1)
    cell = cell.masked_fill(matches.skipped.unsqueeze(-1), cells).flatten()
    total = points.new_zeros(cells + 1)
    if total.device.type == "cpu":
        total.index_add_(0, cell, points.flatten())  # one after the other
    else:
        total.index_put_((cell,), points.flatten(), accumulate=True)  # sorts on CUDA, where index_add_ is a race of atomics
    return total[:-1].view(num_problems, n, n)


def pairwise_wins(
    first: Tensor, second: Tensor, outcome: Tensor, problem: Tensor | None, weight: Tensor | None, num_problems: int, num_candidates: int
) -> Tensor:
    matches = _read(first, second, outcome, problem, weight, num_problems, num_candidates)
    points = torch.stack((matches.weight * matches.share, matches.weight * (1 - matches.share)), -1)
    return _tally(points, first, second, matches, num_problems, num_candidates)


def pairwise_counts(
    first: Tensor, second: Tensor, outcome: Tensor, problem: Tensor | None, weight: Tensor | None, num_problems: int, num_candidates: int
) -> tuple[Tensor, Tensor]:
    matches = _read(first, second, outcome, problem, weight, num_problems, num_candidates)
    tie = matches.share == 0.5
    decided, tied = matches.weight.masked_fill(tie, 0.0), matches.weight.masked_fill(~tie, 0.0)
    wins = torch.stack((decided * matches.share, decided * (1 - matches.share)), -1)
    ties = torch.stack((tied, tied), -1)
    return (
        _tally(wins, first, second, matches, num_problems, num_candidates),
        _tally(ties, first, second, matches, num_problems, num_candidates),
    )


def elo(
    first: Tensor,
    second: Tensor,
    outcome: Tensor,
    problem: Tensor | None,
    weight: Tensor | None,
    orders: Tensor | None,
    num_problems: int,
    num_candidates: int,
    k: float,
    init: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """-> ratings [B, n], matches counted [B] (in the first order). One match after the other, but side by side for all problems and orders."""
    matches, total = _read(first, second, outcome, problem, weight, num_problems, num_candidates), len(first)
    home = matches.problem.masked_fill(matches.skipped, num_problems)  # skipped matches are a problem behind the last
    order = torch.arange(total, device=first.device).unsqueeze(0) if orders is None else orders
    outside = (order < 0) | (order >= total)
    order = order.masked_fill(outside, 0)
    group = home[order].masked_fill(outside, num_problems)  # [R, M]
    order = order.gather(1, group.argsort(dim=1, stable=True))
    count = home.new_zeros(len(order), num_problems + 1).scatter_add_(1, group, torch.ones_like(group))
    start, count = (count.cumsum(1) - count)[:, :-1], count[:, :-1]
    nobody = num_problems * num_candidates  # what a step beyond a problem's last match moves
    rating = matches.share.new_full((len(order), nobody + 1), init)
    places = [(matches.problem * num_candidates + who).masked_fill(matches.skipped, nobody) for who in (first, second)]
    steps = int(count.max()) if values_readable(first) and count.numel() else total
    for step in range(steps):
        match = order.gather(1, (start + step).clamp(max=total - 1))  # [R, B]
        i, j = (place[match].masked_fill(count <= step, nobody) for place in places)
        before_i, before_j = rating.gather(1, i), rating.gather(1, j)
        expected = 1 / (1 + torch.pow(10.0, (before_j - before_i) / scale))
        gain = k * matches.weight[match] * (matches.share[match] - expected)
        rating = rating.scatter(1, i, before_i + gain).scatter(1, j, before_j - gain)
    return rating[:, :-1].view(len(order), num_problems, num_candidates).mean(0), count[0].clone()
