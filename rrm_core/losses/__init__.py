"""Losses: what advantages and log probabilities say about how to change a policy."""

from rrm_core.losses.modules import PolicyLoss
from rrm_core.losses.ops import PolicyLossResults, policy_loss

__all__ = ["PolicyLoss", "PolicyLossResults", "policy_loss"]
