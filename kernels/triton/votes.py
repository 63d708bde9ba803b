"""Votes of judges, in float64 throughout. A candidate's score is added up by one lane in the order of the samples: the bits of a plain loop.

Sums: one program per sample asks whether it can be counted, torch chooses those rated highest, then one program per problem and block of
candidates adds up. Majority: the same without the first two. At last one program per problem goes through its scores for the winner.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

Votes = tuple[Tensor, Tensor, Tensor, Tensor]
WIDEST = 1024  # candidates of one block

# ---- kernels


@triton.jit(do_not_specialize=["k", "n"])
def _usable_kernel(
    score_ptr, place_ptr, mask_ptr, usable_ptr, k, n, PERMUTED: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """score [B, k, n]; place [B, k, n], where each candidate was shown, -1 in a row that is no permutation; mask [B, n]; usable [B, k]."""
    i_sample = tl.program_id(0).to(tl.int64)
    m_bad = tl.arange(0, BLOCK) < 0
    for first in range(0, n, BLOCK):
        o_candidate = first + tl.arange(0, BLOCK)
        m_candidate = o_candidate < n
        o_place = o_candidate.to(tl.int64)
        if PERMUTED:
            o_place = tl.load(place_ptr + i_sample * n + o_candidate, mask=m_candidate, other=0)
            m_bad = m_bad | (o_place < 0)
        m_read = m_candidate & (o_place >= 0)
        if MASKED:
            m_read = m_read & (tl.load(mask_ptr + (i_sample // k) * n + o_candidate, mask=m_candidate, other=0) != 0)
        b_score = tl.load(score_ptr + i_sample * n + o_place, mask=m_read, other=0.0)
        m_bad = m_bad | ~(tl.abs(b_score) < float("inf"))
    tl.store(usable_ptr + i_sample, tl.max(m_bad.to(tl.int32)) == 0)


@triton.jit(do_not_specialize=["k", "n"])
def _sum_kernel(
    score_ptr, place_ptr, mask_ptr, kept_ptr, total_ptr, k, n, PERMUTED: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """score, place, mask as above; kept [B, k]; total [B, n], -inf for who takes no part."""
    i_problem = tl.program_id(0).to(tl.int64)
    o_candidate = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_candidate = o_candidate < n
    m_taking = m_candidate
    if MASKED:
        m_taking = m_taking & (tl.load(mask_ptr + i_problem * n + o_candidate, mask=m_candidate, other=0) != 0)
    b_total = tl.zeros([BLOCK], tl.float64)
    for j in range(k):
        i_sample = i_problem * k + j
        if tl.load(kept_ptr + i_sample) != 0:
            o_place = o_candidate.to(tl.int64)
            if PERMUTED:
                o_place = tl.load(place_ptr + i_sample * n + o_candidate, mask=m_taking, other=0)
            b_total += tl.load(score_ptr + i_sample * n + o_place, mask=m_taking, other=0.0)
    tl.store(total_ptr + i_problem * n + o_candidate, tl.where(m_taking, b_total, float("-inf")), mask=m_candidate)


@triton.jit(do_not_specialize=["k", "n"])
def _majority_kernel(vote_ptr, weight_ptr, mask_ptr, total_ptr, k, n, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    """vote [B, k], -1 where it is not counted; weight [B, k]; mask and total as above."""
    i_problem = tl.program_id(0).to(tl.int64)
    o_candidate = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_candidate = o_candidate < n
    m_taking = m_candidate
    if MASKED:
        m_taking = m_taking & (tl.load(mask_ptr + i_problem * n + o_candidate, mask=m_candidate, other=0) != 0)
    b_total = tl.zeros([BLOCK], tl.float64)
    for j in range(k):
        vote, weight = tl.load(vote_ptr + i_problem * k + j), tl.load(weight_ptr + i_problem * k + j)
        b_total += tl.where(o_candidate == vote, weight, 0.0)
    tl.store(total_ptr + i_problem * n + o_candidate, tl.where(m_taking, b_total, float("-inf")), mask=m_candidate)


@triton.jit(do_not_specialize=["n"])
def _elect_kernel(
    score_ptr, mask_ptr, used_ptr, draw_ptr, winner_ptr, tied_ptr, n, MASKED: tl.constexpr, DRAWN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """score, mask [B, n]; used, draw, winner, tied [B]."""
    i_problem = tl.program_id(0).to(tl.int64)
    b_top = tl.full([BLOCK], float("-inf"), tl.float64)
    m_broken = b_top > 0.0
    for first in range(0, n, BLOCK):
        o_candidate = first + tl.arange(0, BLOCK)
        b_score = tl.load(score_ptr + i_problem * n + o_candidate, mask=o_candidate < n, other=float("-inf"))
        m_broken = m_broken | (b_score != b_score)
        b_top = tl.where(b_score > b_top, b_score, b_top)
    electing = (tl.load(used_ptr + i_problem) > 0) & (tl.max(m_broken.to(tl.int32)) == 0)
    top = tl.where(electing, tl.max(b_top), float("nan"))  # which nobody has

    b_tied = tl.zeros([BLOCK], tl.int32)
    for first in range(0, n, BLOCK):
        o_candidate = first + tl.arange(0, BLOCK)
        m_tied = o_candidate < n
        if MASKED:
            m_tied = m_tied & (tl.load(mask_ptr + i_problem * n + o_candidate, mask=m_tied, other=0) != 0)
        b_score = tl.load(score_ptr + i_problem * n + o_candidate, mask=m_tied, other=float("nan"))
        b_tied += (b_score == top).to(tl.int32)
    tied = tl.sum(b_tied)
    passed = tied.to(tl.float64) * 0.0
    if DRAWN:
        passed = tl.load(draw_ptr + i_problem) * tied.to(tl.float64)

    winner = n
    before = tied * 0
    for first in range(0, n, BLOCK):
        o_candidate = first + tl.arange(0, BLOCK)
        m_tied = o_candidate < n
        if MASKED:
            m_tied = m_tied & (tl.load(mask_ptr + i_problem * n + o_candidate, mask=m_tied, other=0) != 0)
        b_score = tl.load(score_ptr + i_problem * n + o_candidate, mask=m_tied, other=float("nan"))
        m_tied = b_score == top
        b_rank = before + tl.cumsum(m_tied.to(tl.int32))
        m_chosen = m_tied & (~(b_rank.to(tl.float64) <= passed) | (b_rank == tied))
        winner = tl.minimum(winner, tl.min(tl.where(m_chosen, o_candidate, n)))
        before += tl.sum(m_tied.to(tl.int32))
    tl.store(winner_ptr + i_problem, tl.where(tied > 0, winner, -1).to(tl.int64))
    tl.store(tied_ptr + i_problem, tied.to(tl.int64))


# ---- launchers


def _blocks(n: int) -> dict[str, int]:
    block = min(WIDEST, max(16, triton.next_power_of_2(n)))
    return {"BLOCK": block, "num_warps": max(1, block // 256), "enable_fp_fusion": False}


def _places(permutation: Tensor) -> Tensor:
    """Where each candidate was shown [B, k, n]; a row that is no permutation leaves somebody at -1."""
    batch, k, n = permutation.shape
    in_range = (permutation >= 0) & (permutation < n)
    place = permutation.new_full((batch, k, n + 1), -1)
    shown = torch.arange(n, device=permutation.device).expand(batch, k, n)
    return place.scatter_(2, permutation.masked_fill(~in_range, n), shown)[..., :n].contiguous()


def _highest(meta: Tensor, usable: Tensor, k_meta: int) -> Tensor:
    """The k_meta usable samples rated highest, of equals the first [B, k]."""
    usable = usable & ~meta.isnan()
    rated = meta.to(torch.float64).masked_fill(~usable, -torch.inf) + 0.0  # -0 is 0, to a radix sort too
    order = rated.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, usable.gather(1, order).to(torch.int8).argsort(dim=1, descending=True, stable=True))  # -inf is a rating too
    first = (torch.arange(meta.shape[1], device=meta.device) < k_meta).expand_as(usable)
    return usable & torch.zeros_like(usable).scatter_(1, order, first)


def _elect(score: Tensor, mask: Tensor | None, used: Tensor, draws: Tensor | None) -> Votes:
    batch, n = score.shape
    winner, tied = used.new_empty(batch), used.new_empty(batch)
    if batch > 0:
        draws = None if draws is None else draws.to(torch.float64).contiguous()
        _elect_kernel[(batch,)](score, mask, used, draws, winner, tied, n, MASKED=mask is not None, DRAWN=draws is not None, **_blocks(n))
    return winner, score, used, tied


def sum_vote(
    scores: Tensor, permutation: Tensor | None, valid: Tensor | None, mask: Tensor | None, meta: Tensor | None, draws: Tensor | None, k_meta: int
) -> Votes:
    batch, k, n = scores.shape
    scores = scores.to(torch.float64).contiguous()
    mask = None if mask is None else mask.contiguous()
    place = None if permutation is None else _places(permutation)
    options = {"PERMUTED": place is not None, "MASKED": mask is not None, **_blocks(n)}
    kept = torch.empty((batch, k), dtype=torch.bool, device=scores.device)
    if kept.numel() > 0:
        _usable_kernel[(batch * k,)](scores, place, mask, kept, k, n, **options)
    if valid is not None:
        kept = kept & valid
    if meta is not None:
        kept = _highest(meta, kept, k_meta)
    total = scores.new_empty(batch, n)
    if batch > 0:
        _sum_kernel[(batch, triton.cdiv(n, options["BLOCK"]))](scores, place, mask, kept, total, k, n, **options)
    return _elect(total, mask, kept.sum(1), draws)


def majority_vote(
    votes: Tensor, weight: Tensor | None, valid: Tensor | None, mask: Tensor | None, draws: Tensor | None, num_candidates: int
) -> Votes:
    (batch, k), n = votes.shape, num_candidates
    mask = None if mask is None else mask.contiguous()
    counted = (votes >= 0) & (votes < n)
    if mask is not None:
        counted = counted & mask.gather(1, votes.masked_fill(~counted, 0))
    if valid is not None:
        counted = counted & valid
    weight = torch.ones_like(votes, dtype=torch.float64) if weight is None else weight.to(torch.float64)
    weight = weight.masked_fill((weight < 0) | ~weight.isfinite(), torch.nan).contiguous()
    total = weight.new_empty(batch, n)
    if batch > 0:
        options = {"MASKED": mask is not None, **_blocks(n)}
        named = votes.masked_fill(~counted, -1).contiguous()
        _majority_kernel[(batch, triton.cdiv(n, options["BLOCK"]))](named, weight, mask, total, k, n, **options)
    return _elect(total, mask, counted.sum(1), draws)
