"""The policy loss: one program per sequence and CHUNK of its tokens, sums in fixed order, merged in torch; backward one pass over the same inputs.

A lane sums every BLOCK-th token of a chunk in order, then lanes are added in a tree. No atomics, nothing waits for the device: where sequences begin
is read by the programs; those without a token leave zeros.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rrm_core._triton.common import LOG2_E
from rrm_core._triton.configs import LOSS_CHUNK, loss_config

# Objectives and divergences, as in rrm_core/losses/reference.py; 0: PPO, k1.
CISPO = tl.constexpr(1)
REINFORCE = tl.constexpr(2)
K2 = tl.constexpr(1)
K3 = tl.constexpr(2)
SEQUENCE_SUMS = 3  # count, log ratio, mismatch
SUMS = 8  # count, loss, divergence, ratio, low, high, gradient with respect to the log ratio; the largest ratio

# ---- kernels


@triton.jit
def exponential(x):
    return tl.exp2(x * LOG2_E)


@triton.jit
def excess(x):
    """exp(x) - 1 - x, with its digits near 0: Taylor's series there (3e-9)."""
    q = 0.5 + x * (0.16666667 + x * (4.1666668e-2 + x * (8.3333338e-3 + x * (1.3888889e-3 + x * (1.9841270e-4 + x * 2.4801588e-5)))))
    return tl.where(tl.abs(x) < 0.35, x * x * q, (exponential(x) - 1.0) - x)


@triton.jit
def bounds(cu_ptr, length, num_tokens, chunks, PACKED: tl.constexpr, CHUNK: tl.constexpr):
    """A program's sequence, and the tokens from where to where are its chunk's."""
    task = tl.program_id(0).to(tl.int64)
    sequence = task // chunks
    begin, end = sequence * length, (sequence + 1) * length
    if PACKED:
        begin = tl.minimum(tl.maximum(tl.load(cu_ptr + sequence), 0), num_tokens)
        end = tl.minimum(tl.maximum(tl.load(cu_ptr + sequence + 1), begin), num_tokens)
    first = begin + (task % chunks) * CHUNK
    return task, sequence, first, tl.minimum(end, first + CHUNK)


@triton.jit
def load_tokens(values_ptr, place, there, counts):
    """0 for those that don't count. All that are there are loaded, many at once."""
    return tl.where(counts, tl.load(values_ptr + place, mask=there, other=0.0), 0.0)


@triton.jit
def load_counts(mask_ptr, place, last, HAS_MASK: tl.constexpr):
    """Which tokens count, and which are there."""
    there = place < last
    counts = there
    if HAS_MASK:
        counts = there & (tl.load(mask_ptr + place, mask=there, other=0) != 0)
    return counts, there


