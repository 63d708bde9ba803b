"""Policy-loss cases: a batch of long answers, beyond any cache, forward and with the gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.floors import reads, reads_and_writes
from bench.registry import Case, Inputs, Run, Scale, contract, with_gradients
from rrm_core import policy_loss
from rrm_core.testing import random_logits

SHAPE = {"tiny": (3, 20), "quick": (256, 4096), "full": (1024, 8192)}  # answers, tokens
CLIP = (0.2, 0.28)
KL = 0.05


def plain_loss(logprob: Tensor, old: Tensor, reference: Tensor, advantages: Tensor) -> dict[str, Tensor]:
    ratio, advantage = (logprob - old).exp(), advantages.unsqueeze(1)
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP[0], 1 + CLIP[1]) * advantage)
    away = reference - logprob
    divergence = away.exp() - away - 1
    return {"loss": (loss + KL * divergence).mean(), "kl": divergence.detach().mean()}


def cases(scale: Scale, inductor: bool) -> Iterator[Case]:
    b, t = SHAPE[scale]

    def make(device: torch.device) -> Inputs:
        logprob = -random_logits(b, t, scale=1.0, seed=0).abs()
        old, reference = (logprob + random_logits(b, t, scale=0.1, seed=seed) for seed in (1, 2))
        return tuple(x.to(device) for x in (logprob, old, reference, random_logits(b, scale=1.0, seed=3)))

    def ours(logprob: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, impl: Any = None) -> Any:
        return policy_loss(logprob, old, advantages, ref_logprob=reference, clip=CLIP, kl_coef=KL, impl=impl)

    def by_reference(*inputs: Tensor) -> Any:
        logprob, old, reference, advantages = inputs
        return ours(logprob, old, reference, advantages, "reference")

    others: dict[str, Run] = {"PyTorch": plain_loss, **({"inductor": torch.compile(plain_loss, dynamic=False)} if inductor else {})}
    size = 4.0 * b * t
    yield Case(
        "losses",
        ("policy_loss",),
        f"policy_loss, PPO and k3, [{b}, {t}]",
        make,
        ours,
        others,
        contract(by_reference),
        moves=3 * size,  # three numbers a token
        floors=reads(0, 1, 2),
    )
    yield Case(
        "losses",
        ("policy_loss", "policy_loss_backward"),
        f"policy_loss, PPO and k3, forward + backward, [{b}, {t}]",
        make,
        with_gradients(ours, 0),
        {name: with_gradients(run, 0) for name, run in others.items()},
        contract(with_gradients(by_reference, 0)),
        moves=7 * size,  # read by each pass, the gradient written
        floors=reads_and_writes(0, times_read=6),
    )
