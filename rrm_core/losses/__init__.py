"""Losses: what advantages and log probabilities say about how to change a policy."""

from rrm_core.losses.modules import LinearPolicyLoss, PolicyLoss
from rrm_core.losses.ops import LinearPolicyLossResults, PolicyLossResults, linear_policy_loss, policy_loss

__all__ = ["LinearPolicyLoss", "LinearPolicyLossResults", "PolicyLoss", "PolicyLossResults", "linear_policy_loss", "policy_loss"]
