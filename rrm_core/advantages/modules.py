"""nn.Modules that hold options and call the ops."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rrm_core.advantages.groups import Offsets
from rrm_core.advantages.ops import GroupAdvantages, group_advantages


class GroupAdvantage(nn.Module):
    """``group_advantages`` with fixed options (estimator, convention, eps, std, singleton, num_groups, impl)."""

    def __init__(self, estimator: str = "grpo", **options: Any) -> None:
        super().__init__()
        self.options = {"estimator": estimator, **options}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())

    def forward(self, rewards: Tensor, groups: int | Tensor | Offsets, **of_rows: Any) -> GroupAdvantages:
        """rewards [N] or [N, R]; ``of_rows``: mask, lengths, weights or baseline."""
        return group_advantages(rewards, groups, **self.options, **of_rows)
