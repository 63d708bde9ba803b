"""Bradley-Terry ratings in plain PyTorch, float64 throughout, by damped Newton.

The prior is a further opponent, fixed at strength 0, in the last row and column of the wins: there it needs no
formulas of its own. With x = theta_i - theta_j, every pair that met adds ``(w_ij + w_ji) * sigmoid(x) * sigmoid(-x)`` of curvature.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from rrm_core._validate import values_readable

_NAN = float("nan")
_FLOAT64 = torch.finfo(torch.float64)

# How far a Newton step may take a difference back toward 0: freely tried, and proven (see ``_step``).
_LONG_MOVE, _SAFE_MOVE = 4.0, 0.5

RatingResults = tuple[Tensor, Tensor, Tensor, Tensor]
Fitted: TypeAlias = tuple[Tensor, Tensor, Tensor]  # theta [B, n], converged [B], iterations [B]
Fit: TypeAlias = Callable[[Tensor, Tensor, bool, int, float], Fitted]


class RatingStatus(enum.IntEnum):
    """What became of one problem."""

    CONVERGED = 0
    NO_MLE = 1  # some group of candidates never lost a point to the rest: without a prior the ratings run away
    DISCONNECTED = 2  # some candidates were never compared, not even through others
    NOT_CONVERGED = 3


class Errors(enum.IntEnum):
    """What standard errors are made of: nothing, the Hessian, or the Hessian around what was seen of the games' spread."""

    NONE = 0
    HESSIAN = 1
    SANDWICH = 2


class Judged(NamedTuple):
    """What was counted, among those taking part."""

    wins: Tensor  # [B, n, n], outright
    ties: Tensor  # [B, n, n]
    taking: Tensor  # [B, n]
    pairs: Tensor  # [B, n, n], both taking part
    broken: Tensor  # [B], the numbers are no counts


def read_counts(wins: Tensor, ties: Tensor | None, mask: Tensor | None) -> Judged:
    wins = wins.to(torch.float64)
    batch, n, _ = wins.shape
    eye = torch.eye(n, dtype=torch.bool, device=wins.device)
    taking = eye.new_ones((batch, n)) if mask is None else mask
    pairs = taking.unsqueeze(-1) & taking.unsqueeze(-2)
    wins, ties = ((x.to(torch.float64) if x is not None else torch.zeros_like(wins)).masked_fill(~pairs | eye, 0.0) for x in (wins, ties))
    broken = (wins < 0).any(-1).any(-1) | (ties < 0).any(-1).any(-1) | ~(wins + ties).sum((-2, -1)).isfinite()
    return Judged(wins, ties, taking, pairs, broken)


def rating_status(connected: Tensor, has_mle: Tensor, failed: Tensor) -> Tensor:
    status = torch.full_like(connected, RatingStatus.CONVERGED, dtype=torch.int64)
    status = status.masked_fill(~has_mle, RatingStatus.NO_MLE).masked_fill(~connected, RatingStatus.DISCONNECTED)
    return status.masked_fill(failed, RatingStatus.NOT_CONVERGED)


def centred(theta: Tensor, taking: Tensor, unknown: Tensor) -> Tensor:
    """Ratings [B, n]: mean 0 over those taking part, -inf for the others, NaN where unknown [B]."""
    mean = theta.sum(-1, keepdim=True) / taking.sum(-1, keepdim=True).clamp(min=1)
    return (theta - mean).masked_fill(unknown.unsqueeze(-1), _NAN).masked_fill(~taking, float("-inf"))


