"""Davidson ratings in plain PyTorch, float64 throughout: Newton's method with a line search.

With x = theta_i - theta_j and eta the log of the tie strength, a win of i, of j and a tie are as ``exp(x / 2)``, ``exp(-x / 2)`` and ``exp(eta)``.
The log likelihood is concave in theta and eta. The prior of the strengths is Bradley-Terry's fixed opponent, that of eta as many virtual games of
equals, half of them tied.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from rrm_core._validate import values_readable
from rrm_core.tournaments.reference_bradley_terry import Judged, all_reach, centred, factor_of, projection, rating_status, read_counts

_NAN = float("nan")
_FLOAT64 = torch.finfo(torch.float64)
_SHORTENINGS = 12  # of a step, to a quarter each, until the loss falls

# rating, stderr, log of the tie strength, what the log posterior gains by it, how that falls, what it does to the ratings, status, iterations
DavidsonResults = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class _Ascent(NamedTuple):
    """Of the log posterior, by theta and eta; the rest are second derivatives, negated. ``curvature`` [B, n + 1, n + 1] by pairs."""

    theta: Tensor  # [B, n]
    eta: Tensor  # [B]
    curvature: Tensor
    slope: Tensor  # [B, n], of theta by eta
    of_eta: Tensor  # [B]


class _Game(NamedTuple):
    """Counts [B, n, n] and what they are played for."""

    counts: Judged
    prior: float
    free: bool  # whether eta is sought

    @property
    def both(self) -> Tensor:
        """Games each way, virtual ones included [B, n + 1, n + 1]."""
        c = self.counts
        return pad(c.wins + c.wins.mT + c.ties, (0, 1, 0, 1), value=self.prior)


def _read(wins: Tensor, ties: Tensor, mask: Tensor | None) -> Judged:
    counts = read_counts(wins, ties, mask)
    return counts._replace(ties=(counts.ties + counts.ties.mT) / 2)


def _log_chances(theta: Tensor, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a win of i, of j, and of a tie [B, n, n]."""
    half, even = (theta.unsqueeze(-1) - theta.unsqueeze(-2)) / 2, eta.view(-1, 1, 1)
    norm = torch.logsumexp(torch.stack((half, -half, even.expand_as(half))), 0)
    return half - norm, -half - norm, even - norm


def _loss(game: _Game, theta: Tensor, eta: Tensor) -> Tensor:
    """The negative log posterior [B], up to a constant."""
    win, _, tie = _log_chances(theta, eta)
    played = (game.counts.wins * win).sum((-2, -1)) + (game.counts.ties * tie).sum((-2, -1)) / 2
    virtual = (logsigmoid(theta) + logsigmoid(-theta)).masked_fill(~game.counts.taking, 0.0).sum(-1)
    if game.free:
        virtual = virtual + logsigmoid(eta - math.log(2)) + logsigmoid(math.log(2) - eta)
    return -played - game.prior / 2 * virtual


def _ascend(game: _Game, theta: Tensor, eta: Tensor) -> _Ascent:
    (wins, ties, taking, *_), prior = game.counts, game.prior
    win, loss, tie = (x.exp() for x in _log_chances(theta, eta))
    up = wins * (loss + tie / 2) + ties / 2 * loss  # what won games and ties ask for beyond the expected; its transpose is asked of j
    fixed = torch.sigmoid(theta)
    ascent = ((up - up.mT).sum(-1) + prior * (0.5 - fixed)).masked_fill(~taking, 0.0)
    games = wins + wins.mT + ties
    curvature = pad(games * (win * loss + (win + loss) * tie / 4), (0, 1, 0, 1))
    curvature[:, -1, :-1] = curvature[:, :-1, -1] = prior * fixed * (1 - fixed)
    of_eta, spread = (ties * (win + loss) - (wins + wins.mT) * tie).sum((-2, -1)) / 2, (games * tie * (win + loss)).sum((-2, -1)) / 2
    if game.free:
        even = torch.sigmoid(eta - math.log(2))
        of_eta, spread = of_eta + prior * (0.5 - even), spread + prior * even * (1 - even)
    return _Ascent(ascent, of_eta, curvature, (games * tie * (loss - win) / 2).sum(-1), spread)


def _residual(game: _Game, ascent: _Ascent) -> Tensor:
    """What is off a game [B]: the worst of the candidates', and of the ties'."""
    played = game.both.sum(-1)[:, :-1].clamp(min=_FLOAT64.tiny)
    off = (ascent.theta.abs() / played).amax(-1)
    if not game.free:
        return off
    total = (game.both[:, :-1, :-1].sum((-2, -1)) / 2 + game.prior).clamp(min=_FLOAT64.tiny)
    return torch.maximum(off, ascent.eta.abs() / total)


