"""What group_advantages is held to: exact arithmetic, and float32 eager as the yardstick."""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from rrm_core import group_advantages
from rrm_core.testing import assert_within_contract

NAN, INF = float("nan"), float("inf")
ESTIMATORS = ["grpo", "dr_grpo", "rloo"]


def exact(rewards, ids, *, estimator="grpo", eps=1e-6, mask=None, singleton="zero"):
    """By rational numbers, one group after the other, in float64; no infinities."""
    advantage, groups = [0.0] * len(rewards), []
    for g in sorted(set(ids)):
        rows = [i for i in range(len(rewards)) if ids[i] == g and not math.isnan(rewards[i]) and (mask is None or mask[i])]
        r = [Fraction(rewards[i]) for i in rows]
        n = len(r)
        if n == 0:
            groups.append((NAN, 0.0, 0, False))
            continue
        total = sum(r)
        mean = total / n
        std = math.sqrt(sum((x - mean) ** 2 for x in r) / (n - 1)) if n > 1 else 0.0
        groups.append((float(mean), std, n, len(set(r)) > 1))
        for i, x in zip(rows, r, strict=True):
            if n == 1:
                advantage[i] = float(x) if singleton == "reward" else 0.0
            elif estimator == "rloo":
                advantage[i] = float(x - (total - x) / (n - 1))
            elif x != mean:
                advantage[i] = float(x - mean) / (std + eps if estimator == "grpo" else 1.0)
    columns = zip(*groups, strict=True) if groups else [()] * 4
    dtypes = (torch.float64, torch.float64, torch.int64, torch.bool)
    return (torch.tensor(advantage, dtype=torch.float64), *(torch.tensor(c, dtype=d) for c, d in zip(columns, dtypes, strict=True)))


def eager(rewards, ids, *, estimator="grpo", eps=1e-6, mask=None, singleton="zero"):
    """What float32 PyTorch makes of it: the yardstick of the contract."""
    advantage, means, stds = torch.zeros(len(rewards)), [], []
    counted = ~rewards.isnan() if mask is None else mask & ~rewards.isnan()
    for g in ids.unique():
        rows = ((ids == g) & counted).nonzero()[:, 0]
        r = rewards[rows].float()
        std = r.std() if len(r) > 1 else torch.tensor(0.0)
        means.append(r.mean())
        stds.append(std)
        if len(r) == 1:
            advantage[rows] = r if singleton == "reward" else 0.0
        elif estimator == "rloo":
            advantage[rows] = r - (r.sum() - r) / (len(r) - 1)
        else:
            advantage[rows] = (r - r.mean()) / (std + eps if estimator == "grpo" else 1.0)
    return advantage, torch.tensor(means), torch.tensor(stds)


def check(rewards, ids, impl, *, groups=None, **options):
    """Against exact arithmetic by the contract; sizes and keep exactly."""
    got = group_advantages(rewards, ids if groups is None else groups, impl=impl, **options)
    options.pop("num_groups", None)
    true = exact(rewards.tolist(), ids.tolist(), **{k: v.tolist() if k == "mask" and v is not None else v for k, v in options.items()})
    fast = eager(rewards, ids, **options)
    for i, name in enumerate(("advantage", "mean", "std")):
        assert_within_contract(got[i], fast[i], true[i], name)
    assert torch.equal(got.size, true[3])
    assert torch.equal(got.keep, true[4])
    assert bool((got.advantage[~got.keep[ids.unique(return_inverse=True)[1]]] == 0).all()) or options.get("singleton") == "reward"
    return got


def random_groups(n, groups, seed=0, scale=1.0, offset=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=generator) * scale + offset).to(dtype), torch.randint(0, groups, (n,), generator=generator)
