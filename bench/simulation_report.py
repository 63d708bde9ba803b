"""What was simulated, as tables and as one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.report import markdown_table
from bench.simulation_tournaments import IN_FULL, INVALID, OWN

Row = dict[str, Any]
FAMILIES = {
    "knockout": "knockout: 1, 3, n / 2 votes a match",
    "round robin": "round robin (Bradley-Terry): 2, 4, 8 opponents, all",
    "swiss": "Swiss, log2 n and 2 log2 n rounds",
    "anchored": "anchored (Bradley-Terry), 2 and 4 anchors",
}
SHOWN = (8, 16, 64)


def _percent(row: Row, of: str = "accuracy") -> str:
    return f"{100 * row[of]:.1f} ± {100 * row['stderr']:.1f}"


def _wide(rows: Sequence[Row], names: Sequence[str], across: str, cell: Callable[[Row], str] = _percent) -> list[str]:
    """One line for what ``names`` tell apart, one column for each value of ``across``."""
    columns = list(dict.fromkeys(row[across] for row in rows))
    lines: dict[tuple[Any, ...], dict[Any, str]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in names), {})[row[across]] = cell(row)
    header = [*names, *(f"{across} {column}" for column in columns)]
    return markdown_table(header, [[*_told(key), *(cells.get(column, "") for column in columns)] for key, cells in lines.items()])


def _told(values: Iterable[Any]) -> list[str]:
    return [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]


def as_text(facts: Row, found: dict[str, list[Row]]) -> str:
    played = found["tournaments"]
    sizes = list(dict.fromkeys(row["n"] for row in played))
    lines = [
        f"# Judge calls and picks, simulated, {facts['date']}, commit {facts['commit']}",
        "",
        f"Problems: {', '.join(f'{count} of n = {n}' for n, count in facts['scale']['problems'].items())}; seed {facts['seed']};"
        f" {facts['seconds']:.0f} s.",
        "Strengths are standard normal; a judge says that i beats j with probability sigmoid(s (q_i - q_j)), s such that it is right about a random"
        ' pair as often as "judge" says. Calls are independent unless told otherwise. Accuracy: percent of problems in which the pick is the truly'
        " best, ± standard error. Regret: mean strength lost by the pick. Kendall's correlation counts a pair of equal scores as 0.",
        "",
    ]
    for n in sizes:
        own = [row for row in played if row["n"] == n and row["rating"] == OWN]
        lines += [f"## n = {n}: accuracy of the tournament's own ranking, by the judge's accuracy", ""]
        lines += _wide(own, ("method", "calls"), "judge")
        rows = [row for row in played if row["n"] == n and row["judge"] == IN_FULL]
        lines += [f"## n = {n}, judge {IN_FULL}: ratings of the recorded matches", ""]
        header = ("method", "rating", "calls", "accuracy", "regret", "Kendall", "Spearman")
        figures = ("regret", "kendall", "spearman")
        lines += markdown_table(
            header, [[*_told((r["method"], r["rating"], r["calls"])), _percent(r), *(f"{r[x]:.3f}" for x in figures)] for r in rows]
        )
    bias, again, order = found["position bias"], found["repeating judges"], found["elo orders"]
    lines += [f"## Position bias added to the log-odds, {INVALID:.0%} of the verdicts invalid, n = {bias[0]['n']}, judge {IN_FULL}", ""]
    lines += _wide(bias, ("method", "calls"), "bias")
    lines += [f"## Judges who repeat themselves: share of the calls that always say the same of a pair, n = {again[0]['n']}, judge {IN_FULL}", ""]
    lines += _wide([row for row in again if row["rating"] == OWN], ("method", "calls"), "repeats")
    lines += [f"## Two orders of the same matches, complete round robin, judge {IN_FULL}: percent of picks that change (that are no Borda top)", ""]
    told = [row | {"games": f"{row['games of a pair']} of a pair"} for row in order]
    lines += _wide(told, ("rating", "games"), "n", lambda row: f"{_percent(row, 'changed')} ({100 * row['not a borda top']:.1f})")
    scores = found["sampled scores"]
    lines += [f"## k sampled judgements of all n = {scores[0]['n']}, a middling one right about {IN_FULL} of pairs", ""]
    lines += _wide(scores, ("rule",), "calls")
    lines += ["## Votes on one pair, at most 15: accuracy (mean calls)", ""]
    lines += _wide(found["adaptive votes"], ("rule",), "judge", lambda row: f"{_percent(row)} ({row['calls']:.1f})")
    tied = found["ties"]
    lines += [f"## Ties, n = {tied[0]['n']}, judge {IN_FULL}", ""]
    cells = [[r["opponents"], f"{r['ties']:.1%}", r["rating"], _percent(r), f"{r['other pick']:.1%}", f"{r['kendall']:.3f}"] for r in tied]
    lines += markdown_table(("opponents", "ties", "rating", "accuracy", "pick other than with half wins", "Kendall"), cells)
    covered, sure = found["coverage"], found["confidence"]
    lines += [f"## Coverage of 95 % intervals of Bradley-Terry ratings, n = {covered[0]['n']}, 8 verdicts of every pair, judge {IN_FULL}", ""]
    told_intervals = [[r["games"], r["interval"], _percent(r, "coverage"), f"{r['width']:.2f}"] for r in covered]
    lines += markdown_table(("games", "interval", "coverage", "mean width"), told_intervals)
    lines += [f"## How often the pick is the best, by how sure the bootstrap is of it, complete round robin, n = {sure[0]['n']}, judge {IN_FULL}", ""]
    span = [f"{r['best from']} to {r['best below']}" for r in sure]
    lines += markdown_table(("best", "problems", "accuracy"), [[at, f"{r['problems']:.1%}", _percent(r)] for at, r in zip(span, sure, strict=True)])
    return "\n".join(lines)


def draw(found: dict[str, list[Row]], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(21, 10.5), layout="constrained")
    figure.suptitle(f"Simulated judges: what judge calls buy ({title}; bars: two standard errors)", fontsize=14)
    played, again = [row for row in found["tournaments"] if row["judge"] == IN_FULL], found["repeating judges"]
    for axis, n in zip(axes[0, :3], SHOWN, strict=True):
        own = [row for row in played if row["n"] == n]
        axis.set_visible(bool(own))  # a quick run has fewer sizes
        if own:
            _draw_tournaments(axis, own, f"n = {n}, judge right about {IN_FULL:.0%} of pairs")
    n = again[0]["n"]
    _draw_tournaments(axes[0, 3], [row for row in again if row["repeats"] == 1], f"n = {n}, always the same verdict on a pair")
    _draw_scores(axes[1, 0], found["sampled scores"])
    _draw_adaptive(axes[1, 1], found["adaptive votes"])
    _draw_orders(axes[1, 2], found["elo orders"])
    _draw_bias(axes[1, 3], found["position bias"])
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _line(axis: Any, rows: Sequence[Row], **style: Any) -> None:
    rows = sorted(rows, key=lambda row: row["calls"])
    percents, bars = [100 * row["accuracy"] for row in rows], [200 * row["stderr"] for row in rows]
    axis.errorbar([row["calls"] for row in rows], percents, yerr=bars, **{"marker": "o", "markersize": 5, "elinewidth": 1, **style})


def _log_calls(axis: Any, label: str) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel=label, ylabel="pick is the best, %")
    axis.grid(alpha=0.3)


def _draw_tournaments(axis: Any, rows: Sequence[Row], title: str) -> None:
    n = rows[0]["n"]
    for family, label in FAMILIES.items():
        rating = "bradley_terry" if family in ("round robin", "anchored") else OWN
        own = [row for row in rows if row["method"].startswith(family) and row["rating"] == rating and "order" not in row["method"]]
        _line(axis, own, label=label)
    axis.axhline(100 / n, color="grey", linestyle=":", label="a guess")
    _log_calls(axis, "judge calls per problem")
    axis.set(title=title, ylim=(0, 100))
    if n == SHOWN[0]:
        axis.legend(fontsize=9, loc="upper left")


def _draw_scores(axis: Any, rows: Sequence[Row]) -> None:
    for rule in dict.fromkeys(row["rule"] for row in rows):
        guided = "meta" in rule
        label = rule.replace("best half by meta, correlation", "best half by a meta score, correlation")
        _line(axis, [row for row in rows if row["rule"] == rule], label=label, linestyle="--" if guided else "-")
    _log_calls(axis, "sampled judgements k, each of all candidates")
    axis.set(title=f"Vote rules, n = {rows[0]['n']}", ylim=(0, 100))
    axis.legend(fontsize=9, loc="lower right")


def _draw_adaptive(axis: Any, rows: Sequence[Row]) -> None:
    marks = {"majority": "s", "beta": "^", "sprt": "*"}
    for number, accuracy in enumerate(dict.fromkeys(row["judge"] for row in rows)):
        own, colour = [row for row in rows if row["judge"] == accuracy], f"C{number}"
        fixed = [row for row in own if row["rule"] not in marks]
        percents = [100 * row["accuracy"] for row in fixed]
        axis.plot([row["calls"] for row in fixed], percents, color=colour, marker=".", label=f"judge {accuracy:.0%}, fixed votes")
        for rule, mark in marks.items():
            at = next(row for row in own if row["rule"] == rule)
            axis.plot(at["calls"], 100 * at["accuracy"], mark, color=colour, markersize=11, markeredgecolor="black")
    for rule, mark in marks.items():
        axis.plot([], [], mark, color="white", markersize=11, markeredgecolor="black", label=f'stops early: "{rule}"')
    axis.set(xlabel="mean calls for one pair (at most 15)", ylabel="verdict is right, %", title="Adaptive votes", ylim=(45, 101.5))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, loc="lower right", ncols=2)


def _draw_orders(axis: Any, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys((row["rating"], row["games of a pair"]) for row in rows if row["rating"] != "bradley_terry"))
    sizes = list(dict.fromkeys(row["n"] for row in rows))
    width = 0.8 / len(names)
    for number, (rating, games) in enumerate(names):
        own = [row for row in rows if (row["rating"], row["games of a pair"]) == (rating, games)]
        label = f"{rating}, pairs met {('once', 'twice')[games - 1]}"
        places = [sizes.index(row["n"]) + (number - (len(names) - 1) / 2) * width for row in own]
        axis.bar(places, [100 * row["changed"] for row in own], width, yerr=[200 * row["stderr"] for row in own], label=label)
    axis.set_xticks(range(len(sizes)), [f"n = {n}" for n in sizes])
    axis.set(ylabel="picks that change, %", title="Elo in two orders of the same matches")
    axis.plot([], [], " ", label="bradley_terry: 0 everywhere")
    axis.set_ylim(0, 1.35 * axis.get_ylim()[1])
    axis.legend(fontsize=9, loc="upper left")


def _draw_bias(axis: Any, rows: Sequence[Row]) -> None:
    for method in dict.fromkeys(row["method"] for row in rows):
        family, style = list(FAMILIES).index(method.split(",")[0]), "-" if method.endswith("both orders") else "--"
        own = [row for row in rows if row["method"] == method]
        percents, bars = [100 * row["accuracy"] for row in own], [200 * row["stderr"] for row in own]
        label = f"{method} ({own[0]['calls']:.0f} calls)"
        axis.errorbar([row["bias"] for row in own], percents, yerr=bars, color=f"C{family}", linestyle=style, marker="o", markersize=5, label=label)
    axis.set(xlabel="log-odds added for whoever is shown first", ylabel="pick is the best, %", title=f"Position bias, n = {rows[0]['n']}")
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, loc="upper right")
