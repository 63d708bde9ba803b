"""The policy loss in plain PyTorch: what it means. Tokens are flattened, each with the number of its sequence; everything per sequence is a sum."""

from __future__ import annotations

from typing import Any, NamedTuple

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
    return k3 if kl == KLS["k3"] else k3.detach() + (k2 - k2.detach())


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
    hidden, row = ~tokens.counted, tokens.row
    dtype = torch.promote_types(logprob.dtype, torch.float32)

    def of_tokens(values: Tensor) -> Tensor:
        return values.to(dtype).flatten().masked_fill(hidden, 0.0)

    x = of_tokens(logprob)
    old = x.detach() if old_logprob is None else of_tokens(old_logprob)
    per_row = advantages.dim() < logprob.dim() or (cu_seqlens is not None and advantages.shape[0] != logprob.shape[0])
    advantage = of_tokens(advantages.to(dtype)[row] if per_row else advantages)

    log_ratio = x - old
    if sequence_ratio:
        log_ratio = (tokens.sums(log_ratio) / tokens.size.clamp(min=1))[row].to(dtype)
    if log_ratio_clamp is not None:
        log_ratio = log_ratio.clamp(-log_ratio_clamp, log_ratio_clamp)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    if objective == OBJECTIVES["ppo"]:
        per_token = -torch.minimum(ratio * advantage, clipped * advantage)
        if dual_clip is not None:
            per_token = torch.where(advantage < 0, torch.minimum(per_token, -dual_clip * advantage), per_token)
    elif objective == OBJECTIVES["cispo"]:
        per_token = -clipped.detach() * advantage * x
    else:
        per_token = -advantage * x
    if rollout_logprob is not None:
        mismatch = old - of_tokens(rollout_logprob)
        per_token = per_token * (tokens.sums(mismatch)[row].to(dtype) if sequence_rollout else mismatch).exp().clamp(max=rollout_clip)
    divergence = torch.zeros_like(x) if ref_logprob is None else kl_divergence(x - of_tokens(ref_logprob), kl)
    if ref_logprob is not None and kl_coef != 0.0:
        per_token = per_token + kl_coef * divergence

    per_sequence = tokens.sums(per_token)
    if reduction == REDUCTIONS["sequence_mean"]:
        per_sequence = per_sequence / tokens.size.clamp(min=1)
    if normalizer is None:
        normalizer = tokens.size.sum() if reduction == REDUCTIONS["token_mean"] else (tokens.size > 0).sum()
        normalizer = normalizer.clamp(min=1)
    loss = (per_sequence.sum() / normalizer.double()).to(dtype)

    clips = objective != OBJECTIVES["reinforce"]
    low, high = (ratio < 1 - clip_low) & (advantage < 0), (ratio > 1 + clip_high) & (advantage > 0)
    low, high = ((tokens.mean((side & clips).to(dtype))).detach() for side in (low, high))
    largest = ratio.masked_fill(hidden, 0.0).amax() if ratio.numel() else ratio.new_zeros(())
    facts = x.new_zeros(tokens.rows, 4, dtype=torch.float64)
    return loss, tokens.mean(divergence).detach(), low, high, tokens.mean(ratio).detach(), largest.detach(), facts


def policy_loss_backward(grad_loss: Tensor, facts: Tensor, logprob: Tensor, *rest: Any) -> Tensor:
    """dL/dlogprob, by autograd through ``policy_loss``."""
    with torch.enable_grad():
        leaf = logprob.detach().requires_grad_()
        loss = policy_loss(leaf, *rest)[0]
        (gradient,) = torch.autograd.grad(loss, leaf, grad_loss)
    return gradient.contiguous()
