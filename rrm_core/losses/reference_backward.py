"""The policy loss's gradient in plain PyTorch, written out: with l a token's loss and s its log ratio, dl/ds = -r A where the clip lets it through (0
elsewhere); s is the token's log probability but for a constant, or the mean over its sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core.losses.reference import KLS, OBJECTIVES, REDUCTIONS, denominator, terms_of, tokens_of


def policy_loss_backward(
    grad_loss: Tensor,
    facts: Tensor,
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
) -> Tensor:
    tokens = tokens_of(logprob, mask, cu_seqlens)
    t = terms_of(
        tokens, logprob, old_logprob, advantages, ref_logprob, rollout_logprob, cu_seqlens is not None, sequence_ratio, (clip_low, clip_high),
        log_ratio_clamp, rollout_clip, sequence_rollout,
    )  # fmt: skip
    if objective == OBJECTIVES["ppo"]:
        plain, bounded = t.ratio * t.advantage, t.clipped * t.advantage
        stopped = bounded < plain
        if dual_clip is not None:
            stopped = stopped | ((t.advantage < 0) & (-torch.minimum(plain, bounded) > -dual_clip * t.advantage))
        if log_ratio_clamp is not None:
            stopped = stopped | (t.log_ratio.abs() > log_ratio_clamp)
        slope = torch.where(stopped, 0.0, -plain) * t.weight
        if sequence_ratio:
            slope = (tokens.sums(slope) / tokens.size.clamp(min=1))[tokens.row].to(slope.dtype)
    else:
        slope = -(t.clipped if objective == OBJECTIVES["cispo"] else 1.0) * t.advantage * t.weight
    if t.away is not None and kl_coef != 0.0:
        of_divergence = torch.ones_like(t.away) if kl == KLS["k1"] else -torch.expm1(-t.away) if kl == KLS["k3"] else t.away
        slope = slope + kl_coef * of_divergence
    scale = grad_loss / denominator(tokens, normalizer, reduction).expand(tokens.rows)
    if reduction == REDUCTIONS["sequence_mean"]:
        scale = scale / tokens.size.clamp(min=1)
    gradient = torch.where(tokens.counted, slope * scale[tokens.row].to(slope.dtype), 0.0).to(logprob.dtype)
    return gradient.view(logprob.shape) if gradient.numel() else torch.zeros_like(logprob, memory_format=torch.contiguous_format)
