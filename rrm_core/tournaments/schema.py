"""Registration of the tournament ops: schemas, shapes, plain bodies. Meaning and validation are in ``reference`` and ``ops``. No gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core._library import define_op
from rrm_core.tournaments import reference


def _fake_wins(
    first: Tensor, second: Tensor, outcome: Tensor, problem: Tensor | None, weight: Tensor | None, num_problems: int, num_candidates: int
) -> Tensor:
    return first.new_empty((num_problems, num_candidates, num_candidates), dtype=torch.float64)


def _fake_ratings(wins: Tensor, mask: Tensor | None, prior: float, stderr: bool, max_iter: int, tol: float) -> reference.RatingResults:
    batch, n, _ = wins.shape
    rating = wins.new_empty((batch, n), dtype=torch.float64)
    error = wins.new_empty((batch, n) if stderr else (0,), dtype=torch.float64)
    return rating, error, wins.new_empty(batch, dtype=torch.int64), wins.new_empty(batch, dtype=torch.int64)


pairwise_wins = define_op(
    "pairwise_wins(Tensor first, Tensor second, Tensor outcome, Tensor? problem, Tensor? weight, SymInt num_problems, SymInt num_candidates)"
    " -> Tensor",
    reference.pairwise_wins,
    _fake_wins,
    in_float64=True,
)

bradley_terry = define_op(
    "bradley_terry(Tensor wins, Tensor? mask, float prior, bool stderr, int max_iter, float tol)"
    " -> (Tensor rating, Tensor stderr, Tensor status, Tensor iterations)",
    reference.bradley_terry,
    _fake_ratings,
    in_float64=True,
)