def bradley_terry(
    wins: Tensor, ties: Tensor | None, mask: Tensor | None, prior: float, errors: int, max_iter: int, tol: float, fit: Fit | None = None
) -> RatingResults:
    """``fit``: what finds theta instead of ``newton``, with its arguments and results."""
    counts = read_counts(wins, ties, mask)
    points, pairs = counts.wins + counts.ties / 2, counts.pairs
    connected, has_mle = all_reach((points > 0) | (points > 0).mT, pairs), all_reach(points > 0, pairs)
    unknown = counts.broken if prior > 0 else counts.broken | ~has_mle

    games = pad(points.masked_fill(unknown.view(-1, 1, 1), 0.0), (0, 1, 0, 1), value=prior / 2)
    theta, converged, iterations = (fit or newton)(games, pairs, prior == 0, max_iter, tol)

    status = rating_status(connected, has_mle, counts.broken | ~converged)
    rating = centred(theta, counts.taking, unknown)
    if errors == Errors.NONE:
        return rating, theta.new_empty(0), status, iterations
    error = _stderr(theta, games, pairs, prior == 0) if errors == Errors.HESSIAN else _sandwich(theta, games, counts, prior == 0)
    return rating, error.masked_fill(unknown.unsqueeze(-1) | ~counts.taking, _NAN), status, iterations


def all_reach(beats: Tensor, pairs: Tensor) -> Tensor:
    """Whether a path leads from each candidate taking part to each other [B]; beats, pairs bool [B, n, n]."""
    n = beats.shape[-1]
    reach = beats | torch.eye(n, dtype=torch.bool, device=beats.device)
    for _ in range((n - 2).bit_length()):  # paths of up to 1, 2, 4, ... edges, n - 1 being enough
        reach = (reach.float() @ reach.float()) > 0
    return (reach | ~pairs).all(-1).all(-1)


def differences(theta: Tensor) -> Tensor:
    """theta_i - theta_j [B, n + 1, n + 1], the fixed opponent last."""
    strength = pad(theta, (0, 1))
    return strength.unsqueeze(-1) - strength.unsqueeze(-2)


def projection(pairs: Tensor) -> Tensor:
    """P, onto mean 0 over those taking part [B, n, n]."""
    taking = pairs.diagonal(dim1=-2, dim2=-1)
    return torch.diag_embed(taking.to(torch.float64)) - pairs / taking.sum(-1).clamp(min=1).view(-1, 1, 1)


def _loss(x: Tensor, games: Tensor) -> Tensor:
    """The negative log posterior [B], up to a constant."""
    return -(games * logsigmoid(x)).sum((-2, -1))


def _ascent(chance: Tensor, games: Tensor) -> Tensor:
    """The gradient of the log posterior [B, n]; chance: sigmoid(x), its transpose is sigmoid(-x). Summed pair by pair: no late cancellation."""
    surprise = games * chance.mT
    return (surprise.sum(-1) - surprise.sum(-2))[:, :-1]


def played(both: Tensor) -> Tensor:
    """Games of each candidate, virtual ones included [B, n]; both: games each way."""
    return both.sum(-1)[:, :-1].clamp(min=_FLOAT64.tiny)


def _cholesky(chance: Tensor, both: Tensor, pairs: Tensor, gauge: bool) -> Tensor:
    return factor_of(both * chance * chance.mT, both, pairs, gauge)


def factor_of(curvature: Tensor, both: Tensor, pairs: Tensor, gauge: bool) -> Tensor:
    """The Cholesky factor of the Hessian [B, n, n] that pairs' curvature [B, n + 1, n + 1] adds up to; the identity for candidates who take no
    part."""
    taking = pairs.diagonal(dim1=-2, dim2=-1)
    diagonal = curvature.sum(-1)[:, :-1]
    # Enough to keep rounding from breaking the factorisation, too little to be seen in a rating
    ridge = 8 * both.shape[-1] * _FLOAT64.eps * played(both)
    hessian = torch.diag_embed((diagonal + ridge).masked_fill(~taking, 1.0)) - curvature[:, :-1, :-1]
    if gauge:  # without a prior only differences count: any stiffness of the mean will do
        stiffness = (diagonal.sum(-1) / taking.sum(-1).clamp(min=1) ** 2).view(-1, 1, 1)
        hessian = hessian + torch.where(stiffness > 0, stiffness, 1.0) * pairs
    factor: Tensor = torch.linalg.cholesky_ex(hessian)[0]
    return factor


