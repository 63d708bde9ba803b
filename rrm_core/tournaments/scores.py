"""Scores from the points of every pair, without a model of the matches. Array-likes in, float64 tensors out, many problems at once; no gradients:
inputs are detached."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import require, require_positive
from rrm_core.tournaments import schema
from rrm_core.tournaments.inputs import ArrayLike, PairCounts, pair_counts, require_counts, taking_part, whole
from rrm_core.tournaments.ratings import Ratings
from rrm_core.tournaments.reference_bradley_terry import all_reach, rating_status, read_counts
from rrm_core.tournaments.reference_scores import PAIR_SCORES


def _points(wins: ArrayLike | PairCounts, mask: Tensor | None = None) -> Tensor:
    won, ties = pair_counts(wins)
    require_counts(won, mask)
    if ties is None:
        return won
    require_counts(ties, mask, "ties")
    return won + ties / 2


def _score(wins: ArrayLike | PairCounts, kind: str, impl: Impl) -> Tensor:
    points = _points(wins)
    score: Tensor = schema.pair_scores.body(impl, points)(points, PAIR_SCORES[kind])
    return score


def borda(wins: ArrayLike | PairCounts, *, impl: Impl = None) -> Tensor:
    """Games won, ties half, over all opponents: ``wins.sum(-1)`` but for the diagonal, which is ignored. wins [B, n, n] -> float64 [B, n]."""
    return _score(wins, "borda", impl)


def win_rate(wins: ArrayLike | PairCounts, *, impl: Impl = None) -> Tensor:
    """Mean over the opponents met of the share won against each; NaN for a candidate that met nobody. wins [B, n, n] -> float64 [B, n].

    Equivalent to ``(wins / (wins + wins.mT)).nanmean(-1)``, the diagonal ignored. Source: the average win rate of LMArena and evalica.
    """
    return _score(wins, "win_rate", impl)


def copeland(wins: ArrayLike | PairCounts, *, impl: Impl = None) -> Tensor:
    """Opponents beaten, those drawn with half: who won more than half of their games has beaten. wins [B, n, n] -> float64 [B, n].

    Equivalent to ``(wins > wins.mT).sum(-1) + ((wins == wins.mT) & (wins > 0)).sum(-1) / 2``, the diagonal ignored. Source: Copeland (1951).
    """
    return _score(wins, "copeland", impl)


def pagerank(
    wins: ArrayLike | PairCounts,
    *,
    mask: ArrayLike | None = None,
    damping: float = 0.85,
    max_iter: int = 1000,
    tol: float = 1e-12,
    impl: Impl = None,
) -> Ratings:
    """Where a walk ends up that goes from candidates to those who beat them, as often as they did.

    Equivalent to::

        step = (wins / wins.sum(0)).nan_to_num(1 / n)  # of one problem; who lost nothing passes on to all
        while moving:
            x = damping * step @ x + (1 - damping) / n

    Args:
        wins, mask: as for ``bradley_terry``.
        damping: the share of steps that follow the games, in [0, 1); the others go anywhere.
        max_iter, tol: steps stop when one moves no more than ``tol`` in all, or after ``max_iter``. What is left to go is then at most
            ``tol * damping / (1 - damping)``.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        Ratings: rating [B, n], float64, adds up to 1 over those taking part, -inf for the others. stderr None. status int64 [B]: CONVERGED or
        NOT_CONVERGED: there is always one answer. iterations int64 [B]. Inputs are detached.

    Source: Page, Brin, Motwani and Winograd (1999); as evalica has it.

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    damping, tol, max_iter = require_positive("damping", damping, or_zero=True), require_positive("tol", tol), whole("max_iter", max_iter, 1)
    require(damping < 1, "damping", "a number in [0, 1)", damping)
    won, taking, pairs, broken = _square(wins, mask)
    lost = won.sum(-2, keepdim=True)
    size = taking.sum(-1).clamp(min=1)
    start = taking.double() / size.unsqueeze(-1)
    step = torch.where(lost > 0, won / lost, pairs * start.unsqueeze(-2))
    body = schema.power_iteration.body(impl, won)
    found, converged, iterations = body(damping * step, start, lost.new_zeros(len(won)), 1 - damping, max_iter, tol)
    converged = (converged | ~taking.any(-1)) & ~broken
    everyone = torch.ones_like(converged)
    return Ratings(_told(found, taking, broken), None, rating_status(everyone, everyone, ~converged), iterations * taking.any(-1))


