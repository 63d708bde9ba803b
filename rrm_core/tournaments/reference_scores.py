"""Scores that need no model of the matches, in plain PyTorch, float64 throughout; and wins of resampled matches."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core._validate import values_readable

PAIR_SCORES = {"borda": 0, "win_rate": 1, "copeland": 2}


def pair_scores(wins: Tensor, kind: int) -> Tensor:
    """[B, n, n] -> [B, n]"""
    won = wins.to(torch.float64)
    games = won + won.mT
    met = (games != 0) & ~torch.eye(won.shape[1], dtype=torch.bool, device=won.device)
    if kind == PAIR_SCORES["borda"]:
        return won.masked_fill(~met, 0.0).sum(-1)
    if kind == PAIR_SCORES["win_rate"]:
        return torch.where(met, won / games, 0.0).sum(-1) / met.sum(-1)
    beaten = torch.where(won > won.mT, 1.0, torch.where(won == won.mT, 0.5, torch.where(won < won.mT, 0.0, games)))  # NaN where games are
    return beaten.masked_fill(~met, 0.0).sum(-1)


def power_iteration(matrix: Tensor, start: Tensor, shift: Tensor, teleport: float, max_iter: int, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """``x <- matrix x + shift x + teleport start``, made to add up to 1, from start -> x [B, n], converged [B], iterations [B]."""
    matrix, start, shift = (x.to(torch.float64) for x in (matrix, start, shift))
    x, converged = start, torch.zeros(len(start), dtype=torch.bool, device=start.device)
    iterations = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    for _ in range(max_iter):
        if values_readable(x) and bool(converged.all()):
            break
        following = (matrix @ x.unsqueeze(-1)).squeeze(-1) + shift.unsqueeze(-1) * x + teleport * start
        following = following / following.sum(-1, keepdim=True)
        still = (following - x).abs().sum(-1) <= tol
        x = torch.where(converged.unsqueeze(-1), x, following)
        iterations, converged = iterations + ~converged, converged | still
    return x.clone(), converged, iterations


def drawn_matches(offsets: Tensor, draws: Tensor) -> Tensor:
    """Which match each draw [R, M] of 31 bits stands for: the draws of a problem's matches, offsets[b] to offsets[b + 1], fall among these."""
    size = offsets.diff()
    problem = torch.repeat_interleave(size, output_size=draws.shape[1])
    return offsets[:-1][problem] + (draws.to(torch.int64).bitwise_and(0x7FFFFFFF) * size[problem]).bitwise_right_shift(31)


def resampled_wins(
    first: Tensor, second: Tensor, outcome: Tensor, weight: Tensor | None, offsets: Tensor, draws: Tensor, num_candidates: int
) -> Tensor:
    """-> wins [R, B, n, n]; matches [M] are grouped by problem."""
    n, problems, (replicates, matches) = num_candidates, len(offsets) - 1, draws.shape
    problem = torch.repeat_interleave(offsets.diff(), output_size=matches)
    ones = torch.ones(1, dtype=torch.int64, device=draws.device).expand(replicates, matches)
    times = torch.zeros(replicates, matches, dtype=torch.int64, device=draws.device).scatter_add_(1, drawn_matches(offsets, draws), ones)
    share = outcome.to(torch.float64)
    weight = torch.ones_like(share) if weight is None else weight.to(torch.float64)
    inside = (first >= 0) & (first < n) & (second >= 0) & (second < n)
    cell = torch.stack(((problem * n + first) * n + second, (problem * n + second) * n + first), -1)
    cell = cell.masked_fill(~inside.unsqueeze(-1), problems * n * n)
    points = times.unsqueeze(-1) * torch.stack((weight * share, weight * (1 - share)), -1)  # [R, M, 2]
    total = share.new_zeros(replicates, problems * n * n + 1)
    total.index_add_(1, cell.flatten(), points.flatten(1))
    return total[:, :-1].reshape(replicates, problems, n, n)
