"""Votes of simulated judges: sampled scores, adaptive stopping, ties, and how far intervals can be trusted."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from bench.simulation_judge import Judge, play, slope_of, stream, strengths, subseed
from bench.simulation_tournaments import picked, quality, share
from rrm_core.tournaments import PairCounts, RoundRobin, bootstrap, bradley_terry, davidson, majority_vote, pairwise_counts, sum_vote, vote_status

SAMPLES = (1, 2, 4, 8, 16, 32)
META_CORRELATIONS = (0.0, 0.5, 0.9)
_SPREAD = 0.75  # of the log of a sample's noise
_POINTS = 1.5  # of a score of 1 to 10, for one of strength
PAIR_ACCURACIES, CAP = (0.6, 0.7, 0.8, 0.9), 15
_LEVEL = 0.95


def sampled_scores(n: int, problems: int, accuracy: float, seed: int) -> list[dict[str, Any]]:
    """k samples that each score all n candidates from 1 to 10. A sample's noise is normal, of the size with which a middling sample ranks a pair
    right with probability ``accuracy``, times a log-normal factor of its own; a meta score is correlated with the log of that factor."""
    strength, generator = strengths(problems, n, seed), stream(seed, "scores", n)
    k = SAMPLES[-1]
    middling = 1 / math.tan(math.pi * (accuracy - 0.5))  # right with probability 1/2 + atan(1 / sigma) / pi
    loudness, other = torch.randn(2, problems, k, dtype=torch.float64, generator=generator)
    noise = torch.randn(problems, k, n, dtype=torch.float64, generator=generator) * middling * (_SPREAD * loudness).exp().unsqueeze(2)
    seen = strength.unsqueeze(1) + noise
    score = (5.5 + _POINTS * seen).round().clamp(1, 10)
    rows, lots = [], subseed(seed, "lots", n)

    def add(rule: str, calls: int, found: Tensor, winner: Tensor) -> None:
        rows.append({"n": n, "judge": accuracy, "rule": rule, "calls": calls, **quality(found, strength), **share(winner == strength.argmax(1))})

    for calls in SAMPLES:
        summed, voted = sum_vote(score[:, :calls], seed=lots), majority_vote(seen[:, :calls].argmax(2), num_candidates=n, seed=lots)
        add("sum_vote", calls, summed.score, summed.winner)
        add("majority_vote of picks", calls, voted.score, voted.winner)
        for rho in META_CORRELATIONS:
            meta = -rho * loudness + math.sqrt(1 - rho**2) * other
            guided = sum_vote(score[:, :calls], meta=meta[:, :calls], seed=lots)
            add(f"sum_vote, best half by meta, correlation {rho}", calls, guided.score, guided.winner)
    return rows


def adaptive_votes(pairs: int, seed: int) -> list[dict[str, Any]]:
    """One pair again and again, judged right with one probability: accuracy and mean calls, ties being half right."""
    calls, rows = torch.arange(1, CAP + 1), []
    for accuracy in PAIR_ACCURACIES:
        right = torch.rand(pairs, CAP, dtype=torch.float64, generator=stream(seed, "adaptive", accuracy)) < accuracy
        yes = right.cumsum(1)

        def row(rule: str, stop: Tensor, accuracy: float = accuracy, yes: Tensor = yes) -> dict[str, Any]:
            lead = (2 * yes - calls).gather(1, stop.unsqueeze(1)).squeeze(1)
            correct = (lead.sign() + 1).double() / 2
            stderr = (correct.std() / math.sqrt(pairs)).item()
            return {"judge": accuracy, "rule": rule, "calls": (stop + 1).double().mean().item(), "accuracy": correct.mean().item(), "stderr": stderr}

        rows += [row(f"{k} votes", torch.full((pairs,), k - 1)) for k in range(1, CAP + 1, 2)]
        for rule in ("majority", "beta", "sprt"):
            decided = vote_status(yes, calls - yes, max_votes=CAP, rule=rule).decided
            rows.append(row(rule, decided.int().argmax(1)))
    return rows


def ties(n: int, problems: int, accuracy: float, seed: int) -> list[dict[str, Any]]:
    """Davidson's judge, who ties two equals with probability 1/3: ratings that count half wins, model ties, or drop them."""
    judge, rows = Judge(strengths(problems, n, seed), slope_of(accuracy)), []
    for opponents in (4, None):
        pairs, generator = RoundRobin(problems, n, opponents=opponents, seed=subseed(seed, "lots", n)).pairs(), stream(seed, "ties", n, opponents)
        half = judge.log_odds(pairs) / 2
        chance = torch.stack((half.exp(), torch.ones_like(half), (-half).exp()), 1).cumsum(1)
        drawn = torch.rand(len(half), 1, dtype=torch.float64, generator=generator) * chance[:, 2:]
        outcome = 1 - (drawn >= chance[:, :2]).sum(1) / 2
        counts = pairwise_counts(pairs.first, pairs.second, outcome, problem=pairs.problem, num_problems=problems, num_candidates=n)
        found = {
            "bradley_terry, ties half a win": bradley_terry(counts).rating,
            "davidson": davidson(counts).rating,
            "davidson, one tie strength for all": davidson(counts, shared=True).rating,
            "bradley_terry, ties dropped": bradley_terry(PairCounts(counts.wins, torch.zeros_like(counts.ties))).rating,
        }
        usual = picked(next(iter(found.values())))
        told = {"n": n, "judge": accuracy, "opponents": opponents or n - 1, "calls": len(half) / problems}
        told["ties"] = (outcome == 0.5).double().mean().item()
        for name, score in found.items():
            differs = share(picked(score) != usual)["accuracy"]
            rows.append({**told, "rating": name, "other pick": differs, **quality(score, judge.strength)})
    return rows


