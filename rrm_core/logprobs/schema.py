"""Registration of the log-probability ops: schemas, shapes, plain bodies, gradients. Meaning and validation are in ``reference`` and ``ops``.

Every forward also returns ``statistics`` [..., 3], not differentiable: a row's largest logit (softcapped, before the temperature), the log-sum-exp of
z relative to it, and what rounding took from that. Backward starts from them, so that nobody forms the softmax's sums twice; the second is NaN or
infinite where there is no distribution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rrm_core._library import define_op
from rrm_core.logprobs import reference, reference_backward

_TOKEN_RESULTS = "(Tensor logprob, Tensor entropy, Tensor logsumexp, Tensor statistics)"
_SCORE_RESULTS = "(Tensor logprob, Tensor conditional, Tensor log_mass, Tensor expected, Tensor variance, Tensor entropy, Tensor statistics)"


def _float32(like: Tensor, *sizes: int) -> Tensor:
    return like.new_empty(sizes, dtype=torch.promote_types(like.dtype, torch.float32))


def _fake_tokens(source: Tensor, token_ids: Tensor, leading: tuple[int, ...]) -> reference.TokenResults:
    return _float32(source, *token_ids.shape), _float32(source, *leading), _float32(source, *leading), _float32(source, *leading, 3)


def _fake_scores(source: Tensor, labels: int, values: Tensor | None, full_vocab: bool, leading: tuple[int, ...]) -> reference.ScoreResults:
    def rows(asked: bool) -> Tensor:
        return _float32(source, *leading) if asked else _float32(source, 0)

    logprob = _float32(source, *leading, labels) if full_vocab else _float32(source, 0)
    with_values, statistics = values is not None, _float32(source, *leading, 3)
    return logprob, _float32(source, *leading, labels), rows(full_vocab), rows(with_values), rows(with_values), rows(True), statistics


def _needed(*gradients: tuple[bool, Tensor | None]) -> list[Tensor]:
    return [torch.empty_like(g, memory_format=torch.contiguous_format) for need, g in gradients if need and g is not None]


def _spread(gradients: list[Tensor], *needed: bool) -> list[Tensor | None]:
    """The needed gradients back in their places, None elsewhere."""
    remaining = iter(gradients)
    return [next(remaining) if need else None for need in needed]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], *found: Tensor) -> None:
    """Keeps ``found`` among the results, and the inputs, for backward."""
    ctx.mark_non_differentiable(output[-1])
    ctx.save_for_backward(*found, *inputs)


# ---- token_logprobs

token_logprobs_backward = define_op(
    "token_logprobs_backward(Tensor grad_logprob, Tensor grad_entropy, Tensor grad_logsumexp, Tensor entropy, Tensor statistics, Tensor logits,"
    " Tensor token_ids, Tensor? temperature, int ignore_index, bool need_logits, bool need_temperature) -> Tensor[]",
    reference_backward.token_logprobs_backward,
    lambda gl, ge, gs, entropy, statistics, logits, ids, temperature, ignore, need_l, need_t: _needed((need_l, logits), (need_t, temperature)),
    triton="logprobs_backward:token_logprobs_backward",
)


def _save_token_logprobs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.ignore_index = inputs[3]
    _save(ctx, inputs[:3], output, output[1], output[3])


def _token_logprobs_grads(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    need_logits, _, need_temperature, _ = ctx.needs_input_grad
    found = token_logprobs_backward(*grads[:3], *ctx.saved_tensors, ctx.ignore_index, need_logits, need_temperature)
    grad_logits, grad_temperature = _spread(found, need_logits, need_temperature)
    return grad_logits, None, grad_temperature, None


token_logprobs = define_op(
    f"token_logprobs(Tensor logits, Tensor token_ids, Tensor? temperature, int ignore_index) -> {_TOKEN_RESULTS}",
    reference.token_logprobs,
    lambda logits, token_ids, temperature, ignore: _fake_tokens(logits, token_ids, logits.shape[:-1]),
    setup_context=_save_token_logprobs,
    backward=_token_logprobs_grads,
    triton="logprobs:token_logprobs",
)

# ---- linear_token_logprobs

linear_token_logprobs_backward = define_op(
    "linear_token_logprobs_backward(Tensor grad_logprob, Tensor grad_entropy, Tensor grad_logsumexp, Tensor entropy, Tensor statistics,"
    " Tensor hidden, Tensor weight, Tensor token_ids, Tensor? rows, Tensor? bias, Tensor? temperature, float? softcap, int ignore_index,"
    " SymInt vocab_size, bool need_hidden, bool need_weight, bool need_bias, bool need_temperature) -> Tensor[]",
    reference_backward.linear_token_logprobs_backward,
    lambda gl, ge, gs, entropy, statistics, hidden, weight, ids, rows, bias, temperature, softcap, ignore, vocab, *need: _needed(
        *zip(need, (hidden, weight, bias, temperature), strict=True)
    ),
    triton="logprobs_backward:linear_token_logprobs_backward",
)


def _save_linear_token_logprobs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.settings = inputs[6:9]
    _save(ctx, inputs[:6], output, output[1], output[3])


def _linear_token_logprobs_grads(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    need_hidden, need_weight, _, _, need_bias, need_temperature = need = ctx.needs_input_grad[:6]
    needed = (need_hidden, need_weight, need_bias, need_temperature)
    found = linear_token_logprobs_backward(*grads[:3], *ctx.saved_tensors, *ctx.settings, *needed)
    return *_spread(found, *need), None, None, None, None


linear_token_logprobs = define_op(
    "linear_token_logprobs(Tensor hidden, Tensor weight, Tensor token_ids, Tensor? rows, Tensor? bias, Tensor? temperature, float? softcap,"
    f" int ignore_index, SymInt vocab_size, bool batch_invariant) -> {_TOKEN_RESULTS}",
    reference.linear_token_logprobs,
    lambda hidden, weight, token_ids, *rest: _fake_tokens(hidden, token_ids, token_ids.shape[:1]),
    setup_context=_save_linear_token_logprobs,
    backward=_linear_token_logprobs_grads,
    triton="logprobs:linear_token_logprobs",
)

# ---- score_token_logprobs

score_token_logprobs_backward = define_op(
    "score_token_logprobs_backward(Tensor[] grads, Tensor statistics, Tensor hidden, Tensor weight, Tensor form_ids, Tensor? values, Tensor? rows,"
    " Tensor? row_sets, Tensor? bias, Tensor? temperature, float? softcap, bool full_vocab, SymInt vocab_size, bool need_hidden, bool need_weight,"
    " bool need_bias, bool need_temperature) -> Tensor[]",
    reference_backward.score_token_logprobs_backward,
    lambda grads, statistics, hidden, weight, forms, values, rows, row_sets, bias, temperature, softcap, full, vocab, *need: _needed(
        *zip(need, (hidden, weight, bias, temperature), strict=True)
    ),
    triton="score_tokens_backward:score_token_logprobs_backward",
)


def _save_score_token_logprobs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.settings = inputs[8:11]
    _save(ctx, inputs[:8], output, output[6])


def _score_token_logprobs_grads(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    need_hidden, need_weight, _, _, _, _, need_bias, need_temperature = need = ctx.needs_input_grad[:8]
    needed = (need_hidden, need_weight, need_bias, need_temperature)
    found = score_token_logprobs_backward(list(grads[:6]), *ctx.saved_tensors, *ctx.settings, *needed)
    return *_spread(found, *need), None, None, None, None


score_token_logprobs = define_op(
    "score_token_logprobs(Tensor hidden, Tensor weight, Tensor form_ids, Tensor? values, Tensor? rows, Tensor? row_sets, Tensor? bias,"
    f" Tensor? temperature, float? softcap, bool full_vocab, SymInt vocab_size, bool batch_invariant) -> {_SCORE_RESULTS}",
    reference.score_token_logprobs,
    lambda hidden, weight, forms, values, rows, row_sets, bias, temperature, softcap, full, vocab, invariant: _fake_scores(
        hidden, forms.shape[1], values, full, (hidden.shape[0] if rows is None else rows.shape[0],)
    ),
    setup_context=_save_score_token_logprobs,
    backward=_score_token_logprobs_grads,
    triton="score_tokens:score_token_logprobs",
)

# ---- score_token_logprobs_from_logits

score_token_logprobs_from_logits_backward = define_op(
    "score_token_logprobs_from_logits_backward(Tensor[] grads, Tensor statistics, Tensor logits, Tensor form_ids, Tensor? values, Tensor? row_sets,"
    " Tensor? temperature, bool full_vocab, bool need_logits, bool need_temperature) -> Tensor[]",
    reference_backward.score_token_logprobs_from_logits_backward,
    lambda grads, statistics, logits, forms, values, row_sets, temperature, full, need_l, need_t: _needed((need_l, logits), (need_t, temperature)),
    triton="score_tokens_backward:score_token_logprobs_from_logits_backward",
)


def _save_from_logits(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.full_vocab = inputs[5]
    _save(ctx, inputs[:5], output, output[6])


def _from_logits_grads(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    need = ctx.needs_input_grad[:5]
    found = score_token_logprobs_from_logits_backward(list(grads[:6]), *ctx.saved_tensors, ctx.full_vocab, need[0], need[4])
    return *_spread(found, *need), None


score_token_logprobs_from_logits = define_op(
    "score_token_logprobs_from_logits(Tensor logits, Tensor form_ids, Tensor? values, Tensor? row_sets, Tensor? temperature, bool full_vocab)"
    f" -> {_SCORE_RESULTS}",
    reference.score_token_logprobs_from_logits,
    lambda logits, forms, values, row_sets, temperature, full: _fake_scores(logits, forms.shape[1], values, full, logits.shape[:-1]),
    setup_context=_save_from_logits,
    backward=_from_logits_grads,
    triton="score_tokens:score_token_logprobs_from_logits",
)
