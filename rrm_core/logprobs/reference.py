"""The log-probability ops in plain PyTorch: what they mean. Float64 inputs are computed in float64, everything else in float32.

``z = softcap(h W^T + bias) / temperature``; logprob, logsumexp and entropy are all of the distribution softmax(z).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PAD_ID = -1
_NAN = float("nan")
_MINUS_INF = float("-inf")

TokenResults = tuple[Tensor, Tensor, Tensor, Tensor]
ScoreResults = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def widen(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits [N, V], never rounded below float32, autocast or not."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = widen(hidden) @ widen(weight).T
        return logits if bias is None else logits + bias


def scale(logits: Tensor, softcap: float | None, temperature: Tensor | None) -> Tensor:
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if temperature is None:
        return logits
    impossible = logits == _MINUS_INF  # masked, so that 0 * -inf does not reach the temperature's gradient
    return (logits.masked_fill(impossible, 0.0) / temperature.unsqueeze(-1)).masked_fill(impossible, _MINUS_INF)


def normalise(z: Tensor) -> tuple[Tensor, Tensor]:
    """log softmax [..., V] and its entropy [...], relative to the largest z, whose own term stays out of the sum: a probability within rounding of 1
    keeps its complement. NaN where z holds NaN or +inf, or nothing but -inf."""
    top, index = z.max(-1, keepdim=True)
    away = top.masked_fill(top.isinf(), _NAN) - z
    weight = torch.exp(-away).scatter(-1, index, 0.0)
    rest = weight.sum(-1, keepdim=True)
    log_total = torch.log1p(rest)
    moment = (weight * away.masked_fill(z == _MINUS_INF, 0.0)).sum(-1, keepdim=True)
    entropy = (log_total + moment / (1.0 + rest)).masked_fill(away.isnan().any(-1, keepdim=True), _NAN)
    return -away - log_total, entropy.squeeze(-1)


def statistics(z: Tensor, temperature: Tensor | None) -> Tensor:
    """[..., 3]: the largest z before its division by the temperature [...], the log-sum-exp of z relative to it, and 0; see ``schema``."""
    top = z.detach().amax(-1)
    log_total = torch.logsumexp(z.detach(), -1) - top
    return torch.stack([top if temperature is None else top * temperature.detach(), log_total, torch.zeros_like(top)], -1)


def take_rows(hidden: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows [N, H] of hidden, and where [N] the index is out of range (row 0 stands in)."""
    if rows is None:
        return hidden, hidden.new_zeros(hidden.shape[0], dtype=torch.bool)
    invalid = (rows < 0) | (rows >= hidden.shape[0])
    return hidden.index_select(0, rows.masked_fill(invalid, 0)), invalid


def ids_per_row(token_ids: Tensor, leading: int) -> Tensor:
    """[..., K] from [...] or [..., K], with that many leading dimensions."""
    return token_ids if token_ids.dim() > leading else token_ids.unsqueeze(-1)


def token_results(logits: Tensor, token_ids: Tensor, temperature: Tensor | None, ignore_index: int, invalid: Tensor | None = None) -> TokenResults:
    """logits [..., V] scaled, token_ids [...] or [..., K], invalid [...]: rows without a source."""
    ids = ids_per_row(token_ids, logits.dim() - 1)
    skipped = ids == ignore_index
    ignored = skipped.all(-1)
    out_of_range = (ids < 0) | (ids >= logits.shape[-1])
    logits = logits.masked_fill(ignored.unsqueeze(-1), 0.0)
    log_p, entropy = normalise(logits)
    logprob = log_p.gather(-1, ids.masked_fill(out_of_range, 0)).masked_fill(out_of_range, _NAN).masked_fill(skipped, 0.0)
    logsumexp, found = torch.logsumexp(logits, -1), statistics(logits, temperature)
    if invalid is not None:
        invalid = invalid & ~ignored
        logprob = logprob.masked_fill(invalid.unsqueeze(-1), _NAN)
        entropy, logsumexp = entropy.masked_fill(invalid, _NAN), logsumexp.masked_fill(invalid, _NAN)
    return logprob.view(token_ids.shape), entropy.masked_fill(ignored, 0.0), logsumexp.masked_fill(ignored, 0.0), found


