"""Registration of the tournament ops: schemas, shapes, plain bodies. Meaning and validation are in the references and ``ops``. No gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rrm_core._library import define_op, launcher
from rrm_core.tournaments import reference, reference_bradley_terry, reference_davidson, reference_scores, reference_votes

_MATCHES = "Tensor first, Tensor second, Tensor outcome, Tensor? problem, Tensor? weight"
_SIZES = "SymInt num_problems, SymInt num_candidates"
_VOTES = "(Tensor winner, Tensor score, Tensor used, Tensor tied)"


def _fake_wins(first: Tensor, *others: Any) -> Tensor:
    num_problems, n = others[-2:]
    return first.new_empty((num_problems, n, n), dtype=torch.float64)


def _fake_counts(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _fake_wins(*arguments), _fake_wins(*arguments)


def _fake_elo(first: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    num_problems, n = others[5:7]
    return first.new_empty((num_problems, n), dtype=torch.float64), first.new_empty(num_problems)


def _fake_ratings(wins: Tensor, ties: Tensor | None, mask: Tensor | None, prior: float, errors: int, max_iter: int, tol: float) -> Any:
    batch, n, _ = wins.shape
    rating = wins.new_empty((batch, n), dtype=torch.float64)
    error = wins.new_empty((batch, n) if errors else (0,), dtype=torch.float64)
    return rating, error, wins.new_empty(batch, dtype=torch.int64), wins.new_empty(batch, dtype=torch.int64)


def _fake_davidson(
    wins: Tensor, ties: Tensor, mask: Tensor | None, log_tie: Tensor | None, prior: float, errors: bool, max_iter: int, tol: float
) -> Any:
    rating, error, status, iterations = _fake_ratings(wins, ties, mask, prior, int(errors), max_iter, tol)
    per_problem = [rating.new_empty(len(rating)) for _ in range(3)]
    return rating, error, *per_problem, torch.empty_like(rating), status, iterations


def _fake_power_iteration(matrix: Tensor, start: Tensor, shift: Tensor, teleport: float, max_iter: int, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    found, batch = start.new_empty(start.shape, dtype=torch.float64), len(start)
    return found, start.new_empty(batch, dtype=torch.bool), start.new_empty(batch, dtype=torch.int64)


def _fake_resampled(first: Tensor, second: Tensor, outcome: Tensor, weight: Tensor | None, offsets: Tensor, draws: Tensor, n: int) -> Tensor:
    return first.new_empty((len(draws), len(offsets) - 1, n, n), dtype=torch.float64)


_MOST_IN_REGISTERS = 1024  # candidates of a power iteration in Triton


def _fake_votes(batch: int, n: int, like: Tensor) -> reference_votes.VoteResults:
    score = like.new_empty((batch, n), dtype=torch.float64)
    winner, used, tied = (like.new_empty(batch, dtype=torch.int64) for _ in range(3))
    return winner, score, used, tied


def _fake_sum_vote(scores: Tensor, *others: Any) -> reference_votes.VoteResults:
    return _fake_votes(scores.shape[0], scores.shape[2], scores)


def _fake_majority_vote(votes: Tensor, *others: Any) -> reference_votes.VoteResults:
    return _fake_votes(votes.shape[0], others[-1], votes)


# What the Triton sweeps are good for, see kernels/cpu/tournaments_sweeps.h.
_MOST_SWEPT, _MOST_SWEEPS, _SWEEP_TOLERANCE = 127, 40, 0.25


def _fit_by_sweeps(games: Tensor, pairs: Tensor, gauge: bool, max_iter: int, tol: float) -> reference_bradley_terry.Fitted:
    """Sweeps in Triton, and Newton's method in torch for what they leave; how much that is, is all the device is waited for."""
    if pairs.shape[-1] > _MOST_SWEPT:
        return reference_bradley_terry.newton(games, pairs, gauge, max_iter, tol)
    limit = _SWEEP_TOLERANCE * tol * reference_bradley_terry.played(games + games.mT)
    limit = limit.masked_fill(~pairs.diagonal(dim1=-2, dim2=-1), float("inf"))
    strength, iterations, converged = launcher("tournaments:sweep")(games, limit, min(max_iter, _MOST_SWEEPS))
    left = (~converged).nonzero().squeeze(-1)
    theta = strength.log()
    if len(left) > 0:
        theta[left], converged[left], iterations[left] = reference_bradley_terry.newton(games[left], pairs[left], gauge, max_iter, tol)
    return theta, converged, iterations


