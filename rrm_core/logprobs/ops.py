"""Log-probabilities of chosen tokens, from logits or straight from hidden states. One softmax convention throughout:
``z = softcap(h W^T + bias) / temperature``, products and sums in float32, results in float32 (float64 for float64 inputs)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import is_ordinary, require, require_float32, require_in_range, require_shape, require_tensor
from rrm_core.logprobs import schema
from rrm_core.logprobs.inputs import check_head, check_ids, check_logits, check_vocab_size, compute_dtype, row_temperatures
from rrm_core.logprobs.score_tokens import ScoreTokens, pack, pack_once


class TokenLogprobs(NamedTuple):
    """Per row of logits; every field is differentiable."""

    logprob: Tensor
    entropy: Tensor
    logsumexp: Tensor


class ScoreTokenLogprobs(NamedTuple):
    """Per row; a field that was not asked for is None. Every field is differentiable."""

    logprob: Tensor | None
    conditional: Tensor
    log_mass: Tensor | None
    expected: Tensor | None
    variance: Tensor | None
    entropy: Tensor


def token_logprobs(
    logits: Tensor, token_ids: Tensor, *, temperature: float | Tensor = 1.0, ignore_index: int = -100, impl: Impl = None
) -> TokenLogprobs:
    """Log-probabilities of chosen tokens from stored logits, with the entropy and the normaliser, in one pass over the logits.

    Equivalent to::

        log_p = (logits.float() / temperature).log_softmax(-1)
        log_p.gather(-1, token_ids), -(log_p.exp() * log_p).sum(-1), (logits.float() / temperature).logsumexp(-1)

    Args:
        logits: [..., V], float32, bfloat16, float16 or float64; any strides, nothing is copied (on CUDA: but for leading dimensions that make
            more than two levels of strides).
        token_ids: int64 [...] or [..., K].
        temperature: number, 0-d tensor or [...]. Under torch.compile a tensor avoids a graph per value.
        ignore_index: id of tokens that don't count. Their logprob is exactly 0, without gradient, whatever the row holds; a row of
            nothing else is not read, its entropy and logsumexp are 0.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        logprob like token_ids; entropy [...] in nats over the vocabulary; logsumexp [...].

    Numerics: native results have the same bits whatever the batch, the strides or the number of threads, and are exact where a probability is
    near 1 (on CUDA logits below -1e30 count as -inf). A row with NaN or +inf, or of nothing but -inf, is NaN (its logsumexp as torch's). An id
    out of range gives NaN where values cannot be checked (CUDA, torch.compile).

    Raises:
        TypeError, ValueError: a dtype, shape, device or id doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    check_logits(logits)
    leading = logits.shape[:-1]
    check_ids(token_ids, leading, logits.shape[-1], ignore_index, logits)
    body = schema.token_logprobs.body(impl, logits)
    return TokenLogprobs(*body(logits, token_ids, row_temperatures(temperature, leading, logits), ignore_index)[:3])


def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    *,
    rows: Tensor | None = None,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    vocab_size: int | None = None,
    batch_invariant: bool = True,
    impl: Impl = None,
) -> TokenLogprobs:
    """``token_logprobs`` of ``hidden @ weight.T`` without the logits: never stored, never rounded below float32.

    Equivalent to::

        logits = hidden[rows].float() @ weight[:vocab_size].float().T + bias
        token_logprobs(softcap * (logits / softcap).tanh(), token_ids, temperature=temperature)

    Args:
        hidden: [..., H], float32, bfloat16, float16 or float64; copied where leading sizes can't be taken together as [T, H].
        weight: [V, H], the head, of hidden's dtype.
        token_ids: int64 [...] or [..., K], with rows [N] or [N, K].
        rows: int64 [N], rows of hidden's [T, H], picked inside the kernel; all of them when None.
        bias: [V], of hidden's dtype or float32.
        temperature: number, 0-d tensor or [...] ([N] with rows).
        softcap: logits become ``softcap * tanh(logits / softcap)`` before the temperature.
        ignore_index: as in ``token_logprobs``.
        vocab_size: only the first so many rows of weight are tokens; the rest is padding.
        batch_invariant: False permits library products, whose bits depend on the batch, where they are faster.
        impl: None, "native" or "reference".

    Returns, numerics, errors: as ``token_logprobs``.
    """
    leading, bias = check_head(hidden, weight, rows, bias)
    vocab = check_vocab_size(vocab_size, weight)
    check_ids(token_ids, leading, vocab, ignore_index, hidden)
    cap = None if softcap is None else require_float32("softcap", softcap)
    heat = _rows(row_temperatures(temperature, leading, hidden), leading)
    body = schema.linear_token_logprobs.body(impl, hidden)
    flat = _rows(hidden, hidden.shape[:-1]), weight, _rows(token_ids, leading)
    return TokenLogprobs(*_unrows(body(*flat, rows, bias, heat, cap, ignore_index, vocab, batch_invariant)[:3], leading))


@overload
def _rows(x: Tensor, leading: Sequence[int]) -> Tensor: ...
@overload
def _rows(x: None, leading: Sequence[int]) -> None: ...
def _rows(x: Tensor | None, leading: Sequence[int]) -> Tensor | None:
    """[..., *] as [N, *]."""
    return x if x is None or len(leading) == 1 else x.reshape(math.prod(leading), *x.shape[len(leading) :])


def _unrows(results: Sequence[Any], leading: Sequence[int]) -> Sequence[Any]:
    """[N, *] as [..., *]; what was not asked for stays None."""
    return results if len(leading) == 1 else [x if x is None else x.reshape((*leading, *x.shape[1:])) for x in results]


