"""The policy loss from hidden states: some rows' logits are stored, read for their log probabilities, turned into gradients where they lie, and
multiplied away: three products with the head, the third of which adds up in float32. No atomics, nothing waits for the device.

A token's loss asks for no other token's log probability here, so that some rows' gradients are known as soon as their logits are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rrm_core._triton.configs import GRADIENT_ROWS, LOGITS_AT_HAND
from rrm_core._triton.logprobs import Rows, linear_token_logprobs, tile_of_logits, token_logprobs
from rrm_core._triton.logprobs_backward import logits_gradients, replace_named, token_facts
from rrm_core._triton.losses import Batch, policy_loss, policy_loss_backward, scales, shared_facts
from rrm_core._triton.product import add_product

IGNORED = -(2**63)  # nobody's label


@triton.jit(do_not_specialize=["first_row", "last_row", "vocab", "row_blocks"])
def _linear_logits_kernel(
    hidden_ptr, weight_ptr, bias_ptr, out_ptr, first_row, last_row, vocab, hidden_size, row_blocks,
    stride_token, stride_hidden, stride_weight, stride_out,
    HAS_BIAS: tl.constexpr, EVEN_HIDDEN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """h W^T + bias of BLOCK_V tokens and BLOCK_N rows from first_row on."""
    task = tl.program_id(0).to(tl.int64)
    row = first_row + (task % row_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_row = row < last_row
    column = (task // row_blocks * BLOCK_V).to(tl.int32) + tl.arange(0, BLOCK_V)
    x = tile_of_logits(
        hidden_ptr, weight_ptr, bias_ptr, tl.where(m_row, row, first_row), column, vocab, hidden_size, stride_token, stride_hidden, stride_weight,
        HAS_BIAS, EVEN_HIDDEN, BLOCK_N, BLOCK_V, BLOCK_H,
    )  # fmt: skip
    p_out = out_ptr + (row - first_row)[None, :] * stride_out + column[:, None]
    tl.store(p_out, x, mask=m_row[None, :] & (column < vocab)[:, None])


def store_logits(source, rows, out):
    """out [rows, V] = h W^T + bias."""
    row_blocks = triton.cdiv(rows.stop - rows.start, GRADIENT_ROWS["BLOCK_N"])
    _linear_logits_kernel[(source.num_blocks * row_blocks,)](
        source.base, source.weight, source.bias, out, rows.start, rows.stop, source.vocab, source.base.shape[1], row_blocks,
        source.base.stride(0), source.base.stride(1), source.weight.stride(0), out.stride(0), HAS_BIAS=source.bias is not None,
        **{**source.config, **GRADIENT_ROWS}, enable_fp_fusion=True,
    )  # fmt: skip


class Tokens:
    """Which tokens [M] count, of which sequence each is, and what that is worth."""

    def __init__(self, token_ids, behaviour, normalizer, reduction, rollout_clip, sequence_rollout):
        old, advantages, mask, cu_seqlens, reference, rollout = behaviour
        m, device = token_ids.numel(), token_ids.device
        if cu_seqlens is None:
            self.offsets = torch.arange(token_ids.shape[0] + 1, device=device) * token_ids.shape[1]
        else:
            self.offsets = cu_seqlens.clamp(0, m)
        sequences = self.offsets.shape[0] - 1
        row = torch.searchsorted(self.offsets, torch.arange(m, device=device), right=True) - 1
        counts = (row >= 0) & (row < sequences)
        if mask is not None:
            counts = counts & mask.reshape(-1)
        before = torch.nn.functional.pad(counts.cumsum(0), (1, 0))[self.offsets]
        size = (before[1:] - before[:-1]).double()
        self.facts = torch.zeros(sequences, 4, dtype=torch.float64, device=device)
        self.facts[:, 0] = scales(size, normalizer, reduction)
        self.facts[:, 3] = 1.0
        if sequence_rollout and rollout is not None:
            self.facts[:, 3] = shared_facts(Batch(old, old, advantages, mask, cu_seqlens, None, rollout), True, None, rollout_clip)[0][:, 1]
        self.per_sequence = advantages.dim() < token_ids.dim() or (cu_seqlens is not None and advantages.numel() == sequences)
        self.advantages = advantages if self.per_sequence else advantages.reshape(-1)
        self.others = [None if x is None else x.reshape(-1) for x in (old, mask, reference, rollout)]
        self.ids = torch.where(counts, token_ids.reshape(-1), IGNORED)
        self.scale = (self.facts[:, 0][row.clamp(0, max(0, sequences - 1))] if sequences else size.new_zeros(m)).masked_fill(~counts, 0.0)
        self.count = size.sum().clamp(min=1)

    def gradient(self, rows, logprob, options):
        """dL/dlogprob of some tokens, without the entropies' part: a packed batch of their own."""
        n = rows.stop - rows.start
        offsets, facts = (self.offsets - rows.start).clamp(0, n), self.facts
        if not self.per_sequence and n == facts.shape[0]:  # advantages would be taken for those of sequences
            offsets, facts = torch.cat([offsets, offsets[-1:]]), torch.cat([facts, facts[-1:]])
        advantages = self.advantages if self.per_sequence else self.advantages[rows]
        old, mask, reference, rollout = (None if x is None else x[rows] for x in self.others)
        one = logprob.new_ones(())
        return policy_loss_backward(one, facts, logprob, old, advantages, mask, offsets, reference, rollout, None, *options)


