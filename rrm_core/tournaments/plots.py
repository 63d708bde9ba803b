"""Pictures of a tournament. matplotlib is imported when something is drawn; without axes to draw on, a figure is made that pyplot doesn't know."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from rrm_core._validate import require
from rrm_core.tournaments.bootstrap import Bootstrap
from rrm_core.tournaments.davidson import DavidsonRatings
from rrm_core.tournaments.inputs import ArrayLike, PairCounts, pair_counts
from rrm_core.tournaments.ratings import Ratings
from rrm_core.tournaments.tables import ELO_POINTS, best_first, counted, labels_of, require_problem, scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AnyRatings: TypeAlias = Ratings | DavidsonRatings | Bootstrap

_ANNOTATED = 12  # candidates whose cells have room for a number
_SHORT = 4  # letters of a name that needs no slant
_Z95 = 1.96
_LUMINANCE = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)  # of red, green and blue


def plot_wins(
    wins: ArrayLike | PairCounts,
    names: Iterable[object] | None = None,
    *,
    ratings: AnyRatings | None = None,
    problem: int = 0,
    limits: tuple[float, float] = (0.0, 1.0),
    ax: Axes | None = None,
) -> Axes:
    """Draws what share of their games each candidate (row) won against each other one (column), with figures for up to 12 candidates.

    Args:
        wins: [B, n, n] or a PairCounts, whose ties count half a win each way.
        names: of the n candidates; their numbers when None.
        ratings: order of the candidates, best first, without those who take no part; the order given when None.
        problem: which of the B.
        limits: shares with the ends of the colours.
        ax: axes to draw on; a new figure's (``ax.figure``) when None.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: an argument doesn't fit.
        ImportError: matplotlib is not installed.
    """
    rating = torch.zeros_like(pair_counts(wins)[0][..., 0]) if ratings is None else ratings.rating
    require_problem(problem, rating)
    low, high = limits
    require(low < high, "limits", "two shares in ascending order", limits)
    labels, order = labels_of(names, rating), best_first(rating[problem].tolist())
    points, games = (x[order][:, order] for x in counted(wins, problem, rating))
    share = (points / games).masked_fill(games == 0, math.nan)
    ax = _axes(ax, (6.0, 5.0))
    image = ax.imshow(share.numpy(), cmap="RdBu", vmin=low, vmax=high)
    ax.figure.colorbar(image, ax=ax, shrink=0.85, extend="neither" if (low, high) == (0, 1) else "both")
    if len(order) <= _ANNOTATED:
        dark = torch.from_numpy(image.to_rgba(share.numpy()))[..., :3] @ _LUMINANCE < 0.5
        for i, j in games.nonzero().tolist():
            ax.text(j, i, f"{float(share[i, j]):.2f}", ha="center", va="center", color="white" if dark[i, j] else "black")
    shown = [labels[k] for k in order]
    slant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, shown), default=0) > _SHORT else {}
    ax.set_xticks(range(len(order)), labels=shown, parse_math=False, **slant)
    ax.set_yticks(range(len(order)), labels=shown, parse_math=False)
    ax.set_title("share the row won of games against the column")
    return ax


def plot_ratings(
    ratings: AnyRatings, names: Iterable[object] | None = None, *, problem: int = 0, elo: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draws ratings with their intervals, the best on top.

    Args:
        ratings: intervals are those of a Bootstrap, or 1.96 standard errors (95 %) to either side, if there are any.
        names, problem, ax: as for ``plot_wins``.
        elo: draws log-strengths as Elo points, times 400 / ln 10, around this number.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: an argument doesn't fit.
        ImportError: matplotlib is not installed.
    """
    require_problem(problem, ratings.rating)
    labels, rating = labels_of(names, ratings.rating), scaled(ratings.rating, problem, elo)
    order = best_first(ratings.rating[problem].tolist())
    rows = range(len(order))
    label = "rating" if elo is None else "Elo points"
    ax = _axes(ax, (6.0, 1.5 + 0.3 * len(order)))
    if isinstance(ratings, Bootstrap):
        lower, upper = scaled(ratings.lower, problem, elo), scaled(ratings.upper, problem, elo)
        label += ", bootstrap intervals"
    elif ratings.stderr is not None:
        reach = [_Z95 * (1.0 if elo is None else ELO_POINTS) * error for error in ratings.stderr[problem].tolist()]
        lower, upper = ([x + side * r for x, r in zip(rating, reach, strict=True)] for side in (-1, 1))
        label += ", 95 % intervals"
    else:
        lower, upper = rating, rating
    ax.hlines(rows, [lower[k] for k in order], [upper[k] for k in order], color="0.5")  # no error bars: a bootstrap's interval may miss the rating
    ax.plot([rating[k] for k in order], rows, "o", color="tab:blue", markersize=5)
    ax.set_yticks(rows, labels=[labels[k] for k in order], parse_math=False)
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set(title="ratings", xlabel=label)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    return ax


