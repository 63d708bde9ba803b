"""Leaderboards, letter by letter, and their order, scale and columns against plain Python."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.tournaments import Bootstrap, DavidsonRatings, PairCounts, Ratings, RatingStatus, bootstrap, bradley_terry, davidson, elo

INF, NAN = math.inf, math.nan


def ratings(*rows, stderr=None, status=0):
    rating = torch.tensor(rows, dtype=torch.float64)
    states = torch.full((len(rows),), int(status))
    return Ratings(rating, None if stderr is None else torch.tensor(stderr, dtype=torch.float64), states, states)


def text(*lines):
    return "\n".join(lines)


def test_a_table_letter_by_letter():
    of = ratings([0.25, -1.5, -INF, 1.25], stderr=[[0.1, 0.25, NAN, 12.0]])
    assert of.table() == text(
        "rank  name  rating  stderr",
        "   1  3      1.250  12.000",
        "   2  0      0.250   0.100",
        "   3  1     -1.500   0.250",
    )
    wins = torch.tensor([[[9.0, 1, NAN, 2], [3, 9, NAN, 4], [NAN] * 4, [0, 10, NAN, 9]]])  # neither the diagonal nor those left out count
    assert of.table(["llama", "a much longer name", "gone", 7], elo=1000, wins=wins) == text(
        "rank  name                   Elo  stderr  games",
        "   1  7                   1217.1  2084.6     16",
        "   2  llama               1043.4    17.4      6",
        "   3  a much longer name   739.4    43.4     18",
    )


def test_equals_share_a_rank_and_unknown_ratings_have_none():
    assert ratings([NAN, 0.5, 0.0, 0.5, -0.0001]).table("abcde") == text(
        "rank  name  rating",
        "   1  b      0.500",
        "   1  d      0.500",
        "   3  c      0.000",
        "   4  e      0.000",
        "   -  a          -",
    )


def test_every_problem_has_its_own_table():
    of = ratings([1.0, -1.0], [-2.0, 2.0])
    assert of.table(["a", "b"], problem=0) == text("rank  name  rating", "   1  a      1.000", "   2  b     -1.000")
    assert of.table(["a", "b"], problem=1) == text("rank  name  rating", "   1  b      2.000", "   2  a     -2.000")


def test_elo_points_have_one_decimal_and_so_have_large_ratings():
    assert ratings([0.125, -0.125]).table(elo=0).splitlines()[1:] == ["   1  0      21.7", "   2  1     -21.7"]
    assert ratings([-100.0, 99.99]).table().splitlines()[1:] == ["   1  1      100.0", "   2  0     -100.0"]
    assert ratings([-99.99, 99.99]).table().splitlines()[1:] == ["   1  1      99.990", "   2  0     -99.990"]


def test_nobody_takes_part():
    assert ratings([-INF, -INF]).table() == "rank  name  rating"


@pytest.mark.parametrize(
    ("wins", "line"),
    [
        ([[0, 1], [1, 0]], None),
        ([[0, 1], [0, 0]], "no maximum likelihood estimate: some candidates lost nothing to the rest, and only a prior bounds their ratings"),
        ([[0, 0], [0, 0]], "disconnected: some candidates were never compared, not even through others, and only a prior relates them"),
    ],
)
def test_a_status_is_told_in_words(wins, line):
    for found in (bradley_terry([wins]), davidson(PairCounts(torch.tensor([wins]), torch.tensor([[[0, 1], [1, 0]]]) * (line is None)))):
        lines = [below for below in found.table().splitlines()[3:] if not below.startswith("tie strength")]
        assert lines == ([] if line is None else [line])


def test_every_status_has_words():
    lines = {status: ratings([0.0], status=status).table().splitlines()[2:] for status in RatingStatus}
    assert lines.pop(RatingStatus.CONVERGED) == []
    assert [len(below) for below in lines.values()] == [1, 1, 1]
    assert lines[RatingStatus.NOT_CONVERGED] == ["not converged: max_iter steps were too few, or wins are no finite counts"]


def test_davidson_tells_the_tie_strength():
    of = DavidsonRatings(torch.tensor([[0.5, -0.5]]), torch.tensor([0.75]), None, torch.tensor([1]), torch.tensor([3]))
    assert of.table().splitlines()[3] == "tie strength: 0.750"
    assert of.table().splitlines()[4].startswith("no maximum likelihood estimate")
    assert of._replace(stderr=torch.tensor([[0.25, 0.125]])).table().splitlines()[:3] == [
        "rank  name  rating  stderr",
        "   1  0      0.500   0.250",
        "   2  1     -0.500   0.125",
    ]


def test_a_bootstrap_tells_its_intervals():
    of = Bootstrap(
        *(torch.tensor([row], dtype=torch.float64) for row in ([-1.0, 1.0, -INF], [-1.5, 0.5, -INF], [0.75, 1.25, -INF])),
        *(torch.tensor([row]) for row in ([1, 1, 0], [2, 1, 0])),
        torch.tensor([[0.0625, 0.9375, 0.0]]),
        None,
    )
    assert of.table("xyz", wins=[[[0, 0.5, 0], [1, 0, 0], [0, 0, 0]]]) == text(
        "rank  name  rating   lower  upper  ranks  P(best)  games",
        "   1  y      1.000   0.500  1.250      1    0.938    1.5",
        "   2  x     -1.000  -1.500  0.750    1-2    0.062    1.5",
    )
    assert of.table("xyz", elo=0.0).splitlines()[2] == "   2  x     -173.7  -260.6  130.3    1-2    0.062"


def test_tables_of_real_results():
    first, second, outcome = [0, 0, 1, 2, 0, 1], [1, 2, 2, 0, 1, 0], [1, 0.5, 1, 0, 0.5, 0.5]
    table = bootstrap(first, second, outcome, num_candidates=4, mask=[[True, True, True, False]], replicates=50).table("abcd")
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["a", "b", "c"]
    table = elo(first, second, outcome, num_candidates=3).table("abc")
    assert re.fullmatch(r"rank  name  rating\n( +\d  [abc] +\d{3,4}\.\d\n?){3}", table)


@given(st.lists(st.one_of(st.floats(-50, 50), st.just(-INF), st.just(NAN)), min_size=1, max_size=8), st.one_of(st.none(), st.floats(-3000, 3000)))
def test_order_and_scale(values, centre):
    lines = ratings(values).table([f"c{k}" for k in range(len(values))], elo=centre).splitlines()
    assert len({len(line) for line in lines}) == 1
    shown = [line.split() for line in lines[1:]]
    there = {f"c{k}": x for k, x in enumerate(values) if x != -INF}
    assert {name for _, name, _ in shown} == there.keys()
    known = [there[name] for _, name, _ in shown if not math.isnan(there[name])]
    assert known == sorted(known, reverse=True)
    for rank, name, rating in shown:
        if math.isnan(there[name]):
            assert (rank, rating) == ("-", "-")
        else:
            scale = (lambda x: x) if centre is None else lambda x: 400 * x / math.log(10) + centre
            assert int(rank) == 1 + sum(x > there[name] for x in there.values())
            assert float(rating) == pytest.approx(scale(there[name]), abs=0.0501 if "." in rating[-2:] else 0.000501)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"names": ["a", "b", "c"]}, ValueError, "names: expected 2 names, got 3"),
        ({"names": ["a"]}, ValueError, "names: expected 2 names, got 1"),
        ({"problem": 1}, ValueError, "problem: expected one of 1 problems, got 1"),
        ({"problem": -1}, ValueError, "problem: expected an integer of at least 0, got -1"),
        ({"problem": 0.0}, TypeError, "problem: expected an integer, got float"),
        ({"elo": True}, TypeError, "elo: expected a number, got bool"),
        ({"elo": INF}, ValueError, "elo: expected a finite number, got inf"),
        ({"wins": torch.zeros(1, 3, 3)}, ValueError, "wins: expected shape [1, 2, 2], got [1, 3, 3]"),
        ({"wins": torch.zeros(2, 2, 2)}, ValueError, "wins: expected shape [1, 2, 2], got [2, 2, 2]"),
        ({"wins": torch.full((1, 2, 2), -1.0)}, ValueError, "wins: expected finite values of at least 0, got -1.0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    found = bradley_terry([[[0, 2], [1, 0]]])
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        found.table(**arguments)
