"""The same quantities by plain PyTorch on the same inputs: largest differences, and times where the values agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rrm_core import ScoreTokens, group_advantages, score_token_logprobs

TOLERANCE = 2e-5  # nats; above it nothing is timed


def _plain_logprobs(hidden: Tensor, weight: Tensor, tokens: ScoreTokens, bias: Tensor | None, softcap: float | None) -> list[Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    log_p = (logits if softcap is None else softcap * (logits / softcap).tanh()).log_softmax(-1)
    logprob = torch.stack([log_p[:, list(ids)].logsumexp(-1) for ids in tokens.forms], -1)
    conditional = logprob.log_softmax(-1)
    q, values = conditional.exp(), torch.tensor(tokens.values, dtype=logprob.dtype)
    expected = (q * values).sum(-1)
    return [logprob, conditional, logprob.logsumexp(-1), expected, (q * (values - expected[:, None]) ** 2).sum(-1), -(q * conditional).sum(-1)]


def _plain_advantages(rewards: Tensor) -> Tensor:
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + 1e-6)


def _median_seconds(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Run in turn, after a warm-up round."""
    times: list[list[float]] = [[] for _ in functions]
    for round_ in range(repeats + 1):
        for function, taken in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            if round_:
                taken.append(time.perf_counter() - started)
    return [sorted(taken)[len(taken) // 2] for taken in times]


def _largest(results: Sequence[Tensor | None], others: Sequence[Tensor]) -> float:
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(results, others, strict=True) if a is not None)


@torch.inference_mode()
def of_logprobs(hidden: Tensor, head: dict[str, Any], tokens: ScoreTokens) -> dict[str, Any]:
    """Everything that score_token_logprobs gives, from hidden states [N, H]."""
    wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in head.items()}
    fused, plain = score_token_logprobs(hidden, **head, score_tokens=tokens), _plain_logprobs(hidden, **head, tokens=tokens)
    exact = _plain_logprobs(hidden.double(), **wide, tokens=tokens)
    labels = score_token_logprobs(hidden, **head, score_tokens=tokens, full_vocab=False)
    found: dict[str, Any] = {
        "rows": len(hidden),
        "vocabulary": len(head["weight"]),
        "error of rrm_core against float64": _largest(fused, exact),
        "error of plain PyTorch against float64": _largest(plain, exact),
        "difference of rrm_core and plain PyTorch": _largest(fused, plain),
        "error of labels only against float64": _largest(labels, exact),
    }
    if not all(found[f"error of {body} against float64"] <= TOLERANCE for body in ("rrm_core", "labels only")):
        return found
    found["seconds"] = {}
    for rows in sorted({n for n in (1, 8, 64) if n < len(hidden)} | {len(hidden)}):
        some = hidden[:rows]
        bodies = {
            "plain PyTorch": lambda some=some: _plain_logprobs(some, **head, tokens=tokens),
            "rrm_core": lambda some=some: score_token_logprobs(some, **head, score_tokens=tokens),
            "labels only": lambda some=some: score_token_logprobs(some, **head, score_tokens=tokens, full_vocab=False),
        }
        found["seconds"][rows] = dict(zip(bodies, _median_seconds(list(bodies.values()), repeats=7), strict=True))
    return found


@torch.inference_mode()
def of_advantages(rewards: Tensor) -> dict[str, Any]:
    """Group advantages of rewards [B, n], a group per question, in float32."""
    rewards, groups = rewards.float(), rewards.shape[1]
    bodies = {"plain PyTorch": lambda: _plain_advantages(rewards), "rrm_core": lambda: group_advantages(rewards.flatten(), groups).advantage}
    exact = _plain_advantages(rewards.double())
    found: dict[str, Any] = {f"error of {name} against float64": _largest([body().view_as(exact)], [exact]) for name, body in bodies.items()}
    return found | {"seconds": dict(zip(bodies, _median_seconds(list(bodies.values()), repeats=50), strict=True))}
