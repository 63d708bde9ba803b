"""Where the time of the study's GRPO loop goes, and what rrm_core's ops change in it against plain PyTorch."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from examples.evidence.arms import Found, Study
from examples.evidence.model import Judge
from examples.evidence.task import UNWRITTEN, VOCABULARY
from examples.evidence.training import Clock, Ops, advantages, grpo, loss
from rrm_core import linear_token_logprobs, policy_loss

LARGE_VOCABULARY = 32768  # the same judge with a head of a language model's size
EPS = 1e-6  # group_advantages' own


def plain_advantages(rewards: Tensor, group: int) -> tuple[Tensor, Tensor]:
    r = rewards.view(-1, group)
    return ((r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + EPS)).flatten(), r.amax(1) > r.amin(1)


def plain_loss(hidden: Tensor, weight: Tensor, tokens: Tensor, advantage: Tensor, clock: Clock) -> Tensor:
    with clock("log-probs"):
        logprob = (hidden @ weight.T).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    with clock("loss"):
        ratio, a = (logprob - logprob.detach()).exp(), advantage.unsqueeze(1)
        return -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()


def separate_loss(hidden: Tensor, weight: Tensor, tokens: Tensor, advantage: Tensor, clock: Clock) -> Tensor:
    with clock("log-probs"):
        logprob = linear_token_logprobs(hidden, weight, tokens).logprob
    with clock("loss"):
        return policy_loss(logprob, None, advantage).loss


PLAIN = "plain PyTorch"
LOOPS = {PLAIN: (plain_advantages, plain_loss), "rrm_core": (advantages, loss), "rrm_core, two ops": (advantages, separate_loss)}


def _enlarged(study: Study, start: Found, vocabulary: int) -> Judge:
    """The judge with more tokens, which it writes as rarely as one that it has learned never to write."""
    judge = Judge(*study.settings.shape, 2 * study.length + 10, vocabulary, study.seed)
    state = judge.state_dict()
    for name, value in start["model"].items():
        state[name][: len(value)] = value
    state["head.weight"][VOCABULARY:] = 3 * start["model"]["head.weight"][UNWRITTEN]
    judge.load_state_dict(state)
    return judge


def _timed(study: Study, judge: Judge, ops: Ops, steps: int) -> tuple[dict[str, list[float]], Tensor]:
    """Seconds of every part of every step, and the head after the last."""
    parts: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def clock(part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        parts[part].append(time.perf_counter() - began)

    began = time.perf_counter()
    grpo(judge, study.problems("labelled"), study.settings, steps, study.draws("timed roll-outs"), ops, clock)
    parts["step"] = [(time.perf_counter() - began) / steps]
    return parts, judge.head.weight.detach()[:VOCABULARY]


def measure(study: Study, start: Found, rounds: int = 3) -> dict[str, Any]:
    """Milliseconds a step, medians of interleaved rounds on one thread, and how far the head ends from plain PyTorch's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    try:
        for vocabulary, steps in ((VOCABULARY, study.settings.timed_steps), (LARGE_VOCABULARY, max(1, study.settings.timed_steps // 10))):
            runs: dict[str, list[Any]] = {name: [] for name in LOOPS}
            for _ in range(rounds):
                for name, ops in LOOPS.items():
                    runs[name].append(_timed(study, _enlarged(study, start, vocabulary), ops, steps))
            plain = runs[PLAIN][0][1]
            found[str(vocabulary)] = {
                name: {
                    "ms": {part: 1e3 * statistics.median(x for parts, _ in those for x in parts[part]) for part in those[0][0]},
                    "head differs by": float((those[0][1] - plain).abs().max() / plain.abs().max()),
                }
                for name, those in runs.items()
            }
    finally:
        torch.set_num_threads(threads)
    return found
