"""The policy loss from hidden states in plain PyTorch: ``linear_token_logprobs``, then ``policy_loss``, less a bonus for entropy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rrm_core.logprobs import reference as logprobs
from rrm_core.logprobs import reference_backward as logprobs_backward
from rrm_core.losses import reference, reference_backward
from rrm_core.losses.reference import REDUCTIONS, Tokens, denominator, tokens_of

LinearLossResults = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

IGNORED = torch.iinfo(torch.int64).min  # nobody's label


def counted_ids(token_ids: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, other: int = IGNORED) -> Tensor:
    """token_ids [M], ``other`` where a token doesn't count."""
    counted = tokens_of(token_ids, mask, cu_seqlens).counted
    counted = torch.nn.functional.pad(counted, (0, token_ids.numel() - counted.shape[0]))
    return torch.where(counted, token_ids.flatten(), other)


def token_scale(tokens: Tokens, normalizer: Tensor | None, reduction: int) -> Tensor:
    """What each token's loss is multiplied with [M], float64; 0 where it doesn't count."""
    scale = 1.0 / denominator(tokens, normalizer, reduction).expand(tokens.rows)
    if reduction == REDUCTIONS["sequence_mean"]:
        scale = scale / tokens.size.clamp(min=1)
    return scale[tokens.row].masked_fill(~tokens.counted, 0.0)


def entropy_bonus(
    entropy: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, normalizer: Tensor | None, reduction: int
) -> tuple[Tensor, Tensor]:
    """(entropies reduced like the loss, their mean over the tokens that count), of entropy [B, T] or [T]."""
    tokens = tokens_of(entropy, mask, cu_seqlens)
    flat = entropy.flatten()[: len(tokens.row)].masked_fill(~tokens.counted, 0.0)
    return (flat.double() * token_scale(tokens, normalizer, reduction)).sum().to(entropy.dtype), tokens.mean(flat)


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float | None,
    vocab_size: int,
    old_logprob: Tensor | None,
    advantages: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    ref_logprob: Tensor | None,
    rollout_logprob: Tensor | None,
    normalizer: Tensor | None,
    objective: int,
    *rest: Any,
) -> LinearLossResults:
    """Under ordinary autograd: no gradients among the results. rest: the other options of ``policy_loss``, entropy_coef, and what is needed."""
    *options, entropy_coef, _need_hidden, _need_weight, _need_bias = rest
    ids = counted_ids(token_ids, mask, cu_seqlens)
    rows = hidden.reshape(-1, hidden.shape[-1])
    logprob, entropy, _, _ = logprobs.linear_token_logprobs(rows, weight, ids, None, bias, temperature, softcap, IGNORED, vocab_size, True)
    logprob, entropy = logprob.view(token_ids.shape), entropy.view(token_ids.shape)
    loss, *metrics, _ = reference.policy_loss(
        logprob, old_logprob, advantages, mask, cu_seqlens, ref_logprob, rollout_logprob, normalizer, objective, False, *options
    )
    bonus, mean = entropy_bonus(entropy, mask, cu_seqlens, normalizer, options[6])
    if entropy_coef != 0.0:
        loss = loss - entropy_coef * bonus
    nothing = [loss.new_empty(0) for _ in range(3)]
    return loss, metrics[0], metrics[1], metrics[2], metrics[3], metrics[4], mean.detach(), logprob.detach(), nothing[0], nothing[1], nothing[2]


def linear_policy_loss_with_gradients(hidden: Tensor, weight: Tensor, token_ids: Tensor, *rest: Any) -> LinearLossResults:
    """The same, with those gradients of the loss that are needed, written out, in the dtype computed with."""
    bias, temperature, softcap, vocab_size, old_logprob, advantages, mask, cu_seqlens, ref_logprob, rollout_logprob, normalizer, objective = rest[:12]
    *options, entropy_coef, need_hidden, need_weight, need_bias = rest[12:]
    found = linear_policy_loss(hidden, weight, token_ids, *rest)
    tokens = tokens_of(token_ids, mask, cu_seqlens)
    logprob, one = found[7], found[0].new_ones(())
    facts = logprob.new_zeros(tokens.rows, 4, dtype=torch.float64)
    of_logprob = reference_backward.policy_loss_backward(
        one, facts, logprob, old_logprob, advantages, mask, cu_seqlens, ref_logprob, rollout_logprob, normalizer, objective, False, *options
    ).flatten()
    scale = token_scale(tokens, normalizer, options[6])
    of_entropy = torch.nn.functional.pad(-entropy_coef * scale, (0, of_logprob.shape[0] - scale.shape[0])).to(of_logprob.dtype)
    ids, nothing = counted_ids(token_ids, mask, cu_seqlens), torch.zeros_like(of_logprob)
    wide = logprobs.widen(hidden).reshape(-1, hidden.shape[-1]), logprobs.widen(weight)
    grads = logprobs_backward.linear_token_logprobs_backward(
        of_logprob, of_entropy, nothing, nothing, nothing, *wide, ids, None, bias, temperature, softcap,
        IGNORED, vocab_size, need_hidden, need_weight, need_bias, False,
    )  # fmt: skip
    remaining = iter(grads)
    found_grads = [next(remaining) if need else one.new_empty(0) for need in (need_hidden, need_weight, need_bias and bias is not None)]
    return *found[:8], found_grads[0].view(hidden.shape) if need_hidden else found_grads[0], found_grads[1], found_grads[2]
