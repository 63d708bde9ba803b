"""Votes as plain Python: lists in, lists out, one problem after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def elect(score, taking, used, draw):
    """(winner, score, used, tied) of one problem."""
    score = [x if there else -math.inf for x, there in zip(score, taking, strict=True)]
    top = max((x for x, there in zip(score, taking, strict=True) if there), default=None)
    tied = [c for c, there in enumerate(taking) if there and score[c] == top] if used and not any(math.isnan(x) for x in score) else []
    return tied[math.floor(draw * len(tied))] if tied else -1, score, used, len(tied)


def sum_votes(scores, permutation, valid, mask, meta, draws, k_meta):
    results = []
    for b, samples in enumerate(scores):
        taking = mask[b]
        usable = []
        for j, shown in enumerate(samples):
            finite = all(math.isfinite(x) for x, c in zip(shown, permutation[b][j], strict=True) if taking[c])
            if valid[b][j] and finite and not (meta and math.isnan(meta[b][j])):
                usable.append(j)
        if meta:
            usable = sorted(sorted(usable, key=lambda j: -meta[b][j])[:k_meta])  # stable: of equals the first
        total = [0.0] * len(taking)
        for j in usable:
            for x, c in zip(samples[j], permutation[b][j], strict=True):
                total[c] += x if taking[c] else 0.0
        results.append(elect(total, taking, len(usable), draws[b]))
    return results


def majority_votes(votes, weight, valid, mask, draws):
    results = []
    for b, row in enumerate(votes):
        total, used = [0.0] * len(mask[b]), 0
        for j, c in enumerate(row):
            if valid[b][j] and 0 <= c < len(mask[b]) and mask[b][c]:
                total[c] += weight[b][j]
                used += 1
        results.append(elect(total, mask[b], used, draws[b]))
    return results


def drawn(seed: int, batch: int) -> list[float]:
    return torch.rand(batch, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tolist()


def assert_same(got, expected) -> None:
    """Bit for bit: sums are taken in the order of the samples everywhere."""
    assert got.winner.tolist() == [r[0] for r in expected]
    assert torch.equal(got.score, torch.tensor([r[1] for r in expected], dtype=torch.float64).view(got.score.shape))
    assert got.used.tolist() == [r[2] for r in expected]
    assert got.tied.tolist() == [r[3] for r in expected]
    assert [x.dtype for x in got] == [torch.int64, torch.float64, torch.int64, torch.int64]


def nested(shape: tuple[int, ...], entry: Callable[[], Any]) -> Any:
    return [nested(shape[1:], entry) for _ in range(shape[0])] if shape else entry()
