"""Advantages: what rewards say about the answers of one group, relative to each other."""

from rrm_core.advantages.groups import Offsets
from rrm_core.advantages.modules import GroupAdvantage
from rrm_core.advantages.ops import GroupAdvantages, Whitened, group_advantages, whiten_tokens

__all__ = ["GroupAdvantage", "GroupAdvantages", "Offsets", "Whitened", "group_advantages", "whiten_tokens"]
