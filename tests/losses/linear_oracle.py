"""What linear_policy_loss is held to: logits, log softmax and the loss by hand, in float64, and in float32 for the yardstick."""

from __future__ import annotations

import sys

import torch

from rrm_core import linear_policy_loss
from rrm_core.testing import assert_within_contract, random_head, random_ids, random_logits
from tests.losses.oracle import NAN, plain

ORDERS = 16  # of summation
INTERPRETED = "tests.triton_bodies" in sys.modules  # seconds a thousand products
ROWS, LENGTH, HIDDEN, VOCAB = (3, 24, 20, 150) if INTERPRETED else (4, 45, 40, 700)


def sample(rows=ROWS, length=LENGTH, hidden=HIDDEN, vocab=VOCAB, seed=0, dtype=torch.float32, spread=0.3):
    """hidden [rows, length, H], weight, ids, old, reference and rollout near the policy, advantages, a mask with a sequence left out."""
    h, w = random_head(rows * length, hidden, vocab, dtype, seed)
    h = h.view(rows, length, hidden)
    ids = random_ids((rows, length), vocab, seed)
    logprob = (h.double() @ w.double().T).log_softmax(-1).gather(-1, ids[..., None])[..., 0].float()
    near = [logprob + spread * random_logits(rows, length, scale=1.0, seed=seed + i) for i in (1, 2, 3)]
    lengths = torch.randint(max(1, length // 2), length + 1, (rows,), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(length) < lengths[:, None]
    if rows > 2:
        mask[1] = False
        mask[2, ::3] = False
    return h, w, ids, near, random_logits(rows, scale=1.0, seed=seed + 4), mask


def reduced(values, mask, reduction, normalizer):
    """Per-token values reduced like a loss."""
    rows = [values[i][mask[i]] for i in range(len(mask)) if mask[i].any()]
    if reduction == "sequence_mean":
        total, count = sum(row.mean() for row in rows), len(rows)
    else:
        total, count = torch.cat(rows).sum(), len(rows) if reduction == "sequence_sum" else int(mask.sum())
    return total / (count if normalizer is None else normalizer)


def by_hand(h, w, ids, old, advantages, mask, dtype, order, bias=None, temperature=1.0, softcap=None, vocab_size=None, entropy_coef=0.0, **options):
    """(results, gradients of hidden, weight and bias), with the hidden size in another order."""
    places = torch.arange(h.shape[-1]) if order is None else torch.randperm(h.shape[-1], generator=torch.Generator().manual_seed(order))
    leaves = [x.to(dtype).requires_grad_() for x in (h, w, *([] if bias is None else [bias]))]
    logits = leaves[0][..., places] @ leaves[1][:vocab_size, places].T
    if bias is not None:
        logits = logits + leaves[2][:vocab_size]
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits / (temperature.to(dtype)[..., None] if isinstance(temperature, torch.Tensor) else temperature)
    log_p = logits.log_softmax(-1)
    logprob = log_p.gather(-1, ids.clamp(0, w.shape[0] - 1)[..., None])[..., 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    wide = {k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in options.items()}
    loss, *metrics = plain(logprob, None if old is None else old.to(dtype), advantages.to(dtype), mask, **wide)
    loss = loss - entropy_coef * reduced(entropy, mask, options.get("reduction", "token_mean"), options.get("normalizer"))
    results = [loss, *metrics, entropy[mask].mean(), logprob.masked_fill(~mask, 0.0)]
    return [r.detach() for r in results], torch.autograd.grad(loss, leaves)


def check(h, w, ids, old, advantages, mask, *, impl, packed=False, **options):
    """Results and gradients against float64 by the contract; masked tokens hold NaN and no id."""
    vocab = options.get("vocab_size") or w.shape[0]
    leaves = [h.masked_fill(~mask[..., None], NAN).requires_grad_(), w.clone().requires_grad_()]
    given = dict(options)
    if options.get("bias") is not None:
        given["bias"] = options["bias"].clone().requires_grad_()
        leaves.append(given["bias"])
    wanted = ids.masked_fill(~mask, 10 * vocab)
    spoiled = {k: v.masked_fill(~mask, NAN) for k, v in options.items() if k in ("ref_logprob", "rollout_logprob") and v is not None}
    given |= spoiled
    arguments = [leaves[0], wanted, None if old is None else old.masked_fill(~mask, NAN), advantages]
    if packed:
        given["cu_seqlens"] = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
        arguments = [x if x is None or x.dim() == 1 else x[mask] for x in arguments]
        given |= {k: v[mask] for k, v in given.items() if isinstance(v, torch.Tensor) and v.shape[:2] == mask.shape}
        got = linear_policy_loss(arguments[0], leaves[1], *arguments[1:], impl=impl, **given)
        got = got._replace(logprob=torch.zeros(mask.shape).masked_scatter(mask, got.logprob))
    else:
        got = linear_policy_loss(arguments[0], leaves[1], *arguments[1:], mask, impl=impl, **given)
    found = torch.autograd.grad(got.loss, leaves)
    truth, true_gradients = by_hand(h, w, ids, old, advantages, mask, torch.float64, None, **options)
    runs = [by_hand(h, w, ids, old, advantages, mask, torch.float32, order, **options) for order in [None, *range(ORDERS)]]
    for i, name in enumerate(got._fields):
        assert_within_contract(got[i].detach(), [run[0][i] for run in runs], truth[i], name)
    for i, name in enumerate(("hidden", "weight", "bias")[: len(found)]):
        assert found[i].dtype == leaves[i].dtype
        assert_within_contract(found[i], [run[1][i] for run in runs], true_gradients[i], f"gradient of {name}")
    assert bool((found[0][~mask] == 0).all())
    return got, found
