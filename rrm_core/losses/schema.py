"""Registration of the policy losses: schemas, shapes, bodies, gradient. Meaning and validation are in ``reference`` and ``ops``.

The forward also returns ``facts`` [B, 4], not differentiable: what backward needs of every sequence (the scale of its gradients, its log ratio, the
gradient through that, its rollout weight), so that backward is one pass too. Only log probabilities have a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rrm_core._library import define_op
from rrm_core.losses import reference, reference_backward, reference_linear

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

# ---- linear_policy_loss

_HEAD = "Tensor hidden, Tensor weight, Tensor token_ids, Tensor? bias, Tensor? temperature, float? softcap, SymInt vocab_size"
_BEHAVIOUR = "Tensor? old_logprob, Tensor advantages, Tensor? mask, Tensor? cu_seqlens, Tensor? ref_logprob, Tensor? rollout_logprob"
_TOKEN_OPTIONS = "int objective, float clip_low, float clip_high, float? dual_clip, float? log_ratio_clamp, float kl_coef, int kl"


def _fake_linear_loss(hidden: Tensor, weight: Tensor, token_ids: Tensor, bias: Tensor | None, *rest: Any) -> Any:
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    numbers = [hidden.new_empty((), dtype=dtype) for _ in range(7)]
    grads = [
        hidden.new_empty(x.shape if need and x is not None else (0,), dtype=dtype) for x, need in zip((hidden, weight, bias), rest[-3:], strict=True)
    ]
    return *numbers, hidden.new_empty(token_ids.shape, dtype=dtype), *grads


# gradients: in the dtype computed with, so that they are rounded once. inputs: what they are of; the results depend on them, and refuse to be
# differentiated.
linear_policy_loss_backward = define_op(
    "linear_policy_loss_backward(Tensor grad_loss, Tensor[] gradients, Tensor[] inputs) -> Tensor[]",
    lambda grad_loss, gradients, inputs: [(g * grad_loss).to(x.dtype) for g, x in zip(gradients, inputs, strict=True)],
    lambda grad_loss, gradients, inputs: [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs],
)


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.formed = inputs[-3:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[8:], *(inputs[i] for i in (0, 1, 3)))


def _is_one(grad: Tensor) -> bool:
    """Whether it is 1 and can be seen to be."""
    if type(grad) is not Tensor or grad.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return float(grad) == 1.0


def _scaled(ctx: Any, grad: Tensor, *metrics: Tensor) -> tuple[Any, ...]:
    """The gradients times that of the loss; themselves where nobody would see the difference: they are as large as the head."""
    saved = ctx.saved_tensors
    need = [ctx.needs_input_grad[i] and formed for i, formed in zip((0, 1, 3), ctx.formed, strict=True)]
    gradients, inputs = ([x for x, needed in zip(some, need, strict=True) if needed] for some in (saved[:3], saved[3:]))
    once = not torch.is_grad_enabled() and not torch._C._autograd._get_current_graph_task_keep_graph()
    rounded = all(g.dtype == x.dtype for g, x in zip(gradients, inputs, strict=True))
    if not (once and rounded and _is_one(grad)):
        gradients = linear_policy_loss_backward(grad, gradients, inputs)
    remaining = iter(gradients)
    of_hidden, of_weight, of_bias = (next(remaining) if needed else None for needed in need)
    return of_hidden, of_weight, None, of_bias, *[None] * 24


linear_policy_loss = define_op(
    f"linear_policy_loss({_HEAD}, {_BEHAVIOUR}, Tensor? normalizer, {_TOKEN_OPTIONS}, int reduction, {_ROLLOUT}, float entropy_coef,"
    " bool need_hidden, bool need_weight, bool need_bias) -> (Tensor loss, Tensor kl, Tensor clip_fraction_low, Tensor clip_fraction_high,"
    " Tensor ratio_mean, Tensor ratio_max, Tensor entropy, Tensor logprob, Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)",
    reference_linear.linear_policy_loss,
    _fake_linear_loss,
    setup_context=_save_gradients,
    backward=_scaled,
    plain=reference_linear.linear_policy_loss_with_gradients,
    triton="linear_losses:linear_policy_loss",
)
