"""The picture: win matrix and ratings over all questions, what each method pays and gets, and every question's ratings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from examples.tournament.data import Question
from examples.tournament.report import Z95
from rrm_core import Ratings
from rrm_core.tournaments import plot_wins


def _ratings(axis: Any, rating: Tensor, stderr: Tensor) -> None:
    ranks = range(1, len(rating) + 1)
    axis.axhline(0, color="0.8", linewidth=1, zorder=0)
    axis.errorbar(ranks, rating, yerr=Z95 * stderr, fmt="o", color="tab:blue", ecolor="0.5", capsize=3, markersize=4)
    axis.set_xticks(ranks)


def _methods(axis: Any, methods: Sequence[dict[str, Any]]) -> None:
    """Judge calls against rank correlation; methods with as many calls stand side by side."""
    axis.axhline(0, color="0.8", linewidth=1, zorder=0)
    for k, row in enumerate(methods):
        peers = [m for m in range(len(methods)) if methods[m]["calls"] == row["calls"]]
        x = row["calls"] + 0.9 * (peers.index(k) - (len(peers) - 1) / 2)
        mean, low, high = row["rank correlation"]
        axis.errorbar(x, mean, yerr=[[mean - low], [high - mean]], fmt="os^DvPX*h"[k % 9], color=f"C{k}", capsize=3, label=row["method"])
    axis.set(title="what a method pays and gets, 95 % intervals", xlabel="judge calls per question", ylabel="rank correlation with the known order")
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw(questions: Sequence[Question], wins: Tensor, ratings: Ratings, pooled: Ratings, methods: Sequence[dict[str, Any]], path: Path) -> None:
    """Saves the picture. ratings: of every question; pooled: of all questions together."""
    assert pooled.stderr is not None
    assert ratings.stderr is not None
    b, columns = len(questions), 5
    rows = -(-b // columns)
    figure = Figure(figsize=(17, 4.8 + 1.9 * rows), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[4.8, 1.9 * rows])
    matrix, overall, paid = top.subplots(1, 3)
    plot_wins(wins.sum(0, keepdim=True), range(1, wins.shape[1] + 1), limits=(0.3, 0.7), ax=matrix)
    matrix.set(title="mean probability that the row beats the column", xlabel="known rank (1 = best)", ylabel="known rank (1 = best)")
    _ratings(overall, pooled.rating[0], pooled.stderr[0])
    overall.set(title=f"Bradley-Terry over all {b} questions, 95 % intervals", xlabel="known rank (1 = best)", ylabel="rating (log-strength)")
    _methods(paid, methods)

    axes = bottom.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for q, axis in enumerate(axes.flat):
        if q >= b:
            axis.set_visible(False)
            continue
        _ratings(axis, ratings.rating[q], ratings.stderr[q])
        text = questions[q].text
        axis.set_title(text if len(text) < 34 else text[:31] + "...", fontsize=8)
    bottom.supxlabel("known rank of the answer (1 = best)", fontsize=9)
    bottom.supylabel("rating, 95 % interval", fontsize=9)
    figure.savefig(path, dpi=110)
