"""nn.Modules that hold options and call the ops."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rrm_core.losses.ops import LinearPolicyLossResults, PolicyLossResults, linear_policy_loss, policy_loss


class _WithOptions(nn.Module):
    def __init__(self, objective: str = "ppo", **options: Any) -> None:
        super().__init__()
        self.options = {"objective": objective, **options}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class PolicyLoss(_WithOptions):
    """``policy_loss`` with fixed options: objective, ratio, clip, dual_clip, log_ratio_clamp, kl_coef, kl, reduction, rollout_clip, rollout, impl."""

    def forward(
        self, logprob: Tensor, old_logprob: Tensor | None, advantages: Tensor, mask: Tensor | None = None, **of_batch: Any
    ) -> PolicyLossResults:
        """``of_batch``: cu_seqlens, ref_logprob, rollout_logprob or normalizer."""
        return policy_loss(logprob, old_logprob, advantages, mask, **self.options, **of_batch)


class LinearPolicyLoss(_WithOptions):
    """``linear_policy_loss`` with fixed options: those of ``PolicyLoss``, entropy_coef, temperature, softcap, vocab_size. The head is an argument, as
    it is the model's own."""

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        token_ids: Tensor,
        old_logprob: Tensor | None,
        advantages: Tensor,
        mask: Tensor | None = None,
        **of_batch: Any,
    ) -> LinearPolicyLossResults:
        """``of_batch``: bias, cu_seqlens, ref_logprob, rollout_logprob or normalizer."""
        return linear_policy_loss(hidden, weight, token_ids, old_logprob, advantages, mask, **self.options, **of_batch)
