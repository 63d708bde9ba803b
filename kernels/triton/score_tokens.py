"""Log-probabilities of labels, each a set of token ids, forward.

The labels' own logits come from a kernel that reads nothing else: the conditional results have the same bits with and without the rest of the
vocabulary. "Everything else" comes as the statistics of ``logprobs`` with the labels' columns left out. One program per row then forms a softmax
over the labels and everything else. A label is kept as (largest x, rest), see ``softmax``; the largest term of a sum never enters it, so that
probabilities near 1 keep their complement.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rrm_core._triton.common import INFINITY, LOWEST, exp, exponent_scale, lane_sum, log1p, maximum, softcapped
from rrm_core._triton.configs import FINISH, LABELS
from rrm_core._triton.logprobs import Rows, ids_of_row, load_temperature, row_of_logits, source_rows, statistics
from rrm_core._triton.softmax import is_distribution, largest, merge, of_tile, store_statistics

# ---- kernels


@triton.jit(do_not_specialize=["num_rows", "num_sources", "vocab", "width", "num_sets", "groups"])
def _label_logits_kernel(
    hidden_ptr, weight_ptr, bias_ptr, rows_ptr, ids_ptr, sets_ptr, out_ptr,
    num_rows, num_sources, vocab, hidden_size, width, num_sets, groups, stride_token, stride_hidden, stride_weight, softcap,
    HAS_SETS: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """x = softcap(h W^T + bias) of BLOCK_K of one row's ids; LOWEST where there is no id."""
    task = tl.program_id(0).to(tl.int64)
    row = task // groups
    k = (task % groups) * BLOCK_K + tl.arange(0, BLOCK_K)
    i_set, _ = ids_of_row(sets_ptr, row, num_sets, False, HAS_SETS)
    i_token = tl.load(ids_ptr + i_set * width + k, mask=k < width, other=-1)
    m_token = (i_token >= 0) & (i_token < vocab)
    source, _ = source_rows(rows_ptr, row, num_rows, num_sources, HAS_ROWS)
    o_hidden = tl.arange(0, BLOCK_H)
    p_weight = weight_ptr + tl.where(m_token, i_token, 0)[:, None] * stride_weight + o_hidden[None, :]
    p_hidden = hidden_ptr + source * stride_token + o_hidden.to(tl.int64) * stride_hidden
    products = tl.zeros((BLOCK_K, BLOCK_H), tl.float32)
    for start in range(0, hidden_size, BLOCK_H):
        m_hidden = start + o_hidden < hidden_size
        h = tl.load(p_hidden, mask=m_hidden, other=0.0).to(tl.float32)
        w = tl.load(p_weight, mask=m_token[:, None] & m_hidden[None, :], other=0.0).to(tl.float32)
        products += w * h[None, :]
        p_weight += BLOCK_H
        p_hidden += BLOCK_H * stride_hidden
    x = lane_sum(products)
    if HAS_BIAS:
        x += tl.load(bias_ptr + i_token, mask=m_token, other=0.0)
    x = softcapped(x, softcap, HAS_SOFTCAP)
    tl.store(out_ptr + row * width + k, tl.where(m_token, maximum(x, LOWEST), LOWEST), mask=k < width)


