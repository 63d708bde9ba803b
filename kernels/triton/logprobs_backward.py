"""Gradients of the log-probability ops with respect to logits, hidden states, weight, bias and temperature, from the forward's statistics.

With p = softmax(z), z = x / T, every one of the ops has, at a token v that the row names and at any other,

    dL/dx_v = gain_v (1 - p_v) + p_v (slope_v - entropy_slope log2 p_v)        dL/dx_v = p_v (slope - entropy_slope log2 p_v)

(entropy_slope 0 for score tokens), so a row is: its names, two numbers for each of them, and a few of its own. One kernel treats every token as one
that the row doesn't name, a second writes the named ones' over that; their 1 - p keeps its digits. Stored logits are read once. From hidden states,
dL/dx is formed for PIECE tokens and some rows at a time and multiplied away at once: no N x V tensor. Products run in one order along the vocabulary
(hidden) and the rows (weight); no atomics. A row's gradient has the same bits in every batch.

dL/dT is -1 / T times the sum of dL/dx x. Of x, what all tokens share (the row's largest) is left out of that sum and comes back in one product: the
sum of dL/dx alone is known.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rrm_core._triton.common import (
    INFINITY,
    LOG2_E,
    LOG_2,
    LOWEST,
    complement,
    exponent_scale,
    lane_sum,
    maximum,
    minimum,
    ordered_sum,
    softcap_slope,
    softcapped,
)
from rrm_core._triton.configs import FINISH, GRADIENT_ROWS, NAMES, PASS_ROWS, PIECE, stream_config
from rrm_core._triton.logprobs import Rows, all_ignored, load_temperature, row_of_logits, source_rows, tile_of_logits
from rrm_core._triton.product import add_product
from rrm_core._triton.softmax import is_distribution

FACTS = tl.constexpr(8)  # of a row; one place is empty

# ---- kernels


@triton.jit
def store_facts(facts_ptr, row, top, log_total, temperature, slope, entropy_slope, d_sum, live):
    """What every token needs of its row: the largest x, log2(e) / T, x - top of an impossible x (finite, and so times log2(e) / T), log2 of the sum
    relative to its largest term (infinite: no gradient), the slopes; and the largest x times the sum of dL/dx, which is d_sum / T."""
    c = exponent_scale(temperature)
    p_fact = facts_ptr + FACTS * row
    tl.store(p_fact, top)
    tl.store(p_fact + 1, c)
    tl.store(p_fact + 2, (tl.zeros_like(c) + LOWEST) / tl.maximum(c, 1.0))
    tl.store(p_fact + 3, tl.where(live, log_total * LOG2_E, INFINITY))
    tl.store(p_fact + 4, tl.div_rn(slope, temperature))
    tl.store(p_fact + 5, tl.div_rn(entropy_slope, temperature) * LOG_2)
    tl.store(p_fact + 6, tl.where(live & is_distribution(top), top * tl.div_rn(d_sum, temperature), 0.0))


@triton.jit
def load_facts(facts_ptr, row, mask):
    """(top, c, lowest, shift, slope, entropy_slope) of rows."""
    p_fact = facts_ptr + FACTS * row
    top, c = tl.load(p_fact, mask=mask, other=0.0), tl.load(p_fact + 1, mask=mask, other=0.0)
    lowest, shift = tl.load(p_fact + 2, mask=mask, other=0.0), tl.load(p_fact + 3, mask=mask, other=INFINITY)
    return top, c, lowest, shift, tl.load(p_fact + 4, mask=mask, other=0.0), tl.load(p_fact + 5, mask=mask, other=0.0)


@triton.jit
def relative(x, top, c, lowest, shift):
    """x - top and log2 p, finite where x is -inf: 0 times either is 0."""
    away = maximum(x - top, lowest)
    return away, away * c - shift


@triton.jit
def softmax_gradient(log2_p, slope, entropy_slope):
    """dL/dx of a token that the row doesn't name."""
    return tl.exp2(log2_p) * (slope - entropy_slope * log2_p)


@triton.jit
def is_token(i_token, vocab, ignore_index):
    return (i_token >= 0) & (i_token < vocab) & (i_token != ignore_index)