def coverage(n: int, problems: int, accuracy: float, replicates: int, seed: int) -> list[dict[str, Any]]:
    """How often 95 % intervals hold the true log-strength, for 8 verdicts of every pair taken one by one, or as 4 means of two: ties, of half the
    variance that the model expects. Their expectation is the model's in either case."""
    judge, votes = Judge(strengths(problems, n, seed), slope_of(accuracy)), 8
    played = play(RoundRobin(problems, n, votes=votes), judge, stream(seed, "coverage"))
    truth = judge.slope * (judge.strength - judge.strength.mean(1, keepdim=True))
    rows = []
    for games, each in (("single verdicts", 1), ("means of two", 2)):
        problem, first, second = (ids[::each] for ids in played.pairs)
        matches = first, second, played.outcome.view(-1, each).mean(1)
        counts = pairwise_counts(*matches, problem=problem, num_problems=problems, num_candidates=n)
        drawn = bootstrap(
            *matches, problem=problem, num_problems=problems, num_candidates=n, replicates=replicates, level=_LEVEL, seed=subseed(seed, "draws")
        )  # fmt: skip
        kinds: tuple[Literal["hessian", "sandwich"], ...] = ("hessian", "sandwich")
        for name in kinds:
            fitted = bradley_terry(counts, stderr=name)
            assert fitted.stderr is not None
            reach = fitted.stderr * torch.special.ndtri(torch.tensor((1 + _LEVEL) / 2, dtype=torch.float64))
            rows.append(_covered(games, name, fitted.rating - reach, fitted.rating + reach, truth))
        rows.append(_covered(games, "bootstrap", drawn.lower, drawn.upper, truth))
    return [{"n": n, "judge": accuracy, "verdicts of a pair": votes, **row} for row in rows]


def _covered(games: str, interval: str, lower: Tensor, upper: Tensor, truth: Tensor) -> dict[str, Any]:
    inside = (lower <= truth) & (truth <= upper)
    spread = inside.double().mean(1).std() / math.sqrt(len(truth))  # a problem's intervals depend on each other
    return {"games": games, "interval": interval, "coverage": inside.double().mean().item(), "stderr": spread.item(),
            "width": (upper - lower).mean().item()}  # fmt: skip


def confidence(n: int, problems: int, accuracy: float, replicates: int, seed: int) -> list[dict[str, Any]]:
    """How good the pick of a complete round robin is where the bootstrap finds it sure, or not."""
    judge = Judge(strengths(problems, n, seed), slope_of(accuracy))
    played = play(RoundRobin(problems, n), judge, stream(seed, "confidence"))
    problem, first, second = played.pairs
    drawn = bootstrap(
        first, second, played.outcome, problem=problem, num_problems=problems, num_candidates=n, replicates=replicates, seed=subseed(seed, "draws")
    )  # fmt: skip
    pick, best = picked(drawn.rating), judge.strength.argmax(1)
    sure = drawn.best.gather(1, pick.unsqueeze(1)).squeeze(1)
    rows = []
    for low, high in ((0.0, 0.5), (0.5, 0.9), (0.9, 1.01)):
        within = (sure >= low) & (sure < high)
        told = {"n": n, "judge": accuracy, "best from": low, "best below": min(high, 1.0), "problems": within.double().mean().item()}
        rows.append({**told, **(share((pick == best)[within]) if bool(within.any()) else {"accuracy": math.nan, "stderr": math.nan})})
    return rows
