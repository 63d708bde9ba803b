"""Matches out of tables, against what is in them."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.tournaments import bootstrap, bradley_terry, elo, matches_from_frame, pairwise_counts, pairwise_wins

BATTLES = {
    "model_a": ["zephyr", "alpaca", "llama", "zephyr", "alpaca", "llama", "zephyr"],
    "model_b": ["alpaca", "llama", "zephyr", "llama", "zephyr", "alpaca", "alpaca"],
    "winner": ["model_a", "model_b", "tie", "tie (bothbad)", 0.75, None, float("nan")],
    "language": ["fr", "de", "fr", "de", "fr", "de", "fr"],
    "votes": [1, 2, 3, 4, 5, 6, 7],
}
SHARES = [1.0, 0.0, 0.5, 0.5, 0.75, math.nan, math.nan]


def same(a, b):
    assert len(a) == len(b)
    assert all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True)), (a, b)


def check(frame, shares=SHARES):
    found = matches_from_frame(frame, problem="language", weight="votes")
    assert found.names == ["alpaca", "llama", "zephyr"]
    assert found.problems == ["de", "fr"]
    arguments = found.arguments
    assert arguments["first"].tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert arguments["second"].tolist() == [0, 1, 2, 1, 2, 0, 0]
    assert arguments["problem"].tolist() == [1, 0, 1, 0, 1, 0, 1]
    same(arguments["outcome"].tolist(), shares)
    assert arguments["weight"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (arguments["num_problems"], arguments["num_candidates"]) == (2, 3)
    assert {arguments[key].dtype for key in ("first", "second", "problem")} == {torch.int64}
    assert {arguments[key].dtype for key in ("outcome", "weight")} == {torch.float64}


def test_a_dict_of_columns():
    check(BATTLES)
    check({name: tuple(column) for name, column in BATTLES.items()})
    check({**BATTLES, "votes": torch.tensor(BATTLES["votes"])})


class Columns:
    """All a frame must do."""

    def __getitem__(self, name):
        return iter(BATTLES[name])


def test_anything_that_gives_columns():
    check(Columns())
    with pytest.raises(KeyError, match="judge"):
        matches_from_frame(Columns(), problem="judge")


def test_pandas():
    pandas = pytest.importorskip("pandas")
    check(pandas.DataFrame(BATTLES))
    check(pandas.DataFrame(BATTLES, index=range(10, 17)))  # rows are taken one after the other, whatever they are called
    missing = pandas.DataFrame({**BATTLES, "winner": ["model_a", "model_b", "tie", "tie", None, pandas.NA, "tie"], "columns": 0, "column_names": 1})
    check(missing.astype({"winner": "string", "language": "category"}), [1.0, 0.0, 0.5, 0.5, math.nan, math.nan, 0.5])
    with pytest.raises(ValueError, match=r"^frame: expected a column 'judge', got columns \['model_a', 'model_b', 'winner', 'language', 'votes'\]$"):
        matches_from_frame(pandas.DataFrame(BATTLES), problem="judge")


def test_polars():
    polars = pytest.importorskip("polars")
    check(polars.DataFrame({**BATTLES, "winner": SHARES}))
    with pytest.raises(ValueError, match=r"^frame: expected a column 'judge', got columns \['model_a', 'model_b', 'winner', 'language', 'votes'\]$"):
        matches_from_frame(polars.DataFrame(BATTLES, strict=False), problem="judge")


def test_arrow():
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({**BATTLES, "winner": [None if math.isnan(x) else x for x in SHARES]})
    check(table)
    with pytest.raises(ValueError, match=r"^frame: expected a column 'judge', got columns \['model_a', 'model_b', 'winner', 'language', 'votes'\]$"):
        matches_from_frame(table, problem="judge")


def test_counting_what_was_read():
    found = matches_from_frame(BATTLES)
    assert found.problems == [None]
    assert found.arguments["problem"] is None
    assert found.arguments["weight"] is None
    counts = pairwise_counts(**found.arguments)
    assert counts.wins.tolist() == [[[0, 0, 0.75], [1, 0, 0], [1.25, 0, 0]]]
    assert counts.ties.tolist() == [[[0, 0, 0], [0, 0, 2], [0, 2, 0]]]
    assert bradley_terry(counts).table(found.names).splitlines()[0] == "rank  name    rating"
    for function in (pairwise_wins, elo, lambda **m: bootstrap(**m, replicates=2)):
        function(**found.arguments)


def test_outcomes_take_the_place_of_the_usual_labels():
    frame = {"left": [0, 0, 0, 0], "right": [1, 1, 1, 1], "verdict": [1, 2, 0, "garbage"]}
    outcomes = {1: 1.0, 2: 0.0, 0: 0.5, "garbage": None}  # 1, 0 and 0.5 among the usual ones would be shares
    found = matches_from_frame(frame, first="left", second="right", outcome="verdict", outcomes=outcomes)
    same(found.arguments["outcome"].tolist(), [1.0, 0.0, 0.5, math.nan])
    with pytest.raises(ValueError, match=r"^verdict: expected 2, got 1 in row 0 \(outcomes=\{1: \.\.\., \.\.\.\} says what it stands for\)$"):
        matches_from_frame(frame, first="left", second="right", outcome="verdict", outcomes={2: 0.0})
    frame["verdict"] = [None, 2, 2, 2]
    named = {None: 0.5, 2: math.nan}
    same(
        matches_from_frame(frame, first="left", second="right", outcome="verdict", outcomes=named).arguments["outcome"].tolist(),
        [0.5] + [math.nan] * 3,
    )


def test_names_that_do_not_compare_are_sorted_as_text():
    frame = {"model_a": ["b", 1, "1", (2, "x")], "model_b": [1, "1", (2, "x"), "b"], "winner": [1, True, 0, False]}
    found = matches_from_frame(frame)
    assert found.names == [(2, "x"), 1, "1", "b"]
    assert found.arguments["first"].tolist() == [3, 1, 2, 0]
    assert found.arguments["outcome"].tolist() == [1, 1, 0, 0]
    assert matches_from_frame({**frame, "model_a": [10, 9, 8, 7], "model_b": [9, 8, 7, 6]}).names == [6, 7, 8, 9, 10]


NAMES = st.sampled_from(["c", "a", "b", "d"])


@given(
    st.lists(
        st.tuples(NAMES, NAMES, st.sampled_from(["model_a", "model_b", "tie", 0.25]), st.sampled_from("xyz")).filter(lambda r: r[0] != r[1]),
        min_size=1,
    )
)
def test_any_matches_are_read_row_by_row(rows):
    frame = dict(zip(("model_a", "model_b", "winner", "question"), map(list, zip(*rows, strict=True)), strict=True))
    found = matches_from_frame(frame, problem="question")
    assert found.names == sorted({name for row in rows for name in row[:2]})
    assert found.problems == sorted({row[3] for row in rows})
    columns = [found.arguments[key].tolist() for key in ("first", "second", "outcome", "problem")]
    share = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, 0.25: 0.25}
    assert [(found.names[i], found.names[j], s, found.problems[p]) for i, j, s, p in zip(*columns, strict=True)] == [
        (a, b, share[label], question) for a, b, label, question in rows
    ]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"outcome": "result"}, "frame: expected a column 'result', got columns ['model_a', 'model_b', 'winner', 'language', 'votes']"),
        ({}, {"weight": "w"}, "frame: expected a column 'w', got columns ['model_a', 'model_b', 'winner', 'language', 'votes']"),
        ({"model_b": ["alpaca"]}, {}, "model_b: expected 7 rows as in model_a, got 1"),
        ({"votes": [1]}, {"weight": "votes"}, "votes: expected 7 rows as in model_a, got 1"),
        ({"model_a": [], "model_b": [], "winner": []}, {}, "frame: expected at least one row, got 0"),
        ({"model_b": ["zephyr"] * 7}, {}, "model_b: expected another candidate than model_a, got 'zephyr' in row 0"),
        ({"model_a": ["x", None] + ["x"] * 5}, {}, "model_a: expected a name in every row, got None in row 1"),
        ({"model_b": ["x"] * 6 + [math.nan]}, {}, "model_b: expected a name in every row, got nan in row 6"),
        ({"model_b": [["x"]] * 7}, {}, "model_b: expected a name in every row, got ['x'] in row 0"),
        ({"language": [None] * 7}, {"problem": "language"}, "language: expected a name in every row, got None in row 0"),
        ({"votes": [1, None] + [1] * 5}, {"weight": "votes"}, "votes: expected a number in every row, got None in row 1"),
        ({"votes": ["1"] * 7}, {"weight": "votes"}, "votes: expected a number in every row, got '1' in row 0"),
        ({}, {"outcomes": {"tie": 1.5}}, "outcomes: expected shares in [0, 1] or None, got 1.5 for 'tie'"),
        ({}, {"outcomes": {"tie": "model_a"}}, "outcomes: expected shares in [0, 1] or None, got 'model_a' for 'tie'"),
        *(
            (
                {"winner": ["tie", label] + ["tie"] * 5},
                {},
                f"winner: expected 'model_a' or 'model_b' or 'tie' or 'tie (bothbad)' or a share in [0, 1], got {label!r} in row 1 "
                f"(outcomes={{{label!r}: ..., ...}} says what it stands for)",
            )
            for label in ("A", 2, -0.5, ["tie"])
        ),
    ],
)
def test_bad_frames_are_told(change, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        matches_from_frame({**BATTLES, **change}, **arguments)
