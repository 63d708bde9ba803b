"""Votes of judges in plain PyTorch, float64 throughout: sums of sampled scores and counts of verdicts, added up in the order of the samples.

Source: DeepSeek-GRM (arXiv:2504.02495), Eq. 13 and 14, and its vote of the samples that a meta reward model rates highest.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

VoteResults: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]  # winner [B], score [B, n], used [B], tied [B]


def _places(permutation: Tensor) -> Tensor:
    """Where each candidate was shown [B, k, n]; a row that is no permutation leaves somebody at -1."""
    batch, k, n = permutation.shape
    in_range = (permutation >= 0) & (permutation < n)
    place = permutation.new_full((batch, k, n + 1), -1)
    shown = torch.arange(n, device=permutation.device).expand(batch, k, n)
    return place.scatter(2, permutation.masked_fill(~in_range, n), shown)[..., :n]


def _highest(meta: Tensor, usable: Tensor, k_meta: int) -> Tensor:
    """The k_meta usable samples rated highest, of equals the first [B, k]."""
    usable = usable & ~meta.isnan()
    rated = meta.to(torch.float64).masked_fill(~usable, -torch.inf) + 0.0  # -0 is 0, to a radix sort too
    order = rated.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, usable.gather(1, order).to(torch.int8).argsort(dim=1, descending=True, stable=True))  # -inf is a rating too
    first = (torch.arange(meta.shape[1], device=meta.device) < k_meta).expand_as(usable)
    return usable & torch.zeros_like(usable).scatter(1, order, first)


def _elect(total: Tensor, taking: Tensor, used: Tensor, draws: Tensor | None) -> VoteResults:
    """The candidate number floor(draws * tied) of those who share the top. A NaN among the scores leaves nobody."""
    score = total.masked_fill(~taking, -torch.inf)
    top = (score == score.amax(1, keepdim=True)) & taking & (used > 0).unsqueeze(1)
    tied = top.sum(1)
    passed = (torch.zeros_like(used) if draws is None else draws * tied).unsqueeze(1)
    rank = top.cumsum(1)
    chosen = top & (~(rank <= passed) | (rank == tied.unsqueeze(1)))
    return chosen.to(torch.int8).argmax(1).masked_fill(tied == 0, -1), score, used, tied


def sum_vote(
    scores: Tensor, permutation: Tensor | None, valid: Tensor | None, mask: Tensor | None, meta: Tensor | None, draws: Tensor | None, k_meta: int
) -> VoteResults:
    batch, k, n = scores.shape
    scores = scores.to(torch.float64)
    kept = torch.ones((batch, k), dtype=torch.bool, device=scores.device) if valid is None else valid
    taking = torch.ones((batch, n), dtype=torch.bool, device=scores.device) if mask is None else mask
    if permutation is not None:
        place = _places(permutation)
        kept = kept & (place >= 0).all(-1)
        scores = scores.gather(2, place.clamp(min=0))
    kept = kept & (scores.isfinite() | ~taking.unsqueeze(1)).all(-1)
    if meta is not None:
        kept = _highest(meta, kept, k_meta)
    total = scores.new_zeros(batch, n)
    for j in range(k):
        total = total + scores[:, j].masked_fill(~kept[:, j, None], 0.0)
    return _elect(total, taking, kept.sum(1), draws)


def majority_vote(
    votes: Tensor, weight: Tensor | None, valid: Tensor | None, mask: Tensor | None, draws: Tensor | None, num_candidates: int
) -> VoteResults:
    batch, k = votes.shape
    taking = torch.ones((batch, num_candidates), dtype=torch.bool, device=votes.device) if mask is None else mask
    counted = (votes >= 0) & (votes < num_candidates)
    named = votes.masked_fill(~counted, 0)
    counted = counted & taking.gather(1, named)
    if valid is not None:
        counted = counted & valid
    share = counted.to(torch.float64)
    if weight is not None:
        share = weight.to(torch.float64).masked_fill((weight < 0) | ~weight.isfinite(), torch.nan).masked_fill(~counted, 0.0)
    total = share.new_zeros(batch, num_candidates)
    for j in range(k):  # one of a row at a time, so that no device can add up in another order
        total = total.scatter_add(1, named[:, j : j + 1], share[:, j : j + 1])
    return _elect(total, taking, counted.sum(1), draws)