@triton.jit(do_not_specialize=["num_rows", "num_sources", "vocab", "width", "ignore_index"])
def _token_facts_kernel(
    d_logprob_ptr, d_entropy_ptr, d_logsumexp_ptr, entropy_ptr, statistics_ptr, ids_ptr, rows_ptr, temperature_ptr,
    names_ptr, gains_ptr, slopes_ptr, facts_ptr, num_rows, num_sources, vocab, width, ignore_index,
    HAS_ROWS: tl.constexpr, HAS_TEMPERATURE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: its ids, each of them once (-1: none), their gains and slopes, its facts."""
    row = tl.program_id(0).to(tl.int64)
    p_ids, p_grads = ids_ptr + row * width, d_logprob_ptr + row * width
    _, exists = source_rows(rows_ptr, row, num_rows, num_sources, HAS_ROWS)
    live = exists & ~all_ignored(p_ids, width, ignore_index)
    temperature = load_temperature(temperature_ptr, row, row >= 0, HAS_TEMPERATURE)
    d_entropy, d_logsumexp = tl.load(d_entropy_ptr + row), tl.load(d_logsumexp_ptr + row)
    without_ids = d_logsumexp - d_entropy * tl.load(entropy_ptr + row)
    slope = without_ids
    for k in range(width):
        slope -= tl.where(is_token(tl.load(p_ids + k), vocab, ignore_index), tl.load(p_grads + k), 0.0)
    for first in range(0, width, BLOCK):
        o_id = first + tl.arange(0, BLOCK)
        m_id, o_name = o_id < width, row * width + o_id
        i_own = tl.load(ids_ptr + o_name, mask=m_id, other=-1)
        named = live & is_token(i_own, vocab, ignore_index)
        gain, own_slope = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32) + without_ids
        for k in range(width):
            i_token = tl.load(p_ids + k)
            grad = tl.where(is_token(i_token, vocab, ignore_index), tl.load(p_grads + k), 0.0)
            same = i_own == i_token
            gain += tl.where(same, grad, 0.0)
            own_slope -= tl.where(same, 0.0, grad)
            named = named & ~(same & (k < o_id))
        tl.store(names_ptr + o_name, tl.where(named, i_own, -1), mask=m_id)
        tl.store(gains_ptr + o_name, tl.div_rn(gain, tl.zeros_like(gain) + temperature), mask=m_id)
        tl.store(slopes_ptr + o_name, tl.div_rn(own_slope, tl.zeros_like(gain) + temperature), mask=m_id)
    top, log_total = tl.load(statistics_ptr + 3 * row), tl.load(statistics_ptr + 3 * row + 1)
    store_facts(facts_ptr, row, top, log_total, temperature, slope, d_entropy, d_logsumexp, live)


@triton.jit(do_not_specialize=["vocab", "num_chunks", "inner", "stride_products"])
def _logits_gradient_kernel(
    logits_ptr, facts_ptr, out_ptr, products_ptr, vocab, num_chunks, inner, stride_outer, stride_inner, stride_column, stride_out, stride_products,
    NEED_LOGITS: tl.constexpr, NEED_TEMPERATURE: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """One row's columns [chunk * CHUNK, + CHUNK), as if it named none: dL/dlogits, and the sum of dL/dlogits (x - top) for the temperature. A row
    without gradient is not read."""
    task = tl.program_id(0).to(tl.int64)
    row, first = task // num_chunks, (task % num_chunks) * CHUNK
    top, c, lowest, shift, slope, entropy_slope = load_facts(facts_ptr, row, row >= 0)
    live = shift != INFINITY
    TILE: tl.constexpr = LANES * VECTOR
    step = tl.full((), TILE, tl.int64) * stride_column
    o_lane = tl.arange(0, LANES)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    p_lane = row_of_logits(logits_ptr, row, inner, stride_outer, stride_inner) + first * stride_column + o_lane.to(tl.int64) * stride_column
    p_out = out_ptr + row * stride_out + first + o_lane
    products = tl.zeros((LANES, VECTOR), tl.float32)
    columns = tl.minimum(vocab - first, CHUNK).to(tl.int32)
    whole = columns // TILE * TILE
    for _ in range(0, tl.where(live, whole, 0), TILE):
        away, log2_p = relative(tl.load(p_lane).to(tl.float32), top, c, lowest, shift)
        dx = softmax_gradient(log2_p, slope, entropy_slope)
        if NEED_LOGITS:
            tl.store(p_out, dx.to(out_ptr.dtype.element_ty))
        if NEED_TEMPERATURE:
            products += dx * away
        p_lane += step
        p_out += TILE
    if live & (whole < columns):
        m_lane = whole + o_lane < columns
        away, log2_p = relative(tl.load(p_lane, mask=m_lane, other=LOWEST).to(tl.float32), top, c, lowest, shift)
        dx = softmax_gradient(log2_p, slope, entropy_slope)
        if NEED_LOGITS:
            tl.store(p_out, dx.to(out_ptr.dtype.element_ty), mask=m_lane)
        if NEED_TEMPERATURE:
            products += dx * away
    if NEED_LOGITS:
        for start in range(tl.where(live, columns, 0), columns, TILE):
            tl.store(p_out, tl.zeros((LANES, VECTOR), out_ptr.dtype.element_ty), mask=start + o_lane < columns)
            p_out += TILE
    if NEED_TEMPERATURE:
        tl.store(products_ptr + row * stride_products + task % num_chunks, ordered_sum(lane_sum(products)))


@triton.jit
def before_softcap(dx, x, softcap, HAS_SOFTCAP: tl.constexpr):
    """dL/d(h W^T + bias), from that with respect to its softcap; x = h W^T + bias."""
    if HAS_SOFTCAP:
        dx *= softcap_slope(x, softcap)
    return dx


@triton.jit(do_not_specialize=["num_rows", "first_row", "last_row", "num_sources", "vocab", "first_column", "width", "row_blocks", "stride_products"])
def _linear_gradient_kernel(
    hidden_ptr, weight_ptr, bias_ptr, rows_ptr, names_ptr, facts_ptr, selected_ptr, out_ptr, products_ptr,
    num_rows, first_row, last_row, num_sources, vocab, first_column, hidden_size, width, row_blocks,
    stride_token, stride_hidden, stride_weight, stride_out, stride_products, softcap,
    HAS_ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, EVEN_HIDDEN: tl.constexpr,
    NEED_TEMPERATURE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """dL/d(h W^T + bias) of BLOCK_V tokens from first_column on and BLOCK_N rows from first_row on, as if these named none, and the sums of dL/dx
    (x - top). The named tokens' h W^T + bias is recorded."""
    task = tl.program_id(0).to(tl.int64)
    block = task // row_blocks
    row = first_row + (task % row_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_row = row < last_row
    first = (first_column + block * BLOCK_V).to(tl.int32)
    column = first + tl.arange(0, BLOCK_V)
    source, _ = source_rows(rows_ptr, row, num_rows, num_sources, HAS_ROWS)
    uncapped = tile_of_logits(
        hidden_ptr, weight_ptr, bias_ptr, source, column, vocab, hidden_size, stride_token, stride_hidden, stride_weight,
        HAS_BIAS, EVEN_HIDDEN, BLOCK_N, BLOCK_V, BLOCK_H,
    )  # fmt: skip
    for k in range(width):
        i_name = tl.load(names_ptr + row * width + k, mask=m_row, other=-1)
        named = column[:, None] == i_name[None, :]
        tl.store(selected_ptr + row * width + k, tl.sum(tl.where(named, uncapped, 0.0), 0), mask=(i_name >= first) & (i_name < first + BLOCK_V))
    top, c, lowest, shift, slope, entropy_slope = load_facts(facts_ptr, row, m_row)
    x = softcapped(uncapped, softcap, HAS_SOFTCAP)
    away, log2_p = relative(minimum(x, top[None, :]), top[None, :], c[None, :], lowest[None, :], shift[None, :])
    dx = softmax_gradient(log2_p, slope[None, :], entropy_slope[None, :])
    alive = (shift != INFINITY)[None, :] & (column < vocab)[:, None]
    if NEED_TEMPERATURE:
        tl.store(products_ptr + row * stride_products + first // BLOCK_V, tl.sum(tl.where(alive, dx * away, 0.0), 0), mask=m_row)
    dx = tl.where(alive, before_softcap(dx, uncapped, softcap, HAS_SOFTCAP), 0.0)
    p_out = out_ptr + (row - first_row)[None, :] * stride_out + (column - first_column)[:, None]
    tl.store(p_out, dx, mask=m_row[None, :])


@triton.jit(do_not_specialize=["first_row", "first_column", "last_column", "width", "inner", "stride_products"])
def _named_gradient_kernel(
    logits_ptr, selected_ptr, names_ptr, gains_ptr, slopes_ptr, facts_ptr, out_ptr, products_ptr, first_row, first_column, last_column, width,
    inner, stride_outer, stride_inner, stride_column, stride_out, stride_products, softcap,
    FROM_LOGITS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, NEED_LOGITS: tl.constexpr, NEED_TEMPERATURE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row's named tokens among columns [first_column, last_column): their own gradient in the place of what the kernels above took them for."""
    row = first_row + tl.program_id(0).to(tl.int64)
    top, c, lowest, shift, slope, entropy_slope = load_facts(facts_ptr, row, row >= 0)
    p_logits = row_of_logits(logits_ptr, row, inner, stride_outer, stride_inner)
    p_out = out_ptr + (row - first_row) * stride_out
    products = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, width, BLOCK):
        o_name = first + tl.arange(0, BLOCK)
        p_name = row * width + o_name
        i_name = tl.load(names_ptr + p_name, mask=o_name < width, other=-1)
        here = (i_name >= first_column) & (i_name < last_column)
        if FROM_LOGITS:
            uncapped = tl.load(p_logits + i_name * stride_column, mask=here, other=0.0).to(tl.float32)
        else:
            uncapped = tl.load(selected_ptr + p_name, mask=here, other=0.0)
        x = softcapped(uncapped, softcap, HAS_SOFTCAP)
        away, log2_p = relative(minimum(x, top), top, c, lowest, shift)
        gain, own_slope = tl.load(gains_ptr + p_name, mask=here, other=0.0), tl.load(slopes_ptr + p_name, mask=here, other=0.0)
        dx = gain * complement(log2_p) + softmax_gradient(log2_p, own_slope, entropy_slope)
        if NEED_LOGITS:
            tl.store(p_out + (i_name - first_column), before_softcap(dx, uncapped, softcap, HAS_SOFTCAP).to(out_ptr.dtype.element_ty), mask=here)
        products += tl.where(here & (away > lowest), (dx - softmax_gradient(log2_p, slope, entropy_slope)) * away, 0.0)
    if NEED_TEMPERATURE:
        tl.store(products_ptr + row * stride_products, tl.sum(products, 0))


@triton.jit(do_not_specialize=["num_blocks"])
def _temperature_gradient_kernel(products_ptr, facts_ptr, temperature_ptr, out_ptr, num_blocks, BLOCK: tl.constexpr):
    """-sum(dL/dx x) / T of each row."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, num_blocks, BLOCK):
        o_block = first + tl.arange(0, BLOCK)
        total += tl.load(products_ptr + row * num_blocks + o_block, mask=o_block < num_blocks, other=0.0)
    top, shared, temperature = tl.load(facts_ptr + FACTS * row), tl.load(facts_ptr + FACTS * row + 6), tl.load(temperature_ptr + row)
    tl.store(out_ptr + row, tl.where(top == -INFINITY, 0.0, -tl.div_rn(tl.sum(total, 0) + shared, temperature)))


# ---- launchers


def needed(*gradients):
    return [gradient for need, gradient in gradients if need]


def temperature_gradient(source, facts, products):
    out = source.new(*source.leading)
    if source.n:
        _temperature_gradient_kernel[(source.n,)](
            products, facts, source.temperature, out, products.shape[1], **FINISH, enable_fp_fusion=False
        )  # fmt: skip
    return out


def token_facts(source, token_ids, grads, entropy, statistics, ignore_index):
    """Of every row: its ids [N, K] (-1: none), their gains and slopes [N, K], its facts [N, FACTS]."""
    ids = token_ids.reshape(source.n, token_ids.shape[-1] if token_ids.dim() > len(source.leading) else 1).contiguous()
    found = ids.new_empty(ids.shape), source.new(*ids.shape), source.new(*ids.shape), source.new(source.n, FACTS.value)
    if source.n:
        _token_facts_kernel[(source.n,)](
            *(x.contiguous() for x in (*grads, entropy, statistics)), ids, source.rows, source.temperature, *found,
            source.n, source.num_sources, source.vocab, ids.shape[1], ignore_index, HAS_ROWS=source.rows is not None,
            HAS_TEMPERATURE=source.temperature is not None, **NAMES, enable_fp_fusion=False,
        )  # fmt: skip
    return found


def replace_named(source, selected, found, out, products, rows, columns, flags):
    """Writes the named tokens' gradients among those rows and columns (slices) into ``out``, and what that changes to the first of ``products``."""
    _named_gradient_kernel[(rows.stop - rows.start,)](
        source.base, selected, *found, out, products, rows.start, columns.start, columns.stop, found[0].shape[1], *source.layout,
        out.stride(0), products.stride(0), source.softcap or 0.0, FROM_LOGITS=selected is None, HAS_SOFTCAP=source.softcap is not None,
        **flags, **NAMES, enable_fp_fusion=False,
    )  # fmt: skip


def logits_gradients(source, names, gains, slopes, facts, need_logits, need_temperature, *, out=None, named=True):
    """[dL/dlogits, dL/dtemperature], as needed. out: where the former goes, the logits' own place if need be; named: with what replace_named does."""
    logits, n, vocab, blocks = source.base, source.n, source.vocab, source.num_blocks
    out = logits.new_empty(n if need_logits else 0, vocab) if out is None else out
    products = source.new(n, blocks + 1)
    if n:
        flags = {"NEED_LOGITS": need_logits, "NEED_TEMPERATURE": need_temperature}
        _logits_gradient_kernel[(n * blocks,)](
            logits, facts, out, products, vocab, blocks, *source.layout, out.stride(0), products.stride(0),
            **flags, **stream_config(logits.dtype), enable_fp_fusion=True,
        )  # fmt: skip
        if named:
            replace_named(source, None, (names, gains, slopes, facts), out, products[:, blocks:], slice(0, n), slice(0, vocab), flags)
    return needed(
        (need_logits, out.view(logits.shape) if need_logits else None),
        (need_temperature, temperature_gradient(source, facts, products) if need_temperature else None),
    )


def linear_gradients(source, names, gains, slopes, facts, need_hidden, need_weight, need_bias, need_temperature):
    """[dL/dhidden, dL/dweight, dL/dbias, dL/dtemperature], as needed."""
    hidden, weight, n, vocab = source.base, source.weight, source.n, source.vocab
    taken = source.taken(facts[:, 3] != torch.inf) if need_weight else None  # see store_facts
    grad_rows = source.new(n, hidden.shape[1]).zero_() if need_hidden else None
    grad_weight = torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device) if need_weight else None
    grad_bias = source.new(weight.shape[0]).zero_() if need_bias else None
    products = source.new(n, source.num_blocks + triton.cdiv(vocab, PIECE))
    selected = source.new(*names.shape)
    dx = source.new(min(n, PASS_ROWS), PIECE)
    for i, first_column in enumerate(range(0, vocab, PIECE)):
        size = min(PIECE, vocab - first_column)
        blocks = triton.cdiv(size, source.block)
        piece = slice(first_column, first_column + size)
        weight_piece = source.new(size, hidden.shape[1]).zero_() if need_weight else None
        for first_row in range(0, n, PASS_ROWS):
            last_row = min(n, first_row + PASS_ROWS)
            some, rows = dx[: last_row - first_row, :size], slice(first_row, last_row)
            row_blocks = triton.cdiv(last_row - first_row, GRADIENT_ROWS["BLOCK_N"])
            _linear_gradient_kernel[(blocks * row_blocks,)](
                hidden, weight, source.bias, source.rows, names, facts, selected, dx, products,
                n, first_row, last_row, source.num_sources, vocab, first_column, hidden.shape[1], names.shape[1], row_blocks,
                hidden.stride(0), hidden.stride(1), weight.stride(0), dx.stride(0), products.stride(0), source.softcap or 0.0,
                NEED_TEMPERATURE=need_temperature, **{**source.flags, **GRADIENT_ROWS}, enable_fp_fusion=True,
            )  # fmt: skip
            flags = {"NEED_LOGITS": True, "NEED_TEMPERATURE": need_temperature}
            replace_named(source, selected, (names, gains, slopes, facts), dx, products[:, source.num_blocks + i :], rows, piece, flags)
            if need_hidden:
                add_product(some, weight[piece], grad_rows[rows])
            if need_weight:
                add_product(some.T, taken[rows], weight_piece)
            if need_bias:
                grad_bias[piece] += some.sum(0)
        if need_weight:
            grad_weight[piece] = weight_piece.to(weight.dtype)
    return needed(
        (need_hidden, source.spread(grad_rows) if need_hidden else None),
        (need_weight, grad_weight),
        (need_bias, grad_bias),
        (need_temperature, temperature_gradient(source, facts, products) if need_temperature else None),
    )


def token_logprobs_backward(
    grad_logprob, grad_entropy, grad_logsumexp, entropy, statistics, logits, token_ids, temperature, ignore_index, need_logits, need_temperature
):  # fmt: skip
    source = Rows(logits, temperature)
    facts = token_facts(source, token_ids, (grad_logprob, grad_entropy, grad_logsumexp), entropy, statistics, ignore_index)
    return logits_gradients(source, *facts, need_logits, need_temperature)


def linear_token_logprobs_backward(
    grad_logprob, grad_entropy, grad_logsumexp, entropy, statistics, hidden, weight, token_ids, rows, bias, temperature, softcap, ignore_index,
    vocab_size, need_hidden, need_weight, need_bias, need_temperature,
):  # fmt: skip
    source = Rows(hidden, temperature, weight=weight, rows=rows, bias=bias, softcap=softcap, vocab=vocab_size)
    facts = token_facts(source, token_ids, (grad_logprob, grad_entropy, grad_logsumexp), entropy, statistics, ignore_index)
    return linear_gradients(source, *facts, need_hidden, need_weight, need_bias, need_temperature)