def _solve(game: _Game, ascent: _Ascent) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> Newton's steps of theta and eta, H^-1 slope [B, n], the curvature that eta has left [B]; and the factor of H, theta's part."""
    factor = factor_of(ascent.curvature, game.both, game.counts.pairs, game.prior == 0)
    direction, left = torch.cholesky_solve(torch.stack((ascent.theta, ascent.slope), -1), factor).unbind(-1)
    remaining = ascent.of_eta - (ascent.slope * left).sum(-1)
    move = (ascent.eta - (ascent.slope * direction).sum(-1)) / remaining
    move = torch.where((remaining > 0) & game.free, move, 0.0)
    return direction - move.unsqueeze(-1) * left, move, left, remaining


def _newton(game: _Game, eta: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> theta [B, n], eta, converged, iterations [B]."""
    theta, iterations = game.counts.wins.new_zeros(game.counts.taking.shape), torch.zeros_like(eta, dtype=torch.int64)
    for _ in range(max_iter):
        ascent = _ascend(game, theta, eta)
        active = _residual(game, ascent) > tol
        if values_readable(theta) and not bool(active.any()):
            break
        step, move, _, _ = _solve(game, ascent)
        before, promised = _loss(game, theta, eta), (ascent.theta * step).sum(-1) + ascent.eta * move
        part = active.to(theta.dtype)
        rounding = 64 * _FLOAT64.eps * before
        for _ in range(_SHORTENINGS):
            falls = _loss(game, theta + part.unsqueeze(-1) * step, eta + part * move) <= before - 1e-4 * part * promised + rounding
            if values_readable(theta) and bool((falls | ~active).all()):
                break
            part = torch.where(falls, part, part / 4)
        theta, eta, iterations = theta + part.unsqueeze(-1) * step, eta + part * move, iterations + active
    return theta, eta, _residual(game, _ascend(game, theta, eta)) <= tol, iterations


def _pinned(wins: Tensor, ties: Tensor) -> Tensor:
    """Whether some way round has more wins than ties on it [B], wins and ties being bool [B, n, n].

    If not, there are strengths two apart for every win and at most two for every tie: all may grow along them, the tie strength with them. In the
    terms of shortest paths, with -1 for a win and 1 for a tie, that is whether there is a negative cycle.
    """
    n = wins.shape[-1]
    far = torch.where(wins, -1.0, torch.where(ties, 1.0, float("inf")))
    for k in range(n):
        far = torch.minimum(far, far[:, :, k : k + 1] + far[:, k : k + 1, :]).clamp(min=-float(n))
    return (far.diagonal(dim1=-2, dim2=-1) < 0).any(-1)


def games_of(wins: Tensor, ties: Tensor, mask: Tensor | None) -> Tensor:
    """All games of those taking part."""
    counts = _read(wins, ties, mask)
    return counts.wins.sum() + counts.ties.sum() / 2


def has_shared_mle(wins: Tensor, ties: Tensor, mask: Tensor | None) -> Tensor:
    """Whether problems that have strengths for any tie strength pin down one for all of them."""
    counts = _read(wins, ties, mask)
    met, drawn = counts.wins > 0, counts.ties > 0
    strong = all_reach(met | drawn, counts.pairs)
    return (strong & drawn.any(-1).any(-1)).any() & (strong & _pinned(met, drawn)).any()


def davidson(
    wins: Tensor, ties: Tensor, mask: Tensor | None, log_tie: Tensor | None, prior: float, errors: bool, max_iter: int, tol: float
) -> DavidsonResults:
    counts = _read(wins, ties, mask)
    met, drawn, pairs = counts.wins > 0, counts.ties > 0, counts.pairs
    connected, has_mle = all_reach(met | met.mT | drawn, pairs), all_reach(met | drawn, pairs)
    broken = counts.broken
    if log_tie is None:
        has_mle = has_mle & drawn.any(-1).any(-1) & _pinned(met, drawn)
        eta = counts.wins.new_zeros(len(wins))
    else:
        eta = log_tie.to(torch.float64)
        broken = broken | eta.isnan()
    unknown = broken if prior > 0 else broken | ~has_mle
    cleared = (x.masked_fill(unknown.view(-1, 1, 1), 0.0) for x in (counts.wins, counts.ties))
    game = _Game(counts._replace(**dict(zip(("wins", "ties"), cleared, strict=True))), prior, log_tie is None)
    theta, eta, converged, iterations = _newton(game, eta.masked_fill(unknown, 0.0), max_iter, tol)

    ascent = _ascend(game, theta, eta)
    _, _, left, remaining = _solve(game, ascent)
    mean = left.masked_fill(~counts.taking, 0.0).sum(-1, keepdim=True) / counts.taking.sum(-1, keepdim=True).clamp(min=1)
    slope = mean - left
    status = rating_status(connected, has_mle, broken | ~converged)
    rating, error = centred(theta, counts.taking, unknown), theta.new_empty(0)
    hidden = unknown.unsqueeze(-1) | ~counts.taking
    if errors:
        factor = factor_of(ascent.curvature, game.both, pairs, prior == 0)
        variance = torch.linalg.solve_triangular(factor, projection(pairs), upper=False).square().sum(-2)
        if game.free:
            variance = variance + slope.square() / remaining.unsqueeze(-1)
        error = variance.sqrt().masked_fill(hidden, _NAN)
    eta, score, remaining = (x.masked_fill(unknown, _NAN) for x in (eta, ascent.eta, remaining))
    return rating, error, eta, score, remaining, slope.masked_fill(hidden, _NAN), status, iterations