@triton.jit(do_not_specialize=["num_tokens", "chunks", "tasks"])
def _sequence_sums_kernel(
    logprob_ptr, old_ptr, rollout_ptr, mask_ptr, cu_ptr, sums_ptr, length, num_tokens, chunks, tasks,
    HAS_OLD: tl.constexpr, HAS_ROLLOUT: tl.constexpr, HAS_MASK: tl.constexpr, PACKED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    task, _sequence, first, last = bounds(cu_ptr, length, num_tokens, chunks, PACKED, CHUNK)
    count, log_ratio, mismatch = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(first, last, BLOCK):
        place = start + tl.arange(0, BLOCK)
        counts, there = load_counts(mask_ptr, place, last, HAS_MASK)
        x = load_tokens(logprob_ptr, place, there, counts)
        old = x
        if HAS_OLD:
            old = load_tokens(old_ptr, place, there, counts)
        count += counts.to(tl.float32)
        log_ratio += x - old
        if HAS_ROLLOUT:
            mismatch += old - load_tokens(rollout_ptr, place, there, counts)
    tl.store(sums_ptr + task, tl.sum(count, 0))
    tl.store(sums_ptr + tasks + task, tl.sum(log_ratio, 0))
    tl.store(sums_ptr + 2 * tasks + task, tl.sum(mismatch, 0))


@triton.jit
def term(
    logprob_ptr, old_ptr, advantages_ptr, reference_ptr, rollout_ptr, shared_ptr, place, there, counts, sequence, clip_low, clip_high, dual_clip,
    clamp, rollout_clip, HAS_OLD: tl.constexpr, HAS_REFERENCE: tl.constexpr, HAS_ROLLOUT: tl.constexpr, PER_SEQUENCE: tl.constexpr,
    OBJECTIVE: tl.constexpr, SEQUENCE_RATIO: tl.constexpr, SEQUENCE_ROLLOUT: tl.constexpr, DIVERGENCE: tl.constexpr,
):  # fmt: skip
    """(advantage, ratio, loss without the divergence, its derivative, the divergence, its derivative) of tokens; the first derivative with respect to
    the log ratio, or where there is none, the log probability."""
    x = load_tokens(logprob_ptr, place, there, counts)
    old = x
    if HAS_OLD:
        old = load_tokens(old_ptr, place, there, counts)
    advantage = tl.where(counts, tl.load(advantages_ptr + sequence), 0.0) if PER_SEQUENCE else load_tokens(advantages_ptr, place, there, counts)
    outside = place < 0  # of the clamp: none; a NaN is not
    if SEQUENCE_RATIO:
        ratio = tl.where(counts, exponential(tl.load(shared_ptr + 2 * sequence)), 1.0)
    else:
        log_ratio = x - old
        outside = (log_ratio > clamp) | (log_ratio < -clamp)
        log_ratio = tl.where(log_ratio > clamp, clamp, tl.where(log_ratio < -clamp, -clamp, log_ratio))  # NaN stays
        ratio = exponential(log_ratio)
    clipped = tl.where(ratio > clip_high, clip_high, tl.where(ratio < clip_low, clip_low, ratio))
    if OBJECTIVE == CISPO or OBJECTIVE == REINFORCE:  # noqa: SIM109 - no tuple of them in a kernel
        slope = -advantage
        if OBJECTIVE == CISPO:
            slope = -(clipped * advantage)
        loss = slope * x
    else:
        plain, bounded = ratio * advantage, clipped * advantage
        is_clipped = bounded < plain
        loss, slope = -tl.where(is_clipped, bounded, plain), tl.where(is_clipped, 0.0, -plain)
        most = -dual_clip * advantage
        capped = (advantage < 0) & (loss > most)
        loss, slope = tl.where(capped, most, loss), tl.where(capped | outside, 0.0, slope)
    if HAS_ROLLOUT:
        if SEQUENCE_ROLLOUT:
            weight = tl.load(shared_ptr + 2 * sequence + 1)
        else:
            weight = exponential(old - load_tokens(rollout_ptr, place, there, counts))
            weight = tl.where(weight > rollout_clip, rollout_clip, weight)
        loss, slope = loss * weight, slope * weight
    divergence, of_divergence = tl.zeros_like(x), tl.zeros_like(x)
    if HAS_REFERENCE:
        away = x - load_tokens(reference_ptr, place, there, counts)
        divergence, of_divergence = away, tl.zeros_like(x) + 1.0
        if DIVERGENCE == K2:
            divergence, of_divergence = 0.5 * away * away, away
        if DIVERGENCE >= K3:
            divergence, of_divergence = excess(-away), away
            if DIVERGENCE == K3:  # 1 - exp(-away)
                of_divergence = tl.where(tl.abs(away) < 0.3, away - divergence, 1.0 - exponential(-away))
    return advantage, ratio, loss, slope, divergence, of_divergence


@triton.jit(do_not_specialize=["num_tokens", "chunks", "tasks"])
def _loss_kernel(
    logprob_ptr, old_ptr, advantages_ptr, reference_ptr, rollout_ptr, mask_ptr, cu_ptr, shared_ptr, sums_ptr, length, num_tokens, chunks, tasks,
    clip_low, clip_high, dual_clip, clamp, kl_coef, rollout_clip,
    HAS_OLD: tl.constexpr, HAS_REFERENCE: tl.constexpr, HAS_ROLLOUT: tl.constexpr, HAS_MASK: tl.constexpr, PACKED: tl.constexpr,
    PER_SEQUENCE: tl.constexpr, OBJECTIVE: tl.constexpr, SEQUENCE_RATIO: tl.constexpr, SEQUENCE_ROLLOUT: tl.constexpr, DIVERGENCE: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk's sums: planes of tasks."""
    task, sequence, first, last = bounds(cu_ptr, length, num_tokens, chunks, PACKED, CHUNK)
    zeros = tl.zeros((BLOCK,), tl.float32)
    count, total, divergences, ratios, low, high, slopes, largest = zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros
    for start in range(first, last, BLOCK):
        place = start + tl.arange(0, BLOCK)
        counts, there = load_counts(mask_ptr, place, last, HAS_MASK)
        advantage, ratio, loss, slope, divergence, _of_divergence = term(
            logprob_ptr, old_ptr, advantages_ptr, reference_ptr, rollout_ptr, shared_ptr, place, there, counts, sequence, clip_low, clip_high,
            dual_clip, clamp, rollout_clip, HAS_OLD, HAS_REFERENCE, HAS_ROLLOUT, PER_SEQUENCE, OBJECTIVE, SEQUENCE_RATIO, SEQUENCE_ROLLOUT,
            DIVERGENCE,
        )  # fmt: skip
        if HAS_REFERENCE:
            loss += tl.where(kl_coef == 0.0, 0.0, kl_coef * divergence)
        count += counts.to(tl.float32)
        total += tl.where(counts, loss, 0.0)
        divergences += tl.where(counts, divergence, 0.0)
        ratios += tl.where(counts, ratio, 0.0)
        low += tl.where(counts & (ratio < clip_low) & (advantage < 0), 1.0, 0.0)
        high += tl.where(counts & (ratio > clip_high) & (advantage > 0), 1.0, 0.0)
        slopes += tl.where(counts, slope, 0.0)
        seen = tl.where(counts, ratio, 0.0)
        largest = tl.where((seen > largest) | (seen != seen), seen, largest)
    broken = tl.max((largest != largest).to(tl.int32), 0) > 0
    tl.store(sums_ptr + task, tl.sum(count, 0))
    tl.store(sums_ptr + tasks + task, tl.sum(total, 0))
    tl.store(sums_ptr + 2 * tasks + task, tl.sum(divergences, 0))
    tl.store(sums_ptr + 3 * tasks + task, tl.sum(ratios, 0))
    tl.store(sums_ptr + 4 * tasks + task, tl.sum(low, 0))
    tl.store(sums_ptr + 5 * tasks + task, tl.sum(high, 0))
    tl.store(sums_ptr + 6 * tasks + task, tl.sum(slopes, 0))
    tl.store(sums_ptr + 7 * tasks + task, tl.where(broken, float("nan"), tl.max(largest, 0)))


@triton.jit(do_not_specialize=["num_tokens", "chunks"])
def _loss_gradient_kernel(
    logprob_ptr, old_ptr, advantages_ptr, reference_ptr, rollout_ptr, mask_ptr, cu_ptr, shared_ptr, scales_ptr, out_ptr, length, num_tokens, chunks,
    clip_low, clip_high, dual_clip, clamp, kl_coef, rollout_clip,
    HAS_OLD: tl.constexpr, HAS_REFERENCE: tl.constexpr, HAS_ROLLOUT: tl.constexpr, HAS_MASK: tl.constexpr, PACKED: tl.constexpr,
    PER_SEQUENCE: tl.constexpr, OBJECTIVE: tl.constexpr, SEQUENCE_RATIO: tl.constexpr, SEQUENCE_ROLLOUT: tl.constexpr, DIVERGENCE: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    _task, sequence, first, last = bounds(cu_ptr, length, num_tokens, chunks, PACKED, CHUNK)
    scale, through_sequence = tl.load(scales_ptr + 2 * sequence), tl.load(scales_ptr + 2 * sequence + 1)
    for start in range(first, last, BLOCK):
        place = start + tl.arange(0, BLOCK)
        counts, there = load_counts(mask_ptr, place, last, HAS_MASK)
        _advantage, _ratio, _loss, slope, _divergence, of_divergence = term(
            logprob_ptr, old_ptr, advantages_ptr, reference_ptr, rollout_ptr, shared_ptr, place, there, counts, sequence, clip_low, clip_high,
            dual_clip, clamp, rollout_clip, HAS_OLD, HAS_REFERENCE, HAS_ROLLOUT, PER_SEQUENCE, OBJECTIVE, SEQUENCE_RATIO, SEQUENCE_ROLLOUT,
            DIVERGENCE,
        )  # fmt: skip
        if SEQUENCE_RATIO and OBJECTIVE != CISPO and OBJECTIVE != REINFORCE:
            slope = tl.zeros_like(slope) + through_sequence
        if HAS_REFERENCE:
            slope += tl.where(kl_coef == 0.0, 0.0, kl_coef * of_divergence)
        tl.store(out_ptr + place, tl.where(counts, slope * scale, 0.0), mask=there)


# ---- launchers


class Batch:
    """The tensors of a call, contiguous, and how programs share them."""

    def __init__(self, logprob, old, advantages, mask, cu_seqlens, reference, rollout):
        self.logprob, self.old, self.advantages, self.reference, self.rollout, self.mask, self.cu = (
            None if x is None else x.contiguous() for x in (logprob, old, advantages, reference, rollout, mask, cu_seqlens)
        )
        self.tokens = logprob.numel()
        self.rows = logprob.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.length = logprob.shape[1] if cu_seqlens is None else 0
        longest = self.length if cu_seqlens is None else self.tokens
        self.chunks = max(1, triton.cdiv(longest, LOSS_CHUNK))
        self.tasks = self.rows * self.chunks
        self.flags = {"HAS_OLD": old is not None, "HAS_ROLLOUT": rollout is not None, "HAS_MASK": mask is not None, "PACKED": cu_seqlens is not None}
        self.per_sequence = advantages.dim() < logprob.dim() or (cu_seqlens is not None and advantages.numel() == self.rows)

    def sums(self, planes):
        return self.logprob.new_empty(planes, self.rows, self.chunks)


def _numbers(clip_low, clip_high, dual_clip, clamp, kl_coef, rollout_clip):
    unbounded = float("inf")
    return 1 - clip_low, 1 + clip_high, unbounded if dual_clip is None else dual_clip, unbounded if clamp is None else clamp, kl_coef, rollout_clip


def shared_facts(batch, sequence_level, clamp, rollout_clip):
    """Of every sequence [B, 2]: its log ratio, and its rollout weight; whether the clamp stops the gradient [B]."""
    shared = torch.zeros(batch.rows, 2, dtype=torch.float64, device=batch.logprob.device)
    stopped = torch.zeros(batch.rows, dtype=torch.bool, device=batch.logprob.device)
    if not sequence_level or not batch.tasks:
        return shared, stopped
    sums = batch.sums(SEQUENCE_SUMS)
    _sequence_sums_kernel[(batch.tasks,)](
        batch.logprob, batch.old, batch.rollout, batch.mask, batch.cu, sums, batch.length, batch.tokens, batch.chunks, batch.tasks, **batch.flags,
        **loss_config(), enable_fp_fusion=False,
    )  # fmt: skip
    count, log_ratio, mismatch = sums.double().sum(-1)
    mean = log_ratio / count.clamp(min=1)
    if clamp is not None:
        stopped = mean.abs() > clamp
        mean = mean.clamp(-clamp, clamp)
    return torch.stack([mean, mismatch.exp().clamp(max=rollout_clip)], -1), stopped


def scales(count, normalizer, reduction):
    """What the losses of each sequence's tokens are multiplied with [B], from how many of them count, float64."""
    if normalizer is None:
        normalizer = (count.sum() if reduction == 0 else (count > 0).sum()).clamp(min=1)
    scale = 1.0 / normalizer.double().expand(count.shape)
    return scale / count.clamp(min=1) if reduction == 1 else scale


def policy_loss(
    logprob, old, advantages, mask, cu_seqlens, reference, rollout, normalizer, objective, sequence_ratio, clip_low, clip_high, dual_clip, clamp,
    kl_coef, kl, reduction, rollout_clip, sequence_rollout,
):  # fmt: skip
    batch = Batch(logprob, old, advantages, mask, cu_seqlens, reference, rollout)
    shared, stopped = shared_facts(batch, sequence_ratio or (sequence_rollout and rollout is not None), clamp, rollout_clip)
    sums = batch.sums(SUMS)
    if batch.tasks:
        _loss_kernel[(batch.tasks,)](
            batch.logprob, batch.old, batch.advantages, batch.reference, batch.rollout, batch.mask, batch.cu, shared.float(), sums, batch.length,
            batch.tokens, batch.chunks, batch.tasks, *_numbers(clip_low, clip_high, dual_clip, clamp, kl_coef, rollout_clip), **batch.flags,
            HAS_REFERENCE=reference is not None, PER_SEQUENCE=batch.per_sequence, OBJECTIVE=objective, SEQUENCE_RATIO=sequence_ratio,
            SEQUENCE_ROLLOUT=sequence_rollout, DIVERGENCE=kl, **loss_config(), enable_fp_fusion=False,
        )  # fmt: skip
    of_sequences = sums[:7].double().sum(-1)  # [7, B]
    count, loss, _, _, _, _, slope = of_sequences
    tokens, _, divergence, ratio, low, high, _ = of_sequences.sum(-1)
    size, scale = count.clamp(min=1), scales(count, normalizer, reduction)
    facts = torch.stack([scale, shared[:, 0], (slope / size).masked_fill(stopped, 0.0), shared[:, 1]], -1)
    largest = sums[7].amax() if batch.tasks else sums.new_zeros(())
    metrics = (divergence, *((low, high) if objective != REINFORCE.value else (low * 0.0, high * 0.0)), ratio)
    return (loss * scale).sum().float(), *((x / tokens.clamp(min=1)).float() for x in metrics), largest, facts


def policy_loss_backward(
    grad_loss, facts, logprob, old, advantages, mask, cu_seqlens, reference, rollout, normalizer, objective, sequence_ratio, clip_low, clip_high,
    dual_clip, clamp, kl_coef, kl, reduction, rollout_clip, sequence_rollout,
):  # fmt: skip
    batch = Batch(logprob, old, advantages, mask, cu_seqlens, reference, rollout)
    out = logprob.new_empty(logprob.shape)
    if cu_seqlens is not None:
        out.zero_()
    if not batch.tasks:
        return out
    shared, scales = facts[:, 1::2].float(), torch.stack([facts[:, 0] * grad_loss, facts[:, 2]], -1).float()
    _loss_gradient_kernel[(batch.tasks,)](
        batch.logprob, batch.old, batch.advantages, batch.reference, batch.rollout, batch.mask, batch.cu, shared, scales, out, batch.length,
        batch.tokens, batch.chunks, *_numbers(clip_low, clip_high, dual_clip, clamp, kl_coef, rollout_clip), **batch.flags,
        HAS_REFERENCE=reference is not None, PER_SEQUENCE=batch.per_sequence, OBJECTIVE=objective, SEQUENCE_RATIO=sequence_ratio,
        SEQUENCE_ROLLOUT=sequence_rollout, DIVERGENCE=kl, **loss_config(), enable_fp_fusion=False,
    )  # fmt: skip
    return out
