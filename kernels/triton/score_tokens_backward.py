"""Gradients of the score-token ops: each row's forms get theirs from one small kernel, the rest of the vocabulary the softmax's share of what is left
over, through the kernels of ``logprobs_backward``. Without the full vocabulary only the forms' logits and their rows of the head are touched."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rrm_core._triton.common import INFINITY, LOG2_E, LOWEST, complement, exp, exponent_scale, log1p
from rrm_core._triton.logprobs import Rows, ids_of_row, load_temperature, source_rows
from rrm_core._triton.logprobs_backward import FACTS, linear_gradients, logits_gradients, needed, store_facts
from rrm_core._triton.product import add_product
from rrm_core._triton.score_tokens import label_blocks, label_logits, label_softmax, load_forms
from rrm_core._triton.softmax import is_distribution, of_tile

# ---- kernels


@triton.jit
def load_label_gradient(grad_ptr, row, num_labels, o_label, m_label):
    return tl.load(grad_ptr + row * num_labels + o_label, mask=m_label, other=0.0).to(tl.float32)


@triton.jit
def through_softmax(grad, logp):
    """Gradients of log probabilities [labels] as those of what they are the softmax of."""
    return grad * complement(logp * LOG2_E) - exp(logp) * (tl.sum(grad, 0) - grad)


@triton.jit(do_not_specialize=["num_rows", "num_sources", "width", "num_sets", "num_labels", "num_forms", "inner"])
def _form_gradients_kernel(
    d_logprob_ptr, d_conditional_ptr, d_mass_ptr, d_expected_ptr, d_variance_ptr, d_entropy_ptr, statistics_ptr,
    logits_ptr, selected_ptr, ids_ptr, sets_ptr, values_ptr, rows_ptr, temperature_ptr, names_ptr, grads_ptr, facts_ptr,
    num_rows, num_sources, width, num_sets, num_labels, num_forms, inner, stride_outer, stride_inner, stride_column,
    FROM_LOGITS: tl.constexpr, FULL: tl.constexpr, HAS_SETS: tl.constexpr, HAS_VALUES: tl.constexpr, HAS_ROWS: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """One row: its ids, their dL/dx, and its facts for ``logprobs_backward`` (FULL) or the sum of dL/dx x."""
    row = tl.program_id(0).to(tl.int64)
    i_set, has_set = ids_of_row(sets_ptr, row, num_sets, False, HAS_SETS)
    _, has_source = source_rows(rows_ptr, row, num_rows, num_sources, HAS_ROWS)
    valid = has_set & has_source
    temperature = load_temperature(temperature_ptr, row, row >= 0, HAS_TEMPERATURE)
    c = exponent_scale(temperature)
    x, i_token = load_forms(
        logits_ptr, selected_ptr, ids_ptr + i_set * width, row, width, num_labels, num_forms, inner, stride_outer, stride_inner, stride_column,
        FROM_LOGITS, BLOCK_L, BLOCK_F,
    )  # fmt: skip
    o_label, o_form = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_F)
    missing = tl.max(i_token, 0) < 0
    m_label = (o_label < num_labels) & (missing == 0)
    top, rest, _ = of_tile(x, tl.zeros((BLOCK_L,), tl.float32) + c)
    overall, conditional, _, _, _, log_all = label_softmax(top, rest, temperature, c, BLOCK_L)
    q = tl.where(conditional == -INFINITY, 0.0, exp(conditional))
    surprise = tl.where(conditional == -INFINITY, 0.0, conditional)
    entropy = -tl.sum(q * surprise, 0)

    d_conditional = load_label_gradient(d_conditional_ptr, row, num_labels, o_label, m_label)
    d_label = through_softmax(d_conditional, conditional)
    d_label -= tl.load(d_entropy_ptr + row).to(tl.float32) * q * (surprise + entropy)
    if HAS_VALUES:
        value = tl.load(values_ptr + i_set * num_labels + o_label, mask=m_label, other=0.0)
        away = value - tl.sum(q * value, 0)
        variance = tl.sum(q * away * away, 0)
        d_expected = tl.load(d_expected_ptr + row).to(tl.float32)
        d_label += q * (d_expected * away + tl.load(d_variance_ptr + row).to(tl.float32) * (away * away - variance))
    impossible = m_label & (top == LOWEST)
    unreached = tl.where(overall == LOWEST, 0.0, tl.sum(tl.where(impossible, d_conditional, 0.0), 0))  # of all dL/dz: where x is -inf
    if FULL:
        d_logprob = load_label_gradient(d_logprob_ptr, row, num_labels, o_label, m_label)
        d_mass = tl.load(d_mass_ptr + row).to(tl.float32)
        whole, log_whole = tl.load(statistics_ptr + 3 * row), tl.load(statistics_ptr + 3 * row + 1)
        log_mass = tl.div_rn(overall - whole, temperature) + log_all - log_whole
        logprob = tl.div_rn(top - whole, tl.zeros_like(top) + temperature) + log1p(rest) - log_whole
        d_label += through_softmax(d_logprob, logprob) + d_mass * q * complement(log_mass * LOG2_E)
        unreached += tl.sum(tl.where(impossible, d_logprob, 0.0), 0) + tl.where(overall == LOWEST, d_mass, 0.0)
        store_facts(facts_ptr, row, whole, log_whole, temperature, -tl.sum(d_logprob, 0) - d_mass, 0.0, -unreached, valid)
    possible = (top != LOWEST) & m_label
    d_label = tl.where(is_distribution(overall), d_label, float("nan"))
    d_label = tl.where(valid & (overall != LOWEST), tl.where(possible, d_label, 0.0), 0.0)
    share = tl.exp2((x - top[None, :]) * c) / (1.0 + rest)[None, :]
    exists = (i_token >= 0) & possible[None, :]
    dx = tl.where(valid & exists, share * tl.div_rn(d_label, tl.zeros_like(d_label) + temperature)[None, :], 0.0)
    p_form = row * width + o_label[None, :] * num_forms + o_form[:, None]
    m_form = (o_form < num_forms)[:, None] & (o_label < num_labels)[None, :]
    tl.store(names_ptr + p_form, tl.where(valid, i_token, -1), mask=m_form)
    tl.store(grads_ptr + p_form, dx, mask=m_form)
    if not FULL:
        shared = tl.where(valid & is_distribution(overall), tl.div_rn(-unreached * overall, temperature), 0.0)
        tl.store(facts_ptr + row, tl.sum(tl.sum(tl.where(dx == 0.0, 0.0, dx * (x - overall)), 0), 0) + shared)


# ---- launchers


def form_gradients(source, grads, statistics, form_ids, values, row_sets, full_vocab):
    """Ids [N, L * F] (-1: none), their dL/dx, facts (full_vocab) or the sum of dL/dx x of every row."""
    num_sets, labels, forms = form_ids.shape
    width, n = labels * forms, source.n
    ids = form_ids.reshape(num_sets, width).contiguous()
    sets = None if row_sets is None else row_sets.reshape(-1).contiguous()
    selected = None if source.from_logits else label_logits(source, ids, sets, source.softcap)
    names, found = ids.new_empty(n, width), source.new(n, width)
    facts = source.new(n, FACTS.value) if full_vocab else source.new(n)
    if n:
        _form_gradients_kernel[(n,)](
            *(x.contiguous() for x in (*grads, statistics)), source.base, selected, ids, sets, None if values is None else values.contiguous(),
            source.rows, source.temperature, names, found, facts, n, source.num_sources, width, num_sets, labels, forms,
            *source.layout, FROM_LOGITS=source.from_logits, FULL=full_vocab, HAS_SETS=sets is not None, HAS_VALUES=values is not None,
            HAS_ROWS=source.rows is not None, HAS_TEMPERATURE=source.temperature is not None, **label_blocks(form_ids),
            enable_fp_fusion=False,
        )  # fmt: skip
    return names, found, facts


def score_token_logprobs_backward(
    grads, statistics, hidden, weight, form_ids, values, rows, row_sets, bias, temperature, softcap, full_vocab, vocab_size,
    need_hidden, need_weight, need_bias, need_temperature,
):  # fmt: skip
    source = Rows(hidden, temperature, weight=weight, rows=rows, bias=bias, softcap=softcap, vocab=vocab_size)
    names, dx, facts = form_gradients(source, grads, statistics, form_ids, values, row_sets, full_vocab)
    if full_vocab:
        return linear_gradients(source, names, dx, dx, facts, need_hidden, need_weight, need_bias, need_temperature)
    live = source.exists() if row_sets is None else source.exists() & (row_sets >= 0) & (row_sets < form_ids.shape[0])
    if softcap is not None:  # 1 - tanh^2, with its digits where tanh is near 1
        x = label_logits(source, form_ids.reshape(len(form_ids), -1).contiguous(), None if row_sets is None else row_sets.contiguous(), None)
        dx = (dx / (x / softcap).cosh() ** 2).masked_fill(dx == 0.0, 0.0)
    columns = torch.where((form_ids < 0) | (form_ids >= source.vocab), form_ids[:, :1, :1], form_ids)  # padding reads what is read anyway
    columns = columns.clamp(0, source.vocab - 1).flatten()
    by_set = dx.new_zeros(source.n, form_ids.shape[0], dx.shape[1])
    index = torch.zeros_like(live, dtype=torch.int64) if row_sets is None else row_sets.clamp(0, form_ids.shape[0] - 1)
    by_set = by_set.scatter_(1, index.view(-1, 1, 1).expand(-1, 1, dx.shape[1]), dx.unsqueeze(1)).flatten(1)  # [N, columns]
    grad_hidden = grad_weight = grad_bias = None
    if need_hidden:
        rows_of_head = source.weight.index_select(0, columns)
        grad_hidden = source.spread(add_product(by_set, rows_of_head, source.new(source.n, hidden.shape[1]), accumulate=False))
    if need_weight:
        found = add_product(by_set.T, source.taken(live), source.new(len(columns), hidden.shape[1]).zero_())
        grad_weight = source.new(*weight.shape).zero_().index_put_((columns,), found, accumulate=True).to(weight.dtype)
    if need_bias:
        grad_bias = source.new(weight.shape[0]).zero_().index_put_((columns,), by_set.sum(0), accumulate=True)
    grad_temperature = -facts / source.temperature if need_temperature else None
    return needed((need_hidden, grad_hidden), (need_weight, grad_weight), (need_bias, grad_bias), (need_temperature, grad_temperature))


def score_token_logprobs_from_logits_backward(
    grads, statistics, logits, form_ids, values, row_sets, temperature, full_vocab, need_logits, need_temperature
):  # fmt: skip
    source = Rows(logits, temperature)
    names, dx, facts = form_gradients(source, grads, statistics, form_ids, values, row_sets, full_vocab)
    if full_vocab:
        return logits_gradients(source, names, dx, dx, facts, need_logits, need_temperature)
    grad_logits = grad_temperature = None
    if need_logits:
        grad_logits = source.new(source.n, source.vocab).zero_().scatter_add_(1, names.clamp(min=0), dx)
        grad_logits = grad_logits.view(logits.shape).to(logits.dtype)  # a row's ids are distinct but for padding's zeros
    if need_temperature:
        grad_temperature = (-facts / source.temperature).view(logits.shape[:-1])
    return needed((need_logits, grad_logits), (need_temperature, grad_temperature))
