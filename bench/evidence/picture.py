"""The main picture: accuracy against evaluator compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Canvas

from bench.evidence.figures import JUDGES, Figure, odd
from examples.evidence.settings import COUNTS, RULES

COLOURS = {"think": "C0", "rlvr": "C2"}
MARKS = dict(zip(RULES, "<v>", strict=True))
HALVES = {
    "sum": "all",
    "meta": "half by meta reward model",
    "meta of hidden": "... of hidden states",
    "log-prob": "half by log-probability",
    "grade": "half by grade",
    "oracle": "half by the truth",
    "expected": "all, expected grades",
}


def _line(axis: Any, figures: dict[str, Figure], points: dict[float, str], **look: Any) -> None:
    """points: compute -> the figure's name."""
    found = [figures[name] for name in points.values()]
    bars = [100 * f.width for f in found]
    axis.errorbar(list(points), [100 * f.mean for f in found], yerr=bars, capsize=2, markersize=4, linewidth=1.2, elinewidth=0.5, **look)


def draw(figures: dict[str, Figure], settings: dict[str, Any], told: str, path: Path) -> None:
    canvas = Canvas(figsize=(15, 6.4), layout="constrained")
    pairs, best, alone = canvas.subplots(1, 3)
    thought, n = settings["length"] + 5, settings["candidates"]
    for arm, tokens, mark in (("direct", 1, "x"), ("fillers", thought, "+"), ("verdict first", 1, "1")):
        _line(pairs, figures, {tokens: f"{arm} / greedy"}, fmt=mark, color="0.4", label=arm)
    for judge, name in JUDGES.items():
        votes, played, look = f"votes of {judge}", f"tournaments of {judge}", {"color": COLOURS[judge]}
        _line(pairs, figures, {thought * k: f"{votes} / votes {k}" for k in odd(settings["votes"])}, fmt="-o", label=f"{name}: votes", **look)
        _line(pairs, figures, {thought: f"{judge} / greedy"}, fmt="D", label=f"{name}: likeliest verdict", **look)
        ks = [k for k in COUNTS if k <= settings["match_votes"]]
        for kind, calls, fmt, label in (("matches", "round robin", "-s", "round robin"), ("knockout", "knockout", "--o", "knockout")):
            line = {thought * figures[f"{played} / {calls} {k} calls"].mean: f"{played} / {kind} {k}" for k in ks}
            _line(best, figures, line, fmt=fmt, label=f"{name}: {label}", **look)
        for rule, mark in MARKS.items():
            _line(pairs, figures, {thought * figures[f"{votes} / {rule} calls"].mean: f"{votes} / {rule}"}, fmt=mark, label=f"... {rule}", **look)
            calls_of = figures[f"{played} / knockout {rule} calls"].mean
            _line(best, figures, {thought * calls_of: f"{played} / knockout {rule}"}, fmt=mark, label=f"... knockout, {rule}", **look)
    for i, (kind, label) in enumerate(HALVES.items()):
        samples = (2**j for j in range(settings["point_samples"].bit_length()))
        line = {n * (settings["length"] + 2) * k: f"alone / {kind} {k}" for k in samples}
        _line(alone, figures, line, fmt=":" if kind in ("oracle", "expected") else "-o", label=label, color=f"C{i}")
    titles = ("which of two is better", f"best of {n}, judged in pairs", f"best of {n}, judged alone, grades summed")
    for axis, title in zip((pairs, best, alone), titles, strict=True):
        axis.set(title=title, xlabel="tokens after the prompts, per question", ylabel="right, %")
        axis.set_xscale("log", base=2)
        axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
        axis.grid(alpha=0.3)
    canvas.suptitle(told, fontsize=9)
    canvas.savefig(path, dpi=110)
