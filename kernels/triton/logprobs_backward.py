"""Gradients of the log-probability ops with respect to logits, hidden states, weight, bias and temperature.

The forward's statistics are formed again. With p = softmax(z), z = x / T, every one of the ops has

    dL/dz_v = p_v (slope - entropy_slope (log p_v + entropy)) + sum over the row's ids with id_k = v of grad_k

(entropy_slope 0 for score tokens), so a row is: its ids, their gradients, and six numbers. Stored logits are read once more and the gradient written
once. From hidden states, dL/dx is formed for PIECE tokens and some rows at a time and multiplied away at once: no N x V tensor. Products run in one
order along the vocabulary (hidden) and the rows (weight); no atomics. A row's gradient has the same bits in every batch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rrm_core._triton.common import LOG2_E, LOG_2, LOWEST, exponent_scale, maximum
from rrm_core._triton.configs import FINISH, GRADIENT_ROWS, PASS_ROWS, PIECE, stream_config
from rrm_core._triton.logprobs import Rows, holds_an_id, load_temperature, place_of_id, row_of_logits, source_rows, statistics, tile_of_logits
from rrm_core._triton.product import add_product
from rrm_core._triton.softmax import entropy, log_total, merge

# ---- kernels


@triton.jit(do_not_specialize=["num_rows", "num_blocks"])
def _row_statistics_kernel(partials_ptr, temperature_ptr, out_ptr, plane, num_rows, num_blocks, HAS_TEMPERATURE: tl.constexpr, BLOCK: tl.constexpr):
    """Of each row: the largest x, the log sum relative to it, the entropy."""
    row = tl.program_id(0).to(tl.int64)
    temperature = load_temperature(temperature_ptr, row, row >= 0, HAS_TEMPERATURE)
    top, rest, moment = merge(partials_ptr + row * num_blocks, plane, num_blocks, exponent_scale(temperature), BLOCK)
    p_out = out_ptr + row
    tl.store(p_out, top)
    p_out += num_rows  # step by step: their product may be too large for 32 bits
    tl.store(p_out, log_total(top, rest))
    tl.store(p_out + num_rows, entropy(top, rest, moment, temperature))


@triton.jit
def load_facts(facts_ptr, row, mask, num_rows):
    """(top, log_total, entropy, slope, entropy_slope, live) of rows; see ``row_facts``."""
    p_fact = facts_ptr + row
    top = tl.load(p_fact, mask=mask, other=0.0)
    p_fact += num_rows
    log_sum = tl.load(p_fact, mask=mask, other=0.0)
    p_fact += num_rows
    entropy = tl.load(p_fact, mask=mask, other=0.0)
    p_fact += num_rows
    slope = tl.load(p_fact, mask=mask, other=0.0)
    p_fact += num_rows
    entropy_slope = tl.load(p_fact, mask=mask, other=0.0)
    live = tl.load(p_fact + num_rows, mask=mask, other=0.0) > 0.0
    return top, log_sum, entropy, slope, entropy_slope, live


@triton.jit
def line_of_row(facts_ptr, row, mask, num_rows, temperature):
    """A row's gradient dL/dx is p (a - b log2 p) with log2 p = (x - top) c - shift; (top, c, shift, a, b, live) of rows."""
    top, log_sum, entropy, slope, entropy_slope, live = load_facts(facts_ptr, row, mask, num_rows)
    a = tl.div_rn(slope - entropy_slope * entropy, temperature)
    return top, exponent_scale(temperature), log_sum * LOG2_E, a, tl.div_rn(entropy_slope, temperature) * LOG_2, live


@triton.jit
def softmax_gradient(x, top, c, shift, a, b):
    """The softmax's part of dL/dx; x at least LOWEST."""
    log2_p = maximum((x - top) * c - shift, LOWEST)  # finite, so that 0 * log2_p is 0
    return tl.exp2(log2_p) * (a - b * log2_p)


@triton.jit
def add_chosen(dx, o_column, first, p_ids, p_grads, width, temperature):
    """dL/dx with the ids' own gradients; columns counted from ``first``."""
    for k in range(width):
        dx += tl.where(o_column == place_of_id(p_ids + k, first), tl.div_rn(tl.load(p_grads + k), temperature), 0.0)
    return dx