@triton.jit
def load_forms(
    logits_ptr, selected_ptr, p_ids, row, width, num_labels, num_forms, inner, stride_outer, stride_inner, stride_column,
    FROM_LOGITS: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """x [BLOCK_F, BLOCK_L] of a row's labels' forms, LOWEST where there is none, and the ids, -1 there."""
    o_form, o_label = tl.arange(0, BLOCK_F)[:, None], tl.arange(0, BLOCK_L)[None, :]
    k = o_label * num_forms + o_form
    exists = (o_form < num_forms) & (o_label < num_labels)
    i_token = tl.load(p_ids + k, mask=exists, other=-1)
    exists = exists & (i_token >= 0)
    if FROM_LOGITS:
        p_logits = row_of_logits(logits_ptr, row, inner, stride_outer, stride_inner)
        x = maximum(tl.load(p_logits + i_token * stride_column, mask=exists, other=LOWEST).to(tl.float32), LOWEST)
    else:
        x = tl.load(selected_ptr + row * width + k, mask=exists, other=LOWEST)
    return x, i_token


@triton.jit
def label_softmax(top, rest, temperature, c, BLOCK_L: tl.constexpr):
    """Over labels [BLOCK_L] with those statistics: the largest x of all, log probabilities (-inf for the impossible), which label holds the largest
    x, its sum and that of all others (of exp((x - largest) / T)), and their joint logarithm."""
    overall = largest(top, 0)
    o_label = tl.arange(0, BLOCK_L)
    is_first = o_label == tl.min(tl.where(top == overall, o_label, BLOCK_L), 0)
    scale = tl.where(top == overall, 1.0, tl.exp2((top - overall) * c))
    others = tl.sum(tl.where(is_first, 0.0, scale * (1.0 + rest)), 0)
    first_rest = tl.sum(tl.where(is_first, rest, 0.0), 0)
    log_all = log1p(first_rest) + log1p(tl.div_rn(others, 1.0 + first_rest))
    ordinary = tl.div_rn(top - overall, tl.zeros_like(top) + temperature) + log1p(rest) - log_all
    logp = tl.where(is_first, -log1p(tl.div_rn(others, 1.0 + first_rest)), ordinary)
    return overall, tl.where(top == LOWEST, -INFINITY, logp), is_first, 1.0 + first_rest, others, log_all


@triton.jit
def against_the_rest(top, rest, overall, is_first, first_sum, others, log_all, rest_top, rest_rest, temperature, c):
    """Labels against everything else, from ``label_softmax``: their log probabilities, that of them all, largest x and log sum of the whole."""
    labels_lead = overall >= rest_top
    whole = tl.where(labels_lead, overall, rest_top)
    # relative to the labels' largest x
    everything_else = tl.where(rest_top == overall, 1.0, tl.exp2((rest_top - overall) * c)) * (1.0 + rest_rest)
    log_whole_led = log_all + log1p(tl.div_rn(everything_else, first_sum + others))
    mass_led = -log1p(tl.div_rn(everything_else, first_sum + others))
    first_led = -log1p(tl.div_rn(others + everything_else, first_sum))
    # relative to the largest of everything else
    labels = tl.exp2((overall - rest_top) * c) * (first_sum + others)
    log_whole_followed = log1p(rest_rest) + log1p(tl.div_rn(labels, 1.0 + rest_rest))
    log_whole = tl.where(labels_lead, log_whole_led, log_whole_followed)
    mass = tl.where(labels_lead, mass_led, tl.div_rn(overall - rest_top, temperature) + log_all - log_whole_followed)
    ordinary = tl.div_rn(top - whole, tl.zeros_like(top) + temperature) + log1p(rest) - log_whole
    logp = tl.where(is_first, tl.where(labels_lead, first_led, ordinary), ordinary)
    return tl.where(top == LOWEST, -INFINITY, logp), tl.where(overall == LOWEST, -INFINITY, mass), whole, log_whole


@triton.jit(do_not_specialize=["num_rows", "num_sources", "width", "num_sets", "num_labels", "num_forms", "num_blocks", "inner"])
def _score_results_kernel(
    logits_ptr, selected_ptr, ids_ptr, sets_ptr, values_ptr, rows_ptr, temperature_ptr, partials_ptr,
    logprob_ptr, conditional_ptr, mass_ptr, expected_ptr, variance_ptr, entropy_ptr, statistics_ptr, plane,
    num_rows, num_sources, width, num_sets, num_labels, num_forms, num_blocks, inner, stride_outer, stride_inner, stride_column,
    FROM_LOGITS: tl.constexpr, FULL: tl.constexpr, HAS_SETS: tl.constexpr, HAS_VALUES: tl.constexpr, HAS_ROWS: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row's results."""
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
    missing = tl.max(i_token, 0) < 0
    top, rest, _ = of_tile(x, tl.zeros((BLOCK_L,), tl.float32) + c)
    overall, conditional, is_first, first_sum, others, log_all = label_softmax(top, rest, temperature, c, BLOCK_L)
    whole, log_whole, exists = overall, log_all, is_distribution(overall) & valid
    o_label = tl.arange(0, BLOCK_L)
    m_label = o_label < num_labels
    missing_value = tl.where(valid, -INFINITY, float("nan"))
    if FULL:
        rest_top, rest_rest, _ = merge(partials_ptr + row * num_blocks, plane, num_blocks, c, BLOCK)
        rest_top = tl.where(overall != overall, overall, rest_top)
        overall_seen = tl.where(rest_top != rest_top, rest_top, overall)
        logprob, mass, whole, log_whole = against_the_rest(
            top, rest, overall_seen, is_first, first_sum, others, log_all, rest_top, rest_rest, temperature, c
        )  # fmt: skip
        has_whole = is_distribution(whole) & valid
        exists = exists & has_whole
        logprob = tl.where(has_whole, logprob, float("nan"))
        tl.store(logprob_ptr + row * num_labels + o_label, tl.where(missing, missing_value, logprob), mask=m_label)
        tl.store(mass_ptr + row, tl.where(has_whole, mass, float("nan")))
    conditional = tl.where(missing, missing_value, tl.where(exists, conditional, float("nan")))
    tl.store(conditional_ptr + row * num_labels + o_label, conditional, mask=m_label)
    q = tl.where(conditional == -INFINITY, 0.0, exp(conditional))
    entropy = -tl.sum(tl.where(conditional == -INFINITY, 0.0, q * conditional), 0)
    tl.store(entropy_ptr + row, tl.where(exists, entropy, float("nan")))
    store_statistics(statistics_ptr, row, tl.where(valid, whole, float("nan")), log_whole)
    if HAS_VALUES:
        value = tl.load(values_ptr + i_set * num_labels + o_label, mask=m_label, other=0.0)
        mean = tl.sum(q * value, 0)
        away = value - mean
        tl.store(expected_ptr + row, mean)
        tl.store(variance_ptr + row, tl.sum(q * away * away, 0))


# ---- launchers


def label_logits(source, ids, sets, softcap):
    """softcap(h W^T + bias) [N, width] of each row's own ids [sets, width], from hidden states."""
    n, width = source.n, ids.shape[1]
    out = source.new(n, width)
    groups = triton.cdiv(width, LABELS["BLOCK_K"])
    if n:
        hidden, weight = source.base, source.weight
        _label_logits_kernel[(n * groups,)](
            hidden, weight, source.bias, source.rows, ids, sets, out,
            n, source.num_sources, source.vocab, hidden.shape[1], width, ids.shape[0], groups,
            hidden.stride(0), hidden.stride(1), weight.stride(0), softcap or 0.0, HAS_SETS=sets is not None, HAS_ROWS=source.rows is not None,
            HAS_BIAS=source.bias is not None, HAS_SOFTCAP=softcap is not None, **LABELS, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def label_blocks(form_ids):
    """Blocks that hold all labels and forms, and warps enough for their registers."""
    labels, forms = (triton.next_power_of_2(size) for size in form_ids.shape[1:])
    return {"BLOCK_L": labels, "BLOCK_F": forms, "num_warps": min(16, max(1, labels * forms // 128))}


def _score_results(source, form_ids, values, row_sets, full_vocab):
    num_sets, labels, forms = form_ids.shape
    ids = form_ids.reshape(num_sets, labels * forms).contiguous()
    sets = None if row_sets is None else row_sets.reshape(-1).contiguous()
    selected = None if source.from_logits else label_logits(source, ids, sets, source.softcap)
    partials = statistics(source, ids, sets, num_sets, 0, False)[0] if full_vocab else None

    def rows(asked):
        return source.new(*source.leading) if asked else source.new(0)

    with_values = values is not None
    logprob = source.new(*source.leading, labels) if full_vocab else source.new(0)
    conditional, found = source.new(*source.leading, labels), source.new(*source.leading, 3)
    results = (logprob, conditional, rows(full_vocab), rows(with_values), rows(with_values), rows(True), found)
    if source.n:
        _score_results_kernel[(source.n,)](
            source.base, selected, ids, sets, None if values is None else values.contiguous(), source.rows, source.temperature, partials, *results,
            source.n * source.num_blocks, source.n, source.num_sources, labels * forms, num_sets, labels, forms,
            source.num_blocks, *source.layout, FROM_LOGITS=source.from_logits, FULL=full_vocab, HAS_SETS=sets is not None, HAS_VALUES=with_values,
            HAS_ROWS=source.rows is not None, HAS_TEMPERATURE=source.temperature is not None, **label_blocks(form_ids),
            BLOCK=FINISH["BLOCK"], enable_fp_fusion=False,
        )  # fmt: skip
    return results


def score_token_logprobs(
    hidden, weight, form_ids, values, rows, row_sets, bias, temperature, softcap, full_vocab, vocab_size, batch_invariant
):  # fmt: skip
    source = Rows(hidden, temperature, weight=weight, rows=rows, bias=bias, softcap=softcap, vocab=vocab_size)
    return _score_results(source, form_ids, values, row_sets, full_vocab)


def score_token_logprobs_from_logits(logits, form_ids, values, row_sets, temperature, full_vocab):
    return _score_results(Rows(logits, temperature), form_ids, values, row_sets, full_vocab)
