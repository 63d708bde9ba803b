"""Report, figures and picture of a run, and how it agrees with the one whose files it replaces."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from bench import machine
from bench.evidence.figures import JUDGES, Figure, Results, all_figures, odd, questions
from bench.evidence.picture import HALVES, draw
from bench.report import markdown_table
from examples.evidence.settings import COUNTS, RULES

NAME = "evidence"
ARMS = {
    "direct": "verdict at once, {labels} labels, {direct_steps} steps",
    "fillers": "the same after as many filler tokens as a thought has",
    "verdict first": "taught by the traces, verdict before the thoughts",
    "think": "thinks: distilled, {sft_steps} steps",
    "more distillation": "distilled, {extra_steps} steps more on the same traces",
    "rejection": "distilled, {extra_steps} steps more on own traces with right verdicts, {labels} problems",
    "rlvr taught": "distilled, {extra_steps} steps of RLVR on the traces' problems",
    "rlvr": "distilled, {extra_steps} steps of RLVR on {labels} problems",
    "rlvr alone": "RLVR from random weights",
    "format only": "distilled from random traces (the format alone)",
    "rlvr format only": "distilled from random traces, then RLVR",
}


def _training(figures: dict[str, Figure], settings: dict[str, Any], found: Results) -> list[str]:
    rows: list[list[object]] = []
    for arm, what in ARMS.items():
        cells = [figures[f"{arm} / {key}"].told() if f"{arm} / {key}" in figures else "" for key in ("sampled", "greedy", "chain", "trained")]
        rows.append([what.format(**settings), *cells, f"{statistics.mean(seed[arm]['seconds'] for seed in found):.0f}"])
    header = ["judge", "a sampled verdict", "the likeliest verdict", "right chain of states", "likeliest verdict on its training pairs", "s"]
    kept = statistics.mean(len(seed["think"]["teacher"]) for seed in found)
    lines = [
        *markdown_table(header, rows),
        f"The teacher slips in {100 * settings['slips']:.0f} % of its steps; of {settings['traces']} traces {kept:.0f} end in the right verdict and"
        f" are kept, {figures['think / teacher'].told()} % of these with a right chain. s: seconds with both cores at work, test included.",
        "",
    ]
    rows = []
    for n in (*settings["shorter"], settings["length"]):
        of = "" if n == settings["length"] else f", {n} operations"
        direct = [figures[f"direct{of} / {key}"].told() for key in ("trained", "sampled", "greedy")]
        rows.append([n, *direct, *(figures[f"think{of} / {key}"].told() for key in ("sampled", "greedy"))])
    header = ["operations", "direct, likeliest, on training pairs", "direct, sampled", "direct, likeliest", "thinks, sampled", "thinks, likeliest"]
    return lines + markdown_table(header, rows)


def _votes(figures: dict[str, Figure], settings: dict[str, Any]) -> list[str]:
    names = [f"votes of {judge}" for judge in JUDGES]
    header = ["votes", *(f"{name}, {kind}" for name in JUDGES.values() for kind in ("majority", "expectations"))]
    kinds = [(name, kind) for name in names for kind in ("votes", "expected")]
    lines = markdown_table(header, ([k, *(figures[f"{name} / {kind} {k}"].told() for name, kind in kinds)] for k in COUNTS if k <= settings["votes"]))
    invalid = ", ".join(f"{figures[f'{name} / invalid'].told(100, 2)} ({judge})" for name, judge in zip(names, JUDGES.values(), strict=True))
    return [*lines, f"Samples that end in no verdict (wrong as a single vote, made good by the expectation): {invalid}.", ""]


def _stopping(figures: dict[str, Figure], settings: dict[str, Any]) -> list[str]:
    names, rows = [f"votes of {judge}" for judge in JUDGES], []
    for rule in RULES:
        of = [(figures[f"{name} / {rule}"], figures[f"{name} / {rule} calls"], _needed(figures, name, rule, settings["votes"])) for name in names]
        rows.append([rule, *(cell for right, calls, needed in of for cell in (right.told(), calls.told(1.0, 2), needed))])
    kinds = ("", ", votes asked for", ", as right with so many for all")
    return markdown_table(["stopped by", *(f"{name}{kind}" for name in JUDGES.values() for kind in kinds)], rows)


def _needed(figures: dict[str, Figure], phase: str, rule: str, most: int) -> str:
    """How many votes on every pair are as often right, on the line between the odd numbers that were tried."""
    aim, below = figures[f"{phase} / {rule}"].mean, (0, 0.5)
    for k in odd(most):
        mean = figures[f"{phase} / votes {k}"].mean
        if mean >= aim:
            return f"{below[0] + (aim - below[1]) / (mean - below[1]) * (k - below[0]):.1f}"
        below = k, mean
    return f"more than {most}"


def _tournaments(figures: dict[str, Figure], settings: dict[str, Any]) -> list[str]:
    lines = []
    for judge, name in JUDGES.items():
        phase, rows = f"tournaments of {judge}", list[list[Any]]()
        for k in (k for k in COUNTS if k <= settings["match_votes"]):
            cells = [figures[f"{phase} / {x} {k}"].told() for x in ("matches", "borda", "bradley-terry", "elo")]
            rows.append([figures[f"{phase} / round robin {k} calls"].mean, "round robin", k, *cells])
            rows.append([figures[f"{phase} / knockout {k} calls"].mean, "knockout", k, figures[f"{phase} / knockout {k}"].told(), "", "", ""])
        for rule in RULES:
            calls = figures[f"{phase} / knockout {rule} calls"].mean
            rows.append([calls, "knockout", rule, figures[f"{phase} / knockout {rule}"].told(), "", "", ""])
        header = ["calls", "tournament", "votes", "champion, or most matches won", "most votes won", "Bradley-Terry", "Elo of 8 orders"]
        rows.sort(key=lambda row: float(row[0]))
        lines += [f"{name[0].upper()}{name[1:]}:", "", *markdown_table(header, ([f"{calls:.1f}", *rest] for calls, *rest in rows))]
    return lines


def _alone(figures: dict[str, Figure], settings: dict[str, Any]) -> list[str]:
    ks = (2**j for j in range(settings["point_samples"].bit_length()))
    lines = markdown_table(["samples", *HALVES.values()], ([k, *(figures[f"alone / {kind} {k}"].told() for kind in HALVES)] for k in ks))
    rated = {"meta": "meta reward model", "meta of hidden": "of hidden states", "log-prob": "log-probability", "grade": "grade"}
    aucs = ", ".join(f"{what} {figures[f'alone / auc of {kind}'].mean:.3f}" for kind, what in rated.items())
    off, expectation_off = (figures[f"alone / {kind} is off by"].told(1.0, 3) for kind in ("grade", "expectation"))
    return [
        *lines,
        f"Of all samples {figures['alone / grade is right'].told()} % end in the right grade, {figures['alone / invalid'].told(100, 2)} % in none."
        f" A sampled grade is off by {off}, its expectation by {expectation_off}. Probability that a right sample is rated above a wrong one (AUC):"
        f" {aucs}.",
        "",
    ]


def _timing(timing: dict[str, Any]) -> list[str]:
    lines = []
    for vocabulary, loops in timing.items():
        parts = list(dict.fromkeys(part for of in loops.values() for part in of["ms"]))
        rows = [[part, *(f"{of['ms'][part]:.2f}" if part in of["ms"] else "" for of in loops.values())] for part in parts]
        rows.append(["largest difference of heads", *(f"{of['head differs by']:.1e}" for of in loops.values())])
        lines += [f"Vocabulary of {vocabulary}, ms (medians over steps; a whole step: of loops):", "", *markdown_table(["", *loops], rows)]
    told = "The last line: after all steps, relative to the largest weight of plain PyTorch's head. Loops whose heads differ may draw other tokens."
    return [*lines, told, ""]


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x


def _agreement(figures: dict[str, Figure], before: dict[str, Any], settings: dict[str, Any]) -> str:
    """How many figures agree with a run before, within both intervals."""
    if before["settings"] != json.loads(json.dumps(settings)):
        return "the run before had other settings"
    old = {name: Figure(of["mean"], _or_nan(of["items"]), _or_nan(of["seeds"]), of["each"]) for name, of in before["figures"].items()}
    both = [name for name in figures if name in old]
    out = [name for name in both if not abs(figures[name].mean - old[name].mean) <= math.hypot(figures[name].width, old[name].width)]
    same = sum(figures[name].mean == old[name].mean for name in both)
    told = f"{len(both) - len(out)} of {len(both)} figures agree with the run before within intervals, {same} of them to the last digit"
    return told + (f"; not {', '.join(out)}" if out else "")


def write(out: Path, settings: dict[str, Any], seeds: list[int], seconds: float, found: Results, timing: dict[str, Any]) -> None:
    """Into the folder ``out``; tells how the figures compare with those it finds there."""
    figures = all_figures(found)
    facts = machine.describe(torch.device("cpu")) | {"settings": settings, "seeds": seeds, "seconds of this run": seconds}
    asked = {topic: [(q, *q.answer(found)) for q in those] for topic, those in questions(settings, figures).items()}
    tables = {
        "Thinking before the verdict": _training(figures, settings, found),
        "More votes": _votes(figures, settings),
        "Round robin or knockout; what to make of the votes": _tournaments(figures, settings),
        "Stopping early": _stopping(figures, settings),
        "Sums of grades, and a meta reward model": _alone(figures, settings),
    }
    minutes, of_seeds = sum(of["seconds"] for seed in found for of in seed.values()) / len(found) / 60, ", ".join(map(str, seeds))
    number = sum(map(len, asked.values()))
    lines = [
        f"# Evidence: what a tiny judge shows of reward reasoning, {facts['date']}, commit {facts['commit']}",
        "",
        f"{facts['device']}, torch {facts['versions']['torch']}, {facts['backends']['cpu']}. Seeds {of_seeds}; {minutes:.1f} minutes of one core"
        f" each. [Picture]({NAME}.png), [all figures]({NAME}.json).",
        "",
        f"Per cent of {settings['pairs']} test pairs, or {settings['problems']} problems of {settings['candidates']} candidates, a seed."
        " Behind the first ± is the half-width of a 95 % interval over the items of these seeds, behind the second that over seeds (Student's; a"
        " seed is a training of its own with items of its own). A difference is taken item by item and counts as shown where both intervals leave"
        f" out 0 (or the margin). Nothing is corrected for there being {number} questions, many of which share data.",
        "",
    ]
    for topic, those in asked.items():
        rows = ([q.asked, f.told(), ", ".join(f"{100 * x:+.1f}" for x in f.each), shown] for q, f, shown in those)
        lines += [f"## {topic}", "", *markdown_table(["claim", "difference, points", "of each seed", "shown"], rows), *tables.get(topic, [])]
    lines += ["## Where the time of a GRPO step goes", "", *_timing(timing)]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{NAME}.json"
    if path.exists():
        print(_agreement(figures, json.loads(path.read_text()), settings))
    as_json = {name: {key: None if x != x else x for key, x in f._asdict().items()} for name, f in figures.items()}
    path.write_text(json.dumps({**facts, "figures": as_json, "timing": timing}, indent=1, allow_nan=False) + "\n")
    (out / f"{NAME}.md").write_text("\n".join(lines))
    draw(figures, settings, f"seeds {of_seeds}; bars: 95 % intervals, the wider of items and seeds", out / f"{NAME}.png")
    print(f"written to {out / NAME}.md, .json and .png")
