"""Tournaments of simulated judges: the schedulers, the ratings of what they recorded, and how good the pick is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.simulation_judge import Judge, Played, play, slope_of, stream, strengths, subseed
from rrm_core.tournaments import Anchored, Knockout, RoundRobin, Swiss, borda, bradley_terry, copeland, elo, pagerank, pairwise_wins, win_rate
from rrm_core.tournaments.league import League
from rrm_core.tournaments.schedulers import Scheduler

Make = Callable[[int, int], Scheduler]  # of B and a seed
OWN, ELO_ORDERS = "own ranking", 8
BIASES, INVALID = (0.0, 0.5, 1.0, 2.0), 0.05
REPEATS = (0.0, 0.5, 1.0)
IN_FULL = 0.75  # the accuracy at which every rating is tried
EQUAL = 1e-7  # scores that differ by less are equal


def knockouts(n: int) -> Iterator[tuple[str, Make]]:
    for votes, both in sorted({(1, False), (3, False), (1, True), (3, True), (max(1, n // 2), False)}):
        label = f"knockout, {votes} vote{'s' * (votes > 1)}{' each order' * both}"
        yield label, lambda B, seed, v=votes, b=both: Knockout(B, n, seed=seed, votes=v, both_orders=b, on_tie="random")  # type: ignore[misc]


def leagues(n: int) -> Iterator[tuple[str, Make]]:
    for d in (2, 4, 8):
        if d < n - 1:
            yield f"round robin, {d} opponents", lambda B, seed, d=d: RoundRobin(B, n, opponents=d, seed=seed)  # type: ignore[misc]
    yield "round robin, all", lambda B, seed: RoundRobin(B, n, seed=seed)
    rounds = math.ceil(math.log2(n))
    for r in (rounds, 2 * rounds):
        yield f"swiss, {r} rounds", lambda B, seed, r=r: Swiss(B, n, rounds=r, seed=seed)  # type: ignore[misc]
    for a in (2, 4):
        if a < n:
            yield f"anchored, {a} anchors", lambda B, seed, a=a: Anchored(B, n, anchors=a, seed=seed)  # type: ignore[misc]


def one_or_both_orders(n: int) -> Iterator[tuple[str, Make]]:
    """In pairs of as many calls."""
    rounds = math.ceil(math.log2(n))
    for votes, both in ((2, False), (1, True)):
        label, options = ("both orders", "one order, 2 votes")[votes == 2], {"votes": votes, "both_orders": both}
        yield f"knockout, {label}", lambda B, seed, o=options: Knockout(B, n, seed=seed, on_tie="random", **o)  # type: ignore[misc]
        yield f"round robin, {label}", lambda B, seed, o=options: RoundRobin(B, n, seed=seed, **o)  # type: ignore[misc]
        yield f"swiss, {label}", lambda B, seed, o=options: Swiss(B, n, rounds=rounds, seed=seed, **o)  # type: ignore[misc]


def elo_of(played: Played, k: float, orders: int | Tensor, seed: int) -> Tensor:
    problems, n, pairs = played.tournament.num_problems, played.tournament.num_candidates, played.pairs
    matches = pairs.first, pairs.second, played.outcome
    return elo(*matches, problem=pairs.problem, num_problems=problems, num_candidates=n, k=k, orders=orders, seed=seed).rating


def ratings(played: Played, seed: int, full: bool) -> Iterator[tuple[str, Tensor]]:
    """Scores [B, n], equals being equal; the tournament's own ranking first, and Bradley-Terry alone unless ``full``."""
    tournament = played.tournament
    place = torch.arange(tournament.num_candidates, 0, -1).expand(tournament.num_problems, -1)
    ranking = tournament.ranking
    yield OWN, torch.empty_like(place).scatter_(1, ranking, place).double()
    if isinstance(tournament, League):
        wins = tournament.wins()
        yield "bradley_terry", bradley_terry(wins).rating
        if not full:
            return
        yield "bradley_terry, prior 1", bradley_terry(wins, prior=1.0).rating
        yield "borda", borda(wins)
        yield "win_rate", win_rate(wins)
        yield "copeland", copeland(wins)
        yield "pagerank", pagerank(wins).rating
        yield "elo, one order", elo_of(played, 4.0, 1, seed)
        yield f"elo, mean of {ELO_ORDERS} orders", elo_of(played, 4.0, ELO_ORDERS, seed)


def share(hits: Tensor) -> dict[str, float]:
    p = hits.double().mean().item()
    return {"accuracy": p, "stderr": math.sqrt(p * (1 - p) / len(hits))}


def picked(score: Tensor) -> Tensor:
    """Of those who share the top the first, who is as good a guess as any: int64 [B]."""
    return (score >= score.max(1, keepdim=True).values - EQUAL).int().argmax(1)