@triton.jit(do_not_specialize=["num_rows", "vocab", "num_chunks", "width", "inner"])
def _logits_gradient_kernel(
    logits_ptr, ids_ptr, grads_ptr, facts_ptr, temperature_ptr, out_ptr, products_ptr, num_rows, vocab, num_chunks, width,
    inner, stride_outer, stride_inner, stride_column, stride_out,
    HAS_TEMPERATURE: tl.constexpr, NEED_LOGITS: tl.constexpr, NEED_TEMPERATURE: tl.constexpr,
    CHUNK: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """One row's columns [chunk * CHUNK, + CHUNK): dL/dlogits, and the sum of dL/dlogits x for the temperature. A dead row is not read."""
    task = tl.program_id(0).to(tl.int64)
    row, first = task // num_chunks, (task % num_chunks) * CHUNK
    p_ids, p_grads = ids_ptr + row * width, grads_ptr + row * width
    covered = holds_an_id(first, first + CHUNK, p_ids, width)
    temperature = load_temperature(temperature_ptr, row, row >= 0, HAS_TEMPERATURE)
    top, c, shift, a, b, live = line_of_row(facts_ptr, row, row >= 0, num_rows, temperature)
    TILE: tl.constexpr = LANES * VECTOR
    step = tl.full((), TILE, tl.int64) * stride_column
    o_lane = tl.arange(0, LANES)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    p_lane = row_of_logits(logits_ptr, row, inner, stride_outer, stride_inner) + (first + o_lane) * stride_column
    p_out = out_ptr + row * stride_out + first + o_lane
    products = tl.zeros((LANES, VECTOR), tl.float32)
    columns = tl.minimum(vocab - first, CHUNK).to(tl.int32)
    whole = columns // TILE * TILE
    for start in range(0, tl.where(live, whole, 0), TILE):
        x = maximum(tl.load(p_lane).to(tl.float32), LOWEST)
        dx = softmax_gradient(x, top, c, shift, a, b)
        if covered:
            dx = add_chosen(dx, start + o_lane, first, p_ids, p_grads, width, temperature)
        if NEED_LOGITS:
            tl.store(p_out, dx.to(out_ptr.dtype.element_ty))
        if NEED_TEMPERATURE:
            products += tl.where(x > LOWEST, dx * x, 0.0)
        p_lane += step
        p_out += TILE
    if live & (whole < columns):
        m_lane = whole + o_lane < columns
        x = maximum(tl.load(p_lane, mask=m_lane, other=LOWEST).to(tl.float32), LOWEST)
        dx = softmax_gradient(x, top, c, shift, a, b)
        if covered:
            dx = add_chosen(dx, whole + o_lane, first, p_ids, p_grads, width, temperature)
        if NEED_LOGITS:
            tl.store(p_out, dx.to(out_ptr.dtype.element_ty), mask=m_lane)
        if NEED_TEMPERATURE:
            products += tl.where(x > LOWEST, dx * x, 0.0)
    if NEED_LOGITS:
        for start in range(tl.where(live, columns, 0), columns, TILE):
            tl.store(p_out, tl.zeros((LANES, VECTOR), out_ptr.dtype.element_ty), mask=start + o_lane < columns)
            p_out += TILE
    if NEED_TEMPERATURE:
        tl.store(products_ptr + task, tl.sum(tl.sum(products, 1), 0))


@triton.jit(do_not_specialize=["num_rows", "first_row", "last_row", "num_sources", "vocab", "first_column", "width", "row_blocks", "num_blocks"])
def _linear_gradient_kernel(
    hidden_ptr, weight_ptr, bias_ptr, rows_ptr, ids_ptr, grads_ptr, facts_ptr, temperature_ptr, out_ptr, products_ptr,
    num_rows, first_row, last_row, num_sources, vocab, first_column, hidden_size, width, num_blocks, row_blocks,
    stride_token, stride_hidden, stride_weight, stride_out, softcap,
    HAS_ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_TEMPERATURE: tl.constexpr, HAS_SOFTCAP: tl.constexpr, EVEN_HIDDEN: tl.constexpr,
    NEED_TEMPERATURE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """dL/d(h W^T + bias) of BLOCK_V tokens from first_column on and BLOCK_N rows from first_row on, and the sums of dL/dx x."""
    task = tl.program_id(0).to(tl.int64)
    block = task // row_blocks
    row = first_row + (task % row_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_row = row < last_row
    column = (first_column + block * BLOCK_V).to(tl.int32) + tl.arange(0, BLOCK_V)
    source, _ = source_rows(rows_ptr, row, num_rows, num_sources, HAS_ROWS)
    x = tile_of_logits(
        hidden_ptr, weight_ptr, bias_ptr, source, column, vocab, hidden_size, stride_token, stride_hidden, stride_weight, softcap,
        HAS_BIAS, HAS_SOFTCAP, EVEN_HIDDEN, BLOCK_N, BLOCK_V, BLOCK_H,
    )  # fmt: skip
    x = maximum(x, LOWEST)
    temperature = load_temperature(temperature_ptr, row, m_row, HAS_TEMPERATURE)
    top, c, shift, a, b, live = line_of_row(facts_ptr, row, m_row, num_rows, temperature)
    dx = softmax_gradient(x, top[None, :], c[None, :], shift[None, :], a[None, :], b[None, :])
    for k in range(width):
        i_token = tl.load(ids_ptr + row * width + k, mask=m_row, other=-1)
        grad = tl.div_rn(tl.load(grads_ptr + row * width + k, mask=m_row, other=0.0), temperature)
        dx += tl.where(column[:, None] == i_token[None, :], grad[None, :], 0.0)
    alive = live[None, :] & (column < vocab)[:, None]
    if NEED_TEMPERATURE:
        p_products = products_ptr + row * num_blocks + first_column // BLOCK_V + block
        tl.store(p_products, tl.sum(tl.where(alive & (x > LOWEST), dx * x, 0.0), 0), mask=m_row)
    if HAS_SOFTCAP:
        share = x / softcap
        dx *= 1.0 - share * share
    dx = tl.where(alive, dx, 0.0)
    p_out = out_ptr + (row - first_row)[None, :] * stride_out + (column - first_column)[:, None]
    tl.store(p_out, dx, mask=m_row[None, :])


@triton.jit(do_not_specialize=["num_blocks"])
def _temperature_gradient_kernel(products_ptr, temperature_ptr, out_ptr, num_blocks, BLOCK: tl.constexpr):
    """-sum(dL/dx x) / T of each row."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, num_blocks, BLOCK):
        o_block = first + tl.arange(0, BLOCK)
        total += tl.load(products_ptr + row * num_blocks + o_block, mask=o_block < num_blocks, other=0.0)
    temperature = tl.load(temperature_ptr + row)
    tl.store(out_ptr + row, -tl.div_rn(tl.sum(total, 0), temperature))


# ---- launchers


def needed(*gradients):
    return [gradient for need, gradient in gradients if need]


def temperature_gradient(source, products):
    out = source.new(*source.leading)
    if source.n:
        _temperature_gradient_kernel[(source.n,)](products, source.temperature, out, products.shape[1], **FINISH, enable_fp_fusion=False)
    return out


def row_facts(statistics, slope, entropy_slope, live):
    """[6, N]: what every column of a row needs of it. statistics [3, N]: top, log_total, entropy."""
    return torch.cat([statistics, torch.stack([slope.float(), entropy_slope.float(), live.float()])])


def token_facts(source, token_ids, grads, ignore_index):
    """A row's ids [N, K] (-1: none), their gradients [N, K] and facts [6, N]."""
    width = token_ids.shape[-1] if token_ids.dim() > len(source.leading) else 1
    grad_logprob, grad_entropy, grad_logsumexp = (g.float().reshape(source.n, size) for g, size in zip(grads, (width, 1, 1), strict=True))
    ids = token_ids.reshape(source.n, width).contiguous()
    live = (ids != ignore_index).any(-1) & source.exists()
    partials, _ = statistics(source, ids, None, 1, ignore_index, True)
    found = source.new(3, source.n)
    if source.n:
        _row_statistics_kernel[(source.n,)](
            partials, source.temperature, found, source.n * source.num_blocks, source.n, source.num_blocks,
            HAS_TEMPERATURE=source.temperature is not None, **FINISH, enable_fp_fusion=False,
        )  # fmt: skip
    unused = (ids == ignore_index) | (ids < 0) | (ids >= source.vocab) | ~live[:, None]
    grad_logprob = grad_logprob.masked_fill(unused, 0.0).contiguous()
    slope = grad_logsumexp.flatten() - grad_logprob.sum(-1)
    return ids.masked_fill(unused, -1), grad_logprob, row_facts(found, slope, grad_entropy.flatten(), live)


def logits_gradients(source, ids, grads, facts, need_logits, need_temperature):
    """[dL/dlogits, dL/dtemperature], as needed, from a row's ids [N, K], their gradients and its facts."""
    logits = source.base
    out = logits.new_empty(logits.shape)
    products = source.new(source.n, source.num_blocks)
    if source.n:
        _logits_gradient_kernel[(source.n * source.num_blocks,)](
            logits, ids, grads, facts, source.temperature, out, products, source.n, source.vocab, source.num_blocks, ids.shape[1],
            *source.layout, source.vocab, HAS_TEMPERATURE=source.temperature is not None, NEED_LOGITS=need_logits, NEED_TEMPERATURE=need_temperature,
            **stream_config(logits.dtype), enable_fp_fusion=True,
        )  # fmt: skip
    return needed((need_logits, out), (need_temperature, temperature_gradient(source, products) if need_temperature else None))


def linear_gradients(source, ids, grads, facts, need_hidden, need_weight, need_bias, need_temperature):
    """[dL/dhidden, dL/dweight, dL/dbias, dL/dtemperature], as needed."""
    hidden, weight, n, vocab = source.base, source.weight, source.n, source.vocab
    taken = source.taken(facts[5] > 0) if need_weight else None
    grad_rows = source.new(n, hidden.shape[1]).zero_() if need_hidden else None
    grad_weight = torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device) if need_weight else None
    grad_bias = source.new(weight.shape[0]).zero_() if need_bias else None
    products = source.new(n, source.num_blocks)
    dx = source.new(min(n, PASS_ROWS), PIECE)
    for first_column in range(0, vocab, PIECE):
        size = min(PIECE, vocab - first_column)
        blocks = triton.cdiv(size, source.block)
        piece = slice(first_column, first_column + size)
        weight_piece = source.new(size, hidden.shape[1]).zero_() if need_weight else None
        for first_row in range(0, n, PASS_ROWS):
            last_row = min(n, first_row + PASS_ROWS)
            row_blocks = triton.cdiv(last_row - first_row, GRADIENT_ROWS["BLOCK_N"])
            _linear_gradient_kernel[(blocks * row_blocks,)](
                hidden, weight, source.bias, source.rows, ids, grads, facts, source.temperature, dx, products,
                n, first_row, last_row, source.num_sources, vocab, first_column, hidden.shape[1], ids.shape[1], source.num_blocks, row_blocks,
                hidden.stride(0), hidden.stride(1), weight.stride(0), dx.stride(0), source.softcap or 0.0,
                HAS_TEMPERATURE=source.temperature is not None,
                NEED_TEMPERATURE=need_temperature, **{**source.flags, **GRADIENT_ROWS}, enable_fp_fusion=True,
            )  # fmt: skip
            some, rows = dx[: last_row - first_row, :size], slice(first_row, last_row)
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
        (need_temperature, temperature_gradient(source, products) if need_temperature else None),
    )


def token_logprobs_backward(
    grad_logprob, grad_entropy, grad_logsumexp, logits, token_ids, temperature, ignore_index, need_logits, need_temperature
):  # fmt: skip
    source = Rows(logits, temperature)
    facts = token_facts(source, token_ids, (grad_logprob, grad_entropy, grad_logsumexp), ignore_index)
    return logits_gradients(source, *facts, need_logits, need_temperature)


def linear_token_logprobs_backward(
    grad_logprob, grad_entropy, grad_logsumexp, hidden, weight, token_ids, rows, bias, temperature, softcap, ignore_index, vocab_size,
    need_hidden, need_weight, need_bias, need_temperature,
):  # fmt: skip
    source = Rows(hidden, temperature, weight=weight, rows=rows, bias=bias, softcap=softcap, vocab=vocab_size)
    facts = token_facts(source, token_ids, (grad_logprob, grad_entropy, grad_logsumexp), ignore_index)
    return linear_gradients(source, *facts, need_hidden, need_weight, need_bias, need_temperature)