def _check_sets(
    score_tokens: ScoreTokens | Sequence[ScoreTokens], row_sets: Tensor | None, leading: Sequence[int], vocab_size: int, like: Tensor
) -> tuple[Tensor, Tensor | None]:
    sets = tuple(score_tokens) if isinstance(score_tokens, list | tuple) else (score_tokens,)
    for s in sets:
        require(isinstance(s, ScoreTokens), "score_tokens", "ScoreTokens or a list of them", type(s).__name__, TypeError)
    form_ids, values = (pack_once if is_ordinary(like) else pack)(sets, vocab_size, like.device, compute_dtype(like))
    if row_sets is None:
        require(len(sets) == 1, "row_sets", f"each row's set, with {len(sets)} ScoreTokens", None)
    else:
        require_tensor("row_sets", row_sets, (torch.int64,), like)
        require_shape("row_sets", row_sets, leading)
        require_in_range("row_sets", row_sets, len(sets))
    return form_ids, values


def _score_results(results: Sequence[Tensor], full_vocab: bool, with_values: bool) -> ScoreTokenLogprobs:
    logprob, conditional, log_mass, expected, variance, entropy, _ = results
    return ScoreTokenLogprobs(
        logprob if full_vocab else None,
        conditional,
        log_mass if full_vocab else None,
        expected if with_values else None,
        variance if with_values else None,
        entropy,
    )


def score_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    score_tokens: ScoreTokens | Sequence[ScoreTokens],
    *,
    rows: Tensor | None = None,
    row_sets: Tensor | None = None,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    full_vocab: bool = True,
    vocab_size: int | None = None,
    batch_invariant: bool = True,
    impl: Impl = None,
) -> ScoreTokenLogprobs:
    """What a judge's verdict says, from the hidden state before it: the log-probability of every label, over the vocabulary and over the labels.

    Equivalent to::

        log_p = (hidden[rows].float() @ weight.float().T + bias).div(temperature).log_softmax(-1)
        logprob = torch.stack([log_p[:, ids].logsumexp(-1) for ids in score_tokens.forms], -1); conditional = logprob.log_softmax(-1)

    Args:
        hidden: [..., H], float32, bfloat16, float16 or float64; copied where leading sizes can't be taken together as [T, H].
        weight: [V, H], the head, of hidden's dtype.
        score_tokens: the labels' token ids, or a list of such sets with ``row_sets``.
        rows: int64 [N], the verdict positions in hidden's [T, H], picked inside the kernel; all rows when None, and [...] then stands for [N] below.
        row_sets: int64 [N], which of the sets each row uses.
        bias: [V], of hidden's dtype or float32.
        temperature: number, 0-d tensor or [N].
        softcap: logits become ``softcap * tanh(logits / softcap)`` before the temperature.
        full_vocab: False reads the labels' rows of weight and nothing else; logprob and log_mass are None then, the rest has the same bits.
        vocab_size: only the first so many rows of weight are tokens; the rest is padding.
        batch_invariant: False permits library products, whose bits depend on the batch, where they are faster.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        logprob [N, L]: logsumexp over a label's forms, normalised over the vocabulary. conditional [N, L]: normalised over the labels.
        log_mass [N]: log of the labels' total probability. expected, variance [N] of the labels' values under the conditional (None
        unless every set has values). entropy [N], nats, of the conditional. L is the largest set's number of labels; columns past a
        row's own labels hold -inf and pass no gradient.

    Numerics: as ``token_logprobs``. Where the labels carry no probability at all the conditional is NaN.

    Raises:
        TypeError, ValueError: a dtype, shape, device, id or index doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    leading, bias = check_head(hidden, weight, rows, bias)
    vocab = check_vocab_size(vocab_size, weight)
    form_ids, values = _check_sets(score_tokens, row_sets, leading, vocab, hidden)
    cap = None if softcap is None else require_float32("softcap", softcap)
    heat, which = _rows(row_temperatures(temperature, leading, hidden), leading), _rows(row_sets, leading)
    body = schema.score_token_logprobs.body(impl, hidden)
    flat = _rows(hidden, hidden.shape[:-1])
    results = body(flat, weight, form_ids, values, rows, which, bias, heat, cap, full_vocab, vocab, batch_invariant)
    return ScoreTokenLogprobs(*_unrows(_score_results(results, full_vocab, values is not None), leading))


def score_token_logprobs_from_logits(
    logits: Tensor,
    score_tokens: ScoreTokens | Sequence[ScoreTokens],
    *,
    row_sets: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    full_vocab: bool = True,
    impl: Impl = None,
) -> ScoreTokenLogprobs:
    """``score_token_logprobs`` where the logits are already there.

    Args:
        logits: [..., V], float32, bfloat16, float16 or float64; any strides, nothing is copied.
        score_tokens, full_vocab, impl: as in ``score_token_logprobs``.
        row_sets: int64 [...].
        temperature: number, 0-d tensor or [...].

    Returns, numerics, errors: as ``score_token_logprobs`` with [...] in the place of [N].
    """
    check_logits(logits)
    leading = logits.shape[:-1]
    form_ids, values = _check_sets(score_tokens, row_sets, leading, logits.shape[-1], logits)
    heat = row_temperatures(temperature, leading, logits)
    body = schema.score_token_logprobs_from_logits.body(impl, logits)
    results = body(logits, form_ids, values, row_sets, heat, full_vocab)
    return _score_results(results, full_vocab, values is not None)
