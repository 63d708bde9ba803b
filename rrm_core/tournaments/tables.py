"""Ratings as text, and what tables and plots have in common: names, order, scale, games."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rrm_core._validate import require, require_shape
from rrm_core.tournaments.inputs import ArrayLike, PairCounts, finite, pair_counts, require_counts, whole
from rrm_core.tournaments.reference_bradley_terry import RatingStatus

ELO_POINTS = 400 / math.log(10)  # of 1 of log-strength

_STATUS = {
    RatingStatus.NO_MLE: "no maximum likelihood estimate: some candidates lost nothing to the rest, and only a prior bounds their ratings",
    RatingStatus.DISCONNECTED: "disconnected: some candidates were never compared, not even through others, and only a prior relates them",
    RatingStatus.NOT_CONVERGED: "not converged: max_iter steps were too few, or wins are no finite counts",
}


def leaderboard(
    names: Iterable[object] | None,
    problem: int,
    elo: float | None,
    wins: ArrayLike | PairCounts | None,
    rating: Tensor,
    *,
    stderr: Tensor | None = None,
    interval: tuple[Tensor, Tensor] | None = None,
    ranks: tuple[Tensor, Tensor] | None = None,
    best: Tensor | None = None,
    tie_strength: Tensor | None = None,
    status: Tensor | None = None,
) -> str:
    """One problem's candidates, best first, with as many columns as there is to tell; what holds for all of them in lines below."""
    require_problem(problem, rating)
    labels, plain = labels_of(names, rating), rating[problem].tolist()
    shown, unit = scaled(rating, problem, elo), 1.0 if elo is None else ELO_POINTS
    order = best_first(plain)
    digits = 1 if elo is not None or any(abs(shown[k]) >= 100 for k in order) else 3

    def numbers(values: Sequence[float], digits: int = digits) -> list[str]:
        return [_number(values[k], digits) for k in order]

    columns = {"rank": _places([plain[k] for k in order]), "name": [labels[k] for k in order], "rating" if elo is None else "Elo": numbers(shown)}
    if stderr is not None:
        columns["stderr"] = numbers([unit * error for error in stderr[problem].tolist()])
    if interval is not None:
        columns["lower"], columns["upper"] = (numbers(scaled(bound, problem, elo)) for bound in interval)
    if ranks is not None:
        low, high = (bound[problem].tolist() for bound in ranks)
        columns["ranks"] = [f"{low[k]}-{high[k]}" if low[k] < high[k] else str(low[k]) for k in order]
    if best is not None:
        columns["P(best)"] = numbers(best[problem].tolist(), 3)
    if wins is not None:
        played = counted(wins, problem, rating)[1].nan_to_num().sum(1).tolist()
        columns["games"] = numbers(played, 0 if all(played[k] == round(played[k]) for k in order) else 1)
    lines = _aligned(columns)
    if tie_strength is not None:
        lines.append(f"tie strength: {_number(float(tie_strength[problem]), 3)}")
    if status is not None and int(status[problem]) != RatingStatus.CONVERGED:
        lines.append(_STATUS[RatingStatus(int(status[problem]))])
    return "\n".join(lines)


def require_problem(problem: int, rating: Tensor) -> None:
    whole("problem", problem, 0)
    require(problem < len(rating), "problem", f"one of {len(rating)} problems", problem)


def labels_of(names: Iterable[object] | None, rating: Tensor) -> list[str]:
    """Texts of all n candidates: their numbers without names."""
    n = rating.shape[1]
    labels = [str(name) for name in (range(n) if names is None else names)]
    require(len(labels) == n, "names", f"{n} names", len(labels))
    return labels


def scaled(values: Tensor, problem: int, elo: float | None) -> list[float]:
    """A problem's ratings, or bounds of them, in Elo points around ``elo`` where it is given."""
    if elo is None:
        return [float(x) for x in values[problem].tolist()]
    centre = finite("elo", elo)
    return [ELO_POINTS * x + centre for x in values[problem].tolist()]


def best_first(rating: Sequence[float]) -> list[int]:
    """Who takes part, from the highest rating to the lowest, equals in the order given, NaN last."""
    taking = [k for k in range(len(rating)) if rating[k] != -math.inf]
    return sorted(taking, key=lambda k: math.inf if math.isnan(rating[k]) else -rating[k])


def counted(wins: ArrayLike | PairCounts, problem: int, rating: Tensor) -> tuple[Tensor, Tensor]:
    """(points, games) [n, n] of a problem's candidates, on CPU, ties half a point. The diagonal is 0."""
    won, ties = pair_counts(wins)
    require_shape("wins", won, (*rating.shape, rating.shape[1]))
    won = won[problem].cpu().clone().fill_diagonal_(0.0)
    drawn = torch.zeros_like(won) if ties is None else ties[problem].cpu().clone().fill_diagonal_(0.0)
    taking = (rating[problem] != -math.inf).unsqueeze(0).cpu()
    require_counts(won.unsqueeze(0), taking)
    require_counts(drawn.unsqueeze(0), taking, "ties")
    return won + drawn / 2, won + won.mT + drawn


def _places(ordered: Sequence[float]) -> list[str]:
    """Equals share the better rank; NaN has none."""
    return ["-" if math.isnan(x) else str(1 + ordered.index(x)) for x in ordered]


def _number(x: float, digits: int) -> str:
    return "-" if math.isnan(x) else f"{round(x, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.000


def _aligned(columns: dict[str, list[str]]) -> list[str]:
    """Names to the left, everything else to the right."""
    widths = {title: max(map(len, [title, *cells])) for title, cells in columns.items()}
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return ["  ".join(f"{cell:{'<' if title == 'name' else '>'}{widths[title]}}" for title, cell in zip(columns, row, strict=True)) for row in rows]
