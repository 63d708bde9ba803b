"""Wins of pairs, Elo and the sweeps of Bradley-Terry ratings, in float64 throughout. No atomics; whatever is added up is added up in one order.

Wins: matches [M] sorted by cell [B * n * n], stably, so that a lane adds up its cell in the order of the matches: the bits of a plain loop.
Elo: one program per order and problem goes through its matches one after the other; natural units (``rating * ln 10 / scale``, from 0).
Sweeps: one program per problem streams the rows of its games, candidate after candidate; the strengths stay in registers.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

NAN = float("nan")
CELLS = {"BLOCK": 128, "num_warps": 4}

# ---- kernels


@triton.jit
def exp(x):
    """exp(x) to about one unit in the last place, x cut to [-708, 708]: Cody-Waite reduction to |r| <= log(2) / 2, then Taylor's series."""
    x = tl.minimum(tl.maximum(x, -708.0, propagate_nan=tl.PropagateNan.ALL), 708.0, propagate_nan=tl.PropagateNan.ALL)
    shifted = x * 1.4426950408889634 + 6755399441055744.0
    n = shifted - 6755399441055744.0
    r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10  # the first product is exact
    q = r * 1.6059043836821613e-10 + 2.08767569878681e-09
    q = q * r + 2.505210838544172e-08
    q = q * r + 2.755731922398589e-07
    q = q * r + 2.7557319223985893e-06
    q = q * r + 2.48015873015873e-05
    q = q * r + 0.0001984126984126984
    q = q * r + 0.001388888888888889
    q = q * r + 0.008333333333333333
    q = q * r + 0.041666666666666664
    q = q * r + 0.16666666666666666
    q = q * r + 0.5
    mantissa = (r * r * q + r) + 1.0
    exponent = (shifted.to(tl.int64, bitcast=True) - 0x4338000000000000 + 1023) << 52
    return mantissa * exponent.to(tl.float64, bitcast=True)


