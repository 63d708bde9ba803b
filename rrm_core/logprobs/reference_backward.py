"""Gradients of the log-probability ops, written out: the backward ops' plain-PyTorch body, and an oracle independent of autograd.

Each backward recomputes logits and statistics (those of the forward are for kernels), forms dL/dz on the scaled logits z, and carries it back through
temperature, softcap and the product. A gradient that is not needed is not computed; results hold the needed ones only, in the order of the ``need_*``
arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core.logprobs import reference as ref

_MINUS_INF = float("-inf")


def _token_grad(z: Tensor, token_ids: Tensor, grads: tuple[Tensor, Tensor, Tensor], ignore_index: int, invalid: Tensor | None = None) -> Tensor:
    """dL/dz [..., V] of ``reference.token_results``."""
    grad_logprob, grad_entropy, grad_logsumexp = (g.to(z.dtype) for g in grads)
    ids = ref.ids_per_row(token_ids, z.dim() - 1)
    skipped = ids == ignore_index
    dead = skipped.all(-1) if invalid is None else skipped.all(-1) | invalid
    unused = skipped | (ids < 0) | (ids >= z.shape[-1]) | dead.unsqueeze(-1)
    z = z.masked_fill(dead.unsqueeze(-1), 0.0)
    log_p, entropy = ref.normalise(z)
    p, entropy = log_p.exp(), entropy.unsqueeze(-1)
    surprise = log_p.masked_fill(log_p == _MINUS_INF, 0.0)
    grad_logprob = grad_logprob.view(ids.shape).masked_fill(unused, 0.0)
    through_sum = grad_logsumexp.unsqueeze(-1) - grad_logprob.sum(-1, keepdim=True)
    grad = p * (through_sum - grad_entropy.unsqueeze(-1) * (surprise + entropy))
    grad = grad.scatter_add(-1, ids.masked_fill(unused, 0), grad_logprob)
    return grad.masked_fill(dead.unsqueeze(-1), 0.0)


def _score_grad(
    z: Tensor, forms: Tensor, values: Tensor | None, row_sets: Tensor | None, full_vocab: bool, grads: tuple[Tensor, ...], invalid: Tensor
) -> Tensor:
    """dL/dz of ``reference.score_results``: [N, V] with full_vocab, else [N, L * F]."""
    n, labels = forms.shape[:2]
    pad = forms == ref.PAD_ID
    missing, ids = pad.all(-1), ref.existing(forms).flatten(1)
    results = ref.score_results(z, forms, values, row_sets, None, full_vocab, torch.zeros_like(invalid), (n,))
    conditional, expected, variance, entropy = results[1], *(r.unsqueeze(-1) for r in results[3:6])

    def per_label(grad: Tensor) -> Tensor:
        return grad.to(z.dtype).reshape(n, labels).masked_fill(missing, 0.0)

    def per_row(grad: Tensor) -> Tensor:
        return grad.to(z.dtype).reshape(n, 1)

    q, d_conditional = conditional.exp(), per_label(grads[1])
    d_label = d_conditional - q * d_conditional.sum(-1, keepdim=True)
    d_label -= per_row(grads[5]) * q * (conditional.masked_fill(conditional == _MINUS_INF, 0.0) + entropy)
    if values is not None:
        away = ref.values_of_rows(values, row_sets, n).to(z.dtype) - expected
        d_label += q * (per_row(grads[3]) * away + per_row(grads[4]) * (away**2 - variance))
    if full_vocab:
        d_logprob, d_mass = per_label(grads[0]), per_row(grads[2])
        d_label += d_logprob + q * d_mass

    form_z = (z.gather(-1, ids) if full_vocab else z).view(forms.shape).masked_fill(pad, _MINUS_INF)
    impossible = (form_z == _MINUS_INF).all(-1)
    d_label = d_label.masked_fill(impossible.all(-1, keepdim=True), 0.0)
    share = torch.softmax(form_z, -1).masked_fill(impossible.unsqueeze(-1), 0.0)
    grad = (share * d_label.unsqueeze(-1)).masked_fill(pad, 0.0).flatten(1)
    if full_vocab:
        grad = (-torch.softmax(z, -1) * (d_logprob.sum(-1, keepdim=True) + d_mass)).scatter_add(-1, ids, grad)
    return grad.masked_fill(invalid.unsqueeze(-1), 0.0)


def _scale_back(grad: Tensor, logits: Tensor, softcap: float | None, temperature: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """dL/dlogits [..., V] and dL/dtemperature [...] from dL/dz."""
    grad_temperature = None
    capped = ref.scale(logits, softcap, None)
    if temperature is not None:
        grad = grad / temperature.unsqueeze(-1)
        grad_temperature = -(grad * capped).masked_fill((grad == 0.0) | (capped == _MINUS_INF), 0.0).sum(-1) / temperature
    if softcap is not None:
        grad = grad * (1.0 - (capped / softcap) ** 2)
    return grad, grad_temperature


def _needed(*gradients: tuple[bool, Tensor | None]) -> list[Tensor]:
    return [gradient for need, gradient in gradients if need and gradient is not None]


def _project_back(
    grad: Tensor, taken: Tensor, hidden: Tensor, weight: Tensor, rows: Tensor | None, columns: Tensor | None, need: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dL/dhidden, dL/dweight, dL/dbias from dL/dlogits [N, C] of the weight rows ``columns`` [C], or of the first C."""
    grad_hidden = grad_weight = grad_bias = None
    index = torch.arange(grad.shape[1], device=grad.device) if columns is None else columns
    with torch.autocast(grad.device.type, enabled=False):
        if need[0]:
            grad_hidden = grad @ ref.widen(weight.index_select(0, index))
            if rows is not None:
                source = rows.masked_fill((rows < 0) | (rows >= hidden.shape[0]), 0)
                grad_hidden = grad.new_zeros(hidden.shape).index_add_(0, source, grad_hidden)
            grad_hidden = grad_hidden.to(hidden.dtype)
        if need[1]:
            grad_weight = grad.new_zeros(weight.shape).index_add_(0, index, grad.T @ ref.widen(taken)).to(weight.dtype)
        if need[2]:
            grad_bias = grad.new_zeros(weight.shape[0]).index_add_(0, index, grad.sum(0))
    return grad_hidden, grad_weight, grad_bias


