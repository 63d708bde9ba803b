"""Report, figures and picture of a run, and whether it agrees with the one that is in the repository."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import machine
from bench.evidence.figures import JUDGES, Figure, Results, all_figures, questions
from bench.evidence.picture import draw

NAME = "evidence"
ARMS = {
    "direct": "verdict at once, {labels} labels, {direct_steps} steps",
    "fillers": "the same after as many filler tokens as a thought has",
    "verdict first": "taught by the traces, verdict before the thoughts",
    "think": "thinks: distilled from {traces} problems, {sft_steps} steps",
    "think longer": "... {extra_steps} steps more",
    "rejection": "... then {extra_steps} steps on its own right traces of {labels} problems",
    "rlvr taught": "... then {extra_steps} steps of RLVR on the labels of the traces' problems",
    "rlvr": "... then {extra_steps} steps of RLVR on {labels} labels",
    "rlvr alone": "RLVR from random weights",
    "format only": "distilled from random traces (the format alone)",
    "rlvr format only": "... then RLVR",
}
SUMS = ("sum", "expected", "meta", "meta of hidden", "log-prob", "grade", "oracle")


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    return ["| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows)] + [""]


def _numbers(figures: dict[str, Figure], prefix: str) -> list[int]:
    """The k of all "prefix k"."""
    ends = (name.removeprefix(f"{prefix} ") for name in figures if name.startswith(f"{prefix} "))
    return [int(end) for end in ends if end.isdigit()]


def _training(figures: dict[str, Figure], settings: dict[str, Any], found: Results) -> list[str]:
    rows = []
    for arm, what in ARMS.items():
        chain = figures[f"{arm} / chain"].told() if f"{arm} / chain" in figures else ""
        seconds = statistics.mean(seed[arm]["seconds"] for seed in found)
        rows.append([what.format(**settings), figures[f"{arm} / sampled"].told(), figures[f"{arm} / greedy"].told(), chain, f"{seconds:.0f}"])
    lines = _table(["judge", "a sampled verdict", "the likeliest verdict", "right chain of states", "s"], rows)
    lengths = [*settings["shorter"], settings["length"]]
    rows = []
    for n in lengths:
        of = "" if n == settings["length"] else f", {n} operations"
        rows.append([n, *(figures[f"{arm}{of} / {key}"].told() for arm in ("direct", "think") for key in ("sampled", "greedy"))])
    return lines + _table(["operations", "direct, sampled", "direct, likeliest", "thinks, sampled", "thinks, likeliest"], rows)


def _votes(figures: dict[str, Figure]) -> list[str]:
    names = [f"votes of {judge}" for judge in JUDGES]
    header = ["votes", *(f"{name}, {kind}" for name in JUDGES.values() for kind in ("majority", "expectations"))]
    rows: list[list[object]] = []
    for k in _numbers(figures, f"{names[0]} / votes"):
        rows.append([k, *(figures[f"{name} / {kind} {k}"].told() for name in names for kind in ("votes", "expected"))])
    lines = _table(header, rows)
    wrong = (f"{figures[f'{name} / mostly wrong'].told()} ({judge})" for name, judge in zip(names, JUDGES.values(), strict=True))
    lines += [f"Pairs on which most votes are wrong, so that more of them do not help: {', '.join(wrong)}.", ""]
    rows = [
        [rule, *(cell for name in names for cell in (figures[f"{name} / {rule}"].told(), figures[f"{name} / {rule} calls"].told(1.0, 2)))]
        for rule in ("majority", "beta", "sprt")
    ]
    return lines + _table(["stopped by", *(f"{name}{kind}" for name in JUDGES.values() for kind in ("", ", votes asked for"))], rows)


def _tournaments(figures: dict[str, Figure]) -> list[str]:
    lines = []
    for judge, name in JUDGES.items():
        phase, rows = f"tournaments of {judge}", list[list[object]]()
        for kind, others in (("points", ("bradley-terry", "elo")), ("knockout", ())):
            for k in _numbers(figures, f"{phase} / {kind}"):
                calls = figures[f"{phase} / {kind} {k} calls"].mean
                cells = [figures[f"{phase} / {x} {k}"].told() for x in (kind, *others)]
                rows.append([f"{calls:.0f}", "round robin" if others else kind, k, *cells, *[""] * (2 - len(others))])
        for rule in ("majority", "beta", "sprt"):
            calls = figures[f"{phase} / knockout {rule} calls"].mean
            rows.append([f"{calls:.1f}", "knockout", rule, figures[f"{phase} / knockout {rule}"].told(), "", ""])
        rows.sort(key=lambda row: float(str(row[0])))
        lines += [f"{name[0].upper()}{name[1:]}:", "", *_table(["calls", "tournament", "votes", "points or champion", "Bradley-Terry", "Elo"], rows)]
    return lines


def _points(figures: dict[str, Figure]) -> list[str]:
    header = [
        "samples",
        "all",
        "all, expectations",
        "half by meta RM",
        "half by meta RM of hidden states",
        "half by log-prob",
        "half by grade",
        "half by truth",
    ]
    lines = _table(header, ([k, *(figures[f"points / {kind} {k}"].told() for kind in SUMS)] for k in _numbers(figures, "points / sum")))
    aucs = ", ".join(f"{kind} {figures[f'points / auc of {kind}'].mean:.3f}" for kind in ("meta", "meta of hidden", "log-prob", "grade"))
    return [
        *lines,
        f"A sampled grade is right in {figures['points / grade is right'].told()} % of samples, and off by"
        f" {figures['points / grade is off by'].told(1.0, 3)}, its expectation by {figures['points / expectation is off by'].told(1.0, 3)}."
        f" Probability that a right sample is rated above a wrong one (AUC): {aucs}.",
        "",
    ]


def _answers(asked: list[tuple[str, Figure]]) -> list[str]:
    return _table(
        ["question", "difference, points", "of each seed", "shown"],
        ([name, f.told(), ", ".join(f"{100 * x:+.1f}" for x in f.each), f.shown] for name, f in asked),
    )


def _timing(timing: dict[str, Any]) -> list[str]:
    lines = []
    for vocabulary, loops in timing.items():
        parts = list(dict.fromkeys(part for of in loops.values() for part in of["ms"]))
        rows = [[part, *(f"{of['ms'][part]:.2f}" if part in of["ms"] else "" for of in loops.values())] for part in parts]
        rows.append(["head differs by", *(f"{of['head differs by']:.1e}" for of in loops.values())])
        lines += [f"Vocabulary of {vocabulary}, ms a step (medians):", "", *_table(["", *loops], rows)]
    return lines


def _agreement(figures: dict[str, Figure], old: dict[str, Any]) -> str:
    """How many figures are within the intervals of a run before."""
    both = [name for name in figures if name in old]
    out = [name for name in both if abs(figures[name].mean - old[name]["mean"]) > max(old[name]["items"], old[name]["seeds"] or 0.0)]
    return f"{len(both) - len(out)} of {len(both)} figures lie within the intervals of the run before" + (f"; not {', '.join(out)}" if out else "")


def write(out: Path, facts: dict[str, Any], found: Results, timing: dict[str, Any]) -> None:
    settings, figures = facts["settings"], all_figures(found)
    facts = machine.describe(torch.device("cpu")) | facts
    asked = {topic: [(q.asked, q.answer(found)) for q in those] for topic, those in questions(settings).items()}
    tables = {
        "Thinking before the verdict": _training(figures, settings, found),
        "More votes": _votes(figures),
        "Round robin or knockout; Bradley-Terry, Elo or points": _tournaments(figures),
        "Sums of grades, and a meta reward model": _points(figures),
    }
    minutes = sum(of["seconds"] for seed in found for of in seed.values()) / len(found) / 60
    lines = [
        f"# Evidence: what a tiny judge shows of reward reasoning, {facts['date']}, commit {facts['commit']}",
        "",
        f"{facts['device']}, torch {facts['versions']['torch']}, {facts['backends']['cpu']}. Seeds {', '.join(map(str, facts['seeds']))};"
        f" {minutes:.1f} minutes of one core each. [Picture]({NAME}.png), [all figures]({NAME}.json).",
        "",
        f"Per cent of {settings['pairs']} test pairs, or {settings['problems']} problems of {settings['candidates']} candidates, a seed."
        " Behind the first ± is the half-width of a 95 % interval over the items of these seeds, behind the second that over seeds (Student's; a seed"
        " is a training of its own with items of its own). A difference, taken item by item, counts as shown when both intervals leave out 0;"
        f" of {sum(map(len, asked.values()))} questions one in twenty would by chance, if only one of the intervals were asked.",
        "",
    ]
    for topic, those in asked.items():
        lines += [f"## {topic}", "", *_answers(those), *tables.get(topic, [])]
    lines += ["## Where the time of a GRPO step goes", "", *_timing(timing)]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{NAME}.json"
    if path.exists():
        print(_agreement(figures, json.loads(path.read_text())["figures"]))
    as_json = {name: {**f._asdict(), "seeds": f.seeds if f.seeds == f.seeds else None} for name, f in figures.items()}
    path.write_text(json.dumps({**facts, "figures": as_json, "timing": timing}, indent=1) + "\n")
    (out / f"{NAME}.md").write_text("\n".join(lines))
    draw(figures, settings, f"seeds {', '.join(map(str, facts['seeds']))}; bars: 95 % intervals, the wider of items and seeds", out / f"{NAME}.png")
    print(f"written to {out / NAME}.md, .json and .png")
