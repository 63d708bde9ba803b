"""Advantages of grouped rewards. No gradients: rewards are detached."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import FLOATS, require, require_in_range, require_positive, require_shape, require_tensor, values_readable
from rrm_core.advantages import schema
from rrm_core.advantages.reference import ESTIMATORS

_REWARDS = (*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Offsets(NamedTuple):
    """Groups of rows that lie side by side: group g is ``offsets[g]`` to ``offsets[g + 1]``, exclusive. offsets: int64 [G + 1], from 0 up to N."""

    offsets: Tensor


class GroupAdvantages(NamedTuple):
    """``advantage`` per row, the rest per group, in ascending order of the ids."""

    advantage: Tensor
    mean: Tensor
    std: Tensor
    size: Tensor
    keep: Tensor


def _check_offsets(offsets: Tensor, rewards: Tensor) -> None:
    require_tensor("groups", offsets, (torch.int64,), rewards)
    require_shape("groups", offsets, ("G + 1",))
    require(offsets.shape[0] > 0, "groups", "at least one offset", list(offsets.shape))
    if values_readable(offsets):
        ends = (int(offsets[0]), int(offsets[-1]))
        require(ends == (0, rewards.shape[0]), "groups", f"offsets from 0 to {rewards.shape[0]}", f"{ends[0]} to {ends[1]}")
        require(bool((offsets.diff() >= 0).all()), "groups", "ascending offsets", offsets.tolist() if len(offsets) <= 10 else "a fall")


def _check_groups(groups: int | Tensor | Offsets, num_groups: int | None, rewards: Tensor) -> tuple[Tensor | None, Tensor | None, int | None]:
    """ids, offsets and num_groups as the op takes them."""
    if isinstance(groups, Tensor):
        require_tensor("groups", groups, (torch.int64,), rewards)
        require_shape("groups", groups, rewards.shape)
        if num_groups is not None:
            if isinstance(num_groups, bool) or not isinstance(num_groups, int):
                raise TypeError(f"num_groups: expected an integer or None, got {type(num_groups).__name__}")
            require(num_groups >= 0, "num_groups", "an integer of at least 0", num_groups)
            require_in_range("groups", groups, num_groups)
        return groups, None, num_groups
    require(num_groups is None, "num_groups", "None unless groups are ids", num_groups)
    if isinstance(groups, Offsets):
        _check_offsets(groups.offsets, rewards)
        return None, groups.offsets, None
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f"groups: expected an integer, a tensor of ids or Offsets, got {type(groups).__name__}")
    require(groups >= 1, "groups", "a group size of at least 1", groups)
    if rewards.shape[0] % groups != 0:  # a message made beforehand would tie a compiled graph to the size
        raise ValueError(f"groups: expected a group size that divides {rewards.shape[0]} rewards, got {groups}")
    return None, None, rewards.shape[0] // groups


def group_advantages(
    rewards: Tensor,
    groups: int | Tensor | Offsets,
    *,
    estimator: str = "grpo",
    eps: float = 1e-6,
    mask: Tensor | None = None,
    singleton: str = "zero",
    num_groups: int | None = None,
    impl: Impl = None,
) -> GroupAdvantages:
    """How much better each answer was rewarded than its group.

    Equivalent to::

        for g, id in enumerate(ids.unique()):
            r = rewards[(ids == id) & mask & ~rewards.isnan()].double()
            size[g], mean[g], std[g], keep[g] = len(r), r.mean(), r.std(), (r != r[0]).any()
            advantage[...] = {"grpo": (r - mean) / (std + eps), "dr_grpo": r - mean, "rloo": r - (r.sum() - r) / (size - 1)}[estimator]

    Args:
        rewards: [N], float32, bfloat16, float16 or float64; integers and bools are taken as float32. NaN is a missing reward.
        groups: a group size, N being a multiple of it; or int64 [N], each row's id, any numbers in any order; or ``Offsets``.
        estimator: "grpo", "dr_grpo" (without the division by std) or "rloo" (the mean of the others as the baseline).
        eps: added to std by "grpo". 1e-6 as in verl; TRL has 1e-4.
        mask: bool [N], False for rows that don't count, whatever they hold; all count when None.
        singleton: what a reward alone in its group gets: "zero", or "reward", the reward itself as in verl's GRPO.
        num_groups: the number G of groups where groups are ids, which are 0 to G - 1 then, each a group even if no row has it. Spares a
            synchronisation on CUDA, and torch.compile a size that depends on data.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        advantage [N]: exactly 0 for rows that don't count (NaN or masked), for all of a group of equal rewards, and for singletons. mean [G]:
        NaN where nothing counts. std [G]: with Bessel's correction, 0 for fewer than two rewards. size [G], int64: rewards that count.
        keep [G], bool: False where a group has no signal, having fewer than two rewards or equal ones (DAPO drops these). advantage, mean
        and std are float32, or float64 for float64 rewards. Groups come in ascending id.

    Numerics: two-pass and centred, in float64 on CPU: any offset is harmless. A group that counts an infinite reward has NaN advantages, mean
    and std, keep False. The same bits at any thread count, and a group's results have the same bits whatever the other groups are and
    however the groups are given. Where values cannot be checked (CUDA, torch.compile), a row with an id outside [0, num_groups), or before
    the first offset or behind the last, gets NaN; rows that descending offsets put in two groups get the advantage of either. Ids cost a
    stable sort.

    Source: Shao et al., arXiv 2402.03300 (GRPO); Liu et al., arXiv 2503.20783 (Dr. GRPO); Ahmadian et al., arXiv 2402.14740 (RLOO); Yu et al.,
    arXiv 2503.14476 (DAPO).

    Raises:
        TypeError, ValueError: a dtype, shape, device, option, id or offset doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    require_tensor("rewards", rewards, _REWARDS)
    require_shape("rewards", rewards, ("N",))
    require(estimator in ESTIMATORS, "estimator", " or ".join(map(repr, ESTIMATORS)), repr(estimator))
    require(singleton in ("zero", "reward"), "singleton", "'zero' or 'reward'", repr(singleton))
    eps = require_positive("eps", eps, or_zero=True)
    if mask is not None:
        require_tensor("mask", mask, (torch.bool,), rewards)
        require_shape("mask", mask, rewards.shape)
    values = rewards.detach().to(torch.promote_types(rewards.dtype, torch.float32))
    layout = _check_groups(groups, num_groups, values)
    body = schema.group_advantages.body(impl, values)
    return GroupAdvantages(*body(values, *layout, mask, ESTIMATORS[estimator], eps, singleton == "reward"))