def token_logprobs(logits: Tensor, token_ids: Tensor, temperature: Tensor | None, ignore_index: int) -> TokenResults:
    ignored = (ids_per_row(token_ids, logits.dim() - 1) == ignore_index).all(-1)
    logits = widen(logits).masked_fill(ignored.unsqueeze(-1), 0.0)
    return token_results(scale(logits, None, temperature), token_ids, temperature, ignore_index)


def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    rows: Tensor | None,
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float | None,
    ignore_index: int,
    vocab_size: int,
    batch_invariant: bool,
) -> TokenResults:
    taken, invalid = take_rows(hidden, rows)
    ignored = (ids_per_row(token_ids, 1) == ignore_index).all(-1)
    taken = taken.masked_fill((ignored | invalid).unsqueeze(-1), 0.0)
    logits = project(taken, weight[:vocab_size], None if bias is None else bias[:vocab_size])
    return token_results(scale(logits, softcap, temperature), token_ids, temperature, ignore_index, invalid)


def forms_of_rows(form_ids: Tensor, row_sets: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    """Each row's form ids [N, L, F], and where [N] its set is out of range (set 0 stands in)."""
    if row_sets is None:
        return form_ids[:1].expand(n, -1, -1), form_ids.new_zeros(n, dtype=torch.bool)
    invalid = (row_sets < 0) | (row_sets >= form_ids.shape[0])
    return form_ids.index_select(0, row_sets.masked_fill(invalid, 0)), invalid


def values_of_rows(values: Tensor, row_sets: Tensor | None, n: int) -> Tensor:
    """Each row's label values [N, L]; set 0 stands in where the set is out of range."""
    if row_sets is None:
        return values[:1].expand(n, -1)
    return values.index_select(0, row_sets.masked_fill((row_sets < 0) | (row_sets >= len(values)), 0))


def spread_over_sets(per_row: Tensor, num_sets: int, row_sets: Tensor | None) -> Tensor:
    """[N, K] of each row's own set among the columns of all sets, [N, S * K], zeros elsewhere."""
    n, width = per_row.shape
    index = torch.zeros(n, dtype=torch.int64, device=per_row.device) if row_sets is None else row_sets.clamp(0, num_sets - 1)
    index = index.view(-1, 1, 1).expand(-1, 1, width)
    return per_row.new_zeros(n, num_sets, width).scatter_(1, index, per_row.unsqueeze(1)).flatten(1)


def existing(form_ids: Tensor) -> Tensor:
    """form_ids [..., L, F] with a set's first in the place of padding: nothing else is ever read for it."""
    return torch.where(form_ids == PAD_ID, form_ids[..., :1, :1], form_ids)


def label_logits(hidden: Tensor, weight: Tensor, form_ids: Tensor, forms: Tensor, row_sets: Tensor | None, bias: Tensor | None) -> Tensor:
    """Logits [N, L * F] of each row's own forms, from the rows of weight that some form needs; garbage at padding."""
    columns = existing(form_ids).flatten()
    logits = project(hidden, weight.index_select(0, columns), None if bias is None else bias.index_select(0, columns))
    by_set = logits.view(hidden.shape[0], form_ids.shape[0], form_ids[0].numel())
    index = forms.new_zeros(hidden.shape[0]) if row_sets is None else row_sets.clamp(0, form_ids.shape[0] - 1)
    return by_set.gather(1, index.view(-1, 1, 1).expand(-1, 1, by_set.shape[2])).squeeze(1)


def _logsumexp(x: Tensor) -> Tensor:
    """Over the last dimension; -inf with zero gradient where all are -inf."""
    none = (x == _MINUS_INF).all(-1)
    return torch.logsumexp(x.masked_fill(none.unsqueeze(-1), 0.0), -1).masked_fill(none, _MINUS_INF)


def score_results(
    logits: Tensor,
    forms: Tensor,
    values: Tensor | None,
    row_sets: Tensor | None,
    temperature: Tensor | None,
    full_vocab: bool,
    invalid: Tensor,
    leading: Sequence[int],
) -> ScoreResults:
    """logits: scaled, [N, V] with full_vocab, else [N, L * F] of the forms; forms [N, L, F]; values [S, L];
    temperature, invalid [N]; leading: N, unflattened."""
    n, labels = forms.shape[:2]
    pad = forms == PAD_ID
    missing = pad.all(-1)
    ids = existing(forms).flatten(1)
    chosen = (logits.gather(-1, ids) if full_vocab else logits).view(forms.shape).masked_fill(pad, _MINUS_INF)
    found = statistics(logits if full_vocab else chosen.flatten(1), temperature).view(*leading, 3)
    top = (logits if full_vocab else chosen.flatten(1)).detach().amax(-1, keepdim=True)
    shift = top.masked_fill(~top.isfinite(), 0.0)  # what all logits share moves no result, and would cost digits
    logits, label = logits - shift, _logsumexp(chosen - shift.unsqueeze(-1))
    whole = logits if full_vocab else label
    label = label.masked_fill(~torch.logsumexp(whole, -1).isfinite().unsqueeze(-1), _NAN)
    conditional, entropy = normalise(label)
    conditional = conditional.masked_fill(missing, _MINUS_INF)

    def per_label(x: Tensor) -> Tensor:
        return x.masked_fill(invalid.unsqueeze(-1), _NAN).view((*leading, labels))

    def per_row(x: Tensor) -> Tensor:
        return x.masked_fill(invalid, _NAN).view(tuple(leading))

    expected, variance, logprob, log_mass = (logits.new_empty(0) for _ in range(4))
    if values is not None:
        q, value = conditional.exp(), values_of_rows(values, row_sets, n).to(logits.dtype)
        mean = (q * value).sum(-1)
        expected, variance = per_row(mean), per_row((q * (value - mean.unsqueeze(-1)) ** 2).sum(-1))
    if full_vocab:
        # softmax over the labels and everything else
        said = logits.new_zeros(n, logits.shape[-1] + 1, dtype=torch.bool)
        said = said.scatter_(-1, forms.masked_fill(pad, logits.shape[-1]).flatten(1), True)[:, :-1]
        others = _logsumexp(logits.masked_fill(said, _MINUS_INF)).unsqueeze(-1)
        logprob = per_label(normalise(torch.cat([label, others], -1))[0][:, :-1].masked_fill(missing, _MINUS_INF))
        log_mass = per_row(normalise(torch.cat([_logsumexp(label).unsqueeze(-1), others], -1))[0][:, 0])
    return logprob, per_label(conditional), log_mass, expected, variance, per_row(entropy), found


def score_token_logprobs(
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
    batch_invariant: bool,
) -> ScoreResults:
    taken, no_row = take_rows(hidden, rows)
    forms, no_set = forms_of_rows(form_ids, row_sets, taken.shape[0])
    invalid = no_row | no_set
    taken = taken.masked_fill(invalid.unsqueeze(-1), 0.0)
    if full_vocab:
        logits = project(taken, weight[:vocab_size], None if bias is None else bias[:vocab_size])
    else:
        logits = label_logits(taken, weight, form_ids, forms, row_sets, bias)
    return score_results(scale(logits, softcap, temperature), forms, values, row_sets, temperature, full_vocab, invalid, invalid.shape)


def score_token_logprobs_from_logits(
    logits: Tensor, form_ids: Tensor, values: Tensor | None, row_sets: Tensor | None, temperature: Tensor | None, full_vocab: bool
) -> ScoreResults:
    flat = scale(widen(logits), None, temperature).reshape(-1, logits.shape[-1])
    heat = None if temperature is None else temperature.reshape(-1)
    sets = None if row_sets is None else row_sets.reshape(-1)
    forms, invalid = forms_of_rows(form_ids, sets, flat.shape[0])
    if not full_vocab:
        flat = flat.gather(-1, existing(forms).flatten(1))
    return score_results(flat, forms, values, sets, heat, full_vocab, invalid, logits.shape[:-1])
