"""Means over seeds with intervals over test items and over seeds, and the questions that they answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor

from examples.evidence.settings import COUNTS, RULES

Results = Sequence[dict[str, dict[str, Any]]]  # of every seed: phase -> what it found, tensors of items
JUDGES = {"think": "distilled", "rlvr": "distilled, then RLVR"}
CONFIDENCE = 0.95
MARGIN = 0.01  # what "as good as" may be worse


class Figure(NamedTuple):
    """A mean over seeds with half-widths of 95 % intervals: over the items of these seeds, and over seeds (Student's), each a training of its own
    with items of its own. NaN for one item, or one seed."""

    mean: float
    items: float
    seeds: float
    each: list[float]

    def told(self, factor: float = 100.0, digits: int = 1) -> str:
        return f"{factor * self.mean:.{digits}f} ±{factor * self.items:.{digits}f} ±{factor * self.seeds:.{digits}f}".replace("±nan", "±?")

    @property
    def width(self) -> float:
        """The wider of the intervals that there are, 0 without."""
        return max((x for x in (self.items, self.seeds) if not math.isnan(x)), default=0.0)


def figure(values: Sequence[Tensor]) -> Figure:
    """values: of every seed, those of its items. Their spread is taken as if one item more were 1 above the mean and one 1 below, so that intervals
    do not vanish where all are right."""
    wide, count, tail = [x.double() for x in values], len(values), (1 + CONFIDENCE) / 2
    means = [float(x.mean()) for x in wide]
    variances = [float((x - x.mean()).square().sum() + 2) / (len(x) + 1) / len(x) if len(x) > 1 else math.nan for x in wide]
    between = float(torch.tensor(means, dtype=torch.float64).std()) * stats.t.ppf(tail, count - 1) / math.sqrt(count) if count > 1 else math.nan
    return Figure(sum(means) / count, float(stats.norm.ppf(tail)) * math.sqrt(sum(variances)) / count, float(between), means)


def all_figures(found: Results) -> dict[str, Figure]:
    """Every phase's, as "phase / key"."""
    names = [(phase, key) for phase, of in found[0].items() for key in of if key not in ("model", "seconds")]
    return {f"{phase} / {key}": figure([seed[phase][key] for seed in found]) for phase, key in names}


class Question(NamedTuple):
    """Whether the first is better than the second, each a "phase / key"; or not worse by more than a margin."""

    asked: str
    first: str
    second: str
    margin: float = 0.0

    def answer(self, found: Results) -> tuple[Figure, str]:
        """The difference, item by item, and what it shows: both intervals have to leave out 0 (or the margin)."""
        (a, x), (b, y) = (name.split(" / ") for name in (self.first, self.second))
        difference = figure([seed[a][x].double() - seed[b][y].double() for seed in found])
        above = difference.mean + self.margin
        return difference, "not shown" if abs(above) <= difference.width else "yes" if above > 0 else "no, the opposite"


def odd(most: int) -> list[int]:
    """Numbers of votes that cannot tie."""
    return [k for k in COUNTS if k % 2 and k <= most]


def fixed_for(calls: float, most: int) -> int:
    """The fewest votes for everybody that cost as much as ``calls``."""
    return next((k for k in odd(most) if k >= calls), odd(most)[-1])


def questions(settings: dict[str, Any], figures: dict[str, Figure]) -> dict[str, list[Question]]:
    """By topic. Fixed before the seeds that are reported were run; figures only say which number of votes costs as much as stopping early."""
    ask, most, match, samples = Question, settings["votes"], settings["match_votes"], settings["point_samples"]
    thinking = [ask("thinking beats a direct verdict, one sampled verdict", "think / sampled", "direct / sampled")]
    controls = {"direct": "a direct verdict", "fillers": "as many filler tokens", "verdict first": "the verdict first and the thoughts after it"}
    thinking += [ask(f"thinking beats {what}, likeliest verdicts", "think / greedy", f"{arm} / greedy") for arm, what in controls.items()]
    for n in settings["shorter"]:
        of = f"{n} operation{'s' * (n > 1)}"
        thinking.append(ask(f"thinking beats a direct verdict on {of}", f"think, {n} operations / greedy", f"direct, {n} operations / greedy"))
    voting, matches, stopping, expectation = [], [], [], []
    for judge, name in JUDGES.items():
        votes, best = f"votes of {judge}", f"tournaments of {judge}"
        many = odd(most)[1:]
        voting += [ask(f"{k} votes beat 1 ({name})", f"{votes} / votes {k}", f"{votes} / votes 1") for k in many]
        voting += [ask(f"{most} votes beat {k} ({name})", f"{votes} / votes {most}", f"{votes} / votes {k}") for k in many[:-1]]
        half = settings["candidates"] // 2  # a round robin has as many matches as so many knockouts
        for k in (k for k in COUNTS if half * k in COUNTS and half * k <= match):
            each = round(figures[f"{best} / round robin {k} calls"].mean)
            asked = f"a knockout of {half * k} votes beats a round robin of {k}, {each} calls each ({name})"
            matches.append(ask(asked, f"{best} / knockout {half * k}", f"{best} / matches {k}"))
        asked = f"counting matches won beats counting votes, {match} votes a pair ({name})"
        matches.append(ask(asked, f"{best} / matches {match}", f"{best} / borda {match}"))
        for rating in ("bradley-terry", "elo"):
            for k in (1, match):
                asked = f"{rating.title()} beats counting votes, {k} vote{'s' * (k > 1)} a pair ({name})"
                matches.append(ask(asked, f"{best} / {rating} {k}", f"{best} / borda {k}"))
        for rule in RULES[1:]:
            calls = figures[f"{votes} / {rule} calls"].mean
            k = fixed_for(calls, most)
            stopping.append(ask(f"{rule} ({calls:.1f} votes) beats {k} votes for all ({name})", f"{votes} / {rule}", f"{votes} / votes {k}"))
            asked = f"{rule} ({calls:.1f} votes) is at most a point worse than all {most} ({name})"
            stopping.append(ask(asked, f"{votes} / {rule}", f"{votes} / votes {most}", MARGIN))
            calls, all_calls = (figures[f"{best} / knockout {x} calls"].mean for x in (rule, match))
            asked = f"{rule} in a knockout ({calls:.0f} calls) is at most a point worse than {match} votes a match ({all_calls:.0f} calls, {name})"
            stopping.append(ask(asked, f"{best} / knockout {rule}", f"{best} / knockout {match}", MARGIN))
        for k in (1, most):
            asked = f"the verdict token's expectation beats sampled verdicts, {k} thought{'s' * (k > 1)} ({name})"
            expectation.append(ask(asked, f"{votes} / expected {k}", f"{votes} / votes {k}"))
    for k in (1, samples):
        expectation.append(ask(f"the grade token's expectation beats sampled grades, {k} each", f"alone / expected {k}", f"alone / sum {k}"))
    training = []
    both, one = {"think": "distillation", "more distillation": "more distillation"}, {"rejection": "rejection fine-tuning on as many labels"}
    neither = {"rlvr alone": "RLVR alone", "rlvr format only": "RLVR of a judge that knows the format alone"}
    for arm, what in (both | one | neither).items():
        training.append(ask(f"distillation then RLVR beats {what}, sampled verdicts", "rlvr / sampled", f"{arm} / sampled"))
        training.append(ask(f"distillation then RLVR beats {what}, likeliest verdicts", "rlvr / greedy", f"{arm} / greedy"))
    for key, what in (("sampled", "sampled"), ("greedy", "likeliest")):
        asked = f"RLVR on the labels of the traces' problems alone beats more distillation, {what} verdicts"
        training.append(ask(asked, f"rlvr taught / {key}", f"more distillation / {key}"))
    sums = []
    for k in (k for k in (4, 8, 16, 32) if k <= samples):
        half = f"the half of {k} that the meta reward model prefers beats"
        sums += [
            ask(f"the sum of {k} grades beats one", f"alone / sum {k}", "alone / sum 1"),
            ask(f"{half} all", f"alone / meta {k}", f"alone / sum {k}"),
            ask(f"{half} the half with the highest log-probability", f"alone / meta {k}", f"alone / log-prob {k}"),
            ask(f"{half} the half with the highest grade", f"alone / meta {k}", f"alone / grade {k}"),
            ask(f"the half of {k} that a meta reward model of hidden states prefers beats all", f"alone / meta of hidden {k}", f"alone / sum {k}"),
        ]
    return {
        "Thinking before the verdict": thinking,
        "More votes": voting,
        "Round robin or knockout; what to make of the votes": matches,
        "Stopping early": stopping,
        "Distillation, then RLVR": training,
        "Sums of grades, and a meta reward model": sums,
        "Expectation instead of a sample": expectation,
    }