def quality(score: Tensor, strength: Tensor) -> dict[str, float]:
    """Accuracy of the pick, strength lost, rank correlations; Kendall's counts a pair of equal scores as 0."""
    pick, (lead, truth) = picked(score), (x.unsqueeze(2) - x.unsqueeze(1) for x in (score, strength))
    says, truth = lead.masked_fill(lead.abs() < EQUAL, 0.0).sign(), truth.sign()
    n = score.shape[1]
    kendall = (says * truth).sum((1, 2)) / (n * (n - 1))
    one, other = says.sum(2), truth.sum(2)  # ranks around 0, equals sharing
    spearman = (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt().clamp(min=1e-300)
    lost = strength.max(1).values - strength.gather(1, pick.unsqueeze(1)).squeeze(1)
    found = {"regret": lost.mean().item(), "kendall": kendall.mean().item(), "spearman": spearman.mean().item()}
    return share(pick == strength.argmax(1)) | found


def compare(methods: Iterator[tuple[str, Make]], judge: Judge, full: bool, seed: int, *names: object) -> list[dict[str, Any]]:
    """A row for each method and rating."""
    problems, rows = len(judge.strength), []
    for method, make in methods:
        played = play(make(problems, subseed(seed, "lots", method, *names)), judge, stream(seed, "verdicts", method, *names))
        calls = len(played.outcome) / problems
        scores = ratings(played, subseed(seed, "orders", method), full)
        rows += [{"method": method, "rating": rating, "calls": calls, **quality(score, judge.strength)} for rating, score in scores]
    return rows


def tournaments(sizes: dict[int, int], accuracies: tuple[float, ...], seed: int) -> list[dict[str, Any]]:
    """sizes: the number of problems for each n."""
    rows = []
    for n, problems in sizes.items():
        for accuracy in accuracies:
            judge = Judge(strengths(problems, n, seed), slope_of(accuracy))
            for methods in (knockouts(n), leagues(n)):
                rows += [{"n": n, "judge": accuracy, **row} for row in compare(methods, judge, accuracy == IN_FULL, seed, n, accuracy)]
    return rows


def position_bias(n: int, problems: int, accuracy: float, seed: int) -> list[dict[str, Any]]:
    rows = []
    for bias in BIASES:
        judge = Judge(strengths(problems, n, seed), slope_of(accuracy), bias, INVALID)
        found = compare(one_or_both_orders(n), judge, False, seed, n, accuracy, bias)
        rows += [{"n": n, "judge": accuracy, "bias": bias, **row} for row in found if row["rating"] == OWN]
    return rows


def repeating(n: int, problems: int, accuracy: float, seed: int) -> list[dict[str, Any]]:
    """A judge of the same accuracy who says the same again about a pair: never, half of the time, always."""
    rows = []
    for repeats in REPEATS:
        judge = Judge(strengths(problems, n, seed), slope_of(accuracy), repeats=repeats)
        for methods in (knockouts(n), leagues(n)):
            found = compare(methods, judge, False, seed, n, accuracy, repeats)
            rows += [{"n": n, "judge": accuracy, "repeats": repeats, **row} for row in found]
    return rows


def elo_orders(n: int, problems: int, accuracy: float, seed: int) -> list[dict[str, Any]]:
    """Share of picks that change between two orders of the same matches of a complete round robin, and of those that are no Borda top."""
    rows = []
    for games in (1, 2):
        judge = Judge(strengths(problems, n, seed), slope_of(accuracy))
        played = play(RoundRobin(problems, n, votes=games), judge, stream(seed, "elo", n, games))
        points, generator = borda(_counted(played, torch.arange(len(played.outcome)))), stream(seed, "orders", n, games)
        orders = [torch.randperm(len(played.outcome), generator=generator) for _ in range(2)]
        rated = {f"elo, k = {k:.0f}": [elo_of(played, k, order.unsqueeze(0), 0) for order in orders] for k in (4.0, 32.0)}
        rated["bradley_terry"] = [bradley_terry(_counted(played, order)).rating for order in orders]
        for rating, scores in rated.items():
            one, other = (picked(score) for score in scores)
            changed, top = share(one != other), points.gather(1, one.unsqueeze(1)).squeeze(1) == points.max(1).values
            told = {"changed": changed["accuracy"], "stderr": changed["stderr"], "not a borda top": 1 - share(top)["accuracy"]}
            told["accuracy"] = share(one == judge.strength.argmax(1))["accuracy"]
            rows.append({"n": n, "judge": accuracy, "games of a pair": games, "rating": rating, **told})
    return rows


def _counted(played: Played, order: Tensor) -> Tensor:
    """Wins [B, n, n] of the matches in this order."""
    (problem, first, second), tournament = (ids[order] for ids in played.pairs), played.tournament
    problems, n = tournament.num_problems, tournament.num_candidates
    return pairwise_wins(first, second, played.outcome[order], problem=problem, num_problems=problems, num_candidates=n)
