"""The advantage ops in plain PyTorch: what they mean. Statistics are sums over the rows of a group, one after the other, in float64.

The mean is taken from the group's smallest reward upwards, so that in a group of equal rewards every difference is exactly 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

ESTIMATORS = {"grpo": 0, "dr_grpo": 1, "rloo": 2}

_INFINITY = float("inf")
_NAN = float("nan")

AdvantageResults = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def group_advantages(
    rewards: Tensor,
    ids: Tensor | None,
    offsets: Tensor | None,
    num_groups: int | None,
    mask: Tensor | None,
    estimator: int,
    eps: float,
    raw_singletons: bool,
) -> AdvantageResults:
    """Groups are the ids 0 to num_groups - 1, or those that occur; or lie between offsets; or are num_groups of equal size."""
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
    std = (squares / (size - 1).clamp(min=1)).sqrt()

    broken = ~squares.isfinite()
    keep = (above > 0) & ~broken
    scale = (1 / (std + eps), torch.ones_like(std), size / (size - 1))[estimator]
    advantage = torch.where(keep[group], centred * scale[group], 0.0)
    if raw_singletons:
        advantage = torch.where(size[group] == 1, exact, advantage)
    advantage = advantage.masked_fill(broken[group], _NAN).masked_fill(~counted, 0.0).masked_fill(group == groups, _NAN)
    mean, std = (x.masked_fill(broken, _NAN).to(rewards.dtype)[:-1] for x in (mean, std))
    return advantage.to(rewards.dtype), mean, std, size.to(torch.int64)[:-1], keep[:-1]


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
