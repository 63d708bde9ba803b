"""Log-probabilities of chosen tokens, forward.

Two kernels produce softmax statistics of fixed column blocks: one streams stored logits (blocks of CHUNK), one multiplies hidden states with the head
(blocks of BLOCK_V, logits never stored). A third merges a row's blocks in their order and writes its results. What a block covers, the order along
the hidden size and the order of the merge depend on nothing but the dtype: a row has the same bits in every batch. No atomics.

Logits of less than -1e30 count as -inf; temperatures go up to 1e25. Statistics are of x = softcap(h W^T + bias), the temperature enters with the
exponent.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rrm_core._triton.common import INFINITY, LOWEST, exponent_scale, maximum, short_product, softcapped
from rrm_core._triton.configs import CHUNK, FINISH, linear_config, stream_config
from rrm_core._triton.softmax import accumulate, entropy, join, largest, log_sum, log_total, merge, of_tile, store_statistics

# ---- kernels


@triton.jit
def load_temperature(temperature_ptr, row, mask, HAS_TEMPERATURE: tl.constexpr):
    if HAS_TEMPERATURE:
        return tl.load(temperature_ptr + row, mask=mask, other=1.0)
    else:
        return tl.full(row.shape, 1.0, tl.float32)


@triton.jit
def ids_of_row(sets_ptr, row, num_sets, PER_ROW: tl.constexpr, HAS_SETS: tl.constexpr):
    """Which ids [width] are a row's: its own, or those of its set. Also whether there are any."""
    if PER_ROW:
        return row, row >= 0
    elif HAS_SETS:
        index = tl.load(sets_ptr + row)
        exists = (index >= 0) & (index < num_sets)
        return tl.where(exists, index, 0), exists
    else:
        return row * 0, row >= 0


@triton.jit
def all_ignored(p_ids, width, ignore_index):
    found = False
    for k in range(width):
        found = found | (tl.load(p_ids + k) != ignore_index)
    return ~found