def eigenvector(
    wins: ArrayLike | PairCounts,
    *,
    mask: ArrayLike | None = None,
    prior: float = 0.1,
    max_iter: int = 1000,
    tol: float = 1e-12,
    impl: Impl = None,
) -> Ratings:
    """The positive vector ``x`` with ``wins @ x`` in proportion to x: who beats the strong is strong.

    Equivalent to::

        value, vector = torch.linalg.eig(wins + prior / 2 / (n - 1))  # of one problem, the diagonal 0
        x = vector[:, value.real.argmax()].real
        rating = x / x.sum()

    Args:
        wins, mask: as for ``bradley_terry``.
        prior: virtual games of each candidate, shared out evenly over the others and half won. 0 is the plain eigenvector, which has no answer
            of its own where some group of candidates never lost a point to the rest.
        max_iter, tol: steps of the power iteration (on the matrix plus half its mean row sum, so that it can't go round in circles) stop when
            one moves no more than ``tol`` in all, or after ``max_iter``. What is left to go is more where groups hardly met: how much more
            depends on the second eigenvalue.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        Ratings: rating [B, n], float64, adds up to 1 over those taking part, -inf for the others; NaN without a prior where status is NO_MLE or
        DISCONNECTED. stderr None. status int64 [B]: as for ``bradley_terry``, about the data without the prior. iterations int64 [B]. Inputs are
        detached.

    Source: Landau (1895), Kendall (Biometrics 11, 1955), Keener (SIAM Review 35, 1993).

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    prior, tol, max_iter = require_positive("prior", prior, or_zero=True), require_positive("tol", tol), whole("max_iter", max_iter, 1)
    won, taking, pairs, broken = _square(wins, mask)
    connected, unique = all_reach((won > 0) | (won > 0).mT, pairs), all_reach(won > 0, pairs)
    size = taking.sum(-1).clamp(min=1)
    others = pairs & ~torch.eye(won.shape[1], dtype=torch.bool, device=won.device)
    matrix = won + others * (prior / 2 / (size - 1).clamp(min=1).double()).view(-1, 1, 1)
    total = matrix.sum((-2, -1))
    shift = torch.where(total > 0, total / size / 2, 1.0)
    body = schema.power_iteration.body(impl, won)
    found, converged, iterations = body(matrix, taking.double() / size.unsqueeze(-1), shift, 0.0, max_iter, tol)
    unknown = broken if prior > 0 else broken | ~unique
    failed = broken | ~(converged | unknown | ~taking.any(-1))
    return Ratings(_told(found, taking, unknown), None, rating_status(connected, unique, failed), iterations * taking.any(-1))


def _square(wins: ArrayLike | PairCounts, mask: ArrayLike | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points [B, n, n] among those taking part [B, n], their pairs [B, n, n], and whether the numbers are no counts [B]; points are 0 there."""
    points, _ = pair_counts(wins)
    taking = taking_part(mask, points)
    counts = read_counts(_points(wins, taking), None, taking)
    return counts.wins.masked_fill(counts.broken.view(-1, 1, 1), 0.0), counts.taking, counts.pairs, counts.broken


def _told(score: Tensor, taking: Tensor, unknown: Tensor) -> Tensor:
    return score.masked_fill(unknown.unsqueeze(-1), float("nan")).masked_fill(~taking, float("-inf"))
