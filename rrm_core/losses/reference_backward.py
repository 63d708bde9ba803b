"""The policy loss's gradient in plain PyTorch, written out: with l a token's loss and s its log ratio, dl/ds = -r A where the clip lets it through (0
elsewhere); s is the token's log probability but for a constant, or the mean over its sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rrm_core.losses.reference import KLS, OBJECTIVES, split, terms_of, token_scale, tokens_of


def policy_loss_backward(grad_loss: Tensor, facts: Tensor, logprob: Tensor, *arguments: Any) -> Tensor:
    behaviour, normalizer, o = split(arguments)
    tokens = tokens_of(logprob, behaviour.mask, behaviour.cu_seqlens)
    t = terms_of(tokens, logprob, behaviour, o)
    if o.objective == OBJECTIVES["ppo"]:
        plain, bounded = t.ratio * t.advantage, t.clipped * t.advantage
        stopped = bounded < plain
        if o.dual_clip is not None:
            stopped = stopped | ((t.advantage < 0) & (-torch.minimum(plain, bounded) > -o.dual_clip * t.advantage))
        if o.log_ratio_clamp is not None:
            stopped = stopped | (t.log_ratio.abs() > o.log_ratio_clamp)
        slope = torch.where(stopped, 0.0, -plain) * t.weight
        if o.sequence_ratio:
            slope = (tokens.sums(slope) / tokens.size.clamp(min=1))[tokens.row].to(slope.dtype)
    else:
        slope = -(t.clipped if o.objective == OBJECTIVES["cispo"] else 1.0) * t.advantage * t.weight
    if t.away is not None and o.kl_coef != 0.0:
        of_divergence = torch.ones_like(t.away) if o.kl == KLS["k1"] else -torch.expm1(-t.away) if o.kl == KLS["k3"] else t.away
        slope = slope + o.kl_coef * of_divergence
    scale = grad_loss * token_scale(tokens, normalizer, o.reduction)
    gradient = torch.where(tokens.counted, slope * scale.to(slope.dtype), 0.0).to(logprob.dtype)
    return gradient.view(logprob.shape) if gradient.numel() else torch.zeros_like(logprob, memory_format=torch.contiguous_format)