def _triton_bradley_terry(wins: Tensor, ties: Tensor | None, mask: Tensor | None, *options: Any) -> reference_bradley_terry.RatingResults:
    prior, errors, max_iter, tol = options
    return reference_bradley_terry.bradley_terry(wins, ties, mask, prior, errors, max_iter, tol, _fit_by_sweeps)


def _triton_power_iteration(matrix: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    body = reference_scores.power_iteration if matrix.shape[-1] > _MOST_IN_REGISTERS else launcher("tournaments_ratings:power_iteration")
    found: tuple[Tensor, Tensor, Tensor] = body(matrix, *others)
    return found


pairwise_wins = define_op(
    f"pairwise_wins({_MATCHES}, {_SIZES}) -> Tensor", reference.pairwise_wins, _fake_wins, in_float64=True, triton="tournaments:pairwise_wins"
)

pairwise_counts = define_op(
    f"pairwise_counts({_MATCHES}, {_SIZES}) -> (Tensor wins, Tensor ties)",
    reference.pairwise_counts,
    _fake_counts,
    in_float64=True,
    triton="tournaments:pairwise_counts",
)

elo = define_op(
    f"elo({_MATCHES}, Tensor? orders, {_SIZES}, float k, float init, float scale) -> (Tensor rating, Tensor matches)",
    reference.elo,
    _fake_elo,
    in_float64=True,
    triton="tournaments:elo",
)

bradley_terry = define_op(
    "bradley_terry(Tensor wins, Tensor? ties, Tensor? mask, float prior, int errors, int max_iter, float tol)"
    " -> (Tensor rating, Tensor stderr, Tensor status, Tensor iterations)",
    reference_bradley_terry.bradley_terry,
    _fake_ratings,
    in_float64=True,
    triton=_triton_bradley_terry,
)

davidson = define_op(
    "davidson(Tensor wins, Tensor ties, Tensor? mask, Tensor? log_tie, float prior, bool errors, int max_iter, float tol)"
    " -> (Tensor rating, Tensor stderr, Tensor log_tie, Tensor score, Tensor curvature, Tensor slope, Tensor status, Tensor iterations)",
    reference_davidson.davidson,
    _fake_davidson,
    in_float64=True,
)

pair_scores = define_op(
    "pair_scores(Tensor wins, int kind) -> Tensor",
    reference_scores.pair_scores,
    lambda wins, kind: wins.new_empty(wins.shape[:2], dtype=torch.float64),
    in_float64=True,
    triton="tournaments_ratings:pair_scores",
)

power_iteration = define_op(
    "power_iteration(Tensor matrix, Tensor start, Tensor shift, float teleport, int max_iter, float tol)"
    " -> (Tensor vector, Tensor converged, Tensor iterations)",
    reference_scores.power_iteration,
    _fake_power_iteration,
    in_float64=True,
    triton=_triton_power_iteration,
)

resampled_wins = define_op(
    "resampled_wins(Tensor first, Tensor second, Tensor outcome, Tensor? weight, Tensor offsets, Tensor draws, SymInt num_candidates) -> Tensor",
    reference_scores.resampled_wins,
    _fake_resampled,
    in_float64=True,
    triton="tournaments_ratings:resampled_wins",
)

sum_vote = define_op(
    f"sum_vote(Tensor scores, Tensor? permutation, Tensor? valid, Tensor? mask, Tensor? meta, Tensor? draws, SymInt k_meta) -> {_VOTES}",
    reference_votes.sum_vote,
    _fake_sum_vote,
    in_float64=True,
    triton="votes:sum_vote",
)

majority_vote = define_op(
    f"majority_vote(Tensor votes, Tensor? weight, Tensor? valid, Tensor? mask, Tensor? draws, SymInt num_candidates) -> {_VOTES}",
    reference_votes.majority_vote,
    _fake_majority_vote,
    in_float64=True,
    triton="votes:majority_vote",
)
