"""The policy loss in plain PyTorch: what it means. Tokens are flattened, each with the number of its sequence; everything per sequence is a sum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

OBJECTIVES = {"ppo": 0, "cispo": 1, "reinforce": 2}
KLS = {"k1": 0, "k2": 1, "k3": 2, "k3_k2": 3}
REDUCTIONS = {"token_mean": 0, "sequence_mean": 1, "sequence_sum": 2, "constant": 3}

LossResults = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Tokens(NamedTuple):
    """What is known of every token [M]: does it count, and of which of ``rows`` sequences is it; and of the sequences [rows]: tokens that count."""

    counted: Tensor
    row: Tensor
    rows: int
    size: Tensor

    def sums(self, values: Tensor) -> Tensor:
        """In float64."""
        wide = values.masked_fill(~self.counted, 0.0).double()
        return wide.new_zeros(self.rows).index_add(0, self.row, wide)

    def mean(self, values: Tensor) -> Tensor:
        """Over all tokens that count; 0 of none."""
        return (values.masked_fill(~self.counted, 0.0).double().sum() / self.size.sum().clamp(min=1)).to(values.dtype)


def tokens_of(logprob: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> Tokens:
    counted = torch.ones_like(logprob, dtype=torch.bool).flatten() if mask is None else mask.flatten()
    if cu_seqlens is None:
        rows = logprob.shape[0]
        row = torch.arange(rows, device=logprob.device).repeat_interleave(logprob.shape[1])
    else:
        rows = cu_seqlens.shape[0] - 1
        row = torch.searchsorted(cu_seqlens.contiguous(), torch.arange(logprob.shape[0], device=logprob.device), right=True) - 1
        counted = counted & (row >= 0) & (row < rows)
        row = row.clamp(0, max(0, rows - 1))
        if rows == 0:
            return Tokens(counted[:0], row[:0], 0, torch.zeros(0, dtype=torch.float64, device=logprob.device))
    size = torch.zeros(rows, dtype=torch.float64, device=logprob.device)
    return Tokens(counted, row, rows, size.index_add(0, row, counted.to(size.dtype)) if rows else size)


def kl_divergence(difference: Tensor, kl: int) -> Tensor:
    """Per token, of log pi - log pi_ref (Schulman's estimators): k1, k2, k3; or k3 with the gradient of k2."""
    if kl == KLS["k1"]:
        return difference
    k2 = difference.square() / 2
    if kl == KLS["k2"]:
        return k2
    k3 = torch.expm1(-difference) + difference
    if difference.dtype != torch.float64:  # a difference of nearly equal numbers near 0: its series there
        d = difference.clamp(-0.3, 0.3)
        series = d * d * (1 / 2 - d * (1 / 6 - d * (1 / 24 - d * (1 / 120 - d * (1 / 720 - d * (1 / 5040 - d / 40320))))))
        k3 = torch.where(difference.abs() < 0.3, series, k3)
    if kl == KLS["k3"]:
        return k3
    finite = difference.masked_fill(difference.isinf(), 0.0)
    return k3.detach() + (finite - finite.detach()) * finite.detach()


class Terms(NamedTuple):
    """Of every token [M], 0 where it doesn't count: log probability, advantage, log ratio before it is clamped, ratio, clipped ratio, the rollout's
    weight, and the log probability less that of the reference policy."""

    x: Tensor
    advantage: Tensor
    log_ratio: Tensor
    ratio: Tensor
    clipped: Tensor
    weight: Tensor
    away: Tensor | None


def terms_of(
    tokens: Tokens,
    logprob: Tensor,
    old_logprob: Tensor | None,
    advantages: Tensor,
    ref_logprob: Tensor | None,
    rollout_logprob: Tensor | None,
    packed: bool,
    sequence_ratio: bool,
    clip: tuple[float, float],
    log_ratio_clamp: float | None,
    rollout_clip: float,
    sequence_rollout: bool,
) -> Terms:
    hidden, row = ~tokens.counted, tokens.row
    dtype = torch.promote_types(logprob.dtype, torch.float32)

    def of_tokens(values: Tensor) -> Tensor:
        return values.to(dtype).flatten()[: len(row)].masked_fill(hidden, 0.0)

    x = of_tokens(logprob)
    old = x.detach() if old_logprob is None else of_tokens(old_logprob)
    per_row = advantages.dim() < logprob.dim() or (packed and advantages.shape[0] == tokens.rows)
    advantage = of_tokens(advantages.to(dtype)[row] if per_row else advantages)
    log_ratio = x - old
    if sequence_ratio:
        log_ratio = (tokens.sums(log_ratio) / tokens.size.clamp(min=1))[row].to(dtype)
    ratio = (log_ratio if log_ratio_clamp is None else log_ratio.clamp(-log_ratio_clamp, log_ratio_clamp)).exp()
    weight = torch.ones_like(x)
    if rollout_logprob is not None:
        mismatch = old - of_tokens(rollout_logprob)
        weight = (tokens.sums(mismatch)[row].to(dtype) if sequence_rollout else mismatch).exp().clamp(max=rollout_clip)
    away = None if ref_logprob is None else x - of_tokens(ref_logprob)
    return Terms(x, advantage, log_ratio, ratio, ratio.clamp(1 - clip[0], 1 + clip[1]), weight, away)


def denominator(tokens: Tokens, normalizer: Tensor | None, reduction: int) -> Tensor:
    if normalizer is None:
        normalizer = (tokens.size.sum() if reduction == REDUCTIONS["token_mean"] else (tokens.size > 0).sum()).clamp(min=1)
    return normalizer.double()


def policy_loss(
    logprob: Tensor,
    old_logprob: Tensor | None,
    advantages: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    ref_logprob: Tensor | None,
    rollout_logprob: Tensor | None,
    normalizer: Tensor | None,
    objective: int,
    sequence_ratio: bool,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    log_ratio_clamp: float | None,
    kl_coef: float,
    kl: int,
    reduction: int,
    rollout_clip: float,
    sequence_rollout: bool,
) -> LossResults:
    """(loss, kl, clip_fraction_low, clip_fraction_high, ratio_mean, ratio_max, what backward starts from: nothing here)."""
    tokens = tokens_of(logprob, mask, cu_seqlens)
    t = terms_of(
        tokens, logprob, old_logprob, advantages, ref_logprob, rollout_logprob, cu_seqlens is not None, sequence_ratio, (clip_low, clip_high),
        log_ratio_clamp, rollout_clip, sequence_rollout,
    )  # fmt: skip
    if objective == OBJECTIVES["ppo"]:
        per_token = -torch.minimum(t.ratio * t.advantage, t.clipped * t.advantage)
        if dual_clip is not None:
            per_token = torch.where(t.advantage < 0, torch.minimum(per_token, -dual_clip * t.advantage), per_token)
    elif objective == OBJECTIVES["cispo"]:
        per_token = -t.clipped.detach() * t.advantage * t.x
    else:
        per_token = -t.advantage * t.x
    per_token = per_token * t.weight
    divergence = torch.zeros_like(t.x) if t.away is None else kl_divergence(t.away, kl)
    if t.away is not None and kl_coef != 0.0:
        per_token = per_token + kl_coef * divergence

    per_sequence = tokens.sums(per_token)
    if reduction == REDUCTIONS["sequence_mean"]:
        per_sequence = per_sequence / tokens.size.clamp(min=1)
    loss = (per_sequence.sum() / denominator(tokens, normalizer, reduction)).to(t.x.dtype)

    clips = objective != OBJECTIVES["reinforce"]
    low, high = (t.ratio < 1 - clip_low) & (t.advantage < 0), (t.ratio > 1 + clip_high) & (t.advantage > 0)
    low, high = ((tokens.mean((side & clips).to(t.x.dtype))).detach() for side in (low, high))
    largest = t.ratio.masked_fill(~tokens.counted, 0.0).amax() if t.ratio.numel() else t.ratio.new_zeros(())
    facts = t.x.new_zeros(tokens.rows, 4, dtype=torch.float64)
    return loss, tokens.mean(divergence).detach(), low, high, tokens.mean(t.ratio).detach(), largest.detach(), facts
