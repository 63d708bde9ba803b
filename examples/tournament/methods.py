"""Ways to rank a question's answers, from a few judge calls or from many, and what reinforcement learning would make of their scores.

Verdicts are looked up among the judged pairs, and calls are counted as the method alone would make them. What depends on drawn lots is drawn often,
all draws at once: to the library they are so many more questions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core import GroupAdvantages, Knockout, Pairs, ScoreTokenLogprobs, borda, bradley_terry, elo, group_advantages, pairwise_wins

DRAWS = 50


class Method(NamedTuple):
    name: str
    calls: int  # of the judge, per question
    scores: Tensor  # [draws, B, n], more is better; one draw where no lots are drawn


def verdict_table(pairs: Pairs, expected: Tensor, b: int, n: int) -> Tensor:
    """[B, n, n]: the judge's probability that i, shown first, beats j; NaN on the diagonal."""
    table = torch.full((b, n, n), float("nan"), dtype=torch.float64)
    table[pairs.problem, pairs.first, pairs.second] = expected.double()
    return table


def knockout(table: Tensor, seed: int, *, both_orders: bool) -> Tensor:
    """Minus the places [B, n] in a random bracket for each question."""
    tournament = Knockout(*table.shape[:2], seed=seed, both_orders=both_orders)
    while not tournament.done:
        tournament.record(table[tournament.pairs()])
    return -tournament.ranking.argsort(1).double()


def some_pairs(questions: int, pairs: int, calls: int, seed: int) -> Tensor:
    """Weights [questions * pairs]: 1 for ``calls`` random pairs of each question, 0 for the others."""
    drawn = torch.rand(questions, pairs, generator=torch.Generator().manual_seed(seed))
    return (drawn.argsort(1).argsort(1) < calls).double().flatten()


def rank(pairs: Pairs, verdicts: ScoreTokenLogprobs, scores: ScoreTokenLogprobs, wins: Tensor, seed: int) -> list[Method]:
    """All methods, fewest calls first. verdicts: of the pairs, question by question; scores: of the answers [B * n]; wins: of all verdicts."""
    assert verdicts.expected is not None
    assert scores.expected is not None
    b, n, _ = wins.shape
    once, twice, everybody = n - 1, 2 * (n - 1), n * (n - 1)
    every = {"first": pairs.first, "second": pairs.second, "outcome": verdicts.expected, "problem": pairs.problem}
    some = {name: column.repeat(DRAWS) for name, column in every.items()}
    some["problem"] += b * torch.arange(DRAWS).repeat_interleave(len(pairs.problem))
    some["weight"] = some_pairs(DRAWS * b, everybody, twice, seed)
    of_every, of_some = {"num_problems": b, "num_candidates": n}, {"num_problems": DRAWS * b, "num_candidates": n}
    table = verdict_table(pairs, verdicts.expected, b, n).repeat(DRAWS, 1, 1)

    ranked = {
        ("knockout", once): knockout(table, seed, both_orders=False),
        ("likeliest score", n): scores.conditional.argmax(-1) + 1,
        ("expected score", n): scores.expected,
        ("knockout, both orders", twice): knockout(table, seed, both_orders=True),
        ("Elo, some pairs", twice): elo(**some, **of_some, orders=1, seed=seed).rating,
        ("Bradley-Terry, some pairs", twice): bradley_terry(pairwise_wins(**some, **of_some)).rating,
        ("Elo, all pairs", everybody): elo(**every, **of_every, orders=DRAWS, seed=seed).rating,
        ("wins, all pairs", everybody): borda(wins),
        ("Bradley-Terry, all pairs", everybody): bradley_terry(wins).rating,
    }
    return [Method(name, calls, score.double().view(-1, b, n)) for (name, calls), score in ranked.items()]


def advantages(methods: list[Method]) -> dict[str, GroupAdvantages]:
    """Group advantages, a group per question, with the scores of the methods that draw no lots as rewards."""
    fixed = [method for method in methods if len(method.scores) == 1]
    return {method.name: group_advantages(method.scores.flatten(), method.scores.shape[-1]) for method in fixed}