@triton.jit
def row_of_logits(logits_ptr, row, inner, stride_outer, stride_inner):
    """Rows are laid out in two levels: ``inner`` of them stride_inner apart, and those stride_outer apart."""
    return logits_ptr + (row // inner) * stride_outer + (row % inner) * stride_inner


@triton.jit
def place_of_id(p_id, first):
    """An id as a column counted from ``first``, -1 where that is no small number."""
    place = tl.load(p_id) - first
    return tl.where((place >= 0) & (place < 2**30), place, -1).to(tl.int32)


@triton.jit
def cover(x, o_column, first, p_ids, width):
    """x with LOWEST at the columns of the ids; both counted from ``first``."""
    for k in range(width):
        x = tl.where(o_column == place_of_id(p_ids + k, first), LOWEST, x)
    return x


@triton.jit
def holds_an_id(first, end, p_ids, width):
    found = False
    for k in range(width):
        i_token = tl.load(p_ids + k)
        found = found | ((i_token >= first) & (i_token < end))
    return found


@triton.jit(do_not_specialize=["vocab", "num_chunks", "width", "num_sets", "ignore_index", "inner"])
def _logits_statistics_kernel(
    logits_ptr, ids_ptr, sets_ptr, temperature_ptr, partials_ptr, plane, vocab, num_chunks, width, num_sets, ignore_index,
    inner, stride_outer, stride_inner, stride_column,
    PER_ROW: tl.constexpr, HAS_SETS: tl.constexpr, HAS_TEMPERATURE: tl.constexpr,
    CHUNK: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Statistics of columns [chunk * CHUNK, + CHUNK) of one row; without those of the ids unless they are the row's own tokens (PER_ROW)."""
    task = tl.program_id(0).to(tl.int64)
    row, first = task // num_chunks, (task % num_chunks) * CHUNK
    i_ids, _ = ids_of_row(sets_ptr, row, num_sets, PER_ROW, HAS_SETS)
    p_ids = ids_ptr + i_ids * width
    if PER_ROW:  # noqa: SIM102 - decided at compile time, so that no ids are read without it
        if all_ignored(p_ids, width, ignore_index):
            return
    covered = False
    if not PER_ROW:
        covered = holds_an_id(first, first + CHUNK, p_ids, width)
    c = exponent_scale(load_temperature(temperature_ptr, row, row >= 0, HAS_TEMPERATURE))
    TILE: tl.constexpr = LANES * VECTOR  # two of them at a time
    step = tl.full((), TILE, tl.int64) * stride_column
    o_lane = tl.arange(0, LANES)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    p_lane = row_of_logits(logits_ptr, row, inner, stride_outer, stride_inner) + (first + o_lane) * stride_column
    top = tl.full((LANES,), LOWEST, tl.float32)
    rest = tl.zeros((LANES,), tl.float32)
    moment = tl.zeros((LANES,), tl.float32)
    columns = tl.minimum(vocab - first, CHUNK).to(tl.int32)
    whole = columns // (2 * TILE) * (2 * TILE)
    for start in range(0, whole, 2 * TILE):
        a, b = tl.load(p_lane).to(tl.float32), tl.load(p_lane + step).to(tl.float32)
        if covered:
            a, b = cover(a, start + o_lane, first, p_ids, width), cover(b, start + TILE + o_lane, first, p_ids, width)
        top, rest, moment = accumulate(a, b, top, rest, moment, c)
        p_lane += 2 * step
    if whole < columns:
        o_a, o_b = whole + o_lane, whole + TILE + o_lane
        a = tl.load(p_lane, mask=o_a < columns, other=LOWEST).to(tl.float32)
        b = tl.load(p_lane + step, mask=o_b < columns, other=LOWEST).to(tl.float32)
        if covered:
            a, b = cover(a, o_a, first, p_ids, width), cover(b, o_b, first, p_ids, width)
        top, rest, moment = accumulate(a, b, top, rest, moment, c)
    overall = largest(top, 0)
    rest, ties, moment = join(top, rest, moment, overall, c)
    tl.store(partials_ptr + task, overall)
    tl.store(partials_ptr + plane + task, rest + (ties - 1.0))
    tl.store(partials_ptr + plane + plane + task, moment)


@triton.jit
def source_rows(rows_ptr, row, num_rows, num_sources, HAS_ROWS: tl.constexpr):
    """Which row of hidden each row of the batch is, 0 where there is none, and whether there is one."""
    source = row
    if HAS_ROWS:
        source = tl.load(rows_ptr + row, mask=row < num_rows, other=-1)
    exists = (row < num_rows) & (source >= 0) & (source < num_sources)
    return tl.where(exists, source, 0), exists


@triton.jit
def tile_of_logits(
    hidden_ptr, weight_ptr, bias_ptr, source, column, vocab, hidden_size, stride_token, stride_hidden, stride_weight,
    HAS_BIAS: tl.constexpr, EVEN_HIDDEN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """W h^T + bias [BLOCK_V, BLOCK_N], one order along the hidden size. Columns of no token are computed as some token's."""
    o_hidden = tl.arange(0, BLOCK_H)
    column = tl.minimum(column, vocab - 1).to(tl.int64)
    p_weight = weight_ptr + column[:, None] * stride_weight + o_hidden[None, :]
    p_hidden = hidden_ptr + source[None, :] * stride_token + o_hidden[:, None].to(tl.int64) * stride_hidden
    x = tl.zeros((BLOCK_V, BLOCK_N), tl.float32)
    for start in range(0, hidden_size, BLOCK_H):
        if EVEN_HIDDEN:
            w, h = tl.load(p_weight), tl.load(p_hidden)
        else:
            m_hidden = start + o_hidden < hidden_size
            w, h = tl.load(p_weight, mask=m_hidden[None, :], other=0.0), tl.load(p_hidden, mask=m_hidden[:, None], other=0.0)
        x += short_product(w, h)
        p_weight += BLOCK_H
        p_hidden += BLOCK_H * stride_hidden
    if HAS_BIAS:
        x += tl.load(bias_ptr + column)[:, None]
    return x


@triton.jit(do_not_specialize=["num_rows", "num_sources", "vocab", "width", "num_sets", "num_blocks", "row_blocks"])
def _linear_statistics_kernel(
    hidden_ptr, weight_ptr, bias_ptr, rows_ptr, ids_ptr, sets_ptr, temperature_ptr, partials_ptr, selected_ptr, plane,
    num_rows, num_sources, vocab, hidden_size, width, num_sets, num_blocks, row_blocks,
    stride_token, stride_hidden, stride_weight, softcap,
    PER_ROW: tl.constexpr, HAS_SETS: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_TEMPERATURE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, EVEN_HIDDEN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Statistics of BLOCK_V tokens for BLOCK_N rows. The ids' logits are recorded (PER_ROW) or left out."""
    task = tl.program_id(0).to(tl.int64)
    block = task // row_blocks
    row = (task % row_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_row = row < num_rows
    column = (block * BLOCK_V).to(tl.int32) + tl.arange(0, BLOCK_V)
    source, _ = source_rows(rows_ptr, row, num_rows, num_sources, HAS_ROWS)
    x = tile_of_logits(
        hidden_ptr, weight_ptr, bias_ptr, source, column, vocab, hidden_size, stride_token, stride_hidden, stride_weight,
        HAS_BIAS, EVEN_HIDDEN, BLOCK_N, BLOCK_V, BLOCK_H,
    )  # fmt: skip
    x = softcapped(x, softcap, HAS_SOFTCAP)
    x = tl.where((column < vocab)[:, None], maximum(x, LOWEST), LOWEST)
    i_ids, _ = ids_of_row(sets_ptr, tl.where(m_row, row, 0), num_sets, PER_ROW, HAS_SETS)
    p_ids = ids_ptr + i_ids * width
    for k in range(width):
        i_token = tl.load(p_ids + k)
        wanted = column[:, None] == i_token[None, :]
        if PER_ROW:
            here = m_row & (i_token >= block * BLOCK_V) & (i_token < tl.minimum((block + 1) * BLOCK_V, vocab))
            tl.store(selected_ptr + row * width + k, tl.sum(tl.where(wanted, x, 0.0), 0), mask=here)
        else:
            x = tl.where(wanted, LOWEST, x)
    c = exponent_scale(load_temperature(temperature_ptr, row, m_row, HAS_TEMPERATURE))
    top, rest, moment = of_tile(x, c)
    p_partial = partials_ptr + row * num_blocks + block
    tl.store(p_partial, top, mask=m_row)
    tl.store(p_partial + plane, rest, mask=m_row)
    tl.store(p_partial + plane + plane, moment, mask=m_row)


@triton.jit
def selected_logit(selected_ptr, p_logits, row, k, i_token, vocab, width, stride_column, FROM_LOGITS: tl.constexpr):
    """A chosen token's x, NaN for a token that doesn't exist."""
    exists = (i_token >= 0) & (i_token < vocab)
    if FROM_LOGITS:
        return tl.load(p_logits + i_token * stride_column, mask=exists, other=float("nan")).to(tl.float32)
    else:
        x = tl.load(selected_ptr + row * width + k, mask=exists, other=float("nan"))
        return tl.where(x == LOWEST, -INFINITY, x)


@triton.jit(do_not_specialize=["num_rows", "num_sources", "vocab", "width", "num_blocks", "ignore_index", "inner"])
def _token_results_kernel(
    logits_ptr, selected_ptr, ids_ptr, rows_ptr, temperature_ptr, partials_ptr, logprob_ptr, entropy_ptr, logsumexp_ptr, statistics_ptr, plane,
    num_rows, num_sources, vocab, width, num_blocks, ignore_index, inner, stride_outer, stride_inner, stride_column,
    FROM_LOGITS: tl.constexpr, HAS_ROWS: tl.constexpr, HAS_TEMPERATURE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Merges one row's statistics and writes its results."""
    row = tl.program_id(0).to(tl.int64)
    p_ids = ids_ptr + row * width
    if all_ignored(p_ids, width, ignore_index):
        for k in range(width):
            tl.store(logprob_ptr + row * width + k, 0.0)
        tl.store(entropy_ptr + row, 0.0)
        tl.store(logsumexp_ptr + row, 0.0)
        store_statistics(statistics_ptr, row, 0.0, 0.0)
        return
    temperature = load_temperature(temperature_ptr, row, row >= 0, HAS_TEMPERATURE)
    top, rest, moment = merge(partials_ptr + row * num_blocks, plane, num_blocks, exponent_scale(temperature), BLOCK)
    _, exists = source_rows(rows_ptr, row, num_rows, num_sources, HAS_ROWS)
    top = tl.where(exists, top, float("nan"))
    log_rest = log_total(top, rest)
    p_logits = row_of_logits(logits_ptr, row, inner, stride_outer, stride_inner)
    for k in range(width):
        i_token = tl.load(p_ids + k)
        x = selected_logit(selected_ptr, p_logits, row, k, i_token, vocab, width, stride_column, FROM_LOGITS)
        logprob = tl.div_rn(x - top, temperature) - log_rest
        tl.store(logprob_ptr + row * width + k, tl.where(i_token == ignore_index, 0.0, logprob))
    tl.store(entropy_ptr + row, entropy(top, rest, moment, temperature))
    tl.store(logsumexp_ptr + row, log_sum(top, log_rest, temperature))
    store_statistics(statistics_ptr, row, top, log_rest)


# ---- launchers


class Rows:
    """Where the logits of N rows come from: stored logits [..., V], or hidden [T, H], weight [V, H] and what goes with them."""

    def __init__(self, base, temperature, *, weight=None, rows=None, bias=None, softcap=None, vocab=None):
        self.from_logits = weight is None
        self.rows, self.bias = (None if x is None else x.contiguous() for x in (rows, bias))
        self.softcap = softcap
        self.temperature = None if temperature is None else temperature.reshape(-1).contiguous()
        if self.from_logits:
            self.leading, self.vocab = base.shape[:-1], base.shape[-1]
            self.base, self.layout = two_levels(base)
            self.block = CHUNK
            self.config = {}
        else:
            self.leading, self.vocab = (base.shape[:1] if rows is None else rows.shape), vocab
            self.base, self.layout = base, (1, 0, 0, 0)
            if base.shape[0] == 0:  # nothing to read where every row is out of range
                self.base = base.new_zeros(1, base.shape[1])
            self.weight = weight if weight.stride(1) == 1 else weight.contiguous()
            self.config = linear_config(base.dtype, base.shape[1])
            self.block = self.config["BLOCK_V"]
        self.n = self.leading.numel()
        self.num_sources = self.n if self.from_logits else base.shape[0]
        self.num_blocks = triton.cdiv(self.vocab, self.block)

    def new(self, *sizes):
        return self.base.new_empty(sizes, dtype=torch.float32)

    def exists(self):
        """Whether each row has a source, bool [N]."""
        if self.rows is None:
            return torch.ones(self.n, dtype=torch.bool, device=self.base.device)
        return (self.rows >= 0) & (self.rows < self.num_sources)

    def taken(self, live):
        """The rows of hidden [N, H], zeros where they are not live: whatever they hold is multiplied by a gradient of 0."""
        source = self.base if self.rows is None else self.base.index_select(0, self.rows.masked_fill(~self.exists(), 0))
        return source.masked_fill(~live[:, None], 0.0)

    def spread(self, gradients):
        """Gradients of the rows [N, H] as the gradient of hidden, in its dtype."""
        if self.rows is not None:
            rows = self.rows.masked_fill(~self.exists(), 0)
            spread = self.new(*self.base.shape).zero_().index_put_((rows,), gradients, accumulate=True)  # sorts on CUDA: no race of atomics
            gradients = spread[: self.num_sources]
        return gradients.to(self.base.dtype)

    @property
    def flags(self):
        """Structure and blocks of a product with the head."""
        return {"HAS_ROWS": self.rows is not None, "HAS_BIAS": self.bias is not None, "HAS_SOFTCAP": self.softcap is not None, **self.config}


def two_levels(logits):
    """Logits [..., V] as a tensor with the same storage and (inner, stride_outer, stride_inner, stride_column)."""
    sizes, strides = list(logits.shape[:-1]), list(logits.stride()[:-1])
    levels = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if levels and levels[-1][1] == size * stride:
            levels[-1] = (levels[-1][0] * size, stride)
        else:
            levels.append((size, stride))
    if len(levels) > 2:
        return two_levels(logits.contiguous())
    (_, outer), (inner, stride) = [(1, 0)] * (2 - len(levels)) + levels if len(levels) < 2 else levels
    return logits, (inner, outer, stride, logits.stride(-1))


def statistics(source, ids, sets, num_sets, ignore_index, per_row):
    """Partials [3, N, blocks] of every row and, per_row and from hidden states, the logits of the ids [N, width]."""
    width = ids.shape[-1]
    partials = source.new(3, source.n, source.num_blocks)
    plane = source.n * source.num_blocks
    flags = {"PER_ROW": per_row, "HAS_SETS": sets is not None, "HAS_TEMPERATURE": source.temperature is not None}
    if source.n == 0:
        return partials, None
    if source.from_logits:
        _logits_statistics_kernel[(plane,)](
            source.base, ids, sets, source.temperature, partials, plane, source.vocab, source.num_blocks, width, num_sets, ignore_index,
            *source.layout, **flags, **stream_config(source.base.dtype), enable_fp_fusion=False,
        )  # fmt: skip
        return partials, None
    selected = source.new(source.n, width) if per_row else None
    hidden, weight = source.base, source.weight
    row_blocks = triton.cdiv(source.n, source.config["BLOCK_N"])
    _linear_statistics_kernel[(source.num_blocks * row_blocks,)](
        hidden, weight, source.bias, source.rows, ids, sets, source.temperature, partials, selected, plane,
        source.n, source.num_sources, source.vocab, hidden.shape[1], width, num_sets, source.num_blocks, row_blocks,
        hidden.stride(0), hidden.stride(1), weight.stride(0), source.softcap or 0.0, **flags, **source.flags, enable_fp_fusion=True,
    )  # fmt: skip
    return partials, selected


def _token_results(source, token_ids, ignore_index):
    ids = token_ids.reshape(source.n, -1) if source.n else token_ids.new_empty(0, 1)
    ids = ids.contiguous()
    partials, selected = statistics(source, ids, None, 1, ignore_index, True)
    results = (source.new(*token_ids.shape), source.new(*source.leading), source.new(*source.leading), source.new(*source.leading, 3))
    if source.n:
        _token_results_kernel[(source.n,)](
            source.base, selected, ids, source.rows, source.temperature, partials, *results, source.n * source.num_blocks, source.n,
            source.num_sources, source.vocab, ids.shape[1], source.num_blocks, ignore_index,
            *source.layout, FROM_LOGITS=source.from_logits, HAS_ROWS=source.rows is not None, HAS_TEMPERATURE=source.temperature is not None,
            **FINISH, enable_fp_fusion=False,
        )  # fmt: skip
    return results


def token_logprobs(logits, token_ids, temperature, ignore_index):
    return _token_results(Rows(logits, temperature), token_ids, ignore_index)


def linear_token_logprobs(hidden, weight, token_ids, rows, bias, temperature, softcap, ignore_index, vocab_size, batch_invariant):
    source = Rows(hidden, temperature, weight=weight, rows=rows, bias=bias, softcap=softcap, vocab=vocab_size)
    return _token_results(source, token_ids, ignore_index)
