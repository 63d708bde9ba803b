"""The advantage ops in plain PyTorch: what they mean. Statistics are sums over the rows of a group, one after the other, in float64.

The mean is taken from the group's smallest reward upwards, so that in a group of equal rewards every difference is exactly 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

ESTIMATORS = {"grpo": 0, "dr_grpo": 1, "rloo": 2}

_INFINITY = float("inf")
_NAN = float("nan")

AdvantageResults = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def group_order(ids: Tensor, num_groups: int | None) -> tuple[Tensor, Tensor]:
    """The rows [N] by ascending id, those of one id in their order, and where among them each group starts [G + 1].

    The groups are the ids 0 to num_groups - 1, rows of another id coming before the first start or behind the last; without num_groups they are
    the ids that occur.
    """
    ordered, order = torch.sort(ids, stable=True)
    if num_groups is None:
        counts = torch.unique_consecutive(ordered, return_counts=True)[1]
        return order, pad(counts.cumsum(0), (1, 0))
    return order, torch.searchsorted(ordered, torch.arange(num_groups + 1, device=ids.device))


def group_advantages(
    rewards: Tensor,
    order: Tensor | None,
    offsets: Tensor | None,
    group_size: int,
    mask: Tensor | None,
    estimator: int,
    eps: float,
    raw_singletons: bool,
) -> AdvantageResults:
    """Group g has the rows order[offsets[g]:offsets[g + 1]]; without order, the positions themselves; without offsets, group_size positions each."""
    group, groups = _group_of_rows(rewards, order, offsets, group_size)
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


def _group_of_rows(rewards: Tensor, order: Tensor | None, offsets: Tensor | None, group_size: int) -> tuple[Tensor, int]:
    """Each row's group [N], G for a row of none, and G."""
    n = rewards.shape[0]
    positions = torch.arange(n, device=rewards.device)
    if offsets is None:
        return positions // group_size, n // group_size
    groups = offsets.shape[0] - 1
    group = torch.searchsorted(offsets.contiguous(), positions, right=True) - 1
    group = group.masked_fill(group < 0, groups)
    return group if order is None else torch.empty_like(group).scatter(0, order, group), groups


def _sums(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sums over the rows of each group [G + 1], in the order of the rows, those of no group in the last."""
    total = values.new_zeros(groups + 1)
    if values.device.type == "cpu":
        return total.index_add_(0, group, values)  # one after the other
    return total.index_put_((group,), values, accumulate=True)  # sorts on CUDA, where index_add_ is a race of atomics
