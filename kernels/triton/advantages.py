"""Advantages of grouped rewards, in one launch.

Per group of n rewards x: smallest + mean(x - smallest) is the mean up to float32's rounding, its own error the mean of the differences to it. So
c = (x - mean) - mean(x - mean) is exactly 0 for equal rewards and precise at any offset; std = range * sqrt(sum((c / range)^2) / (n - 1)). Several
groups of at most SHORT rows share a tile [GROUPS, LANES]; a longer one is a tile of its own, [1, WIDE].

A group's sums: each lane adds every LANES-th (WIDE-th) row in order, then neighbouring lanes are added, two by two. So a group's bits depend on its
own rows and nothing else, however the groups are given. float32 throughout, float64 for float64 rewards. No atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rrm_core._triton.common import INFINITY, lane_sum
from rrm_core._triton.configs import GROUP_TILES

# Baselines, as in rrm_core/advantages/reference.py; 0 is the mean.
OTHERS = tl.constexpr(1)
WEIGHTED = tl.constexpr(2)
GIVEN = tl.constexpr(3)
SHARE = tl.constexpr(4)
TOP_TWO = tl.constexpr(5)

# ---- kernels


@triton.jit
def divide(x, y):
    """To the nearest number."""
    if x.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit
def square_root(x):
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def rows_at(order_ptr, position, m_position, HAS_ORDER: tl.constexpr):
    if HAS_ORDER:
        return tl.load(order_ptr + position, mask=m_position, other=0)
    else:
        return position


@triton.jit
def load_rewards(
    rewards_ptr, mask_ptr, order_ptr, begin, rows, start, HAS_MASK: tl.constexpr, HAS_ORDER: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """Of each group [GROUPS] the rewards [GROUPS, LANES] from its row ``start`` on, whether they count, where they are and whether they are there."""
    o_row = (start + tl.arange(0, LANES))[None, :]
    m_row = o_row < rows[:, None]
    row = rows_at(order_ptr, begin[:, None] + o_row, m_row, HAS_ORDER)
    x = tl.load(rewards_ptr + row, mask=m_row, other=float("nan"))
    counts = x == x
    if HAS_MASK:
        counts = counts & (tl.load(mask_ptr + row, mask=m_row, other=0) != 0)
    return x, counts, row, m_row


@triton.jit
def advantages_of_groups(
    rewards_ptr, mask_ptr, order_ptr, each_ptr, advantage_ptr, mean_ptr, std_ptr, size_ptr, keep_ptr, group, begin, rows, m_group, eps,
    HAS_MASK: tl.constexpr, HAS_ORDER: tl.constexpr, BASELINE: tl.constexpr, POPULATION: tl.constexpr, DIVIDE: tl.constexpr,
    RAW_SINGLETONS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Groups [GROUPS] with so many rows from position ``begin``; those out of m_group have no rows."""
    longest = tl.max(rows, 0)
    zeros = tl.zeros((group.shape[0], LANES), rewards_ptr.dtype.element_ty)
    low, high, count = zeros + INFINITY, zeros - INFINITY, zeros.to(tl.int32)
    for start in range(0, longest, LANES):
        x, counts, _, _ = load_rewards(rewards_ptr, mask_ptr, order_ptr, begin, rows, start, HAS_MASK, HAS_ORDER, LANES)
        count += counts.to(tl.int32)
        low, high = tl.minimum(low, tl.where(counts, x, INFINITY)), tl.maximum(high, tl.where(counts, x, -INFINITY))
    size = tl.sum(count, 1)
    n = size.to(zeros.dtype)
    smallest = tl.min(low, 1)
    top = tl.max(high, 1)
    spread = top - smallest
    broken = (size > 0) & ~(spread < INFINITY)
    keep = (spread > 0) & ~broken

    above = zeros
    for start in range(0, longest, LANES):
        x, counts, _, _ = load_rewards(rewards_ptr, mask_ptr, order_ptr, begin, rows, start, HAS_MASK, HAS_ORDER, LANES)
        above += tl.where(counts, x - smallest[:, None], 0.0)
    mean = smallest + divide(lane_sum(above), n)
    drift = zeros
    for start in range(0, longest, LANES):
        x, counts, _, _ = load_rewards(rewards_ptr, mask_ptr, order_ptr, begin, rows, start, HAS_MASK, HAS_ORDER, LANES)
        drift += tl.where(counts, x - mean[:, None], 0.0)
    shift = divide(lane_sum(drift), n)
    squares = zeros
    for start in range(0, longest, LANES):
        x, counts, _, _ = load_rewards(rewards_ptr, mask_ptr, order_ptr, begin, rows, start, HAS_MASK, HAS_ORDER, LANES)
        part = divide((x - mean[:, None]) - shift[:, None], spread[:, None])
        squares += tl.where(counts, part * part, 0.0)
    std = tl.where(keep, spread * square_root(divide(lane_sum(squares), n if POPULATION else n - 1.0)), 0.0)

    tl.store(mean_ptr + group, tl.where(broken, float("nan"), mean + shift), mask=m_group)
    tl.store(std_ptr + group, tl.where(broken, float("nan"), std), mask=m_group)
    tl.store(size_ptr + group, size.to(tl.int64), mask=m_group)
    tl.store(keep_ptr + group, keep, mask=m_group)

    divisor, centre = tl.full(n.shape, 1.0, n.dtype), tl.zeros_like(n)
    if DIVIDE:
        divisor = std + eps
    if BASELINE == OTHERS:
        divisor = divide(n - 1.0, n)
    if BASELINE == SHARE:
        divisor = mean + shift + eps
    if BASELINE == WEIGHTED:
        some = zeros
        for start in range(0, longest, LANES):
            _, counts, row, m_row = load_rewards(rewards_ptr, mask_ptr, order_ptr, begin, rows, start, HAS_MASK, HAS_ORDER, LANES)
            some += tl.where(counts, tl.load(each_ptr + row, mask=m_row, other=0.0), 0.0)
        weights = lane_sum(some)
        some = zeros
        for start in range(0, longest, LANES):
            x, counts, row, m_row = load_rewards(rewards_ptr, mask_ptr, order_ptr, begin, rows, start, HAS_MASK, HAS_ORDER, LANES)
            away = (x - mean[:, None]) - shift[:, None]
            some += tl.where(counts, tl.load(each_ptr + row, mask=m_row, other=0.0) * away, 0.0)
        centre = tl.where(weights > 0, divide(lane_sum(some), weights), 0.0)
    if BASELINE == TOP_TWO:
        times, second = zeros, zeros - INFINITY  # the largest occurs, and the second largest
        for start in range(0, longest, LANES):
            x, counts, _, _ = load_rewards(rewards_ptr, mask_ptr, order_ptr, begin, rows, start, HAS_MASK, HAS_ORDER, LANES)
            is_top = counts & (x == top[:, None])
            times += is_top.to(zeros.dtype)
            second = tl.maximum(second, tl.where(counts & ~is_top, x, -INFINITY))
        centre = tl.where(keep & (tl.sum(times, 1) < 2), top - tl.max(second, 1), 0.0)
    for start in range(0, longest, LANES):
        x, counts, row, m_row = load_rewards(rewards_ptr, mask_ptr, order_ptr, begin, rows, start, HAS_MASK, HAS_ORDER, LANES)
        if BASELINE == GIVEN:
            advantage = x - tl.load(each_ptr + row, mask=m_row, other=0.0)
        else:
            away = ((x - mean[:, None]) - shift[:, None]) - centre[:, None]
            if BASELINE == TOP_TWO:
                away = tl.where(x == top[:, None], centre[:, None], 0.0)
            advantage = tl.where(keep[:, None], divide(away, divisor[:, None]), 0.0)
            if RAW_SINGLETONS:
                advantage = tl.where((size == 1)[:, None], x, advantage)
        advantage = tl.where(broken[:, None], float("nan"), advantage)
        tl.store(advantage_ptr + row, tl.where(counts, advantage, 0.0), mask=m_row)


