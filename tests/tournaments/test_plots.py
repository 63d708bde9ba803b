"""What is drawn: the figures read back from the axes."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
import torch

from rrm_core.tournaments import (
    Bootstrap,
    DavidsonRatings,
    PairCounts,
    Ratings,
    bradley_terry,
    davidson,
    plot_calibration,
    plot_ratings,
    plot_tournament,
    plot_wins,
)

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

INF, NAN = math.inf, math.nan
WINS = torch.tensor([[[5.0, 3, 0, 1], [1, 5, 2, 4], [0, 2, 5, 1], [1, 0, 3, 5]]], dtype=torch.float64)  # with a diagonal that must not count
ELO = 400 / math.log(10)


def ratings(*row, stderr=None):
    return Ratings(torch.tensor([row]).double(), None if stderr is None else torch.tensor([stderr]).double(), torch.tensor([0]), torch.tensor([1]))


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def texts(ax):
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in ax.texts}


def test_wins_are_shares_of_games():
    ax = plot_wins(WINS, ["a", "b", "c", "d"])
    assert texts(ax) == {
        (0, 1): "0.75", (1, 0): "0.25", (0, 3): "0.50", (3, 0): "0.50", (1, 2): "0.50", (2, 1): "0.50",
        (1, 3): "1.00", (3, 1): "0.00", (2, 3): "0.25", (3, 2): "0.75",
    }  # fmt: skip
    shown = ax.images[0].get_array().filled(NAN)
    assert shown[0, 1] == 0.75
    assert [bool(math.isnan(shown[i, i])) for i in range(4)] == [True] * 4
    assert math.isnan(shown[0, 2])  # never met
    assert ax.images[0].get_clim() == (0, 1)
    assert labels(ax.yaxis) == labels(ax.xaxis) == ["a", "b", "c", "d"]


def test_ties_are_half_a_win():
    ties = torch.tensor([[[0.0, 4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]])
    assert texts(plot_wins(PairCounts(WINS, ties)))[0, 1] == "0.62"  # 5 of 8
    assert texts(plot_wins(WINS / 4)) == texts(plot_wins(WINS))  # parts of games


def test_wins_in_the_order_of_ratings_without_those_left_out():
    ax = plot_wins(WINS, "abcd", ratings=ratings(0.0, 1.0, -INF, 0.5))
    assert labels(ax.yaxis) == labels(ax.xaxis) == ["b", "d", "a"]
    assert texts(ax) == {(0, 1): "1.00", (1, 0): "0.00", (0, 2): "0.25", (2, 0): "0.75", (1, 2): "0.50", (2, 1): "0.50"}


def test_figures_can_be_read_on_their_colours_and_only_where_there_is_room():
    colors = {text.get_text(): text.get_color() for text in plot_wins([[[0, 10], [0, 0]]], limits=(-1.0, 2.0)).texts}
    assert colors == {"1.00": "black", "0.00": "black"}
    ax = plot_wins([[[0, 10], [0, 0]]])
    assert {text.get_text(): text.get_color() for text in ax.texts} == {"1.00": "white", "0.00": "white"}
    assert {text.get_color() for text in plot_wins([[[0, 1], [1, 0]]]).texts} == {"black"}
    assert len(plot_wins(torch.ones(1, 12, 12)).texts) == 12 * 11
    assert len(plot_wins(torch.ones(1, 13, 13)).texts) == 0
    assert plot_wins(WINS, limits=(0.3, 0.7)).images[0].get_clim() == (0.3, 0.7)


@pytest.mark.parametrize(("elo", "unit", "centre"), [(None, 1.0, 0.0), (1000, ELO, 1000.0)])
def test_ratings_with_standard_errors(elo, unit, centre):
    ax = plot_ratings(ratings(0.5, -1.0, -INF, 2.0, stderr=[0.1, 0.2, NAN, 0.3]), "abcd", elo=elo)
    assert labels(ax.yaxis) == ["d", "a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row on top
    assert ax.lines[0].get_xdata() == pytest.approx([unit * x + centre for x in (2.0, 0.5, -1.0)])
    assert list(ax.lines[0].get_ydata()) == [0, 1, 2]
    ends = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    for (low, high), x, error in zip(ends, (2.0, 0.5, -1.0), (0.3, 0.1, 0.2), strict=True):
        assert (low, high) == pytest.approx((unit * (x - 1.96 * error) + centre, unit * (x + 1.96 * error) + centre))
    assert ax.get_xlabel() == ("rating" if elo is None else "Elo points") + ", 95 % intervals"


def test_ratings_with_a_bootstraps_intervals():
    rows = ([0.0, 1.0], [0.25, 0.5], [0.75, 2.0])  # the first rating is out of its interval, as may happen
    ranks = torch.ones(1, 2, dtype=torch.int64)
    ax = plot_ratings(Bootstrap(*(torch.tensor([row]).double() for row in rows), ranks, ranks, torch.zeros(1, 2), None))
    assert labels(ax.yaxis) == ["1", "0"]
    assert [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()] == [[0.5, 2.0], [0.25, 0.75]]
    assert ax.get_xlabel() == "rating, bootstrap intervals"


def test_ratings_without_intervals():
    ax = plot_ratings(ratings(1.0, 2.0))
    assert ax.get_xlabel() == "rating"
    assert [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()] == [[2.0, 2.0], [1.0, 1.0]]


def test_calibration_has_every_pair_that_met():
    rating = [0.0, 1.0, -2.0, 0.5]
    ax = plot_calibration(WINS, ratings(*rating))
    points, sizes = ax.collections[0].get_offsets().tolist(), ax.collections[0].get_sizes().tolist()
    pairs = [(1, 3), (1, 0), (1, 2), (3, 0), (3, 2)]  # better first; 0 and 2 never met
    games = [float(WINS[0, i, j] + WINS[0, j, i]) for i, j in pairs]
    expected = [[1 / (1 + math.exp(rating[j] - rating[i])), float(WINS[0, i, j]) / g] for (i, j), g in zip(pairs, games, strict=True)]
    assert points == [pytest.approx(point) for point in expected]
    assert sizes == pytest.approx([60 * g * len(games) / sum(games) for g in games])
    assert ax.lines[0].get_xydata().tolist() == [[0.5, 0.5], [1.0, 1.0]]


def test_calibration_of_davidson_expects_ties():
    counts = PairCounts(WINS, torch.tensor([[[0.0, 4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 2], [0, 0, 2, 0]]]))
    of = DavidsonRatings(torch.tensor([[1.0, 0.0, -INF, -1.0]]).double(), torch.tensor([0.6]).double(), None, torch.tensor([0]), torch.tensor([1]))
    points = plot_calibration(counts, of).collections[0].get_offsets().tolist()
    p, q = math.exp(1.0), 1.0
    tie = 0.6 * math.sqrt(p * q)
    assert points[0] == pytest.approx([(p + tie / 2) / (p + q + tie), 5 / 8])
    assert len(points) == 3


def test_calibration_leaves_unknown_ratings_out():
    assert len(plot_calibration(WINS, ratings(NAN, 1.0, 0.0, NAN)).collections[0].get_offsets()) == 1
    assert len(plot_calibration(WINS, ratings(NAN, NAN, NAN, NAN)).collections[0].get_offsets()) == 0


def test_problems_are_told_apart():
    wins = torch.stack([WINS[0], WINS[0].T])
    rated = bradley_terry(wins, stderr=True)
    assert texts(plot_wins(wins, problem=1))[1, 0] == "0.75"
    order = rated.rating[1].argsort(descending=True).tolist()
    assert labels(plot_ratings(rated, problem=1).yaxis) == list(map(str, order))
    expected = torch.sigmoid(rated.rating[1][order[0]] - rated.rating[1][order[1]])
    assert plot_calibration(wins, rated, problem=1).collections[0].get_offsets()[0, 0] == pytest.approx(float(expected))


def test_a_tournament_side_by_side(tmp_path):
    names = ["a$_$c", "x$^2", "long name of a model", "d"]
    of = davidson(PairCounts(WINS, torch.zeros_like(WINS)), stderr=True)
    figure = plot_tournament(WINS, of, iter(names), elo=0)
    matrix, overall, pairs = figure.axes[:3]
    assert len(matrix.texts) == 10
    assert labels(matrix.yaxis) == labels(overall.yaxis) == [names[k] for k in of.rating[0].argsort(descending=True).tolist()]
    assert overall.get_xlabel() == "Elo points, 95 % intervals"
    assert len(pairs.collections[0].get_offsets()) == 5
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "tournament.png")  # names are no formulas
    assert (tmp_path / "tournament.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_axes_of_ones_own_are_drawn_on():
    axes = Figure().subplots(1, 3)
    of = ratings(0.0, 1.0, 2.0, 3.0)
    assert [plot_wins(WINS, ax=axes[0]), plot_ratings(of, ax=axes[1]), plot_calibration(WINS, of, ax=axes[2])] == list(axes)


def test_matplotlib_is_imported_by_the_first_plot_and_pyplot_never(tmp_path):
    code = (
        "import sys, torch; from rrm_core.tournaments import plot_wins; assert 'matplotlib' not in sys.modules;"
        "plot_wins(torch.ones(1, 2, 2)).figure.savefig(sys.argv[1]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "wins.png"], check=True)


def test_without_matplotlib_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (lambda: plot_wins(WINS), lambda: plot_ratings(ratings(1.0)), lambda: plot_tournament(WINS, ratings(1.0, 2.0, 3.0, 4.0))):
        with pytest.raises(ImportError, match=r"^plots need matplotlib, which is not installed: pip install matplotlib$"):
            draw()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_wins(WINS, ["a"]), "names: expected 4 names, got 1"),
        (lambda: plot_wins(WINS, problem=1), "problem: expected one of 1 problems, got 1"),
        (lambda: plot_wins(WINS, limits=(1.0, 0.0)), "limits: expected two shares in ascending order, got (1.0, 0.0)"),
        (lambda: plot_wins(WINS, ratings=ratings(1.0, 2.0)), "wins: expected shape [1, 2, 2], got [1, 4, 4]"),
        (lambda: plot_wins(-WINS), "wins: expected finite values of at least 0, got -3.0"),
        (lambda: plot_ratings(ratings(1.0, 2.0), ["a"]), "names: expected 2 names, got 1"),
        (lambda: plot_ratings(ratings(1.0), problem=2), "problem: expected one of 1 problems, got 2"),
        (lambda: plot_calibration(WINS, ratings(1.0), problem=1), "problem: expected one of 1 problems, got 1"),
        (lambda: plot_calibration(WINS, ratings(1.0, 2.0)), "wins: expected shape [1, 2, 2], got [1, 4, 4]"),
        (lambda: plot_calibration(PairCounts(WINS, -WINS), ratings(1.0, 2.0, 3.0, 4.0)), "ties: expected finite values of at least 0, got -3.0"),
    ],
)
def test_bad_arguments(draw, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        draw()
