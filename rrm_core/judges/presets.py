"""How the published judges were trained, as arguments of ``group_advantages`` and ``policy_loss``. What a paper leaves open has the ops' defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One reinforcement learning setup::

        advantage = group_advantages(rewards, **preset.advantages).advantage
        loss = policy_loss(logprob, old_logprob, advantage, mask, ref_logprob=ref_logprob, **preset.loss).loss

    ``group_size``: texts sampled of each prompt, which stand next to each other. Both mappings are read only.
    """

    group_size: int
    advantages: Mapping[str, Any]
    loss: Mapping[str, Any]


def _preset(group_size: int, kl_coef: float, convention: str, reduction: str) -> Preset:
    advantages = {"groups": group_size, "estimator": "grpo", "convention": convention, "std": "sample"}
    loss = {"objective": "ppo", "ratio": "token", "clip": (0.2, 0.2), "kl": "k3", "kl_coef": kl_coef, "reduction": reduction}
    return Preset(group_size, MappingProxyType(advantages), MappingProxyType(loss))


# arXiv:2505.02387 and its scripts, with verl at e49fb572, which has neither dual clip nor clamp of log ratios. Its clamp of each token's k3 to 10 is
# left out: no k3 comes to that unless the reference finds a token 13.6 times as likely, or the policy 60000 times.
RM_R1_RLVR = _preset(7, kl_coef=0.001, convention="verl", reduction="token_mean")

# arXiv:2504.02495, Eq. 15 and section 3.3, for 27B; the 16B model's coefficient is 0.002. Neither the std's correction nor the clip are stated.
DEEPSEEK_GRM_RL = _preset(4, kl_coef=0.08, convention="paper", reduction="sequence_mean")

# arXiv:2505.10320, for 8B; 70B is trained without a divergence. Five texts of each order of an example. The rest are verl's defaults of the time.
J1_RL = _preset(5, kl_coef=0.01, convention="verl", reduction="token_mean")
