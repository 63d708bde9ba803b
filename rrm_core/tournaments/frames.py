"""Matches out of a data frame: pandas, polars, a dict of columns, whatever gives a column for ``frame[name]``. None of them is imported."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import torch

from rrm_core._validate import require

_OUTCOMES: dict[Hashable, float | None] = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5}


class FrameMatches(NamedTuple):
    """``arguments`` of ``pairwise_counts``, ``bootstrap``, ``elo``, ...; names of the candidates and of the problems, in the order of their ids."""

    arguments: dict[str, Any]
    names: list[Any]
    problems: list[Any]


def matches_from_frame(
    frame: Any,
    *,
    first: str = "model_a",
    second: str = "model_b",
    outcome: str = "winner",
    problem: str | None = None,
    weight: str | None = None,
    outcomes: Mapping[Any, float | None] | None = None,
) -> FrameMatches:
    """Reads matches from a table with a row each.

    Equivalent to::

        names = sorted({*frame[first], *frame[second]})
        arguments = {
            "first": [names.index(name) for name in frame[first]],
            "second": [names.index(name) for name in frame[second]],
            "outcome": [outcomes[label] for label in frame[outcome]],
            ...
        }

    so that ``pairwise_counts(**matches.arguments)`` counts them and ``bradley_terry(...).table(matches.names)`` names them.

    Args:
        frame: a pandas or polars data frame, an Arrow table, a Hugging Face data set, a dict of columns, or anything else whose ``frame[column]``
            can be iterated.
        first, second: columns of the candidates' names: any hashable values, in whose sort order candidates are numbered (by ``str`` where they
            don't compare).
        outcome: column of verdicts.
        problem: column of the problem of each match, named and numbered like candidates; None where there is only one.
        weight: column of weights; all 1 when None.
        outcomes: what each label gives the first candidate: a share of the win in [0, 1], or None for an invalid verdict. It stands in the place
            of the default: "model_a" 1, "model_b" 0, "tie" and "tie (bothbad)" 0.5, and numbers in [0, 1] for themselves. None, NaN and the like are
            invalid verdicts either way, unless named.

    Returns:
        FrameMatches(arguments, names, problems). arguments: first, second, outcome, problem, num_problems, num_candidates and weight, the columns as
        CPU tensors [M]. names: of the candidates. problems: of the problems, [None] without such a column.

    Raises:
        ValueError: a column is missing or of another length, there is no row, a name is missing, a candidate meets itself, a label is unknown or a
            weight is no number.
    """
    wanted = [name for name in (first, second, outcome, problem, weight) if name is not None]
    there = _columns_of(frame)
    for name in wanted:
        require(there is None or name in there, "frame", f"a column {name!r}", f"columns {there}")
    columns = {name: _values(frame[name]) for name in wanted}
    rows = len(columns[first])
    require(rows > 0, "frame", "at least one row", 0)
    for name, values in columns.items():
        require(len(values) == rows, name, f"{rows} rows as in {first}", len(values))

    names, (a, b) = _numbered({first: columns[first], second: columns[second]})
    for row, (i, j) in enumerate(zip(a, b, strict=True)):
        require(i != j, second, f"another candidate than {first}", f"{names[i]!r} in row {row}")
    problems, ids = ([None], None) if problem is None else _numbered({problem: columns[problem]})
    arguments = {
        "first": torch.tensor(a),
        "second": torch.tensor(b),
        "outcome": torch.tensor(_shares(outcome, columns[outcome], outcomes), dtype=torch.float64),
        "problem": None if ids is None else torch.tensor(ids[0]),
        "num_problems": len(problems),
        "num_candidates": len(names),
        "weight": None if weight is None else torch.tensor(_weights(weight, columns[weight]), dtype=torch.float64),
    }
    return FrameMatches(arguments, names, problems)


def _columns_of(frame: Any) -> list[Any] | None:
    """Names of the columns, if the frame tells. Asked of the type: a data frame's columns may be attributes too."""
    for attribute in ("column_names", "columns", "keys"):  # Arrow's ``columns`` are no names
        if hasattr(type(frame), attribute):
            found = getattr(frame, attribute)
            return list(found() if callable(found) else found)
    return None


def _values(column: Any) -> list[Any]:
    """Plain Python values, where the column can make them."""
    for method in ("tolist", "to_pylist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or bool(value != value)  # pandas.NA knows not whether it differs from itself


def _numbered(columns: Mapping[str, list[Any]]) -> tuple[list[Any], list[list[int]]]:
    """Distinct names, sorted, and each column as their ids."""
    for column, values in columns.items():
        for row, value in enumerate(values):
            require(isinstance(value, Hashable) and not _missing(value), column, "a name in every row", f"{value!r} in row {row}")
    distinct = list(dict.fromkeys(value for values in columns.values() for value in values))
    try:
        names = sorted(distinct)
    except TypeError:
        names = sorted(distinct, key=lambda value: (str(value), type(value).__name__))
    ids = {name: k for k, name in enumerate(names)}
    return names, [[ids[value] for value in values] for values in columns.values()]


def _shares(column: str, labels: list[Any], outcomes: Mapping[Any, float | None] | None) -> list[float]:
    known = _OUTCOMES if outcomes is None else outcomes
    for label, given in known.items():
        require(_missing(given) or _is_share(given), "outcomes", "shares in [0, 1] or None", f"{given!r} for {label!r}")
    found = []
    for row, label in enumerate(labels):
        share: Any = label
        if isinstance(label, Hashable) and label in known:
            share = known[label]
        elif not _missing(label) and (outcomes is not None or not _is_share(label)):
            expected = " or ".join(map(repr, known)) + (" or a share in [0, 1]" if outcomes is None else "")
            raise ValueError(f"{column}: expected {expected}, got {label!r} in row {row} (outcomes={{{label!r}: ..., ...}} says what it stands for)")
        found.append(math.nan if _missing(share) else float(share))
    return found


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and 0 <= float(value) <= 1


def _weights(column: str, values: list[Any]) -> list[float]:
    for row, value in enumerate(values):
        require(not _missing(value) and isinstance(value, Real), column, "a number in every row", f"{value!r} in row {row}")
    return [float(value) for value in values]