def _damping(x: Tensor, dx: Tensor, both: Tensor, limit: float) -> Tensor:
    """The largest factor up to 1 with which no difference further than ``limit`` from 0 moves back toward 0 by more than ``limit`` [B]."""
    back = torch.where((both > 0) & (x > limit), -dx, 0.0).amax((-2, -1))  # x and dx are antisymmetric: one sign is enough
    return (limit / back).clamp(max=1.0)


def _step(x: Tensor, dx: Tensor, promised: Tensor, games: Tensor, both: Tensor) -> Tensor:
    """The part [B] of Newton's step dx with which the loss falls for certain; promised [B]: the fall to first order.

    A curvature shrinks while its difference moves away from 0 and grows by at most exp(r) on a way of r toward it. So a part with r = 1/2
    gets at least 1 - exp(1/2) / 2 of what is promised, wherever it starts. A longer one is tried first and kept if the loss falls.
    (A bound on the step itself would have to be walked off: 49 steps of 2 for a path of 64 candidates, each beating the next by 19 to 1.)
    """
    long = _damping(x, dx, both, _LONG_MOVE)
    falls = _loss(x + long.view(-1, 1, 1) * dx, games) <= _loss(x, games) - 1e-4 * long * promised
    return torch.where(falls, long, _damping(x, dx, both, _SAFE_MOVE))


def newton(games: Tensor, pairs: Tensor, gauge: bool, max_iter: int, tol: float) -> Fitted:
    """games [B, n + 1, n + 1] -> theta [B, n], converged [B], iterations [B]."""
    theta = games.new_zeros(games.shape[0], games.shape[1] - 1)
    iterations = torch.zeros(games.shape[0], dtype=torch.int64, device=games.device)
    both = games + games.mT
    total = played(both)
    for _ in range(max_iter):
        x = differences(theta)
        chance = torch.sigmoid(x)
        ascent = _ascent(chance, games)
        active = (ascent.abs() / total).amax(-1) > tol
        if values_readable(games) and not bool(active.any()):
            break
        direction = torch.cholesky_solve(ascent.unsqueeze(-1), _cholesky(chance, both, pairs, gauge)).squeeze(-1)
        part = _step(x, differences(direction), (ascent * direction).sum(-1), games, both)
        theta = torch.where(active.unsqueeze(-1), theta + part.unsqueeze(-1) * direction, theta)
        iterations = iterations + active
    residual = (_ascent(torch.sigmoid(differences(theta)), games).abs() / total).amax(-1)
    return theta, residual <= tol, iterations


def _stderr(theta: Tensor, games: Tensor, pairs: Tensor, gauge: bool) -> Tensor:
    """sqrt(diag(P H^-1 P)) [B, n], P the projection onto mean 0."""
    factor = _cholesky(torch.sigmoid(differences(theta)), games + games.mT, pairs, gauge)
    root: Tensor = torch.linalg.solve_triangular(factor, projection(pairs), upper=False)
    return root.square().sum(-2).sqrt()


def _sandwich(theta: Tensor, games: Tensor, counts: Judged, gauge: bool) -> Tensor:
    """sqrt(diag(P H^-1 G H^-1 P)) [B, n], G the sum over games of the squares of what each adds to the ascent. Virtual games don't vary."""
    chance = torch.sigmoid(differences(theta))
    u = torch.cholesky_solve(projection(counts.pairs), _cholesky(chance, games + games.mT, counts.pairs, gauge)).mT
    chance = chance[:, :-1, :-1]
    surprise = counts.wins * chance.mT.square()
    spread = surprise + surprise.mT + counts.ties * (0.5 - chance).square()
    middle = torch.diag_embed(spread.sum(-1)) - spread
    return ((u @ middle) * u).sum(-1).clamp(min=0.0).sqrt()
