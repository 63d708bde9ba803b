"""Tournament cases: from matches to wins, from wins to ratings, many problems at once and one large one."""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.native import library
from bench.registry import Case, Inputs, Run, Scale, Seconds
from rrm_core._library import OPS
from rrm_core.tournaments import bradley_terry, elo, pairwise_wins

# problems, candidates: two games a pair
ROUND_ROBINS = {
    "tiny": ((3, 4), (2, 6)),
    "quick": ((1024, 8), (256, 16), (64, 64)),
    "full": ((4096, 8), (1024, 16), (256, 64)),
}
LARGE = {"tiny": (20, 500), "quick": (300, 100_000), "full": (1000, 1_000_000)}  # candidates, matches of one problem
PRIOR, TOL = 0.1, 1e-9
API_PROBLEMS = 64  # of a batch, for contenders that take hundreds of microseconds a problem

Lists = list[tuple[list[int], list[int], list[int], list[float]]]


def round_robins(problems: int, n: int) -> Inputs:
    """first, second, outcome, problem: every pair meets twice, one match in six is a tie, strengths are standard normal."""
    generator = torch.Generator().manual_seed(n)
    pairs = torch.combinations(torch.arange(n)).repeat(2, 1)
    first, second = (column.repeat(problems) for column in pairs.T)
    problem = torch.arange(problems).repeat_interleave(len(pairs))
    return first, second, _play(first + n * problem, second + n * problem, n * problems, generator), problem


def one_tournament(n: int, matches: int) -> Inputs:
    generator = torch.Generator().manual_seed(n)
    first = torch.randint(n, (matches,), generator=generator)
    second = (first + torch.randint(1, n, (matches,), generator=generator)) % n
    return first, second, _play(first, second, n, generator), torch.zeros_like(first)


def _play(first: Tensor, second: Tensor, players: int, generator: torch.Generator) -> Tensor:
    strength = torch.randn(players, generator=generator, dtype=torch.float64)
    won = torch.rand(len(first), generator=generator) < torch.sigmoid(strength[first] - strength[second])
    return won.double().masked_fill(torch.rand(len(first), generator=generator) < 1 / 6, 0.5)


def as_lists(matches: Inputs, problems: int) -> Lists:
    """Each problem's matches as evalica takes them: winner 1 is first, 2 is second, 0 a tie; weights of 1."""
    first, second, outcome, problem = matches
    winner = torch.where(outcome == 1, 1, torch.where(outcome == 0, 2, 0))
    sizes = torch.bincount(problem, minlength=problems).tolist()
    columns = [column.split(sizes) for column in (first, second, winner)]
    return [(x.tolist(), y.tolist(), w.tolist(), [1.0] * len(x)) for x, y, w in zip(*columns, strict=True)]


def evalica_rust(n: int) -> Run:
    """The compiled call alone, problem by problem, on lists that are ready."""
    from evalica import _brzo

    def run(wins: Tensor, matches: Inputs, lists: Lists) -> dict[str, Tensor]:
        return {"scores": torch.stack([torch.from_numpy(_brzo.bradley_terry(*columns, n, 1.0, 0.5, 1e-6, 100)[0]) for columns in lists])}

    return run


def evalica_api(problems: int) -> Run:
    """What its users call, timed on a part of the batch and scaled to the whole."""
    import evalica

    winners = [evalica.Winner.Draw, evalica.Winner.X, evalica.Winner.Y]
    part = min(problems, API_PROBLEMS)

    def run(wins: Tensor, matches: Inputs, lists: Lists) -> Seconds:
        judged = [(x, y, [winners[i] for i in w]) for x, y, w, _ in lists[:part]]
        started = time.perf_counter()
        for x, y, w in judged:
            evalica.bradley_terry(x, y, w)
        return Seconds((time.perf_counter() - started) * problems / part)

    return run


@functools.cache
def _c_loop() -> Any:
    loop = library("baselines").baseline_bradley_terry
    pointer, whole, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    loop.argtypes = [pointer, whole, whole, real, real, whole, pointer, ctypes.c_int]
    return loop


def c_loop(wins: Tensor, *_: Any) -> dict[str, Tensor]:
    rating, wins = torch.empty(wins.shape[:2], dtype=torch.float64), wins.cpu()
    _c_loop()(wins.data_ptr(), *wins.shape[:2], PRIOR, TOL, 1000, rating.data_ptr(), torch.get_num_threads())
    return {"rating": rating}


def _surplus(rating: Tensor, wins: Tensor) -> Tensor:
    """Points won beyond the expected, per game, with the prior's games: 0 at the posterior's mode. rating [B, n] up to a constant."""
    wins = wins.masked_fill(torch.eye(wins.shape[1], dtype=torch.bool, device=wins.device), 0.0)
    low, high = rating.amin(-1, keepdim=True) - 50, rating.amax(-1, keepdim=True) + 50
    for _ in range(100):  # the constant, by bisection: the points against the fixed opponent add up to 0
        middle = (low + high) / 2
        above = (torch.sigmoid(rating - middle) - 0.5).sum(-1, keepdim=True) < 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    theta = rating - (low + high) / 2
    chance = torch.sigmoid(theta.unsqueeze(-1) - theta.unsqueeze(-2))
    games = wins + wins.mT
    surplus = (wins - games * chance).sum(-1) + PRIOR * (0.5 - torch.sigmoid(theta))
    return surplus.abs() / (games.sum(-1) + PRIOR)


