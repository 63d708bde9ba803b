"""One realistic call of every Triton body, per dtype: what the compile-only tests and the GPU report compile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rrm_core._library import OPS
from rrm_core.tournaments.reference_scores import PAIR_SCORES


@dataclass(frozen=True)
class Sample:
    """A call of an op's Triton body on CPU tensors; storage is never touched, so large ones cost nothing.

    streaming: kernels whose time is the reading of one large operand, in loads of 128 bits. float64: kernels meant to compute in it.
    """

    op: str
    label: str
    arguments: Callable[[], tuple[Any, ...]]
    streaming: frozenset[str] = frozenset()
    float64: frozenset[str] = frozenset()

    def launch(self) -> None:
        body = OPS[self.op].triton
        assert body is not None, f"{self.op} has no Triton body"
        body(*self.arguments())

    def __str__(self) -> str:
        return f"{self.op} {self.label}"


def floats(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(sizes, dtype=dtype)


def ids(*sizes: int) -> Tensor:
    return torch.empty(sizes, dtype=torch.int64)


V, H = 151_936, 1024
SMALL = 4096  # a vocabulary for what allocates its gradient
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def logprob_samples(name: str, dtype: torch.dtype) -> list[Sample]:
    """64 rows, one token or ten labels of one form each, every input differentiable."""
    n, labels = 64, 10

    def head(vocab: int = V) -> tuple[Tensor, Tensor]:
        return floats(n, H, dtype=dtype), floats(vocab, H, dtype=dtype)

    def forms() -> tuple[Tensor, Tensor]:
        return ids(1, labels, 1), floats(1, labels)

    def token_grads() -> tuple[Tensor, ...]:
        return floats(n), floats(n), floats(n), floats(n), floats(n, 3)  # the last two being the entropy and the statistics

    def score_grads() -> tuple[list[Tensor], Tensor]:
        return [floats(n, labels), floats(n, labels), *(floats(n) for _ in range(4))], floats(n, 2)

    def logits() -> Tensor:
        return floats(n, V, dtype=dtype)

    stream, product = frozenset({"_logits_statistics_kernel"}), frozenset({"_linear_statistics_kernel"})
    gradient, linear_gradient = frozenset({"_logits_gradient_kernel"}), frozenset({"_linear_gradient_kernel"})
    tail = (None, None, None, None)  # rows, bias, temperature, softcap
    forward = [
        Sample("token_logprobs", name, lambda: (logits(), ids(n), None, -100), stream),
        Sample("linear_token_logprobs", name, lambda: (*head(), ids(n), *tail, -100, V, True), product),
    ]
    if dtype == torch.float16:  # compiles to what bfloat16 does, but for the conversions
        return forward
    return [
        *forward,
        Sample("token_logprobs_backward", name, lambda: (*token_grads(), logits(), ids(n), floats(n), -100, True, True), gradient),
        Sample(
            "linear_token_logprobs_backward",
            name,
            lambda: (*token_grads(), *head(SMALL), ids(n), *tail, -100, SMALL, True, True, False, False),
            linear_gradient,
        ),
        Sample("score_token_logprobs", name, lambda: (*head(), *forms(), ids(n), None, None, None, None, True, V, True), product),
        Sample("score_token_logprobs", f"{name}, labels only", lambda: (*head(), *forms(), ids(n), None, None, None, None, False, V, True)),
        Sample(
            "score_token_logprobs_backward",
            f"{name}, bias, temperature, softcap",
            lambda: (*score_grads(), *head(SMALL), *forms(), ids(n), None, floats(SMALL), floats(n), 30.0, True, SMALL, True, True, True, True),
            linear_gradient,
        ),
        Sample("score_token_logprobs_from_logits", name, lambda: (logits(), *forms(), None, None, True), stream),
        Sample(
            "score_token_logprobs_from_logits_backward", name, lambda: (*score_grads(), logits(), *forms(), None, None, True, True, False), gradient
        ),
    ]


def advantage_samples() -> list[Sample]:
    """4096 rewards: 8 or 512 a group, or ragged and shuffled with a mask."""
    n, groups = 4096, 512
    mask = torch.empty(n, dtype=torch.bool)
    float64, whole = frozenset({"_group_advantages_kernel"}), frozenset({"_block_moments_kernel", "_whiten_kernel"})
    tail = (None, 0, 1e-6, False, True, False)  # each, baseline, eps, population, divide, raw_singletons
    wide = {"dtype": torch.float64}
    return [
        Sample("group_advantages", "groups of 8", lambda: (floats(n), None, None, n // 8, None, *tail)),
        Sample("group_advantages", "groups of 512", lambda: (floats(n), None, None, n // 512, None, *tail)),
        Sample("group_advantages", "offsets", lambda: (floats(n), None, ids(groups + 1), None, None, *tail)),
        Sample("group_advantages", "ids, mask", lambda: (floats(n), ids(n), None, groups, mask, None, 1, 1e-6, False, False, True)),
        Sample("group_advantages", "ids, lengths", lambda: (floats(n), ids(n), None, groups, mask, floats(n), 2, 1e-6, False, False, False)),
        Sample("group_advantages", "best of ids", lambda: (floats(n), ids(n), None, groups, mask, None, 5, 1e-6, False, True, False)),
        Sample(
            "group_advantages",
            "fp64",
            lambda: (floats(n, **wide), None, ids(groups + 1), None, None, *tail),
            float64=float64,
        ),
        Sample("whiten", "mask", lambda: (floats(1024, 8192), torch.empty(1024, 8192, dtype=torch.bool), None, 1e-8, True), whole),
        Sample("whiten", "weights", lambda: (floats(n), None, floats(n), 1e-8, True)),
        Sample(
            "whiten", "fp64", lambda: (floats(n, **wide), mask, floats(n, **wide), 1e-4, False), float64=frozenset({*whole, "_merge_moments_kernel"})
        ),
    ]


def loss_samples() -> list[Sample]:
    """1024 answers of 8192 tokens, padded: PPO with k3; packed: GSPO with rollout weights."""
    b, t = 1024, 8192
    ppo = (None, 0, False, 0.2, 0.28, None, None, 0.05, 2, 0, 2.0, False)  # normalizer, objective, ... as in the schema
    gspo = (None, 0, True, 3e-4, 4e-4, 3.0, 20.0, 0.05, 3, 1, 2.0, True)
    mask = torch.empty(b, t, dtype=torch.bool)

    def padded() -> tuple[Any, ...]:
        return floats(b, t), floats(b, t), floats(b), mask, None, floats(b, t), None

    def packed() -> tuple[Any, ...]:
        return floats(64 * t), floats(64 * t), floats(64), None, ids(65), floats(64 * t), floats(64 * t)

    def facts(rows: int) -> tuple[Tensor, Tensor]:
        return floats(), floats(rows, 4, dtype=torch.float64)

    return [
        Sample("policy_loss", "PPO, k3", lambda: (*padded(), *ppo), frozenset({"_loss_kernel"})),
        Sample("policy_loss", "GSPO, packed", lambda: (*packed(), *gspo)),
        Sample("policy_loss_backward", "PPO, k3", lambda: (*facts(b), *padded(), *ppo), frozenset({"_loss_gradient_kernel"})),
        Sample("policy_loss_backward", "GSPO, packed", lambda: (*facts(64), *packed(), *gspo)),
    ]


def linear_loss_samples(name: str, dtype: torch.dtype) -> list[Sample]:
    """8 answers of 64 tokens, PPO with k3 and a bonus for entropy, every gradient; with bias, temperature and softcap, those of the hidden states."""
    b, t = 8, 64

    def batch(*head: Any, bias: Tensor | None = None, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        behaviour = (floats(b, t), floats(b), torch.empty(b, t, dtype=torch.bool), None, floats(b, t), None)
        options = (None, 0, 0.2, 0.28, None, None, 0.05, 2, 0, 2.0, False, 0.01)
        return floats(b, t, H, dtype=dtype), floats(SMALL, H, dtype=dtype), ids(b, t), bias, *head, SMALL, *behaviour, *options, *needs

    return [
        Sample("linear_policy_loss", name, lambda: batch(None, None, needs=(True, True, False))),
        Sample(
            "linear_policy_loss",
            f"{name}, bias, temperature, softcap",
            lambda: batch(floats(b * t), 30.0, bias=floats(SMALL), needs=(True, False, True)),
        ),
    ]


def tournament_samples() -> list[Sample]:
    """64 round robins of 8 candidates, and ratings of 64 candidates, whose row needs the widest block."""
    problems, n, matches = 64, 8, 64 * 28

    def zeros(*sizes: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.zeros(sizes, dtype=dtype)  # torch sorts these and looks up by them

    def ids(*sizes: int) -> Tensor:
        return zeros(*sizes, dtype=torch.int64)

    def columns() -> tuple[Tensor, ...]:
        return ids(matches), ids(matches), zeros(matches), ids(matches), zeros(matches)

    def rate(n: int) -> Sample:
        return Sample("bradley_terry", f"n = {n}", lambda: (zeros(64, n, n), None, None, 0.1, 1, 50, 1e-9), float64=frozenset({"_sweep_kernel"}))

    def score(kind: str) -> Sample:
        return Sample("pair_scores", kind, lambda: (zeros(64, n, n), PAIR_SCORES[kind]), float64=frozenset({"_pair_scores_kernel"}))

    def power(n: int) -> Sample:
        about = frozenset({"_power_iteration_kernel"})
        return Sample("power_iteration", f"n = {n}", lambda: (zeros(64, n, n), zeros(64, n), zeros(64), 0.15, 1000, 1e-12), float64=about)

    count, elo = frozenset({"_count_kernel"}), frozenset({"_elo_kernel"})
    return [
        Sample("pairwise_wins", "", lambda: (*columns(), problems, n), float64=count),
        Sample("pairwise_counts", "", lambda: (*columns(), problems, n), float64=count),
        Sample("elo", "", lambda: (*columns(), None, problems, n, 4.0, 1000.0, 400.0), float64=elo),
        Sample("elo", "two orders", lambda: (*columns(), ids(2, matches), problems, n, 4.0, 1000.0, 400.0), float64=elo),
        rate(n),
        rate(64),
        *(score(kind) for kind in PAIR_SCORES),
        *(power(n) for n in (n, 64, 1024)),
        Sample(
            "resampled_wins",
            "100 replicates",
            lambda: (*columns()[:3], zeros(matches), torch.arange(problems + 1) * 28, zeros(100, matches, dtype=torch.int32), n),
            float64=frozenset({"_resampled_kernel"}),
        ),
    ]


def vote_samples() -> list[Sample]:
    """32 samples or votes on each of 4096 problems of 8 candidates; with everything, and of more candidates than one block takes."""
    problems, k = 4096, 32

    def numbers(*sizes: int) -> Tensor:
        return torch.zeros(sizes, dtype=torch.float64)

    def ids(*sizes: int) -> Tensor:
        return torch.zeros(sizes, dtype=torch.int64)  # torch looks up by them

    def flags(*sizes: int) -> Tensor:
        return torch.zeros(sizes, dtype=torch.bool)

    def everything(b: int, n: int) -> tuple[Any, ...]:
        return numbers(b, k, n), ids(b, k, n), flags(b, k), flags(b, n), numbers(b, k), numbers(b), k // 2

    total, count = frozenset({"_usable_kernel", "_sum_kernel", "_elect_kernel"}), frozenset({"_majority_kernel", "_elect_kernel"})
    return [
        Sample("sum_vote", "", lambda: (numbers(problems, k, 8), None, None, None, None, None, k), float64=total),
        Sample("sum_vote", "everything", lambda: everything(problems, 8), float64=total),
        Sample("sum_vote", "everything, n = 3000", lambda: everything(2, 3000), float64=total),
        Sample("majority_vote", "", lambda: (ids(problems, k), None, None, None, None, 8), float64=count),
        Sample("majority_vote", "mask, weights", lambda: (ids(2, k), numbers(2, k), flags(2, k), flags(2, 3000), numbers(2), 3000), float64=count),
    ]


SAMPLES: list[Sample] = [
    *(sample for name, dtype in DTYPES.items() for sample in logprob_samples(name, dtype)),
    *advantage_samples(),
    *loss_samples(),
    *(sample for name in ("bf16", "fp32") for sample in linear_loss_samples(name, DTYPES[name])),
    *tournament_samples(),
    *vote_samples(),
]
