"""Policy-loss cases: a batch of long answers, beyond any cache, forward and with the gradient; and from hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.floors import product, reads, reads_and_writes
from bench.registry import Case, Inputs, Run, Scale, contract, with_gradients
from rrm_core import linear_policy_loss, linear_token_logprobs, policy_loss
from rrm_core.testing import random_head, random_ids, random_logits

SHAPE = {"tiny": (3, 20), "quick": (256, 4096), "full": (1024, 8192)}  # answers, tokens
HEAD = {"tiny": (6, 32, 300), "quick": (192, 1024, 32768), "full": (4096, 1024, 151936)}  # tokens, hidden, vocabulary; V of Qwen2.5
CLIP = (0.2, 0.28)
ENTROPY = 0.01
KL = 0.05


def plain_loss(logprob: Tensor, old: Tensor, reference: Tensor, advantages: Tensor) -> dict[str, Tensor]:
    ratio, advantage = (logprob - old).exp(), advantages.unsqueeze(1)
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP[0], 1 + CLIP[1]) * advantage)
    away = reference - logprob
    divergence = away.exp() - away - 1
    return {"loss": (loss + KL * divergence).mean(), "kl": divergence.detach().mean()}


def _from_hidden(scale: Scale) -> Case:
    n, h, v = HEAD[scale]

    def make(device: torch.device) -> Inputs:
        hidden, weight = random_head(n, h, v)
        old = -random_logits(1, n, scale=1.0, seed=1).abs() - 10.0
        inputs = hidden.unsqueeze(0), weight, random_ids((1, n), v), old, random_logits(1, n, scale=1.0, seed=3)
        return tuple(x.to(device) for x in inputs)

    def ours(*inputs: Tensor, impl: Any = None) -> dict[str, Tensor]:
        hidden, weight, ids, old, advantages = inputs
        loss = linear_policy_loss(hidden, weight, ids, old, advantages, objective="reinforce", entropy_coef=ENTROPY, impl=impl)
        return {"loss": loss.loss, "entropy": loss.entropy, "logprob": loss.logprob}

    def three_products(hidden: Tensor, weight: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        """Forward and two gradients; in pieces of the vocabulary, so that no logits of gigabytes have to be written."""
        states, grad_hidden, grad_weight = hidden[0], torch.zeros_like(hidden[0]), torch.empty_like(weight)
        for first in range(0, v, 8192):
            piece = slice(first, first + 8192)
            logits = states @ weight[piece].T
            grad_hidden += logits @ weight[piece]
            torch.mm(logits.T, states, out=grad_weight[piece])
        return {"hidden": grad_hidden, "weight": grad_weight}

    def in_two_steps(hidden: Tensor, weight: Tensor, ids: Tensor, old: Tensor, advantages: Tensor) -> dict[str, Tensor]:
        found = linear_token_logprobs(hidden[0], weight, ids[0])
        loss = policy_loss(found.logprob.unsqueeze(0), old, advantages, objective="reinforce").loss - ENTROPY * found.entropy.mean()
        return {"loss": loss, "entropy": found.entropy.detach().mean()}

    def few(inputs: Inputs) -> Inputs:
        hidden, weight, *rest = inputs
        return hidden[:, :64], weight, *(x[:, :64] for x in rest)

    flops = 6.0 * n * h * v  # three products
    return Case(
        "losses",
        ("linear_policy_loss",),
        f"linear_policy_loss, forward + backward, [{n}, {h}] x [{v}, {h}] fp32",
        make,
        with_gradients(ours, 0, 1),
        {"three products": three_products, "rrm_core in two steps": with_gradients(in_two_steps, 0, 1)},
        contract(with_gradients(lambda *inputs: ours(*inputs, impl="reference"), 0, 1), few=few),
        moves=4.0 * 3 * v * h,  # the head read by two products, its gradient written
        flops=flops,
        floors=(product(flops),),
        slow=True,
        rounds=2 if scale == "full" else None,
    )


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
    yield _from_hidden(scale)
