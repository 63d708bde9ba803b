"""Intervals of one leaderboard by resampling, and ratings with ties of their own."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.cases.tournaments import Lists, as_lists, one_tournament, round_robins
from bench.registry import Case, Inputs, Run, Scale, Seconds
from rrm_core.tournaments import PairCounts, bootstrap, davidson, pairwise_counts

# candidates, matches, replicates; the largest is the size of evalica's llmfao data
LEADERBOARDS = {"tiny": (6, 200, 20), "quick": (59, 8931, 200), "full": (59, 8931, 1000)}
ROUND_ROBINS = {"tiny": ((3, 4),), "quick": ((256, 8),), "full": ((4096, 8), (256, 64))}
API_REPLICATES = 20  # of which evalica takes some 8 ms each


def evalica_bootstrap(replicates: int) -> Run:
    """What its users call, timed on some replicates and scaled to all."""
    import evalica

    winners = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}

    def run(first: Tensor, second: Tensor, outcome: Tensor) -> Seconds:
        judged = first.tolist(), second.tolist(), [winners[x] for x in outcome.tolist()]
        started = time.perf_counter()
        evalica.bootstrap(evalica.bradley_terry, *judged, n_resamples=API_REPLICATES, bootstrap_method="percentile", random_state=0)
        return Seconds((time.perf_counter() - started) * replicates / API_REPLICATES)

    return run


def as_the_reference(run: Run, inputs: Inputs) -> None:
    """Two bodies, each within its tolerance of the same fits."""
    found, expected = run(*inputs), run(*inputs, impl="reference")
    for name in ("rating", "lower", "upper", "best"):
        worst = float((getattr(found, name) - getattr(expected, name)).abs().max())
        assert worst <= 1e-6, f"{name}: {worst:.1e} from plain PyTorch's"


def evalica_newman(n: int) -> Run:
    """The compiled call alone, problem by problem, on lists that are ready."""
    from evalica import _brzo

    def run(wins: Tensor, ties: Tensor, lists: Lists) -> dict[str, Tensor]:
        fits = [_brzo.newman(*columns, n, 0.5, 1.0, 1.0, 1e-6, 100) for columns in lists]
        return {"scores": torch.stack([torch.from_numpy(fit[0]) for fit in fits])}

    return run


def fits_converge(run: Run, inputs: Inputs) -> None:
    found, expected = run(*inputs), run(*inputs, impl="reference")
    assert bool((found.status != 3).all()), "not converged"
    worst = float((found.rating - expected.rating).abs().max())
    assert worst <= 1e-6, f"rating: {worst:.1e} from plain PyTorch's"


def cases(scale: Scale, inductor: bool) -> Iterator[Case]:
    n, count, replicates = LEADERBOARDS[scale]

    def ours(*columns: Tensor, impl: Any = None) -> Any:
        return bootstrap(*columns, num_candidates=n, replicates=replicates, impl=impl)

    matches = one_tournament(n, count)[:3]
    yield Case(
        "tournaments",
        ("resampled_wins", "bradley_terry"),
        f"bootstrap, {replicates:,} replicates of {count:,} matches of {n}",
        lambda device: tuple(column.to(device) for column in matches),
        ours,
        {"PyTorch": functools.partial(ours, impl="reference"), "evalica": evalica_bootstrap(replicates)},
        as_the_reference,
        moves=24.0 * count + 48.0 * n,  # the matches, the results; draws and wins of replicates stay in the caches
    )
    for problems, size in ROUND_ROBINS[scale]:
        yield _davidson(problems, size)


def _davidson(problems: int, n: int) -> Case:
    matches = round_robins(problems, n)

    def make(device: torch.device) -> Inputs:
        first, second, outcome, problem = (column.to(device) for column in matches)
        counts = pairwise_counts(first, second, outcome, problem=problem, num_problems=problems, num_candidates=n)
        return *counts, as_lists(matches, problems)

    def ours(wins: Tensor, ties: Tensor, lists: Lists, impl: Any = None) -> Any:
        return davidson(PairCounts(wins, ties), impl=impl)

    return Case(
        "tournaments",
        ("davidson",),
        f"davidson, {problems} problems of {n}",
        make,
        ours,
        {"PyTorch": functools.partial(ours, impl="reference"), "evalica, Rust call": evalica_newman(n)},
        fits_converge,
        moves=16.0 * problems * n * n,  # wins and ties, once
    )
