"""Samples that show the same answers in other orders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rrm_core._validate import require, require_in_range, require_shape, require_tensor
from rrm_core.tournaments.inputs import seeded, whole


def shuffles(num_problems: int, samples: int, num_answers: int, seed: int) -> Tensor:
    """An order of the answers for each sample, all orders as likely: int64 [B, k, n], the answer shown at each place, as ``aggregate`` takes it.

    Raises:
        TypeError, ValueError: a number is no integer or too small; the seed is no integer of 64 bits.
    """
    problems, count = whole("num_problems", num_problems, 0), whole("num_answers", num_answers, 1)
    sizes = whole("samples", samples, 1), problems, count  # in this order more samples leave the first as they are
    keys = torch.rand(sizes, dtype=torch.float64, generator=seeded(seed))
    return keys.argsort(dim=-1, stable=True).transpose(0, 1).contiguous()


def shuffled(answers: Sequence[str], permutation: Tensor) -> list[list[str]]:
    """One problem's answers as each of its samples shows them. permutation: int64 [k, n], of ``shuffles``.

    Raises:
        TypeError, ValueError: rows are no permutations of the answers.
    """
    _require_permutations(permutation, ("k", len(answers)))
    return [[answers[i] for i in row] for row in permutation.tolist()]


def labels_shown(best: Tensor, permutation: Tensor) -> Tensor:
    """Where each sample shows the best answer, int64 [B * k], as ``reward`` takes it.

    Args:
        best: int64 [B], each problem's best answer.
        permutation: int64 [B, k, n], the answer shown at each place.

    Raises:
        TypeError, ValueError: rows are no permutations, or a best one is no answer.
    """
    _require_permutations(permutation, ("B", "k", "n"))
    require_tensor("best", best, (torch.int64,), permutation)
    require_shape("best", best, permutation.shape[:1])
    require_in_range("best", best, permutation.shape[2])
    return (permutation == best.view(-1, 1, 1)).to(torch.int8).argmax(-1).flatten()


def _require_permutations(permutation: Tensor, shape: tuple[int | str, ...]) -> None:
    require_tensor("permutation", permutation, (torch.int64,))
    require_shape("permutation", permutation, shape)
    inside = torch.arange(permutation.shape[-1], device=permutation.device)
    require(bool((permutation.sort(-1).values == inside).all()), "permutation", "permutations of the answers", "an answer twice, or none of them")