@triton.jit
def load_offset(offsets_ptr, group, m_group, num_rows):
    return tl.minimum(tl.maximum(tl.load(offsets_ptr + group, mask=m_group, other=0), 0), num_rows)


@triton.jit
def load_bounds(offsets_ptr, group, m_group, num_rows):
    """Where groups begin, and how many rows they have."""
    begin = load_offset(offsets_ptr, group, m_group, num_rows)
    return begin, tl.maximum(load_offset(offsets_ptr, group + 1, m_group, num_rows) - begin, 0)


@triton.jit
def leave_out(order_ptr, advantage_ptr, begin, end, HAS_ORDER: tl.constexpr, WIDE: tl.constexpr):
    """NaN for positions of no group."""
    o_lane = tl.arange(0, WIDE)
    for start in range(begin, end, WIDE):
        m_row = start + o_lane < end
        row = rows_at(order_ptr, start + o_lane, m_row, HAS_ORDER)
        tl.store(advantage_ptr + row, tl.full((WIDE,), float("nan"), advantage_ptr.dtype.element_ty), mask=m_row)


@triton.jit(do_not_specialize=["num_rows", "num_groups", "group_size"])
def _group_advantages_kernel(
    rewards_ptr, mask_ptr, order_ptr, offsets_ptr, each_ptr, advantage_ptr, mean_ptr, std_ptr, size_ptr, keep_ptr,
    num_rows, num_groups, group_size, eps, eps_rest,
    HAS_MASK: tl.constexpr, HAS_ORDER: tl.constexpr, HAS_OFFSETS: tl.constexpr, BASELINE: tl.constexpr, POPULATION: tl.constexpr,
    DIVIDE: tl.constexpr, RAW_SINGLETONS: tl.constexpr,
    GROUPS: tl.constexpr, LANES: tl.constexpr, SHORT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """GROUPS groups: those of equal size, or between offsets."""
    first = tl.program_id(0).to(tl.int64) * GROUPS
    group = first + tl.arange(0, GROUPS)
    m_group = group < num_groups
    eps = tl.zeros((1,), rewards_ptr.dtype.element_ty) + eps + eps_rest
    if HAS_OFFSETS:
        begin, rows = load_bounds(offsets_ptr, group, m_group, num_rows)
        if first == 0:
            leave_out(order_ptr, advantage_ptr, 0, load_offset(offsets_ptr, 0, True, num_rows), HAS_ORDER, WIDE)
        if first + GROUPS >= num_groups:
            leave_out(order_ptr, advantage_ptr, load_offset(offsets_ptr, num_groups, True, num_rows), num_rows, HAS_ORDER, WIDE)
        m_group = m_group & (rows <= SHORT)
    else:
        begin = group * group_size
        rows = tl.zeros((GROUPS,), tl.int64) + group_size
    advantages_of_groups(
        rewards_ptr, mask_ptr, order_ptr, each_ptr, advantage_ptr, mean_ptr, std_ptr, size_ptr, keep_ptr, group, begin,
        tl.where(m_group, rows, 0), m_group, eps, HAS_MASK, HAS_ORDER, BASELINE, POPULATION, DIVIDE, RAW_SINGLETONS, LANES,
    )  # fmt: skip
    if HAS_OFFSETS and tl.max(rows, 0) > SHORT:
        for i in range(GROUPS):
            long = tl.zeros((1,), tl.int64) + (first + i)
            m_long = long < num_groups
            long_begin, long_rows = load_bounds(offsets_ptr, long, m_long, num_rows)
            if tl.max(long_rows, 0) > SHORT:
                advantages_of_groups(
                    rewards_ptr, mask_ptr, order_ptr, each_ptr, advantage_ptr, mean_ptr, std_ptr, size_ptr, keep_ptr, long, long_begin,
                    long_rows, m_long, eps, HAS_MASK, HAS_ORDER, BASELINE, POPULATION, DIVIDE, RAW_SINGLETONS, WIDE,
                )  # fmt: skip


# ---- launchers


def sort_rows(ids, num_groups):
    """The rows by ascending id, those of one id in their order, and where among them the groups begin: ids 0 to num_groups - 1, or those that occur,
    for whose number the host has to wait."""
    ordered, order = torch.sort(ids, stable=True)
    if num_groups is None:
        counts = torch.unique_consecutive(ordered, return_counts=True)[1]
        return order, torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return order, torch.searchsorted(ordered, torch.arange(num_groups + 1, device=ids.device))


def group_advantages(rewards, ids, offsets, num_groups, mask, each, baseline, eps, population, divide, raw_singletons):
    order = None
    if ids is not None:
        order, offsets = sort_rows(ids, num_groups)
    rewards, mask, offsets, each = (None if x is None else x.contiguous() for x in (rewards, mask, offsets, each))
    n = rewards.shape[0]
    groups = num_groups if offsets is None else offsets.shape[0] - 1
    advantage, mean, std = rewards.new_empty(n), rewards.new_empty(groups), rewards.new_empty(groups)
    size, keep = rewards.new_empty(groups, dtype=torch.int64), rewards.new_empty(groups, dtype=torch.bool)
    if n == 0 and groups == 0:
        return advantage, mean, std, size, keep
    mostly_long = n > GROUP_TILES["SHORT"] * groups
    tiles = {**GROUP_TILES, "GROUPS": 1 if mostly_long else GROUP_TILES["GROUPS"]}
    if mostly_long and offsets is None:
        tiles |= {"LANES": tiles["WIDE"]}
    narrow_eps = torch.tensor(eps, dtype=torch.float32).item()
    _group_advantages_kernel[(max(1, triton.cdiv(groups, tiles["GROUPS"])),)](
        rewards, mask, order, offsets, each, advantage, mean, std, size, keep, n, groups, n // max(1, groups), narrow_eps, eps - narrow_eps,
        HAS_MASK=mask is not None, HAS_ORDER=order is not None, HAS_OFFSETS=offsets is not None, BASELINE=baseline, POPULATION=population,
        DIVIDE=divide, RAW_SINGLETONS=raw_singletons,
        **tiles, enable_fp_fusion=False,
    )  # fmt: skip
    return advantage, mean, std, size, keep
