"""Whitening of numbers, in three launches: moments of blocks, their merge in one program, the numbers.

Means are in two parts, a number and what its rounding lost, as in ``advantages``. A block is one tile; blocks are merged by lanes in their order. No
atomics: the same bits every time. float32 throughout, float64 for float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rrm_core._triton.advantages import divide, square_root
from rrm_core._triton.common import INFINITY
from rrm_core._triton.configs import WHITEN

# ---- kernels


@triton.jit
def load_values(values_ptr, mask_ptr, weights_ptr, num_values, HAS_MASK: tl.constexpr, HAS_WEIGHTS: tl.constexpr, BLOCK: tl.constexpr):
    """One program's numbers [BLOCK], 0 where they don't count, their weights, and where they are."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = place < num_values
    x = tl.load(values_ptr + place, mask=there, other=float("nan"))
    counts = x == x
    if HAS_MASK:
        counts = counts & (tl.load(mask_ptr + place, mask=there, other=0) != 0)
    weight = counts.to(x.dtype)
    if HAS_WEIGHTS:
        weight = tl.where(counts, tl.load(weights_ptr + place, mask=there, other=0.0), 0.0)
    return tl.where(weight > 0, x, 0.0), weight, place, there


@triton.jit(do_not_specialize=["num_blocks"])
def _block_moments_kernel(
    values_ptr, mask_ptr, weights_ptr, moments_ptr, num_values, num_blocks, HAS_MASK: tl.constexpr, HAS_WEIGHTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block's sum of weights, mean (two parts) and weighted sum of squared differences from it: planes of num_blocks."""
    x, weight, _, _ = load_values(values_ptr, mask_ptr, weights_ptr, num_values, HAS_MASK, HAS_WEIGHTS, BLOCK)
    counts = weight > 0
    smallest, total = tl.min(tl.where(counts, x, INFINITY), 0), tl.sum(weight, 0)
    mean = smallest + divide(tl.sum(tl.where(counts, weight * (x - smallest), 0.0), 0), total)
    shift = divide(tl.sum(tl.where(counts, weight * (x - mean), 0.0), 0), total)
    away = (x - mean) - shift
    p_block = moments_ptr + tl.program_id(0)
    tl.store(p_block, total)
    tl.store(p_block + num_blocks, mean)
    tl.store(p_block + 2 * num_blocks, shift)
    tl.store(p_block + 3 * num_blocks, tl.sum(tl.where(counts, weight * (away * away), 0.0), 0))


@triton.jit
def load_moments(moments_ptr, start, num_blocks, origin, LANES: tl.constexpr):
    """Of blocks from ``start`` on: weights [LANES], means less the origin, sums of squares."""
    o_block = start + tl.arange(0, LANES)
    m_block = o_block < num_blocks
    weight = tl.load(moments_ptr + o_block, mask=m_block, other=0.0)
    m_block = m_block & (weight > 0)
    mean = tl.load(moments_ptr + num_blocks + o_block, mask=m_block, other=0.0)
    shift = tl.load(moments_ptr + 2 * num_blocks + o_block, mask=m_block, other=0.0)
    squares = tl.load(moments_ptr + 3 * num_blocks + o_block, mask=m_block, other=0.0)
    return weight, tl.where(m_block, (mean - origin) + shift, 0.0), squares


@triton.jit(do_not_specialize=["num_blocks"])
def _merge_moments_kernel(moments_ptr, facts_ptr, mean_ptr, std_ptr, num_blocks, eps, eps_rest, OF_VARIANCE: tl.constexpr, LANES: tl.constexpr):
    """facts: the mean in two parts, and what differences from it are divided by (infinite: by nothing, they are 0)."""
    o_block = tl.arange(0, LANES)
    dtype = moments_ptr.dtype.element_ty
    origin = tl.full((), INFINITY, dtype)  # the smallest of the blocks' means: differences of equal ones are 0
    for start in range(0, num_blocks, LANES):
        m_block = start + o_block < num_blocks
        weight = tl.load(moments_ptr + start + o_block, mask=m_block, other=0.0)
        means = tl.load(moments_ptr + num_blocks + start + o_block, mask=m_block & (weight > 0), other=INFINITY)
        origin = tl.minimum(origin, tl.min(means, 0))
    weights, sums = tl.zeros((LANES,), dtype), tl.zeros((LANES,), dtype)
    for start in range(0, num_blocks, LANES):
        weight, away, _ = load_moments(moments_ptr, start, num_blocks, origin, LANES)
        weights += weight
        sums += weight * away
    total = tl.sum(weights, 0)
    shift = divide(tl.sum(sums, 0), total)
    sums = tl.zeros((LANES,), dtype)
    for start in range(0, num_blocks, LANES):
        weight, away, squares = load_moments(moments_ptr, start, num_blocks, origin, LANES)
        sums += squares + tl.where(weight > 0, weight * ((away - shift) * (away - shift)), 0.0)
    variance = divide(tl.sum(sums, 0), tl.maximum(total - 1.0, 1.0))
    variance = tl.where(variance < INFINITY, variance, float("nan"))
    eps = tl.zeros((), dtype) + eps + eps_rest
    std = square_root(variance)
    divisor = square_root(variance + eps) if OF_VARIANCE else std + eps
    tl.store(facts_ptr, origin)
    tl.store(facts_ptr + 1, shift)
    tl.store(facts_ptr + 2, tl.where(variance == 0, INFINITY, divisor))
    tl.store(mean_ptr, (origin + shift) + (variance - variance))
    tl.store(std_ptr, std)


@triton.jit
def _whiten_kernel(
    values_ptr, mask_ptr, weights_ptr, facts_ptr, out_ptr, num_values, HAS_MASK: tl.constexpr, HAS_WEIGHTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    x, weight, place, there = load_values(values_ptr, mask_ptr, weights_ptr, num_values, HAS_MASK, HAS_WEIGHTS, BLOCK)
    origin, shift, divisor = tl.load(facts_ptr), tl.load(facts_ptr + 1), tl.load(facts_ptr + 2)
    whitened = divide((x - origin) - shift, tl.zeros_like(x) + divisor)
    tl.store(out_ptr + place, tl.where(weight > 0, whitened, 0.0), mask=there)


# ---- launcher


def whiten(values, mask, weights, eps, of_variance):
    out, mean, std = values.new_empty(values.shape), values.new_empty(()), values.new_empty(())
    values, mask, weights = (None if x is None else x.contiguous() for x in (values, mask, weights))
    n = values.numel()
    blocks = triton.cdiv(n, WHITEN["BLOCK"])
    moments, facts = values.new_empty(4 * blocks), values.new_empty(3)
    flags = {"HAS_MASK": mask is not None, "HAS_WEIGHTS": weights is not None, **WHITEN}
    if n:
        _block_moments_kernel[(blocks,)](values, mask, weights, moments, n, blocks, **flags, enable_fp_fusion=False)
    narrow_eps = torch.tensor(eps, dtype=torch.float32).item()
    _merge_moments_kernel[(1,)](
        moments, facts, mean, std, blocks, narrow_eps, eps - narrow_eps, OF_VARIANCE=of_variance, LANES=1024, num_warps=4, enable_fp_fusion=False
    )  # fmt: skip
    if n:
        _whiten_kernel[(blocks,)](values, mask, weights, facts, out, n, **flags, enable_fp_fusion=False)
    return out, mean, std
