"""What a judge's texts say: verdicts as tensors, and the few readings of text that the published formats are made of.

Every reading looks for fixed marks with ``str.find``: linear in the text, whatever it holds, and none raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?")
_LONGEST_LIST = 4096  # characters; beyond them nobody wrote a list of scores
_THINK, _THOUGHT = "<think>", "</think>"


class Reason(IntEnum):
    """Why a text is no verdict, 0 if it is one."""

    VALID = 0
    NO_VERDICT = 1
    CONTRADICTORY = 2  # both verdicts are named
    WRONG_COUNT = 3
    NOT_A_NUMBER = 4
    OUT_OF_RANGE = 5
    CUT_OFF = 6  # the text ends before its verdict does


class PairVerdicts(NamedTuple):
    """``outcome``: the share of the win that goes to the answer shown first, float64 [K], NaN where invalid, as tournaments record it.
    ``reason``: a ``Reason`` each, int64 [K]."""

    outcome: Tensor
    reason: Tensor

    @property
    def winner(self) -> Tensor:
        """0 for the answer shown first, 1 for the second, -1 for neither: int64 [K]."""
        decided = torch.where(self.outcome > 0.5, 0, torch.where(self.outcome < 0.5, 1, -1))
        return decided.to(torch.int64)


class ScoreVerdicts(NamedTuple):
    """``scores``: of the answers in the order in which they were shown, float64 [K, n], rows of NaN where invalid. ``reason``: int64 [K]."""

    scores: Tensor
    reason: Tensor


Reading: TypeAlias = tuple[str | None, Reason]  # what was looked for, or None and why


def pair_verdicts(found: Sequence[float | Reason]) -> PairVerdicts:
    """From each text's outcome, or the reason why it has none."""
    outcome = [float("nan") if isinstance(x, Reason) else x for x in found]
    reason = [int(x) if isinstance(x, Reason) else 0 for x in found]
    return PairVerdicts(torch.tensor(outcome, dtype=torch.float64), torch.tensor(reason, dtype=torch.int64))


def score_verdicts(found: Sequence[Sequence[float] | Reason], count: int) -> ScoreVerdicts:
    """From each text's ``count`` scores, or the reason why it has none."""
    nothing = [float("nan")] * count
    scores = [nothing if isinstance(x, Reason) else list(x) for x in found]
    reason = [int(x) if isinstance(x, Reason) else 0 for x in found]
    return ScoreVerdicts(torch.tensor(scores, dtype=torch.float64).view(len(found), count), torch.tensor(reason, dtype=torch.int64))


def after_thinking(text: str) -> str | None:
    """What follows the last ``</think>``, all of a text without thoughts; None where they never end."""
    end = text.rfind(_THOUGHT)
    if end >= 0:
        return text[end + len(_THOUGHT) :]
    return None if _THINK in text else text


def between(text: str, opening: str, closing: str) -> Reading:
    """What the last ``opening`` encloses, without surrounding blanks."""
    start = text.rfind(opening)
    if start < 0:
        return None, Reason.NO_VERDICT
    end = text.find(closing, start + len(opening))
    return (None, Reason.CUT_OFF) if end < 0 else (text[start + len(opening) : end].strip(), Reason.VALID)


def boxed(text: str) -> Reading:
    r"""What the last ``\boxed{...}`` encloses."""
    return between(text, "\\boxed{", "}")


def one_of(text: str, marks: Sequence[str]) -> int | Reason:
    """Which of the marks occurs, if no other does."""
    found = [i for i, mark in enumerate(marks) if mark in text]
    if len(found) == 1:
        return found[0]
    return Reason.CONTRADICTORY if found else Reason.NO_VERDICT


def number(text: str, low: float, high: float, *, integer: bool = False) -> float | Reason:
    """A decimal number in [low, high]."""
    stripped = text.strip()
    if len(text) > _LONGEST_LIST or not _NUMBER.fullmatch(stripped):
        return Reason.NOT_A_NUMBER
    value = float(stripped)
    if integer and value != int(value):
        return Reason.NOT_A_NUMBER
    return value if low <= value <= high else Reason.OUT_OF_RANGE


def numbers(text: str, count: int, low: float, high: float, *, integer: bool = False) -> list[float] | Reason:
    """``count`` numbers with commas between them; the first thing that is wrong, count before numbers before range."""
    parts = text.split(",") if len(text) <= _LONGEST_LIST else []
    if len(parts) != count:
        return Reason.WRONG_COUNT
    found = [number(part, low, high, integer=integer) for part in parts]
    faults = [x for x in found if isinstance(x, Reason)]
    return min(faults) if faults else [x for x in found if not isinstance(x, Reason)]


def finish(reason: Reason, finished: bool) -> Reason:
    """Of a text that ran into its length limit, a missing verdict is one that was cut off."""
    return Reason.CUT_OFF if reason is Reason.NO_VERDICT and not finished else reason
