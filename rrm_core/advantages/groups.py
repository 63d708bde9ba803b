"""How rows are put into groups."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core._validate import require, require_in_range, require_shape, require_tensor, values_readable

Layout = tuple[Tensor | None, Tensor | None, int | None]


class Offsets(NamedTuple):
    """Groups of rows that lie side by side: group g is ``offsets[g]`` to ``offsets[g + 1]``, exclusive. offsets: int64 [G + 1], from 0 up to N."""

    offsets: Tensor


def _check_offsets(offsets: Tensor, rewards: Tensor) -> None:
    require_tensor("groups", offsets, (torch.int64,), rewards)
    require_shape("groups", offsets, ("G + 1",))
    require(offsets.shape[0] > 0, "groups", "at least one offset", list(offsets.shape))
    if values_readable(offsets):
        ends = (int(offsets[0]), int(offsets[-1]))
        require(ends == (0, rewards.shape[0]), "groups", f"offsets from 0 to {rewards.shape[0]}", f"{ends[0]} to {ends[1]}")
        require(bool((offsets.diff() >= 0).all()), "groups", "ascending offsets", offsets.tolist() if len(offsets) <= 10 else "a fall")


def check_groups(groups: int | Tensor | Offsets, num_groups: int | None, rewards: Tensor) -> Layout:
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
