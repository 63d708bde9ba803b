"""What policy_loss is held to: plain float64 under autograd, and float32 as people write it for the yardstick."""

from __future__ import annotations

import torch

from rrm_core import policy_loss
from rrm_core.testing import assert_within_contract, random_logits

NAN, INF = float("nan"), float("inf")
ORDERS = 8  # of summation: one order's luck is no yardstick


def plain(x, old, advantages, mask, *, ref_logprob=None, rollout_logprob=None, objective="ppo", ratio="token", clip=(0.2, 0.2), dual_clip=None,
          log_ratio_clamp=None, kl_coef=0.0, kl="k3", reduction="token_mean", normalizer=None, rollout_clip=2.0, rollout="token"):  # fmt: skip
    """One sequence after the other, over the tokens that count alone."""
    losses, divergences, ratios, lows, highs = [], [], [], [], []
    for i in range(len(x)):
        m = mask[i]
        if not m.any():
            continue
        p = x[i][m]
        q = p.detach() if old is None else old[i][m]
        a = advantages[i].expand(len(p)) if advantages.dim() == 1 else advantages[i][m]
        log_ratio = p - q
        if ratio == "sequence" or objective == "gspo":
            log_ratio = log_ratio.mean().expand(len(p))
        if log_ratio_clamp is not None:
            log_ratio = log_ratio.clamp(-log_ratio_clamp, log_ratio_clamp)
        r = log_ratio.exp()
        clipped = r.clamp(1 - clip[0], 1 + clip[1])
        if objective == "cispo":
            loss = -clipped.detach() * a * p
        elif objective == "reinforce":
            loss = -a * p
        else:
            loss = torch.maximum(-r * a, -clipped * a)
            if dual_clip is not None:
                loss = torch.where(a < 0, torch.minimum(loss, -dual_clip * a), loss)
        if rollout_logprob is not None:
            mismatch = q - rollout_logprob[i][m]
            loss = loss * (mismatch.sum() if rollout == "sequence" else mismatch).exp().clamp(max=rollout_clip)
        d = torch.zeros_like(p) if ref_logprob is None else p - ref_logprob[i][m]
        k3 = (-d).exp() + d - 1
        if kl == "k3_k2":
            k3 = k3.detach() + d * d / 2 - (d * d / 2).detach()
        divergence = {"k1": d, "k2": d * d / 2}.get(kl, k3)
        losses.append(loss + kl_coef * divergence)
        divergences.append(divergence)
        ratios.append(r)
        lows.append(((r < 1 - clip[0]) & (a < 0) & (objective != "reinforce")).to(p.dtype))
        highs.append(((r > 1 + clip[1]) & (a > 0) & (objective != "reinforce")).to(p.dtype))
    if not losses:
        return (x.sum() * 0.0, *[torch.zeros((), dtype=x.dtype)] * 5)
    everything = torch.cat(losses)
    if reduction == "sequence_mean":
        total, count = sum(loss.mean() for loss in losses), len(losses)
    elif reduction == "sequence_sum":
        total, count = everything.sum(), len(losses)
    else:
        total, count = everything.sum(), len(everything)
    means = (torch.cat(parts).mean().detach() for parts in (divergences, lows, highs, ratios))
    return (total / (count if normalizer is None else normalizer), *means, torch.cat(ratios).max().detach())


def sample(rows=5, length=70, seed=0, spread=0.3, padded=True):
    """logprob, old, reference and rollout [rows, length] near each other, advantages of either sign, a mask with a whole sequence left out."""
    base = -random_logits(rows, length, scale=1.0, seed=seed).abs()
    near = [base + spread * random_logits(rows, length, scale=1.0, seed=seed + i) for i in (1, 2, 3)]
    advantages = random_logits(rows, scale=1.0, seed=seed + 4)
    lengths = torch.randint(1, length + 1, (rows,), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(length) < lengths[:, None] if padded else torch.ones(rows, length, dtype=torch.bool)
    if padded and rows > 2:
        mask[1] = False
        mask[2, ::3] = False
    return base, *near, advantages, mask


def check(x, old, advantages, mask, *, impl, packed=False, **options):
    """Results and gradient against float64 by the contract; masked tokens hold NaN."""

    def gradient(loss, leaf):
        return torch.autograd.grad(loss, leaf)[0]

    others = {name: options[name] for name in ("ref_logprob", "rollout_logprob") if options.get(name) is not None}
    fixed = {name: value for name, value in options.items() if name not in others}

    def by_hand(dtype, seed=None):
        """seed: with rows and tokens in another order, so that sums are rounded otherwise."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        row, column = (torch.arange(n) if seed is None else torch.randperm(n, generator=generator) for n in x.shape)

        def placed(values):
            if values is None or values.dim() == 1:
                return values if values is None else values.to(dtype)[row]
            return values.to(dtype)[row][:, column]

        leaf = x.to(dtype).requires_grad_()
        wide = {name: placed(value) for name, value in others.items()}
        results = plain(placed(leaf), placed(old), placed(advantages), mask[row][:, column], **wide, **fixed)
        return [r.detach() for r in results], gradient(results[0], leaf)

    def spoiled(values):
        return None if values is None else values.masked_fill(~mask, NAN)

    arguments = {"old": spoiled(old), "advantages": advantages if advantages.dim() == 1 else spoiled(advantages)}
    arguments |= {name: spoiled(value) for name, value in others.items()}
    leaf = spoiled(x).requires_grad_()
    if packed:
        lengths = mask.sum(1)
        cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        arguments = {name: value if value is None or value.dim() == 1 else value[mask] for name, value in arguments.items()}
        got = policy_loss(leaf[mask], arguments.pop("old"), arguments.pop("advantages"), cu_seqlens=cu_seqlens, impl=impl, **arguments, **fixed)
    else:
        got = policy_loss(leaf, arguments.pop("old"), arguments.pop("advantages"), mask, impl=impl, **arguments, **fixed)
    found = gradient(got.loss, leaf)
    orders = ORDERS if x.numel() < 5000 else 1
    fast, fast_gradients = zip(*(by_hand(torch.float32, seed) for seed in [None, *range(orders)]), strict=True)
    true, true_gradient = by_hand(torch.float64)
    for name, a, b, c in zip(got._fields, got, zip(*fast, strict=True), true, strict=True):
        assert_within_contract(a.detach(), list(b), c, name)
    assert_within_contract(found, list(fast_gradients), true_gradient, "gradient")
    assert bool((found[~mask] == 0).all())
    return got, found
