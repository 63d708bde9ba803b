"""Softmax statistics of x / T with the temperature T taken out: max = largest x, rest = sum exp((x - max) / T) - 1 without the maximum's own term (so
that nothing is lost when it dominates), moment = sum exp((x - max) / T) (max - x). ``c`` is log2(e) / T.

No column: {LOWEST, anything, 0}. A NaN makes max NaN. +inf makes max +inf and the rest meaningless. All sums run in a fixed order.
"""

import triton
import triton.language as tl

from rrm_core._triton.common import INFINITY, LOWEST, lane_sum, log1p, maximum, minimum, ordered_sum


@triton.jit
def _ordered_pairs(x):
    """x [lanes, w] -> the larger and the smaller of each two neighbours [lanes, w / 2]."""
    a, b = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
    return maximum(a, b), minimum(a, b)


@triton.jit
def _terms(x, top, c):
    """Sums over the columns of x [lanes, w]: exp((x - top) / T), and the same times top - x."""
    away = top[:, None] - x
    weight = tl.exp2(-away * c)
    return lane_sum(weight), lane_sum(weight * away)


@triton.jit
def accumulate(a, b, top, rest, moment, c):
    """Takes a and b [lanes, 4 or 8] into each lane's statistics [lanes].

    Of every two numbers the larger goes on as maximum and the smaller into the sums: so the maximum's own term never enters them. A lane's columns
    are what one thread loads at once: nothing crosses threads. Products are rounded before they are added, wherever threads hold them.
    """
    a, b = maximum(a, LOWEST), maximum(b, LOWEST)
    x, y = maximum(a, b), minimum(a, b)
    x4, y4 = x, y
    if x.shape[1] == 8:
        x4, y4 = _ordered_pairs(x)
    x2, y2 = _ordered_pairs(x4)
    x1, y1 = _ordered_pairs(x2)
    before, largest_x = top, tl.reshape(x1, (x.shape[0],))
    top, y0 = maximum(before, largest_x), minimum(before, largest_x)
    scale = tl.exp2((before - top) * c)
    moment = scale * (moment + rest * (top - before))
    rest = scale * rest
    some_rest, some_moment = _terms(y, top, c)
    if x.shape[1] == 8:
        rest4, moment4 = _terms(y4, top, c)
        some_rest, some_moment = some_rest + rest4, some_moment + moment4
    rest2, moment2 = _terms(y2, top, c)
    rest1, moment1 = _terms(y1, top, c)
    away = top - y0
    weight = tl.exp2(-away * c)
    rest += some_rest + (rest2 + rest1) + weight
    moment += some_moment + (moment2 + moment1) + weight * away
    return top, rest, moment


@triton.jit
def join(top, rest, moment, overall, c):
    """Sums over sets of columns relative to ``overall``, the largest of their maxima: rests, ties for it (kept apart, to lose nothing), moments."""
    is_top = top == overall
    scale = tl.where(is_top, 1.0, tl.exp2((top - overall) * c))
    away = tl.where(is_top, 0.0, overall - top)
    others = ordered_sum(tl.where(is_top, rest, scale * (1.0 + rest)))
    return others, tl.sum(is_top.to(tl.float32), 0), ordered_sum(scale * (moment + (1.0 + rest) * away))


@triton.jit
def largest(x, AXIS: tl.constexpr):
    """The maximum along an axis; NaN where there is one."""
    has_nan = tl.max((x != x).to(tl.int32), AXIS) > 0
    return tl.where(has_nan, float("nan"), tl.max(x, AXIS))


@triton.jit
def of_tile(x, c):
    """Statistics over the first axis of x [columns, rows], LOWEST standing for -inf; c [rows]."""
    top = largest(x, 0)
    is_top = x == top[None, :]
    away = tl.where(is_top, 0.0, top[None, :] - x)
    weight = tl.exp2(-away * c[None, :])
    rest = tl.sum(tl.where(is_top, 0.0, weight), 0) + (tl.sum(is_top.to(tl.float32), 0) - 1.0)
    return top, rest, tl.sum(weight * away, 0)


@triton.jit
def merge(partials, plane, n, c, BLOCK: tl.constexpr):
    """A row's statistics from those of its n blocks: planes of maxima, rests and moments, ``plane`` apart."""
    o_block = tl.arange(0, BLOCK)
    tops = tl.full((BLOCK,), LOWEST, tl.float32)
    for first in range(0, n, BLOCK):
        tops = maximum(tops, tl.load(partials + first + o_block, mask=first + o_block < n, other=LOWEST))
    overall = largest(tops, 0)
    rest, ties, moment = 0.0, 0.0, 0.0
    for first in range(0, n, BLOCK):
        p_block, m_block = partials + first + o_block, first + o_block < n
        some = tl.load(p_block, mask=m_block, other=LOWEST)
        some_rest = tl.load(p_block + plane, mask=m_block, other=-1.0)
        some_moment = tl.load(p_block + plane + plane, mask=m_block, other=0.0)
        some_rest, some_ties, some_moment = join(some, some_rest, some_moment, overall, c)
        rest, ties, moment = rest + some_rest, ties + some_ties, moment + some_moment
    return overall, rest + (ties - 1.0), moment


@triton.jit
def is_distribution(top):
    """Whether there is one: the largest x is a number, neither NaN nor infinite."""
    return (top > LOWEST) & (top < INFINITY)


@triton.jit
def log_total(top, rest):
    """log sum exp(x / T) relative to its largest term; NaN where there is no distribution."""
    return tl.where(is_distribution(top), log1p(rest), float("nan"))


@triton.jit
def log_sum(top, relative, temperature):
    """log sum exp(x / T), from the same relative to its largest term; special values as torch has them."""
    infinite = tl.where(top == LOWEST, -INFINITY, top)
    return tl.where(is_distribution(top), tl.div_rn(top, temperature) + relative, infinite)


@triton.jit
def store_statistics(statistics_ptr, row, top, relative):
    """A row's statistics for backward (see ``schema``), the log sum being relative to the largest term."""
    tl.store(statistics_ptr + 3 * row, tl.where(top == LOWEST, -INFINITY, top))
    tl.store(statistics_ptr + 3 * row + 1, tl.where(is_distribution(top), relative, float("nan")))
    tl.store(statistics_ptr + 3 * row + 2, 0.0)


@triton.jit
def entropy(top, rest, moment, temperature):
    return log_total(top, rest) + tl.div_rn(tl.div_rn(moment, temperature), 1.0 + rest)
