"""Means over seeds with intervals over test items and over seeds, and the questions that they answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor

Results = Sequence[dict[str, dict[str, Any]]]  # of every seed: phase -> what it found, tensors of items
JUDGES = {"think": "distilled", "rlvr": "distilled, then RLVR"}
CONFIDENCE = 0.95


class Figure(NamedTuple):
    """A mean over seeds with half-widths of 95 % intervals: over the items of these seeds, and over seeds (Student's; NaN for one), each a training
    of its own with items of its own."""

    mean: float
    items: float
    seeds: float
    each: list[float]

    def told(self, factor: float = 100.0, digits: int = 1) -> str:
        return f"{factor * self.mean:.{digits}f} ±{factor * self.items:.{digits}f} ±{factor * self.seeds:.{digits}f}".replace("±nan", "±?")

    @property
    def shown(self) -> str:
        """What it says about a difference: both intervals have to leave out 0 (of one seed, that over items)."""
        clear = abs(self.mean) > (self.items if math.isnan(self.seeds) else max(self.items, self.seeds))
        return ("yes" if self.mean > 0 else "no, the opposite") if clear else "not shown"


def figure(values: Sequence[Tensor]) -> Figure:
    """values: of every seed, those of its items."""
    wide, count = [x.double() for x in values], len(values)
    means = [float(x.mean()) for x in wide]
    spread = sum(float(x.var()) / len(x) for x in wide if len(x) > 1)
    tail = (1 + CONFIDENCE) / 2
    between = float(torch.tensor(means, dtype=torch.float64).std()) * stats.t.ppf(tail, count - 1) / math.sqrt(count) if count > 1 else math.nan
    return Figure(sum(means) / count, float(stats.norm.ppf(tail)) * math.sqrt(spread) / count, float(between), means)


def all_figures(found: Results) -> dict[str, Figure]:
    """Every phase's, as "phase / key"."""
    names = [(phase, key) for phase, of in found[0].items() for key in of if key not in ("model", "seconds")]
    return {f"{phase} / {key}": figure([seed[phase][key] for seed in found]) for phase, key in names}


class Question(NamedTuple):
    """Whether the first is better than the second, each a "phase / key"."""

    asked: str
    first: str
    second: str

    def answer(self, found: Results) -> Figure:
        """The difference, item by item."""
        (a, x), (b, y) = (name.split(" / ") for name in (self.first, self.second))
        return figure([seed[a][x].double() - seed[b][y].double() for seed in found])


def questions(settings: dict[str, Any]) -> dict[str, list[Question]]:
    """By topic; fixed before the seeds that are reported were run."""
    most, match, samples = settings["votes"], settings["match_votes"], settings["point_samples"]
    ask = Question
    thinking = [ask("thinking, against a direct verdict: one sampled verdict", "think / sampled", "direct / sampled")]
    for what, arm in (
        ("a direct verdict", "direct"),
        ("as many filler tokens", "fillers"),
        ("the verdict first, the thoughts after it", "verdict first"),
    ):
        thinking.append(ask(f"thinking, against {what}: likeliest verdicts", "think / greedy", f"{arm} / greedy"))
    for n in settings["shorter"]:
        of = f"{n} operation{'s' * (n > 1)}"
        thinking.append(ask(f"the same with {of}, against a direct verdict", f"think, {n} operations / greedy", f"direct, {n} operations / greedy"))
    voting, matches, stopping, expectation = [], [], [], []
    for judge, name in JUDGES.items():
        votes, best = f"votes of {judge}", f"tournaments of {judge}"
        odd = [k for k in (3, 5, 9, 17, 33) if k <= most]
        voting += [ask(f"{k} votes, against 1 ({name})", f"{votes} / votes {k}", f"{votes} / votes 1") for k in odd]
        voting += [ask(f"{most} votes, against {k} ({name})", f"{votes} / votes {most}", f"{votes} / votes {k}") for k in odd[:-1]]
        for k in (k for k in (1, 2, 4) if 4 * k <= match):
            calls = k * math.comb(settings["candidates"], 2)
            matches.append(ask(f"knockout, against round robin, {calls} calls each ({name})", f"{best} / knockout {4 * k}", f"{best} / points {k}"))
        for rating in ("bradley-terry", "elo"):
            for k in (1, match):
                matches.append(
                    ask(
                        f"{rating.title()}, against points, {k} vote{'s' * (k > 1)} a pair ({name})", f"{best} / {rating} {k}", f"{best} / points {k}"
                    )
                )
        for rule in ("majority", "beta", "sprt"):
            stopping.append(ask(f"{rule}, against all {most} votes on a pair ({name})", f"{votes} / {rule}", f"{votes} / votes {most}"))
            stopping.append(
                ask(f"{rule}, against {match} votes a match in a knockout ({name})", f"{best} / knockout {rule}", f"{best} / knockout {match}")
            )
        for k in (1, most):
            asked = f"the verdict token's expectation, against sampled verdicts, {k} thought{'s' * (k > 1)} ({name})"
            expectation.append(ask(asked, f"{votes} / expected {k}", f"{votes} / votes {k}"))
    expectation += [ask(f"the grade token's, against sampled grades, {k} each", f"points / expected {k}", f"points / sum {k}") for k in (1, samples)]
    training = [
        ask("distillation then RLVR, against distillation", "rlvr / sampled", "think / sampled"),
        ask("... against more distillation, as many steps", "rlvr / sampled", "think longer / sampled"),
        ask("... against RLVR alone", "rlvr / sampled", "rlvr alone / sampled"),
        ask("... against RLVR of a judge that knows the format", "rlvr / sampled", "rlvr format only / sampled"),
        ask("... against rejection fine-tuning, same labels, as many steps", "rlvr / sampled", "rejection / sampled"),
        ask("... on the labels of the traces' problems alone, against more distillation", "rlvr taught / sampled", "think longer / sampled"),
        ask("... against more distillation, likeliest verdicts", "rlvr / greedy", "think longer / greedy"),
        ask("... against rejection fine-tuning, likeliest verdicts", "rlvr / greedy", "rejection / greedy"),
    ]
    sums = []
    for k in (k for k in (4, 8, 16, 32) if k <= samples):
        sums += [
            ask(f"the sum of {k} grades, against one", f"points / sum {k}", "points / sum 1"),
            ask(f"the half of {k} that the meta reward model prefers, against all", f"points / meta {k}", f"points / sum {k}"),
            ask(f"... against the half of {k} with the highest log-probability", f"points / meta {k}", f"points / log-prob {k}"),
            ask(f"... against the half of {k} with the highest grade", f"points / meta {k}", f"points / grade {k}"),
            ask(f"the half that a meta reward model of hidden states prefers, against all {k}", f"points / meta of hidden {k}", f"points / sum {k}"),
        ]
    return {
        "Thinking before the verdict": thinking,
        "More votes": voting,
        "Round robin or knockout; Bradley-Terry, Elo or points": matches,
        "Stopping early": stopping,
        "Distillation, then RLVR": training,
        "Sums of grades, and a meta reward model": sums,
        "Expectation instead of a sample": expectation,
    }
