"""Distillation (SFT) and reinforcement learning from verifiable rewards (GRPO), with rrm_core's log-probabilities, advantages and loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from examples.evidence import task
from examples.evidence.model import Judge, generate
from examples.evidence.settings import Settings
from rrm_core import group_advantages, linear_policy_loss, linear_token_logprobs

Clock = Callable[[str], AbstractContextManager[Any]]  # times a part of a step
Ops = tuple[Callable[[Tensor, int], tuple[Tensor, Tensor]], Callable[[Tensor, Tensor, Tensor, Tensor, Clock], Tensor]]


def advantages(rewards: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Rewards [N] -> the advantage of each, and which groups have a signal."""
    found = group_advantages(rewards, group)
    return found.advantage, found.keep


def loss(hidden: Tensor, weight: Tensor, tokens: Tensor, advantage: Tensor, clock: Clock) -> Tensor:
    """hidden [B, T, H], weight [V, H], tokens [B, T], advantage [B]."""
    with clock("log-probs and loss"):
        return linear_policy_loss(hidden, weight, tokens, None, advantage).loss


def _train(judge: Judge, steps: int, rate: Callable[[int], float], backward: Callable[[], bool]) -> Judge:
    """``backward`` leaves gradients, or says that there is nothing to learn from."""
    optimizer = torch.optim.AdamW(judge.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        if backward():
            optimizer.step()
    return judge


def sft(judge: Judge, prompt: Tensor, target: Tensor, steps: int, rate: float, batch: int, seed: torch.Generator) -> Judge:
    """Next-token training on the target's tokens alone; the rate warms up over 50 steps, then falls along a cosine."""

    def backward() -> bool:
        rows = torch.randint(len(prompt), (batch,), generator=seed)
        hidden = judge.before(prompt[rows], target[rows])
        (-linear_token_logprobs(hidden, judge.head.weight, target[rows]).logprob.mean()).backward()
        return True

    return _train(judge, steps, lambda s: rate * min(1.0, (s + 1) / 50) * (1 + math.cos(math.pi * s / steps)) / 2, backward)


def grpo(
    judge: Judge,
    problems: task.Problems,
    settings: Settings,
    steps: int,
    seed: torch.Generator,
    ops: Ops = (advantages, loss),
    clock: Clock = nullcontext,
) -> Judge:
    """Reward 1 for the right verdict and -1 for a wrong one or none (RM-R1, arXiv 2505.02387); one on-policy update a step, from the groups whose
    rewards differ; no reference policy; the rate falls linearly."""
    prompt, better = task.pair_prompt(problems), problems.better()

    def backward() -> bool:
        rows = torch.randint(len(prompt), (settings.prompts,), generator=seed).repeat_interleave(settings.group)
        with clock("generation"):
            tokens = generate(judge, prompt[rows[:: settings.group]], problems.thought, seed, settings.group).tokens.flatten(0, 1)
        with clock("advantages"):
            advantage, keep = ops[0](2.0 * (task.votes(tokens) == better[rows]) - 1, settings.group)
        kept = keep.repeat_interleave(settings.group)
        if not kept.any():
            return False
        with clock("model, forward"):
            hidden = judge.before(prompt[rows[kept]], tokens[kept])
        state = hidden.detach().requires_grad_()  # cut here, so that the head's gradients can be timed apart
        found = ops[1](state, judge.head.weight, tokens[kept], advantage[kept], clock)
        with clock("head, backward"):
            found.backward()
        with clock("model, backward"):
            hidden.backward(state.grad)
        return True

    return _train(judge, steps, lambda s: settings.rlvr_rate * (1 - s / steps), backward)
