"""Registration of the policy loss: schemas, shapes, bodies, gradient. Meaning and validation are in ``reference`` and ``ops``.

The forward also returns ``facts`` [B, 4], not differentiable: what backward needs of every sequence (the scale of its gradients, its log ratio, the
gradient through that, its rollout weight), so that backward is one pass too. Only log probabilities have a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rrm_core._library import define_op
from rrm_core.losses import reference, reference_backward

_TOKENS = "Tensor logprob, Tensor? old_logprob, Tensor advantages, Tensor? mask, Tensor? cu_seqlens, Tensor? ref_logprob, Tensor? rollout_logprob"
_OPTIONS = "int objective, bool sequence_ratio, float clip_low, float clip_high, float? dual_clip, float? log_ratio_clamp, float kl_coef, int kl"
_ROLLOUT = "float rollout_clip, bool sequence_rollout"


def _fake_loss(logprob: Tensor, old: Tensor | None, advantages: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, *rest: Any) -> Any:
    dtype = torch.promote_types(logprob.dtype, torch.float32)
    rows = logprob.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    numbers = [logprob.new_empty((), dtype=dtype) for _ in range(6)]
    return *numbers, logprob.new_empty(rows, 4, dtype=torch.float64)


policy_loss_backward = define_op(
    f"policy_loss_backward(Tensor grad_loss, Tensor facts, {_TOKENS}, Tensor? normalizer, {_OPTIONS}, int reduction, {_ROLLOUT}) -> Tensor",
    reference_backward.policy_loss_backward,
    lambda grad, facts, logprob, *rest: torch.empty_like(logprob, memory_format=torch.contiguous_format),
    triton="losses:policy_loss_backward",
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options = inputs[8:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[6], *inputs[:8])


def _gradient(ctx: Any, grad: Tensor, *metrics: Tensor) -> tuple[Any, ...]:
    found = policy_loss_backward(grad, *ctx.saved_tensors, *ctx.options) if ctx.needs_input_grad[0] else None
    return found, *[None] * 18


policy_loss = define_op(
    f"policy_loss({_TOKENS}, Tensor? normalizer, {_OPTIONS}, int reduction, {_ROLLOUT}) -> (Tensor loss, Tensor kl, Tensor clip_fraction_low,"
    " Tensor clip_fraction_high, Tensor ratio_mean, Tensor ratio_max, Tensor facts)",
    reference.policy_loss,
    _fake_loss,
    setup_context=_save,
    backward=_gradient,
    triton="losses:policy_loss",
)