def at_the_mode(run: Run, inputs: Inputs) -> None:
    """The gate of ratings: what defines them, whatever the method."""
    wins = inputs[0]
    found = run(*inputs)
    assert bool((found.status != 3).all()), "not converged"
    assert bool((found.rating.mean(-1).abs() < 1e-9).all()), "rating: mean 0"
    worst = float(_surplus(found.rating, wins).max())
    assert worst <= 2 * TOL, f"rating: {worst:.1e} points a game from the mode"  # 2: the constant is found anew


def same_counts(run: Run, inputs: Inputs) -> None:
    """Sums of halves are exact, so every body must agree to the last bit."""
    wins = run(*inputs)
    exact = pairwise_wins(*inputs[:3], problem=inputs[3], num_problems=wins.shape[0], num_candidates=wins.shape[1], impl="reference")
    assert torch.equal(wins, exact), "wins differ"


def as_evalica_rates(run: Run, inputs: Inputs) -> None:
    """Elo is a recursion: the same steps in float64, in another order of operations, agree to rounding."""
    found, expected = run(*inputs).rating.cpu(), evalica_elo(*inputs)["rating"]
    worst = float((found - expected).abs().max())
    assert worst <= 1e-8, f"rating: {worst:.1e} from evalica's"  # of 1000 points: what 1e6 roundings of 1e-13 may add up to, and some


def evalica_elo(first: Tensor, second: Tensor, outcome: Tensor, problem: Tensor, lists: Lists) -> dict[str, Tensor]:
    """The compiled call alone, problem by problem, on lists that are ready."""
    from evalica import _brzo

    n = int(max(first.max(), second.max())) + 1
    rated = [_brzo.elo(*columns, n, 1000.0, 10.0, 400.0, 4.0, 1.0, 0.5) for columns in lists]
    return {"rating": torch.from_numpy(np.stack(rated))}


def _elo(problems: int, n: int, matches: Inputs, about: str) -> Case:
    def run(first: Tensor, second: Tensor, outcome: Tensor, problem: Tensor, lists: Lists, impl: Any = None) -> Any:
        return elo(first, second, outcome, problem=problem, num_problems=problems, num_candidates=n, impl=impl)

    batched = {"PyTorch": functools.partial(run, impl="reference")} if problems > 1 else {}  # one step after the other takes minutes
    return Case(
        "tournaments",
        ("elo",),
        f"elo, {about}",
        lambda device: (*(column.to(device) for column in matches), as_lists(matches, problems)),
        run,
        {**batched, "evalica, Rust call": evalica_elo},
        as_evalica_rates,
        moves=32.0 * len(matches[0]),  # four columns of 8 bytes a match
    )


def _tournaments(problems: int, n: int, matches: Inputs, about: str) -> Iterator[Case]:
    def wins_of(*columns: Tensor, impl: Any = None) -> Tensor:
        first, second, outcome, problem = columns
        return pairwise_wins(first, second, outcome, problem=problem, num_problems=problems, num_candidates=n, impl=impl)

    def make(device: torch.device) -> Inputs:
        on_device = tuple(column.to(device) for column in matches)
        return wins_of(*on_device), on_device, as_lists(matches, problems)

    def ours(wins: Tensor, matches: Inputs, lists: Lists) -> Any:
        return bradley_terry(wins, prior=PRIOR, tol=TOL)

    def from_matches(wins: Tensor, matches: Inputs, lists: Lists) -> Any:
        return bradley_terry(wins_of(*matches), prior=PRIOR, tol=TOL)

    def plain(wins: Tensor, matches: Inputs, lists: Lists) -> Any:
        return bradley_terry(wins, prior=PRIOR, tol=TOL, impl="reference")

    yield Case(
        "tournaments",
        ("bradley_terry",),
        f"bradley_terry, {about}",
        make,
        ours,
        {
            "PyTorch": plain,
            "C loop": c_loop,
            "rrm_core from matches": from_matches,
            "evalica, Rust call": evalica_rust(n),
            "evalica": evalica_api(problems),
        },
        at_the_mode,
        moves=8.0 * problems * n * n,  # the wins, once
    )
    yield Case(
        "tournaments",
        ("pairwise_wins",),
        f"pairwise_wins, {about}",
        lambda device: tuple(column.to(device) for column in matches),
        wins_of,
        {"PyTorch": functools.partial(wins_of, impl="reference")},
        same_counts,
        moves=32.0 * len(matches[0]) + 8.0 * problems * n * n,  # four columns of 8 bytes a match, the wins
    )


def cases(scale: Scale, inductor: bool) -> Iterator[Case]:
    for problems, n in ROUND_ROBINS[scale]:
        matches, about = round_robins(problems, n), f"{problems} problems of {n}"
        yield from _tournaments(problems, n, matches, about)
        yield _elo(problems, n, matches, about)
    n, count = LARGE[scale]
    matches, about = one_tournament(n, count), f"one of {n} from {count:,} matches"
    yield from _tournaments(1, n, matches, about)
    if OPS["elo"].native_devices:
        yield _elo(1, n, matches, about)
