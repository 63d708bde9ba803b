"""The policy loss in plain PyTorch: what it means. Tokens are flattened, each with the number of its sequence; everything per sequence is a sum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

OBJECTIVES = {"ppo": 0, "cispo": 1, "reinforce": 2}
KLS = {"k1": 0, "k2": 1, "k3": 2, "k3_k2": 3}
REDUCTIONS = {"token_mean": 0, "sequence_mean": 1, "sequence_sum": 2, "constant": 3}


class Behaviour(NamedTuple):
    """Of every token or sequence, as the ops take it."""

    old_logprob: Tensor | None
    advantages: Tensor
    mask: Tensor | None
    cu_seqlens: Tensor | None
    ref_logprob: Tensor | None
    rollout_logprob: Tensor | None


class Options(NamedTuple):
    """The numbers among an op's arguments, in the schema's order."""

    objective: int
    sequence_ratio: bool
    clip_low: float
    clip_high: float
    dual_clip: float | None
    log_ratio_clamp: float | None
    kl_coef: float
    kl: int
    reduction: int
    rollout_clip: float
    sequence_rollout: bool


def split(arguments: tuple[Any, ...]) -> tuple[Behaviour, Tensor | None, Options]:
    """What follows the log probabilities in the op's schema; the normaliser lies between."""
    return Behaviour(*arguments[:6]), arguments[6], Options(*arguments[7:])


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


def terms_of(tokens: Tokens, logprob: Tensor, behaviour: Behaviour, options: Options) -> Terms:
    old_logprob, advantages, _, cu_seqlens, ref_logprob, rollout_logprob = behaviour
    clamp = options.log_ratio_clamp
    hidden, row = ~tokens.counted, tokens.row
    dtype = torch.promote_types(logprob.dtype, torch.float32)

    def of_tokens(values: Tensor) -> Tensor:
        return values.to(dtype).flatten()[: len(row)].masked_fill(hidden, 0.0)

    x = of_tokens(logprob)
    old = x.detach() if old_logprob is None else of_tokens(old_logprob)
    per_row = advantages.dim() < logprob.dim() or (cu_seqlens is not None and advantages.shape[0] == tokens.rows)
    advantage = of_tokens(advantages.to(dtype)[row] if per_row else advantages)
    log_ratio = x - old
    if options.sequence_ratio:
        log_ratio = (tokens.sums(log_ratio) / tokens.size.clamp(min=1))[row].to(dtype)
    ratio = (log_ratio if clamp is None else log_ratio.clamp(-clamp, clamp)).exp()
    weight = torch.ones_like(x)
    if rollout_logprob is not None:
        mismatch = old - of_tokens(rollout_logprob)
        weight = (tokens.sums(mismatch)[row].to(dtype) if options.sequence_rollout else mismatch).exp().clamp(max=options.rollout_clip)
    away = None if ref_logprob is None else x - of_tokens(ref_logprob)
    return Terms(x, advantage, log_ratio, ratio, ratio.clamp(1 - options.clip_low, 1 + options.clip_high), weight, away)


def denominator(tokens: Tokens, normalizer: Tensor | None, reduction: int) -> Tensor:
    if normalizer is None:
        normalizer = (tokens.size.sum() if reduction == REDUCTIONS["token_mean"] else (tokens.size > 0).sum()).clamp(min=1)
    return normalizer.double()


def token_scale(tokens: Tokens, normalizer: Tensor | None, reduction: int) -> Tensor:
    """What each token's loss is multiplied with [M], float64; 0 where it doesn't count."""
    scale = 1.0 / denominator(tokens, normalizer, reduction).expand(tokens.rows)
    if reduction == REDUCTIONS["sequence_mean"]:
        scale = scale / tokens.size.clamp(min=1)
    return scale[tokens.row].masked_fill(~tokens.counted, 0.0)


def policy_loss(logprob: Tensor, *arguments: Any) -> LossResults:
    """(loss, kl, clip_fraction_low, clip_fraction_high, ratio_mean, ratio_max, what backward starts from: nothing here)."""
    behaviour, normalizer, o = split(arguments)
    tokens = tokens_of(logprob, behaviour.mask, behaviour.cu_seqlens)
    t = terms_of(tokens, logprob, behaviour, o)
    if o.objective == OBJECTIVES["ppo"]:
        per_token = -torch.minimum(t.ratio * t.advantage, t.clipped * t.advantage)
        if o.dual_clip is not None:
            per_token = torch.where(t.advantage < 0, torch.minimum(per_token, -o.dual_clip * t.advantage), per_token)
    elif o.objective == OBJECTIVES["cispo"]:
        per_token = -t.clipped.detach() * t.advantage * t.x
    else:
        per_token = -t.advantage * t.x
    per_token = per_token * t.weight
    divergence = torch.zeros_like(t.x) if t.away is None else kl_divergence(t.away, o.kl)
    if t.away is not None and o.kl_coef != 0.0:
        per_token = per_token + o.kl_coef * divergence

    per_sequence = tokens.sums(per_token)
    if o.reduction == REDUCTIONS["sequence_mean"]:
        per_sequence = per_sequence / tokens.size.clamp(min=1)
    loss = (per_sequence.sum() / denominator(tokens, normalizer, o.reduction)).to(t.x.dtype)

    clips = o.objective != OBJECTIVES["reinforce"]
    low, high = (t.ratio < 1 - o.clip_low) & (t.advantage < 0), (t.ratio > 1 + o.clip_high) & (t.advantage > 0)
    low, high = ((tokens.mean((side & clips).to(t.x.dtype))).detach() for side in (low, high))
    largest = t.ratio.masked_fill(~tokens.counted, 0.0).amax() if t.ratio.numel() else t.ratio.new_zeros(())
    facts = t.x.new_zeros(tokens.rows, 4, dtype=torch.float64)
    return loss, tokens.mean(divergence).detach(), low, high, tokens.mean(t.ratio).detach(), largest.detach(), facts
