"""The main picture: accuracy against evaluator compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Canvas

from bench.evidence.figures import JUDGES, Figure

COLOURS = {"think": "C0", "rlvr": "C2"}
RULES = {"majority": "<", "beta": "v", "sprt": ">"}


def _line(axis: Any, figures: dict[str, Figure], points: dict[float, str], **look: Any) -> None:
    """points: compute -> the figure's name."""
    found = [figures[name] for name in points.values()]
    bars = [100 * max(f.items, f.seeds if f.seeds == f.seeds else 0.0) for f in found]
    axis.errorbar(list(points), [100 * f.mean for f in found], yerr=bars, capsize=2, markersize=4, linewidth=1.2, elinewidth=0.7, **look)


def draw(figures: dict[str, Figure], settings: dict[str, Any], told: str, path: Path) -> None:
    canvas = Canvas(figsize=(15, 5.4), layout="constrained")
    pairs, best, alone = canvas.subplots(1, 3)
    thought = settings["length"] + 5
    for arm, tokens, mark in (("direct", 1, "x"), ("fillers", thought, "+"), ("verdict first", 1, "1")):
        _line(pairs, figures, {tokens: f"{arm} / greedy"}, fmt=mark, color="0.4", label=arm)
    for judge, name in JUDGES.items():
        votes, matches, look = f"votes of {judge}", f"tournaments of {judge}", {"color": COLOURS[judge]}
        odd = [k for k in (1, 3, 5, 9, 17, 33) if k <= settings["votes"]]
        _line(pairs, figures, {thought * k: f"{votes} / votes {k}" for k in odd}, fmt="-o", label=f"{name}: votes", **look)
        for rule, mark in RULES.items():
            _line(pairs, figures, {thought * figures[f"{votes} / {rule} calls"].mean: f"{votes} / {rule}"}, fmt=mark, label=f"... {rule}", **look)
        ks = [k for k in (1, 2, 3, 4, 5, 8, 9, 16) if k <= settings["match_votes"]]
        for kind, fmt in (("points", "-s"), ("knockout", "--o")):
            label = f"{name}: {'round robin' if kind == 'points' else kind}"
            _line(
                best,
                figures,
                {thought * figures[f"{matches} / {kind} {k} calls"].mean: f"{matches} / {kind} {k}" for k in ks},
                fmt=fmt,
                label=label,
                **look,
            )
        for rule, mark in RULES.items():
            calls = figures[f"{matches} / knockout {rule} calls"].mean
            _line(best, figures, {thought * calls: f"{matches} / knockout {rule}"}, fmt=mark, label=f"... knockout, {rule}", **look)
    ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= settings["point_samples"]]
    names = {"sum": "all", "meta": "half by meta reward model", "meta of hidden": "... of hidden states", "log-prob": "half by log-probability",
             "grade": "half by grade", "oracle": "half by the truth", "expected": "all, expected grades"}  # fmt: skip
    for i, (kind, label) in enumerate(names.items()):
        tokens = {settings["candidates"] * (settings["length"] + 2) * k: f"points / {kind} {k}" for k in ks}
        _line(alone, figures, tokens, fmt=":" if kind in ("oracle", "expected") else "-o", label=label, color=f"C{i}")
    pairs.set(title="which of two is better", ylabel="right, %")
    best.set(title=f"best of {settings['candidates']}, judged in pairs")
    alone.set(title=f"best of {settings['candidates']}, judged alone, grades summed")
    for axis in (pairs, best, alone):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("tokens read or written after the prompt, per question")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    canvas.suptitle(told, fontsize=9)
    canvas.savefig(path, dpi=110)