def gradients_in_place(x, uncapped, ids, temperature, grads, entropy, statistics, softcap):
    """x, some rows' logits after the softcap, becomes dL/d(h W^T + bias)."""
    chosen = uncapped.gather(1, ids.clamp(0, x.shape[1] - 1)[:, None])
    source = Rows(x, temperature)
    names, gains, slopes, facts = token_facts(source, ids, grads, entropy, statistics, IGNORED)
    logits_gradients(source, names, gains, slopes, facts, True, False, out=x, named=False)
    if softcap is not None:
        x.div_(torch.cosh(uncapped / softcap).square_())
    source.softcap = softcap
    flags = {"NEED_LOGITS": True, "NEED_TEMPERATURE": False}
    replace_named(source, chosen, (names, gains, slopes, facts), x, chosen, slice(0, x.shape[0]), slice(0, x.shape[1]), flags)


def linear_policy_loss(
    hidden, weight, token_ids, bias, temperature, softcap, vocab, old, advantages, mask, cu_seqlens, reference, rollout, normalizer, objective,
    clip_low, clip_high, dual_clip, clamp, kl_coef, kl, reduction, rollout_clip, sequence_rollout, entropy_coef, need_hidden, need_weight, need_bias,
):  # fmt: skip
    behaviour = (old, advantages, mask, cu_seqlens, reference, rollout)
    options = (objective, False, clip_low, clip_high, dual_clip, clamp, kl_coef, kl, reduction, rollout_clip, sequence_rollout)
    tokens = Tokens(token_ids, behaviour, normalizer, reduction, rollout_clip, sequence_rollout)
    flat = hidden.reshape(-1, hidden.shape[-1]).masked_fill((tokens.ids == IGNORED)[:, None], 0.0)  # what is there may be anything
    source = Rows(flat, temperature, weight=weight, bias=bias, softcap=softcap, vocab=vocab)
    n, need_bias = source.n, need_bias and bias is not None
    logprob, entropy = source.new(n), source.new(n)
    grad_hidden = torch.zeros(flat.shape if need_hidden else 0, dtype=torch.float32, device=flat.device)
    grad_weight = torch.zeros(weight.shape if need_weight else 0, dtype=torch.float32, device=flat.device)
    grad_bias = torch.zeros(weight.shape[0] if need_bias else 0, dtype=torch.float32, device=flat.device)
    if not (need_hidden or need_weight or need_bias):
        logprob, entropy, _, _ = linear_token_logprobs(flat, weight, tokens.ids, None, bias, temperature, softcap, IGNORED, vocab, True)
        n = 0
    most = max(1, min(n, LOGITS_AT_HAND // vocab // 64 * 64 or 64))
    stored = source.new(most if n else 0, vocab)
    for first in range(0, n, most):
        rows = slice(first, min(n, first + most))
        x, ids = stored[: rows.stop - first], tokens.ids[rows]
        store_logits(source, rows, x)
        uncapped = x
        if softcap is not None:
            uncapped, x = x, softcap * torch.tanh(x / softcap)
        heat = None if temperature is None else temperature[rows]
        logprob[rows], entropy[rows], _, statistics = token_logprobs(x, ids, heat, IGNORED)
        of_logprob = tokens.gradient(rows, logprob[rows], options)
        of_entropy = (-entropy_coef * tokens.scale[rows]).float()
        grads = (of_logprob, of_entropy, torch.zeros_like(of_entropy))
        gradients_in_place(x, uncapped, ids, heat, grads, entropy[rows], statistics, softcap)
        if need_hidden:
            add_product(x, weight[:vocab], grad_hidden[rows])
        if need_weight:
            add_product(x.T, flat[rows], grad_weight[:vocab])
        if need_bias:
            grad_bias[:vocab] += x.sum(0)
    loss, *metrics, _ = policy_loss(logprob.view(token_ids.shape), *behaviour, normalizer, *options)
    mean = (entropy.double().sum() / tokens.count).float()
    if entropy_coef != 0.0:
        loss = loss - entropy_coef * (entropy.double() * tokens.scale).sum().float()
    grad_hidden = grad_hidden.view(hidden.shape) if need_hidden else grad_hidden
    return loss, *metrics, mean, logprob.view(token_ids.shape), grad_hidden, grad_weight, grad_bias
