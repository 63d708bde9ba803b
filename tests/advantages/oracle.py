"""What group_advantages is held to: exact arithmetic, and float32 eager as the yardstick."""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from rrm_core import group_advantages
from rrm_core.testing import assert_within_contract

NAN, INF = float("nan"), float("inf")
ESTIMATORS = ["grpo", "dr_grpo", "rloo"]
OF_GROUPS = [*ESTIMATORS, "opo", "remax", "maxrl", "pass_at_k"]  # those that look at one group at a time


def _exact_advantages(r, mean, std, estimator, eps, divide, weights):
    """Of the rewards of a group with signal."""
    total, divisor = sum(r), std + eps if divide else 1.0
    if estimator == "rloo":
        return [float(x - (total - x) / (len(r) - 1)) for x in r]
    if estimator == "opo":
        centre = sum(w * x for w, x in zip(weights, r, strict=True)) / sum(weights) if sum(weights) else mean
        return [float(x - centre) for x in r]
    if estimator == "maxrl":
        return [float((x - mean) / (mean + Fraction(eps))) for x in r]
    if estimator == "pass_at_k":
        first, second = sorted(r, reverse=True)[:2]
        return [float(first - second if x == first else 0) / divisor for x in r]
    return [float(x - mean) / divisor for x in r]


def exact(rewards, ids, *, estimator="grpo", eps=1e-6, mask=None, singleton="zero", std=None, lengths=None, baseline=None):
    """By rational numbers, one group after the other, in float64; no infinities."""
    population, divide = std == "population", estimator == "grpo" or std is not None
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
        std = math.sqrt(sum((x - mean) ** 2 for x in r) / (n if population else n - 1)) if n > 1 else 0.0
        groups.append((float(mean), std, n, len(set(r)) > 1))
        if estimator == "remax":
            found = [float(x - Fraction(baseline[i])) for i, x in zip(rows, r, strict=True)]
        elif n == 1:
            found = [float(r[0]) if singleton == "reward" else 0.0]
        elif len(set(r)) == 1:
            found = [0.0] * n
        else:
            weights = None if lengths is None else [Fraction(lengths[i]) for i in rows]
            found = _exact_advantages(r, mean, std, estimator, eps, divide, weights)
        for i, value in zip(rows, found, strict=True):
            advantage[i] = value
    columns = zip(*groups, strict=True) if groups else [()] * 4
    dtypes = (torch.float64, torch.float64, torch.int64, torch.bool)
    return (torch.tensor(advantage, dtype=torch.float64), *(torch.tensor(c, dtype=d) for c, d in zip(columns, dtypes, strict=True)))


def eager(rewards, ids, *, estimator="grpo", eps=1e-6, mask=None, singleton="zero", std=None, lengths=None, baseline=None):
    """What float32 PyTorch makes of it: the yardstick of the contract."""
    population, divide = std == "population", estimator == "grpo" or std is not None
    advantage, means, stds = torch.zeros(len(rewards)), [], []
    counted = ~rewards.isnan() if mask is None else mask & ~rewards.isnan()
    for g in ids.unique():
        rows = ((ids == g) & counted).nonzero()[:, 0]
        r = rewards[rows].float()
        std = r.std(correction=0 if population else 1) if len(r) > 1 else torch.tensor(0.0)
        means.append(r.mean())
        stds.append(std)
        divisor = std + eps if divide else 1.0
        if estimator == "remax":
            advantage[rows] = r - baseline[rows]
        elif len(r) == 1:
            advantage[rows] = r if singleton == "reward" else 0.0
        elif estimator == "rloo":
            advantage[rows] = r - (r.sum() - r) / (len(r) - 1)
        elif estimator == "opo":
            advantage[rows] = r - (lengths[rows] * r).sum() / lengths[rows].sum()
        elif estimator == "maxrl":
            advantage[rows] = (r - r.mean()) / (r.mean() + eps)
        elif estimator == "pass_at_k" and len(r) > 1:
            first, second = r.topk(2).values
            advantage[rows] = (r == first) * (first - second) / divisor
        elif len(r) > 0:
            advantage[rows] = (r - r.mean()) / divisor
    return advantage, torch.tensor(means), torch.tensor(stds)


def check(rewards, ids, impl, *, groups=None, **options):
    """Against exact arithmetic by the contract; sizes and keep exactly."""
    got = group_advantages(rewards, ids if groups is None else groups, impl=impl, **options)
    options.pop("num_groups", None)
    true = exact(rewards.tolist(), ids.tolist(), **{k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in options.items()})
    fast = eager(rewards, ids, **options)
    for i, name in enumerate(("advantage", "mean", "std")):
        assert_within_contract(got[i], fast[i], true[i], name)
    assert torch.equal(got.size, true[3])
    assert torch.equal(got.keep, true[4])
    if options.get("singleton") != "reward" and options.get("estimator") != "remax":
        assert bool((got.advantage[~got.keep[ids.unique(return_inverse=True)[1]]] == 0).all())
    return got


def random_groups(n, groups, seed=0, scale=1.0, offset=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=generator) * scale + offset).to(dtype), torch.randint(0, groups, (n,), generator=generator)
