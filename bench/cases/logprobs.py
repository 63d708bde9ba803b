"""Log-probability cases: from stored logits and from hidden states, forward and with gradients."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from bench import peers
from bench.floors import Floor, product, reads, reads_and_writes
from bench.registry import Case, Inputs, Run, Scale, contract, with_gradients
from rrm_core import ScoreTokens, linear_token_logprobs, score_token_logprobs, token_logprobs
from rrm_core.testing import random_head, random_ids, random_logits

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STORED = {"tiny": (3, 1000), "quick": (64, 151936), "full": (256, 151936)}  # rows, vocabulary; V of Qwen2.5
HEAD = {"tiny": (32, 300), "quick": (1024, 32768), "full": (1024, 151936)}  # hidden, vocabulary
ROWS = {"tiny": (1, 3), "quick": (1, 8, 64), "full": (1, 8, 64)}
TRAINED = {"tiny": 5, "quick": 32, "full": 4096}  # rows of the linear ops with gradients, in float32
TRAINED_HALF = {"tiny": 5, "quick": 32, "full": 64}  # in bfloat16, whose products torch does by hand where the processor has none
LARGE_LOGITS = 1 << 28  # that nobody should materialise here
LABELS = {"tiny": (4, 3), "quick": (128, 10), "full": (128, 10)}  # rows, labels of the product with the labels' rows alone
ORDERS = 16  # of summation, for the yardstick of small cases
SCORES = ScoreTokens({"A": [16, 88], "B": [33, 247]}, values=[1.0, 0.0])


def plain_token_logprobs(logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
    log_p = log_softmax(logits.float(), -1)
    return {"logprob": log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1), "entropy": -(log_p.exp() * log_p).sum(-1)}


def plain_linear_logprobs(hidden: Tensor, weight: Tensor, ids: Tensor) -> dict[str, Tensor]:
    return plain_token_logprobs(hidden @ weight.T, ids)


def plain_scores(hidden: Tensor, weight: Tensor) -> dict[str, Tensor]:
    return _scores(log_softmax((hidden @ weight.T).float(), -1))


def plain_labels(hidden: Tensor, weight: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {"conditional": log_softmax((hidden @ weight[labels].T).float(), -1)}


def _scores(log_p: Tensor) -> dict[str, Tensor]:
    logprob = torch.stack([log_p[:, list(ids)].logsumexp(-1) for ids in SCORES.forms], -1)
    conditional, values = logprob.log_softmax(-1), torch.tensor(SCORES.values, device=log_p.device)
    return {"logprob": logprob, "conditional": conditional, "log_mass": logprob.logsumexp(-1), "expected": conditional.exp() @ values}


@functools.cache
def _trl() -> Any:
    return peers.load("trl.trainer.utils")


def trl_token_logprobs(logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
    logprob, entropy = _trl().selective_log_softmax_and_entropy(logits, ids)
    return {"logprob": logprob, "entropy": entropy}


def trl_logprob_alone(logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
    return {"logprob": _trl().selective_log_softmax(logits, ids)}


def trl_chunked(hidden: Tensor, weight: Tensor, ids: Tensor) -> dict[str, Tensor]:
    apply = peers.load("trl.kernels.chunked_logprob").ChunkedLogProbFunction.apply
    return {"logprob": apply(hidden, weight, None, ids, 1.0, 8192, None, 1.0, ())[0]}


def _with_others(plain: Run, inductor: bool, **of_trl: Run) -> dict[str, Run]:
    compiled = {"inductor": torch.compile(plain, dynamic=False)} if inductor else {}
    return {"PyTorch": plain, **(of_trl if peers.available() else {}), **compiled}


def _stored(scale: Scale, inductor: bool, name: str, dtype: torch.dtype) -> Iterator[Case]:
    n, v = STORED[scale]
    size = n * v * dtype.itemsize

    def make(device: torch.device) -> Inputs:
        return random_logits(n, v, dtype=dtype).to(device), random_ids((n,), v).to(device)

    def reference(logits: Tensor, ids: Tensor) -> Any:
        return token_logprobs(logits, ids, impl="reference")

    about = f"[{n}, {v}] {name}"
    yield Case(
        "logprobs",
        ("token_logprobs",),
        f"token_logprobs {about}",
        make,
        token_logprobs,
        _with_others(plain_token_logprobs, inductor, **{"TRL": trl_token_logprobs, "TRL, no entropy": trl_logprob_alone}),
        contract(reference, ORDERS),
        moves=size,  # the logits, once
        floors=reads(0),
    )
    forward_and_backward = {
        name: with_gradients(run, 0) for name, run in _with_others(plain_token_logprobs, inductor, TRL=trl_token_logprobs).items()
    }
    yield Case(
        "logprobs",
        ("token_logprobs", "token_logprobs_backward"),
        f"token_logprobs, forward + backward, {about}",
        make,
        with_gradients(token_logprobs, 0),
        forward_and_backward,
        contract(with_gradients(reference, 0)),
        moves=3 * size,  # the logits read by each pass, their gradient written
        floors=reads_and_writes(0, times_read=2),
    )


def _head(tokens: int, hidden: int, vocab: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    h, w = random_head(tokens, hidden, vocab, dtype)
    return h.to(device), w.to(device)


def _from_hidden(scale: Scale, inductor: bool, name: str, dtype: torch.dtype) -> Iterator[Case]:
    h, v = HEAD[scale]
    for n in ROWS[scale]:
        flops = 2.0 * n * h * v  # a product and a sum for each element of the head and row
        floors: tuple[Floor, ...] = reads(1)
        if n > 8:
            floors = (*floors, product(flops))
        yield Case(
            "logprobs",
            ("score_token_logprobs",),
            f"score_token_logprobs [{n}, {h}] x [{v}, {h}] {name}",
            functools.partial(_head, n, h, v, dtype),
            lambda hidden, weight: score_token_logprobs(hidden, weight, SCORES),
            _with_others(plain_scores, inductor),
            contract(lambda hidden, weight: score_token_logprobs(hidden, weight, SCORES, impl="reference"), ORDERS),
            moves=v * h * dtype.itemsize,  # the head, once
            flops=flops,
            floors=floors,
        )
    n, count = LABELS[scale]
    labels = ScoreTokens({str(i): [7 * i + 1] for i in range(count)})

    def some(hidden: Tensor, weight: Tensor, ids: Tensor, impl: Any = None) -> Any:
        return score_token_logprobs(hidden, weight, labels, full_vocab=False, impl=impl)

    def product_alone(hidden: Tensor, weight: Tensor, ids: Tensor) -> dict[str, Tensor]:
        return {"product": hidden @ weight[ids].T}

    yield Case(
        "logprobs",
        ("score_token_logprobs",),
        f"score_token_logprobs, {count} labels only, [{n}, {h}] {name}",
        lambda device: (*_head(n, h, HEAD["tiny"][1], dtype, device), torch.arange(count, device=device) * 7 + 1),
        some,
        {"PyTorch": plain_labels, "PyTorch's product": product_alone},
        contract(functools.partial(some, impl="reference"), ORDERS),
        moves=(n + count) * h * dtype.itemsize,  # hidden states and the labels' rows
        flops=2.0 * n * count * h,
    )


def _trained(scale: Scale, inductor: bool, name: str, dtype: torch.dtype) -> Case:
    (h, v), n = HEAD[scale], (TRAINED if dtype == torch.float32 else TRAINED_HALF)[scale]
    large = n * v > LARGE_LOGITS

    def four_products(hidden: Tensor, weight: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Forward, recomputation, two gradients; in pieces of the vocabulary, so that no logits of gigabytes have to be written."""
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.empty_like(weight)
        for first in range(0, v, 8192):
            piece = slice(first, first + 8192)
            logits = hidden @ weight[piece].T
            logits = hidden @ weight[piece].T
            grad_hidden += logits @ weight[piece]
            torch.mm(logits.T, hidden, out=grad_weight[piece])
        return {"hidden": grad_hidden, "weight": grad_weight}

    def reference(hidden: Tensor, weight: Tensor, ids: Tensor) -> Any:
        return linear_token_logprobs(hidden, weight, ids, impl="reference")

    def few(inputs: Inputs) -> Inputs:
        return inputs[0][:64], inputs[1], inputs[2][:64]

    others = _with_others(plain_linear_logprobs, inductor and not large, **{"TRL, chunked": trl_chunked})
    flops = 8.0 * n * h * v  # four products: forward, recomputation, two gradients
    return Case(
        "logprobs",
        ("linear_token_logprobs", "linear_token_logprobs_backward"),
        f"linear_token_logprobs, forward + backward, [{n}, {h}] x [{v}, {h}] {name}",
        lambda device: (*_head(n, h, v, dtype, device), random_ids((n,), v).to(device)),
        with_gradients(linear_token_logprobs, 0, 1),
        {**{who: with_gradients(run, 0, 1) for who, run in others.items() if not (large and who == "PyTorch")}, "four products": four_products},
        contract(with_gradients(reference, 0, 1), few=few),
        moves=3 * v * h * dtype.itemsize,  # the head read by each pass, its gradient written
        flops=flops,
        floors=(product(flops),),
        slow=True,
        rounds=2 if large else None,
    )


def cases(scale: Scale, inductor: bool) -> Iterator[Case]:
    for name, dtype in DTYPES.items():
        yield from _stored(scale, inductor, name, dtype)
        yield from _from_hidden(scale, inductor, name, dtype)
        yield _trained(scale, inductor, name, dtype)