def token_logprobs_backward(
    grad_logprob: Tensor,
    grad_entropy: Tensor,
    grad_logsumexp: Tensor,
    entropy: Tensor,
    statistics: Tensor,
    logits: Tensor,
    token_ids: Tensor,
    temperature: Tensor | None,
    ignore_index: int,
    need_logits: bool,
    need_temperature: bool,
) -> list[Tensor]:
    wide = ref.widen(logits)
    grad = _token_grad(ref.scale(wide, None, temperature), token_ids, (grad_logprob, grad_entropy, grad_logsumexp), ignore_index)
    grad, grad_temperature = _scale_back(grad, wide, None, temperature)
    return _needed((need_logits, grad.to(logits.dtype)), (need_temperature, grad_temperature))


def linear_token_logprobs_backward(
    grad_logprob: Tensor,
    grad_entropy: Tensor,
    grad_logsumexp: Tensor,
    entropy: Tensor,
    statistics: Tensor,
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    rows: Tensor | None,
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float | None,
    ignore_index: int,
    vocab_size: int,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
    need_temperature: bool,
) -> list[Tensor]:
    taken, invalid = ref.take_rows(hidden, rows)
    dead = invalid | (ref.ids_per_row(token_ids, 1) == ignore_index).all(-1)
    taken = taken.masked_fill(dead.unsqueeze(-1), 0.0)
    logits = ref.project(taken, weight[:vocab_size], None if bias is None else bias[:vocab_size])
    z = ref.scale(logits, softcap, temperature)
    grad = _token_grad(z, token_ids, (grad_logprob, grad_entropy, grad_logsumexp), ignore_index, invalid)
    grad, grad_temperature = _scale_back(grad, logits, softcap, temperature)
    grads = _project_back(grad, taken, hidden, weight, rows, None, (need_hidden, need_weight, need_bias))
    return _needed(*zip((need_hidden, need_weight, need_bias), grads, strict=True), (need_temperature, grad_temperature))


def score_token_logprobs_backward(
    grads: list[Tensor],
    statistics: Tensor,
    hidden: Tensor,
    weight: Tensor,
    form_ids: Tensor,
    values: Tensor | None,
    rows: Tensor | None,
    row_sets: Tensor | None,
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float | None,
    full_vocab: bool,
    vocab_size: int,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
    need_temperature: bool,
) -> list[Tensor]:
    taken, no_row = ref.take_rows(hidden, rows)
    n = taken.shape[0]
    forms, no_set = ref.forms_of_rows(form_ids, row_sets, n)
    invalid = no_row | no_set
    taken = taken.masked_fill(invalid.unsqueeze(-1), 0.0)
    columns = None if full_vocab else ref.existing(form_ids).flatten()
    if columns is None:
        logits = ref.project(taken, weight[:vocab_size], None if bias is None else bias[:vocab_size])
    else:
        logits = ref.label_logits(taken, weight, form_ids, forms, row_sets, bias)
    z = ref.scale(logits, softcap, temperature)
    grad = _score_grad(z, forms, values, row_sets, full_vocab, tuple(grads), invalid)
    grad, grad_temperature = _scale_back(grad, logits, softcap, temperature)
    if columns is not None:
        grad = ref.spread_over_sets(grad, form_ids.shape[0], row_sets)
    needs = (need_hidden, need_weight, need_bias)
    return _needed(*zip(needs, _project_back(grad, taken, hidden, weight, rows, columns, needs), strict=True), (need_temperature, grad_temperature))


def score_token_logprobs_from_logits_backward(
    grads: list[Tensor],
    statistics: Tensor,
    logits: Tensor,
    form_ids: Tensor,
    values: Tensor | None,
    row_sets: Tensor | None,
    temperature: Tensor | None,
    full_vocab: bool,
    need_logits: bool,
    need_temperature: bool,
) -> list[Tensor]:
    flat = ref.widen(logits).reshape(-1, logits.shape[-1])
    heat = None if temperature is None else temperature.reshape(-1)
    sets = None if row_sets is None else row_sets.reshape(-1)
    forms, invalid = ref.forms_of_rows(form_ids, sets, flat.shape[0])
    ids = ref.existing(forms).flatten(1)
    wanted = flat if full_vocab else flat.gather(-1, ids)
    grad = _score_grad(ref.scale(wanted, None, heat), forms, values, sets, full_vocab, tuple(grads), invalid)
    grad, grad_temperature = _scale_back(grad, wanted, None, heat)
    if not full_vocab:
        grad = flat.new_zeros(flat.shape).scatter_add_(-1, ids, grad)
    grad_temperature = None if grad_temperature is None else grad_temperature.view(logits.shape[:-1])
    return _needed((need_logits, grad.view(logits.shape).to(logits.dtype)), (need_temperature, grad_temperature))