def plot_calibration(wins: ArrayLike | PairCounts, ratings: AnyRatings, *, problem: int = 0, ax: Axes | None = None) -> Axes:
    """Draws, for every pair that met, the share of games its better rated candidate won over the share that the ratings expect. Areas are
    proportional to games. Points under the diagonal: the ratings are too sure of themselves.

    Args:
        wins: [B, n, n] or a PairCounts, whose ties count half a win each way.
        ratings: log-strengths: sigmoid(rating_i - rating_j) is expected, and of DavidsonRatings the chance of a win and half that of a tie.
        problem, ax: as for ``plot_wins``.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: an argument doesn't fit.
        ImportError: matplotlib is not installed.
    """
    require_problem(problem, ratings.rating)
    points, games = counted(wins, problem, ratings.rating)
    expected = _expected(ratings, problem)
    order = torch.tensor(best_first(ratings.rating[problem].tolist()), dtype=torch.int64)
    better, worse = (order[k] for k in torch.triu_indices(len(order), len(order), 1))
    met = (games[better, worse] > 0) & ~expected[better, worse].isnan()
    pairs = better[met], worse[met]
    played = games[pairs]
    ax = _axes(ax, (5.0, 5.0))
    ax.plot([0.5, 1.0], [0.5, 1.0], color="0.7", linewidth=1, zorder=0)
    ax.scatter(expected[pairs].numpy(), (points[pairs] / played).numpy(), s=(60 * played / played.mean()).numpy(), alpha=0.6)
    ax.set(xlim=(0.48, 1.02), ylim=(-0.02, 1.02), title="every pair: expected and observed")
    ax.set(xlabel="expected share of the better rated", ylabel="observed share of the better rated")
    return ax


def plot_tournament(
    wins: ArrayLike | PairCounts, ratings: AnyRatings, names: Iterable[object] | None = None, *, problem: int = 0, elo: float | None = None
) -> Figure:
    """A figure of ``plot_wins`` (best first), ``plot_ratings`` and ``plot_calibration``, side by side; ``figure.savefig(path)`` keeps it."""
    names = None if names is None else list(names)
    figure = _figure((17.0, 5.0))
    matrix, overall, pairs = figure.subplots(1, 3)
    plot_wins(wins, names, ratings=ratings, problem=problem, ax=matrix)
    plot_ratings(ratings, names, problem=problem, elo=elo, ax=overall)
    plot_calibration(wins, ratings, problem=problem, ax=pairs)
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib, which is not installed: pip install matplotlib") from error
    return Figure(figsize=size, layout="constrained")


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return _figure(size).subplots() if ax is None else ax


def _expected(ratings: AnyRatings, problem: int) -> Tensor:
    """[n, n]: of the points of a game of i against j, i's share. Without ties it is the sigmoid."""
    rating = ratings.rating[problem].cpu()
    half = (rating.unsqueeze(1) - rating) / 2
    tie = ratings.tie_strength[problem].cpu().log() if isinstance(ratings, DavidsonRatings) else rating.new_full((), -math.inf)
    outcomes = torch.stack([half, tie.expand_as(half), -half]).softmax(0)
    return outcomes[0] + outcomes[1] / 2
