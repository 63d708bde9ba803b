"""Scores of pairs, power iteration and wins of resampled matches, in float64 throughout. No atomics; whatever is added up is added up in one order.

Scores: a program per candidate streams its row and column. Power iteration: a program per problem streams the rows of its matrix; the vector
stays in registers. Resampled wins: as tournaments.py counts, a lane per replicate's cell.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128

# ---- kernels


@triton.jit(do_not_specialize=["n"])
def _pair_scores_kernel(wins_ptr, score_ptr, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """wins [B, n, n], score [B, n]; KIND 0: borda, 1: win_rate, 2: copeland."""
    task = tl.program_id(0).to(tl.int64)
    i_problem, i = task // n, task % n
    p_wins = wins_ptr + i_problem * n * n
    o = tl.arange(0, BLOCK)
    b_sum = tl.zeros([BLOCK], tl.float64)
    b_met = tl.zeros([BLOCK], tl.float64)
    for start in range(0, n, BLOCK):
        o_other = start + o
        m = (o_other < n) & (o_other != i)
        b_won = tl.load(p_wins + i * n + o_other, mask=m, other=0.0)
        b_lost = tl.load(p_wins + o_other * n + i, mask=m, other=0.0)
        b_games = b_won + b_lost
        m &= b_games != 0.0
        if KIND == 0:
            b_point = b_won
        elif KIND == 1:
            b_point = b_won / tl.where(m, b_games, 1.0)
        else:
            b_point = tl.where(b_won > b_lost, 1.0, tl.where(b_won == b_lost, 0.5, tl.where(b_won < b_lost, 0.0, b_games)))
        b_sum += tl.where(m, b_point, 0.0)
        b_met += tl.where(m, 1.0, 0.0)
    total = tl.sum(b_sum)
    if KIND == 1:
        total = total / tl.sum(b_met)
    tl.store(score_ptr + task, total)


@triton.jit(do_not_specialize=["n", "max_iter"])
def _power_iteration_kernel(
    matrix_ptr, start_ptr, shift_ptr, vector_ptr, converged_ptr, iterations_ptr, teleport, tol, n, max_iter, BLOCK: tl.constexpr
):  # fmt: skip
    """matrix [B, n, n], start and vector [B, n], shift, converged and iterations [B]; teleport, tol [1]."""
    i_problem = tl.program_id(0).to(tl.int64)
    o = tl.arange(0, BLOCK)
    m = o < n
    b_start = tl.load(start_ptr + i_problem * n + o, mask=m, other=0.0)
    shift, jump, limit = tl.load(shift_ptr + i_problem), tl.load(teleport), tl.load(tol)
    b_x = b_start
    steps = 0
    moving = 1
    while (moving == 1) & (steps < max_iter):
        b_next = shift * b_x + jump * b_start
        for i in range(n):
            b_row = tl.load(matrix_ptr + (i_problem * n + i) * n + o, mask=m, other=0.0)
            b_next += tl.where(o == i, tl.sum(b_row * b_x), 0.0)
        b_next = b_next / tl.sum(b_next)
        moving = (~(tl.sum(tl.abs(b_next - b_x)) <= limit)).to(tl.int32)  # NaN moves
        b_x = b_next
        steps += 1
    tl.store(vector_ptr + i_problem * n + o, b_x, mask=m)
    tl.store(converged_ptr + i_problem, moving == 0)
    tl.store(iterations_ptr + i_problem, steps.to(tl.int64))


@triton.jit(do_not_specialize=["cells", "matches"])
def _resampled_kernel(share_ptr, weight_ptr, times_ptr, order_ptr, offsets_ptr, wins_ptr, cells, matches, BLOCK: tl.constexpr):
    """share, weight [M], times [R, M]; order [2 M]: twice a match's index, plus 1 for what second gets; offsets [cells + 1]; wins [R, cells]."""
    i_replicate = tl.program_id(1).to(tl.int64)
    o_cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_cell = o_cell < cells
    first = tl.load(offsets_ptr + o_cell, mask=m_cell, other=0)
    entries = tl.load(offsets_ptr + o_cell + 1, mask=m_cell, other=0) - first
    b_won = tl.zeros([BLOCK], tl.float64)
    for k in range(tl.max(entries)):
        m_entry = k < entries
        entry = tl.load(order_ptr + first + k, mask=m_entry, other=0)
        b_times = tl.load(times_ptr + i_replicate * matches + entry // 2, mask=m_entry, other=0)
        b_share = tl.load(share_ptr + entry // 2, mask=m_entry, other=0.0)
        b_weight = tl.load(weight_ptr + entry // 2, mask=m_entry, other=0.0)
        points = b_times.to(tl.float64) * (b_weight * tl.where(entry % 2 == 1, 1.0 - b_share, b_share))
        b_won += tl.where(m_entry, points, 0.0)
    tl.store(wins_ptr + i_replicate * cells + o_cell, b_won, mask=m_cell)


# ---- launchers


def pair_scores(wins: Tensor, kind: int) -> Tensor:
    wins = wins.to(torch.float64).contiguous()
    score = wins.new_empty(wins.shape[:2])
    if score.numel() > 0:
        _pair_scores_kernel[(score.numel(),)](wins, score, wins.shape[1], KIND=kind, BLOCK=BLOCK, num_warps=1, enable_fp_fusion=False)
    return score


def power_iteration(matrix: Tensor, start: Tensor, shift: Tensor, teleport: float, max_iter: int, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    matrix, start, shift = (x.to(torch.float64).contiguous() for x in (matrix, start, shift))
    batch, n = start.shape
    vector = torch.empty_like(start)
    converged = torch.empty(batch, dtype=torch.bool, device=start.device)
    iterations = torch.empty(batch, dtype=torch.int64, device=start.device)
    teleport, tol = start.new_full((1,), teleport), start.new_full((1,), tol)  # as pointers: Triton takes a float for a float32
    if batch > 0:
        block = max(16, triton.next_power_of_2(n))
        _power_iteration_kernel[(batch,)](
            matrix, start, shift, vector, converged, iterations, teleport, tol, n, max_iter, BLOCK=block, num_warps=max(1, min(8, block // 64)),
            enable_fp_fusion=False,
        )  # fmt: skip
    return vector, converged, iterations


def resampled_wins(
    first: Tensor, second: Tensor, outcome: Tensor, weight: Tensor | None, offsets: Tensor, draws: Tensor, num_candidates: int
) -> Tensor:
    n, problems, (replicates, matches) = num_candidates, len(offsets) - 1, draws.shape
    size, cells = offsets.diff(), problems * n * n
    problem = torch.searchsorted(offsets, torch.arange(matches, device=draws.device), right=True).sub_(1).clamp_(0, max(0, len(size) - 1))
    match = offsets[:-1][problem] + (draws.to(torch.int64).bitwise_and(0x7FFFFFFF) * size[problem]).bitwise_right_shift(31)
    times = torch.zeros(replicates, matches, dtype=torch.int32, device=draws.device)
    times.scatter_add_(1, match, times.new_ones(1).expand(replicates, matches))  # of integers: in any order
    share = outcome.to(torch.float64).contiguous()
    weight = torch.ones_like(share) if weight is None else weight.to(torch.float64).contiguous()
    cell = torch.stack(((problem * n + first) * n + second, (problem * n + second) * n + first), -1)
    inside = (first >= 0) & (first < n) & (second >= 0) & (second < n)
    by_cell, order = cell.masked_fill(~inside.unsqueeze(-1), cells).flatten().sort(stable=True)
    ends = torch.searchsorted(by_cell, torch.arange(cells + 1, device=first.device))
    wins = share.new_empty(replicates, problems, n, n)
    if wins.numel() > 0:
        for start in range(0, replicates, 65535):  # as many as a grid's second side takes
            some = slice(start, start + 65535)
            grid = (triton.cdiv(cells, BLOCK), len(wins[some]))
            _resampled_kernel[grid](
                share, weight, times[some], order, ends, wins[some], cells, matches, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False
            )
    return wins
