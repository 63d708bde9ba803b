"""The policy loss from hidden states in plain PyTorch: ``linear_token_logprobs``, then ``policy_loss``, less a bonus for entropy."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rrm_core.logprobs import reference as logprobs
from rrm_core.logprobs import reference_backward as logprobs_backward
from rrm_core.losses import reference, reference_backward
from rrm_core.losses.reference import Behaviour, Options, split, token_scale, tokens_of

LinearLossResults = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

IGNORED = torch.iinfo(torch.int64).min  # nobody's label


def counted_ids(token_ids: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, other: int = IGNORED) -> Tensor:
    """token_ids [M], ``other`` where a token doesn't count."""
    counted = tokens_of(token_ids, mask, cu_seqlens).counted
    counted = torch.nn.functional.pad(counted, (0, token_ids.numel() - counted.shape[0]))
    return torch.where(counted, token_ids.flatten(), other)


def entropy_bonus(
    entropy: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, normalizer: Tensor | None, reduction: int
) -> tuple[Tensor, Tensor]:
    """(entropies reduced like the loss, their mean over the tokens that count), of entropy [B, T] or [T]."""
    tokens = tokens_of(entropy, mask, cu_seqlens)
    flat = entropy.flatten()[: len(tokens.row)].masked_fill(~tokens.counted, 0.0)
    return (flat.double() * token_scale(tokens, normalizer, reduction)).sum().to(entropy.dtype), tokens.mean(flat)


class Call(NamedTuple):
    """The op's arguments."""

    hidden: Tensor
    weight: Tensor
    token_ids: Tensor
    bias: Tensor | None
    temperature: Tensor | None
    softcap: float | None
    vocab_size: int
    behaviour: Behaviour
    normalizer: Tensor | None
    options: Options
    entropy_coef: float
    need: tuple[bool, bool, bool]  # gradients of hidden, weight and bias

    @staticmethod
    def of(arguments: tuple[Any, ...]) -> Call:
        """There is no ratio of a sequence among the options of this op."""
        head, loss, (entropy_coef, *need) = arguments[:7], (*arguments[7:15], False, *arguments[15:24]), arguments[24:]
        return Call(*[*head, *split(loss), entropy_coef, tuple(need)])

    @property
    def of_head(self) -> tuple[Any, ...]:
        """What the log-probability ops want after the ids."""
        return None, self.bias, self.temperature, self.softcap, IGNORED, self.vocab_size

    @property
    def of_loss(self) -> tuple[Any, ...]:
        """What the policy loss wants after the log probabilities."""
        return *self.behaviour, self.normalizer, *self.options


def linear_policy_loss(*arguments: Any) -> LinearLossResults:
    """Under ordinary autograd: no gradients among the results."""
    c = Call.of(arguments)
    mask, cu_seqlens, shape = c.behaviour.mask, c.behaviour.cu_seqlens, c.token_ids.shape
    ids = counted_ids(c.token_ids, mask, cu_seqlens)
    logprob, entropy, _, _ = logprobs.linear_token_logprobs(c.hidden.reshape(-1, c.hidden.shape[-1]), c.weight, ids, *[*c.of_head, True])
    logprob, entropy = logprob.view(shape), entropy.view(shape)
    loss, kl, low, high, mean, largest, _ = reference.policy_loss(logprob, *c.of_loss)
    bonus, mean_entropy = entropy_bonus(entropy, mask, cu_seqlens, c.normalizer, c.options.reduction)
    if c.entropy_coef != 0.0:
        loss = loss - c.entropy_coef * bonus
    nothing = loss.new_empty(0)
    return loss, kl, low, high, mean, largest, mean_entropy.detach(), logprob.detach(), nothing, nothing.clone(), nothing.clone()


def linear_policy_loss_with_gradients(*arguments: Any) -> LinearLossResults:
    """The same, with those gradients of the loss that are needed, written out, in the dtype computed with."""
    c = Call.of(arguments)
    found = linear_policy_loss(*arguments)
    tokens = tokens_of(c.token_ids, c.behaviour.mask, c.behaviour.cu_seqlens)
    logprob, one = found[7], found[0].new_ones(())
    of_logprob = reference_backward.policy_loss_backward(one, one, logprob, *c.of_loss).flatten()
    scale = token_scale(tokens, c.normalizer, c.options.reduction)
    of_entropy = torch.nn.functional.pad(-c.entropy_coef * scale, (0, of_logprob.shape[0] - scale.shape[0])).to(of_logprob.dtype)
    ids, nothing = counted_ids(c.token_ids, c.behaviour.mask, c.behaviour.cu_seqlens), torch.zeros_like(of_logprob)
    wide = logprobs.widen(c.hidden).reshape(-1, c.hidden.shape[-1]), logprobs.widen(c.weight)
    need = (*c.need[:2], c.need[2] and c.bias is not None)
    head = [*wide, ids, *c.of_head, *need, False]
    grads = iter(logprobs_backward.linear_token_logprobs_backward(of_logprob, of_entropy, nothing, nothing, nothing, *head))
    of_hidden, of_weight, of_bias = (next(grads) if needed else one.new_empty(0) for needed in need)
    return *found[:8], of_hidden.view(c.hidden.shape) if need[0] else of_hidden, of_weight, of_bias