@triton.jit(do_not_specialize=["cells"])
def _count_kernel(
    share_ptr, weight_ptr, order_ptr, offsets_ptr, wins_ptr, ties_ptr, cells, SPLIT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """share, weight [M]; order [2 M]: twice a match's index, plus 1 for what second gets; offsets [cells + 1]; wins, ties [cells]."""
    o_cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_cell = o_cell < cells
    first = tl.load(offsets_ptr + o_cell, mask=m_cell, other=0)
    entries = tl.load(offsets_ptr + o_cell + 1, mask=m_cell, other=0) - first
    b_won = tl.zeros([BLOCK], tl.float64)
    b_tied = tl.zeros([BLOCK], tl.float64)
    for k in range(tl.max(entries)):
        m_entry = k < entries
        entry = tl.load(order_ptr + first + k, mask=m_entry, other=0)
        b_share = tl.load(share_ptr + entry // 2, mask=m_entry, other=0.0)
        b_weight = tl.load(weight_ptr + entry // 2, mask=m_entry, other=0.0)
        points = b_weight * tl.where(entry % 2 == 1, 1.0 - b_share, b_share)
        m_tie = SPLIT & (b_share == 0.5)
        b_won += tl.where(m_entry & ~m_tie, points, 0.0)
        if SPLIT:
            b_tied += tl.where(m_entry & m_tie, b_weight, 0.0)
    tl.store(wins_ptr + o_cell, b_won, mask=m_cell)
    if SPLIT:
        tl.store(ties_ptr + o_cell, b_tied, mask=m_cell)


@triton.jit(do_not_specialize=["num_matches", "num_problems", "num_candidates"])
def _elo_kernel(
    first_ptr, second_ptr, share_ptr, gain_ptr, order_ptr, offsets_ptr, rating_ptr, num_matches, num_problems, num_candidates
):  # fmt: skip
    """first, second, share, gain [M]; order [R, M] by problem; offsets [R, B + 1]; rating [R, B, n], 0 at the start."""
    task = tl.program_id(0).to(tl.int64)
    i_round, i_problem = task // num_problems, task % num_problems
    p_offsets = offsets_ptr + i_round * (num_problems + 1) + i_problem
    p_order, p_rating = order_ptr + i_round * num_matches, rating_ptr + task * num_candidates
    for at in range(tl.load(p_offsets), tl.load(p_offsets + 1)):
        i_match = tl.load(p_order + at)
        p_first, p_second = p_rating + tl.load(first_ptr + i_match), p_rating + tl.load(second_ptr + i_match)
        share, gain = tl.load(share_ptr + i_match), tl.load(gain_ptr + i_match)
        b_first, b_second = tl.load(p_first), tl.load(p_second)
        moved = gain * (share - 1.0 / (1.0 + exp(b_second - b_first)))
        tl.debug_barrier()  # everyone has read
        tl.store(p_first, b_first + moved)
        tl.store(p_second, b_second - moved)
        tl.debug_barrier()  # the next match sees it


@triton.jit(do_not_specialize=["size", "most"])
def _sweep_kernel(
    won_ptr, lost_ptr, limit_ptr, strength_ptr, steps_ptr, converged_ptr, size, most, BLOCK: tl.constexpr
):  # fmt: skip
    """won, lost [B, n + 1, n + 1], the fixed opponent of strength 1 last; limit [B, n], inf for who takes no part; size: n + 1."""
    i_problem = tl.program_id(0).to(tl.int64)
    candidates = size - 1
    o_candidate = tl.arange(0, BLOCK)
    m_candidate, m_row = o_candidate < candidates, o_candidate < size
    b_limit = tl.load(limit_ptr + i_problem * candidates + o_candidate, mask=m_candidate, other=float("inf"))
    m_taking = b_limit < float("inf")
    b_strength = tl.full([BLOCK], 1.0, tl.float64)
    steps = 0
    moving = 1
    while (moving == 1) & (steps <= most):
        m_moved = o_candidate < 0
        for i in range(candidates):
            o_cell = (i_problem * size + i) * size + o_candidate
            b_won = tl.load(won_ptr + o_cell, mask=m_row, other=0.0)
            b_lost = tl.load(lost_ptr + o_cell, mask=m_row, other=0.0)
            m_self = o_candidate == i
            strength = tl.sum(tl.where(m_self, b_strength, 0.0))
            b_inverse = 1.0 / (strength + b_strength)
            up, down = tl.sum(b_won * (b_strength * b_inverse)), tl.sum(b_lost * b_inverse)
            m_off = m_self & ~(tl.abs(up - strength * down) <= b_limit)  # NaN is off
            b_strength = tl.where(m_off, up / down, b_strength)
            m_moved = m_moved | m_off
        moving = tl.max(m_moved.to(tl.int32))
        steps += moving
        if moving == 1:
            b_chance = b_strength / (b_strength + 1.0)
            off = tl.sum(tl.where(m_taking, 0.5 - b_chance, 0.0))
            curvature = tl.sum(tl.where(m_taking, b_chance * (1.0 - b_chance), 0.0))
            b_strength = tl.where(m_taking, b_strength * exp(tl.minimum(tl.maximum(off / curvature, -1.0), 1.0)), b_strength)
    tl.store(strength_ptr + i_problem * candidates + o_candidate, b_strength, mask=m_candidate)
    tl.store(steps_ptr + i_problem, steps.to(tl.int64))
    tl.store(converged_ptr + i_problem, moving == 0)


# ---- launchers


def _read(
    first: Tensor, second: Tensor, outcome: Tensor, problem: Tensor | None, weight: Tensor | None, num_problems: int, num_candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Each match's problem (num_problems where it is to be skipped), share, and weight (NaN where it or the share is impossible)."""
    n = num_candidates
    problem = torch.zeros_like(first) if problem is None else problem
    share = outcome.to(torch.float64)
    weight = torch.ones_like(share) if weight is None else weight.to(torch.float64)
    skipped = (first < 0) | (first >= n) | (second < 0) | (second >= n) | (problem < 0) | (problem >= num_problems) | (first == second)
    wrong = (share < 0) | (share > 1) | (weight < 0) | ~weight.isfinite()
    return problem.masked_fill(skipped | share.isnan(), num_problems), share, weight.masked_fill(wrong, NAN)


def _count(
    first: Tensor,
    second: Tensor,
    outcome: Tensor,
    problem: Tensor | None,
    weight: Tensor | None,
    num_problems: int,
    num_candidates: int,
    split: bool,
) -> tuple[Tensor, Tensor]:
    n, cells = num_candidates, num_problems * num_candidates**2
    home, share, weight = _read(first, second, outcome, problem, weight, num_problems, n)
    cell = torch.stack(((home * n + first) * n + second, (home * n + second) * n + first), -1)  # [M, 2]
    cell = cell.masked_fill((home == num_problems).unsqueeze(-1), cells).flatten()
    by_cell, order = cell.sort(stable=True)
    offsets = torch.searchsorted(by_cell, torch.arange(cells + 1, device=first.device))
    wins = share.new_empty(num_problems, n, n)
    ties = torch.empty_like(wins) if split else wins
    if cells > 0:
        grid = (triton.cdiv(cells, CELLS["BLOCK"]),)
        _count_kernel[grid](share, weight, order, offsets, wins, ties, cells, SPLIT=split, **CELLS, enable_fp_fusion=False)
    return wins, ties


def pairwise_wins(*arguments: Tensor | int | None) -> Tensor:
    return _count(*arguments, split=False)[0]


def pairwise_counts(*arguments: Tensor | int | None) -> tuple[Tensor, Tensor]:
    return _count(*arguments, split=True)


def elo(
    first: Tensor,
    second: Tensor,
    outcome: Tensor,
    problem: Tensor | None,
    weight: Tensor | None,
    orders: Tensor | None,
    num_problems: int,
    num_candidates: int,
    k: float,
    init: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    home, share, weight = _read(first, second, outcome, problem, weight, num_problems, num_candidates)
    total, unit = len(first), math.log(10) / scale
    order = torch.arange(total, device=first.device).unsqueeze(0) if orders is None else orders
    outside = (order < 0) | (order >= total)
    order = order.masked_fill(outside, 0)
    by_problem, sorted_order = home[order].masked_fill(outside, num_problems).sort(dim=1, stable=True)
    order = order.gather(1, sorted_order)
    rounds = len(order)
    ends = torch.arange(num_problems + 1, device=first.device).expand(rounds, -1)
    offsets = torch.searchsorted(by_problem, ends.contiguous())
    rating = share.new_zeros(rounds, num_problems, num_candidates)
    if rating.numel() > 0 and total > 0:
        _elo_kernel[(rounds * num_problems,)](
            first.contiguous(), second.contiguous(), share.contiguous(), weight * (k * unit), order, offsets, rating, total, num_problems,
            num_candidates, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
    return init + rating.mean(0) / rating.new_full((), unit), offsets[0].diff()  # by a tensor: CUDA multiplies by a number's reciprocal


def sweep(games: Tensor, limit: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """games [B, n + 1, n + 1], n + 1 <= 128, limit [B, n] -> strengths [B, n], sweeps [B], whether they were enough [B]."""
    batch, size = games.shape[:2]
    strength = limit.new_empty(batch, size - 1)
    steps = torch.empty(batch, dtype=torch.int64, device=games.device)
    converged = torch.empty(batch, dtype=torch.bool, device=games.device)
    if batch > 0:
        block = max(16, triton.next_power_of_2(size))
        _sweep_kernel[(batch,)](
            games.contiguous(), games.mT.contiguous(), limit.contiguous(), strength, steps, converged, size, most, BLOCK=block,
            num_warps=max(1, block // 64), enable_fp_fusion=False,
        )  # fmt: skip
    return strength, steps, converged
