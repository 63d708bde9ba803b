"""Registration of the tournament ops: schemas, shapes, plain bodies. Meaning and validation are in the references and ``ops``. No gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rrm_core._library import define_op
from rrm_core.tournaments import reference, reference_bradley_terry

_MATCHES = "Tensor first, Tensor second, Tensor outcome, Tensor? problem, Tensor? weight"
_SIZES = "SymInt num_problems, SymInt num_candidates"


def _fake_wins(first: Tensor, *others: Any) -> Tensor:
    num_problems, n = others[-2:]
    return first.new_empty((num_problems, n, n), dtype=torch.float64)


def _fake_counts(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _fake_wins(*arguments), _fake_wins(*arguments)


def _fake_elo(first: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    num_problems, n = others[5:7]
    return first.new_empty((num_problems, n), dtype=torch.float64), first.new_empty(num_problems)


def _fake_ratings(wins: Tensor, mask: Tensor | None, prior: float, stderr: bool, max_iter: int, tol: float) -> reference_bradley_terry.RatingResults:
    batch, n, _ = wins.shape
    rating = wins.new_empty((batch, n), dtype=torch.float64)
    error = wins.new_empty((batch, n) if stderr else (0,), dtype=torch.float64)
    return rating, error, wins.new_empty(batch, dtype=torch.int64), wins.new_empty(batch, dtype=torch.int64)


pairwise_wins = define_op(f"pairwise_wins({_MATCHES}, {_SIZES}) -> Tensor", reference.pairwise_wins, _fake_wins, in_float64=True)

pairwise_counts = define_op(
    f"pairwise_counts({_MATCHES}, {_SIZES}) -> (Tensor wins, Tensor ties)", reference.pairwise_counts, _fake_counts, in_float64=True
)

elo = define_op(
    f"elo({_MATCHES}, Tensor? orders, {_SIZES}, float k, float init, float scale) -> (Tensor rating, Tensor matches)",
    reference.elo,
    _fake_elo,
    in_float64=True,
)

bradley_terry = define_op(
    "bradley_terry(Tensor wins, Tensor? mask, float prior, bool stderr, int max_iter, float tol)"
    " -> (Tensor rating, Tensor stderr, Tensor status, Tensor iterations)",
    reference_bradley_terry.bradley_terry,
    _fake_ratings,
    in_float64=True,
)
