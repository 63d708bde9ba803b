"""Vote cases: scores of sampled judgements added up, shown in order or shuffled, and verdicts counted, many problems at once."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.registry import Case, Inputs, Run, Scale
from rrm_core.tournaments import majority_vote, sum_vote

SIZES = {"tiny": (5, 4, 3), "quick": (1024, 32, 8), "full": (4096, 32, 8)}  # problems, samples, candidates


def judgements(problems: int, k: int, n: int) -> Inputs:
    """scores, permutation, rating of each sample, verdicts: whole numbers from 1 to 10, one verdict in ten invalid."""
    generator = torch.Generator().manual_seed(n)
    scores = torch.randint(1, 11, (problems, k, n), generator=generator).double()
    permutation = torch.rand(problems, k, n, generator=generator).argsort(-1)
    votes = torch.randint(n, (problems, k), generator=generator)
    invalid = torch.rand(problems, k, generator=generator) < 0.1
    return scores, permutation, torch.randn(problems, k, generator=generator, dtype=torch.float64), votes.masked_fill(invalid, -1)


def as_reference(run: Run) -> Any:
    """The gate: every body adds up in one order, so results agree to the last bit."""

    def gate(ours: Run, inputs: Inputs) -> None:
        found, exact = ours(*inputs), run(*inputs, impl="reference")
        for name in exact._fields:
            assert torch.equal(getattr(found, name), getattr(exact, name)), f"{name} differs"

    return gate


def torch_sums(scores: Tensor, permutation: Tensor | None = None) -> dict[str, Tensor]:
    total = (scores if permutation is None else scores.gather(2, permutation.argsort(2))).sum(1)
    return {"score": total, "winner": total.argmax(1)}


def numpy_sums(scores: Tensor, permutation: Tensor | None = None) -> dict[str, Tensor]:
    shown = scores.numpy(force=True)
    total = (shown if permutation is None else np.take_along_axis(shown, permutation.numpy(force=True).argsort(2), 2)).sum(1)
    return {"score": torch.from_numpy(total), "winner": torch.from_numpy(total.argmax(1))}


def counter(votes: Tensor, n: int) -> dict[str, Tensor]:
    """A Counter for each problem, as scripts do it."""
    counts = [Counter(row) for row in votes.tolist()]
    return {"winner": torch.tensor([max(range(n), key=count.__getitem__) for count in counts])}


def numpy_counts(votes: Tensor, n: int) -> dict[str, Tensor]:
    named = votes.numpy(force=True)
    cells = named + n * np.arange(len(named))[:, None]
    count = np.bincount(cells[named >= 0], minlength=n * len(named)).reshape(len(named), n)
    return {"score": torch.from_numpy(count.astype(np.float64)), "winner": torch.from_numpy(count.argmax(1))}


def cases(scale: Scale, inductor: bool) -> Iterator[Case]:
    problems, k, n = SIZES[scale]
    scores, permutation, rating, votes = judgements(problems, k, n)
    about, results = f"{problems} problems, {k} samples, {n} candidates", 8.0 * problems * (n + 3)

    def sums(scores: Tensor, permutation: Tensor | None = None, impl: Any = None) -> Any:
        return sum_vote(scores, permutation=permutation, on_tie="first", impl=impl)

    def rated(scores: Tensor, rating: Tensor, impl: Any = None) -> Any:
        return sum_vote(scores, meta=rating, on_tie="first", impl=impl)

    def majority(votes: Tensor, impl: Any = None) -> Any:
        return majority_vote(votes, num_candidates=n, on_tie="first", impl=impl)

    def case(op: str, name: str, run: Run, arguments: Inputs, others: dict[str, Run]) -> Case:
        def make(device: torch.device) -> Inputs:
            return tuple(x.to(device) for x in arguments)

        reference = {"rrm_core in PyTorch": functools.partial(run, impl="reference")}
        moves = sum(float(x.nbytes) for x in arguments) + results  # every input once, every result once
        return Case("votes", (op,), f"{op}{name}, {about}", make, run, {**reference, **others}, as_reference(run), moves=moves)

    plain: dict[str, Run] = {"PyTorch": torch_sums, "NumPy": numpy_sums}
    yield case("sum_vote", "", sums, (scores,), plain)
    yield case("sum_vote", ", shuffled", sums, (scores, permutation), plain)
    yield case("sum_vote", ", rated", rated, (scores, rating), {})
    yield case("majority_vote", "", majority, (votes,), {"NumPy": functools.partial(numpy_counts, n=n), "Counter": functools.partial(counter, n=n)})
