"""The advantage ops in plain PyTorch: what they mean. Statistics are sums over the rows of a group, one after the other, in float64.

The mean is taken from the group's smallest reward upwards, so that in a group of equal rewards every difference is exactly 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What a reward is compared with: the group's mean, that of the others, or with the weights of ``each``; a baseline of its own; the mean, as a share
# of it; or the largest reward with the second largest, and no other reward.
BASELINES = {"mean": 0, "others": 1, "weighted": 2, "given": 3, "share": 4, "top_two": 5}

_INFINITY = float("inf")
_NAN = float("nan")

AdvantageResults = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
WhitenResults = tuple[Tensor, Tensor, Tensor]


def group_advantages(
    rewards: Tensor,
    ids: Tensor | None,
    offsets: Tensor | None,
    num_groups: int | None,
    mask: Tensor | None,
    each: Tensor | None,
    baseline: int,
    eps: float,
    population: bool,
    divide: bool,
    raw_singletons: bool,
) -> AdvantageResults:
    """Groups are the ids 0 to num_groups - 1, or those that occur; or lie between offsets; or are num_groups of equal size.

    each: [N], weights or baselines. population: std without Bessel's correction. divide: by std + eps.
    """
    group, groups = _group_of_rows(rewards, ids, offsets, num_groups)
    exact = rewards.to(torch.float64)
    counted = ~rewards.isnan() if mask is None else mask & ~rewards.isnan()

    def sums(values: Tensor) -> Tensor:
        return _sums(values.masked_fill(~counted, 0.0), group, groups)

    size = sums(torch.ones_like(exact))
    smallest = torch.full_like(size, _INFINITY).scatter_reduce(0, group, exact.masked_fill(~counted, _INFINITY), "amin")
    above = sums(exact - smallest[group])
    mean = smallest + above / size
    centred = exact - mean[group]
    squares = sums(centred.square())
    std = (squares / (size if population else size - 1).clamp(min=1)).sqrt()

    broken = ~squares.isfinite()
    keep = (above > 0) & ~broken
    own = torch.zeros_like(exact) if each is None else each.to(torch.float64)
    if baseline == BASELINES["given"]:
        advantage = exact - own
    else:
        if baseline == BASELINES["weighted"]:
            weight = sums(own)
            weighted = torch.where(weight > 0, smallest + sums(own * (exact - smallest[group])) / weight, mean)
            centred = exact - weighted[group]
        elif baseline == BASELINES["others"]:
            centred = centred * (size / (size - 1))[group]
        elif baseline == BASELINES["share"]:
            centred = centred / (mean + eps)[group]
        elif baseline == BASELINES["top_two"]:
            centred = _lead(exact, counted, group, groups)
        advantage = torch.where(keep[group], centred / (std + eps)[group] if divide else centred, 0.0)
        if raw_singletons:
            advantage = torch.where(size[group] == 1, exact, advantage)
    advantage = advantage.masked_fill(broken[group], _NAN).masked_fill(~counted, 0.0).masked_fill(group == groups, _NAN)
    mean, std = (x.masked_fill(broken, _NAN).to(rewards.dtype)[:-1] for x in (mean, std))
    return advantage.to(rewards.dtype), mean, std, size.to(torch.int64)[:-1], keep[:-1]


def _lead(exact: Tensor, counted: Tensor, group: Tensor, groups: int) -> Tensor:
    """Of each group's largest reward, its distance from the second largest; 0 elsewhere, and where two are the largest."""

    def largest(values: Tensor) -> Tensor:
        return torch.full((groups + 1,), -_INFINITY, dtype=torch.float64, device=exact.device).scatter_reduce(0, group, values, "amax")[group]

    known = exact.masked_fill(~counted, -_INFINITY)
    is_top = known == largest(known)
    tied = _sums(is_top.double(), group, groups)[group] > 1
    return torch.where(is_top & ~tied, exact - largest(known.masked_fill(is_top, -_INFINITY)), 0.0)


def _group_of_rows(rewards: Tensor, ids: Tensor | None, offsets: Tensor | None, num_groups: int | None) -> tuple[Tensor, int]:
    """Each row's group [N], G for a row of none, and G."""
    if ids is not None and num_groups is None:
        found, group = torch.unique(ids, return_inverse=True)
        return group, found.shape[0]
    if ids is not None and num_groups is not None:
        return ids.masked_fill((ids < 0) | (ids >= num_groups), num_groups), num_groups
    rows = torch.arange(rewards.shape[0], device=rewards.device)
    if offsets is None:
        assert num_groups is not None
        return rows // max(1, rewards.shape[0] // max(1, num_groups)), num_groups
    groups = offsets.shape[0] - 1
    group = torch.searchsorted(offsets.contiguous(), rows, right=True) - 1
    return group.masked_fill(group < 0, groups), groups


def _sums(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sums over the rows of each group [G + 1], in the order of the rows, those of no group in the last."""
    total = values.new_zeros(groups + 1)
    if values.device.type == "cpu":
        return total.index_add_(0, group, values)  # one after the other
    return total.index_put_((group,), values, accumulate=True)  # sorts on CUDA, where index_add_ is a race of atomics


def whiten(values: Tensor, mask: Tensor | None, weights: Tensor | None, eps: float, of_variance: bool) -> WhitenResults:
    """(value - mean) / sqrt(variance + eps), or / (std + eps), over the values that count, with weights; mean; std with Bessel's correction."""
    exact = values.to(torch.float64)
    counted = ~values.isnan() if mask is None else mask & ~values.isnan()
    weight = counted.double() if weights is None else weights.to(torch.float64).masked_fill(~counted, 0.0)
    counted = weight > 0
    exact, total = exact.masked_fill(~counted, 0.0), weight.sum()
    smallest = exact.masked_fill(~counted, _INFINITY).amin() if values.numel() else exact.new_zeros(())
    mean = smallest + (weight * (exact - smallest).masked_fill(~counted, 0.0)).sum() / total
    centred = (exact - mean).masked_fill(~counted, 0.0)
    variance = (weight * centred.square()).sum() / (total - 1).clamp(min=1)
    variance = variance.masked_fill(~variance.isfinite(), _NAN)
    mean = mean + (variance - variance)
    std = variance.sqrt()
    whitened = centred / ((variance + eps).sqrt() if of_variance else std + eps)
    whitened = torch.where(counted & (variance != 0), whitened, 0.0)
    return whitened.to(values.dtype), mean.to(values.dtype), std.to(values.dtype)
