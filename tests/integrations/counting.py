"""Who computes: calls of our ops by the integration, and of TRL's own code."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from trl.trainer import utils
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from rrm_core.integrations import trl, trl_advantages, trl_loss

TRAINERS = {"grpo": GRPOTrainer, "rloo": RLOOTrainer}
METHODS = ("_generate_and_score_completions", "_compute_loss")
SEAMS = [(utils, "_ChunkedLogProbFunction"), (utils, "_use_triton"), *((owner, name) for owner in TRAINERS.values() for name in METHODS)]


def seams() -> list[Any]:
    return [vars(owner)[name] for owner, name in SEAMS]


def count_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """To be called before TRL is patched."""
    calls: Counter[str] = Counter()

    def counted(name, function):
        def called(*args, **options):
            calls[name] += 1
            if name == "linear_token_logprobs":
                calls["rows"] += len(args[0])
            return function(*args, **options)

        return called

    for module, name in (
        (trl, "linear_token_logprobs"), (trl_advantages, "group_advantages"), (trl_advantages, "whiten_tokens"), (trl_loss, "policy_loss"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    for trainer in TRAINERS.values():
        monkeypatch.setattr(trainer, "_compute_loss", counted("trl loss", trainer._compute_loss))

    class Head:
        apply = staticmethod(counted("trl head", utils._ChunkedLogProbFunction.apply))

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Head)
    return calls
