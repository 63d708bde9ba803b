"""What the verdicts on one pair say: both orders of showing taken together, and whether enough votes are in. Plain torch, elementwise."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rrm_core._validate import FLOATS, require, require_choice, require_tensor, values_readable
from rrm_core.tournaments.inputs import ArrayLike, array, finite, require_all, whole


class OrderSwap(NamedTuple):
    """``log_odds``: that first beats second, without the bias; ``bias``: what the judge adds to whoever is shown first; ``consistent``: whether
    both orders give one verdict."""

    log_odds: Tensor
    bias: Tensor
    consistent: Tensor


class VoteStatus(NamedTuple):
    """``leader``: 1 for, -1 against, 0 even; ``remaining``: calls that may still be needed, 0 when decided."""

    decided: Tensor
    leader: Tensor
    remaining: Tensor


def combine_orders(forward: ArrayLike, swapped: ArrayLike) -> OrderSwap:
    """Takes the verdicts on a pair shown in both orders together, and their position bias apart.

    Equivalent to::

        log_odds, bias = (forward - swapped) / 2, (forward + swapped) / 2
        consistent = forward.sign() == -swapped.sign()

    Args:
        forward: log-odds that ``first`` beats ``second``, judged with first shown first. Any shape.
        swapped: log-odds that ``second`` beats ``first``, judged with second shown first: in either order, of whoever is shown first. Shapes are
            broadcast.

    Returns:
        log_odds and bias, of the inputs' wider float dtype and at least float32 (what is no tensor counts as float64), differentiable;
        consistent, bool: neither order is NaN and both name the same winner, or both are even (0).
        NaN stands for an invalid verdict: with one, log_odds is what the other order says and bias is NaN; with two, both are NaN.
        Infinities are certain verdicts: two that contradict each other give log_odds 0 and an infinite bias, two that agree give infinite
        log_odds and bias 0, and one prevails over whatever is finite.

    Raises:
        TypeError, ValueError: a dtype or device doesn't fit, or shapes cannot be broadcast.
    """
    like = next((x for x in (forward, swapped) if isinstance(x, Tensor)), None)
    forward, swapped = _floats("forward", forward, like), _floats("swapped", swapped, like)
    forward, swapped = _broadcast({"forward": forward, "swapped": swapped})
    half, other = forward / 2, swapped / 2  # neither sum nor difference can overflow
    infinite = forward.isinf()
    both = (half - other).masked_fill(infinite & (forward == swapped), 0.0)
    log_odds = torch.where(swapped.isnan(), forward, torch.where(forward.isnan(), -swapped, both))
    bias = (half + other).masked_fill(infinite & (forward == -swapped), 0.0)
    return OrderSwap(log_odds, bias, (forward.sign() == -swapped.sign()) & ~bias.isnan())


def vote_status(
    for_: ArrayLike,
    against: ArrayLike,
    *,
    max_votes: int,
    spent: ArrayLike | None = None,
    rule: Literal["majority", "beta", "sprt"] = "majority",
    confidence: float = 0.95,
    accuracy: float = 0.8,
    error: float = 0.05,
) -> VoteStatus:
    """Whether enough votes are in to stop asking the judge, for many questions at once.

    With a and b the larger and the smaller count, and whatever the rule, a question is decided when the budget is spent or what is left of it
    cannot turn the lead: ``spent >= max_votes or a - b > max_votes - spent``. "majority" stops at that and loses nothing. Earlier stop:

    * "beta": ``P(Bin(a + b + 1, 1/2) <= a) >= confidence``, the probability that the majority is right under a uniform prior on its share.
    * "sprt": ``a - b >= log((1 - error) / error) / log(accuracy / (1 - accuracy))``, Wald's test of a judge that is right with probability
      ``accuracy``, who errs in either direction with probability ``error``.

    Args:
        for_, against: int64, valid votes so far. Shapes are broadcast.
        max_votes: the most calls of a question.
        spent: int64, calls so far, those with an invalid vote too; ``for_ + against`` when None.
        rule: "majority", "beta" or "sprt".
        confidence: of "beta", in (0.5, 1).
        accuracy, error: of "sprt", in (0.5, 1) and (0, 0.5).

    Returns:
        decided, bool. leader, int64: the sign of ``for_ - against``. remaining, int64: ``max_votes - spent``, 0 where decided.

    Numerics: "beta" looks up what was found once per max_votes and confidence in exact arithmetic.

    Source: Adaptive-Consistency (arXiv:2305.11860), whose integral over Beta(a + 1, b + 1) is the binomial sum above; Wald, Ann. Math. Statist.
    16 (1945).

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit: counts are not negative, for_ + against <= spent <= max_votes.
    """
    max_votes = whole("max_votes", max_votes, 1)
    require_choice("rule", rule, ("majority", "beta", "sprt"))
    confidence, accuracy = _between("confidence", confidence, 0.5, 1.0), _between("accuracy", accuracy, 0.5, 1.0)
    error = _between("error", error, 0.0, 0.5)
    like = next((x for x in (for_, against, spent) if isinstance(x, Tensor)), None)
    counts = {"for_": array("for_", for_, torch.int64, like), "against": array("against", against, torch.int64, like)}
    if spent is not None:
        counts["spent"] = array("spent", spent, torch.int64, like)
    yes, no, *calls = _broadcast(counts)
    asked = calls[0] if calls else yes + no
    if values_readable(yes):
        require_all("for_", yes >= 0, "counts of at least 0", yes)
        require_all("against", no >= 0, "counts of at least 0", no)
        require_all("spent", asked >= yes + no, "at least for_ + against", asked)
        require_all("spent", asked <= max_votes, f"at most max_votes = {max_votes}", asked)
    lead, left = (yes - no).abs(), max_votes - asked
    decided = (lead > left) | (left <= 0)
    if rule == "beta":
        first = torch.tensor(_first_stops(max_votes, confidence), device=yes.device)
        decided = decided | (torch.maximum(yes, no) >= first[torch.minimum(yes, no).clamp(0, max_votes)])
    elif rule == "sprt":
        decided = decided | (lead >= _sprt_lead(accuracy, error))
    return VoteStatus(decided, (yes - no).sign(), left.masked_fill(decided, 0))


@functools.cache
def _first_stops(max_votes: int, confidence: float) -> tuple[int, ...]:
    """For every b up to max_votes, the least a with P(Bin(n, 1/2) <= a) >= confidence, n = a + b + 1; max_votes + 1 if that is more."""
    level = Fraction(confidence)
    stops, a, n = [], 0, 1
    below, choices = 1, 1  # sum of C(n, i) over i <= a, and C(n, a)
    for b in range(max_votes + 1):
        while a <= max_votes and below * level.denominator < level.numerator << n:
            following = choices * (n - a) // (a + 1)  # C(n, a + 1)
            below, choices = 2 * below + following, choices + following
            a, n = a + 1, n + 1
        stops.append(a)
        below, choices, n = 2 * below - choices, choices * (n + 1) // (b + 2), n + 1
    return tuple(stops)


def _sprt_lead(accuracy: float, error: float) -> int:
    lead = (math.log1p(-error) - math.log(error)) / (math.log(accuracy) - math.log1p(-accuracy))
    return math.ceil(lead * (1 - 1e-12))  # a whole number that the logarithms' rounding has raised is that number


def _between(name: str, value: object, low: float, high: float) -> float:
    number = finite(name, value)
    require(low < number < high, name, f"a number in ({low}, {high})", value)
    return number


def _floats(name: str, value: ArrayLike, like: Tensor | None) -> Tensor:
    """As they are, with their gradient, but at least float32."""
    if not isinstance(value, Tensor):
        return array(name, value, torch.float64, like)
    require_tensor(name, value, FLOATS, like)
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _broadcast(values: dict[str, Tensor]) -> tuple[Tensor, ...]:
    try:
        return tuple(torch.broadcast_tensors(*values.values()))
    except RuntimeError as error:
        raise ValueError(f"{', '.join(values)}: expected shapes that broadcast, got {[list(x.shape) for x in values.values()]}") from error
