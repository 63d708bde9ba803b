"""Advantages: what rewards say about the answers of one group, relative to each other."""

from rrm_core.advantages.ops import GroupAdvantages, Offsets, group_advantages

__all__ = ["GroupAdvantages", "Offsets", "group_advantages"]
