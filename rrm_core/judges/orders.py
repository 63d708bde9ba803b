"""Pairs shown in both orders: the reward of a judge whom the order must not sway, and how much it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core._validate import FLOATS, require, require_shape, require_tensor
from rrm_core.judges.verdicts import PairVerdicts, Reason
from rrm_core.tournaments.inputs import whole


class OrderMetrics(NamedTuple):
    """Shares of pairs, float64 scalars: right as shown, right when swapped, right in both orders; and flipped, tied or invalid."""

    accuracy: Tensor
    swapped_accuracy: Tensor
    consistent_accuracy: Tensor
    flip_rate: Tensor
    tie_rate: Tensor
    invalid_rate: Tensor


def consistency_reward(verdicts: PairVerdicts, swapped: PairVerdicts, labels: Tensor, *, rollouts: int | None = None) -> Tensor:
    """1 only if the judge is right in both orders of a pair.

    With r_i whether the i-th verdict of one order is right and r'_i whether that of the other is, the reward of i is ``r_i r'_i``; with
    ``rollouts`` it is the U-statistic ``r_i mean_j r'_j`` over the pair's rollouts. The paper does not say how the rollouts of one order are
    matched with those of the other; both are our readings. By index, the default, rewards are 0 or 1. The other is its mean over all
    matchings, in [0, 1], and varies less.

    Args:
        verdicts: [K], on pairs as they are.
        swapped: [K], on the same pairs shown the other way round, each outcome that of whoever is shown first.
        labels: int64 [K], 0 where the answer shown first in ``verdicts`` is better, 1 where the second is.
        rollouts: how many consecutive verdicts are one pair's, in both; a divisor of K.

    Returns:
        float32 [K], of the verdicts as they are. Those of the swapped are ``consistency_reward(swapped, verdicts, 1 - labels)``.

    Source: J1 (arXiv:2505.10320), its consistency reward.

    Raises:
        TypeError, ValueError: a dtype, shape or value doesn't fit.
    """
    if rollouts is not None:
        require_divisor("rollouts", rollouts, len(verdicts.outcome))
    right, other = _right_in_both(verdicts, swapped, labels)
    if rollouts is None:
        return (right & other).to(torch.float32)
    return (right.reshape(-1, rollouts) * other.reshape(-1, rollouts).to(torch.float32).mean(1, keepdim=True)).reshape(-1)


def order_metrics(verdicts: PairVerdicts, swapped: PairVerdicts, labels: Tensor) -> OrderMetrics:
    """How often a judge is right and how often the order sways it, over all K pairs: no pair is left out of a denominator.

    Right is a verdict that names the better answer; a tie or an invalid one is wrong in its order, and its pair is not consistent. A pair with
    an invalid verdict in either order is invalid; else one with a tie in either is tied; else it is flipped if the orders name different
    answers. What consistent_accuracy, flips, ties and invalid pairs leave of 1 is wrong in both orders. Without pairs every share is NaN.

    Args:
        verdicts, swapped, labels: as in ``consistency_reward``. Of a judge of single answers: ``compare_scores`` of either way round.

    Source: the measures of J1 (arXiv:2505.10320). That invalid pairs are apart from flips and ties is our choice.

    Raises:
        TypeError, ValueError: a dtype, shape or value doesn't fit.
    """
    right, other = _right_in_both(verdicts, swapped, labels)
    invalid = verdicts.outcome.isnan() | swapped.outcome.isnan()
    decided = (verdicts.winner >= 0) & (swapped.winner >= 0)
    flipped = decided & (verdicts.winner == swapped.winner)
    shares = (right, other, right & other, flipped, ~invalid & ~decided, invalid)
    return OrderMetrics(*(share.to(torch.float64).mean() for share in shares))


def compare_scores(first: Tensor, second: Tensor) -> PairVerdicts:
    """Verdicts on pairs from scores, single ones or means: the strictly higher one wins, equal ones are a tie (0.5).

    Args:
        first, second: [K], the scores of each pair's answers; NaN where invalid.

    Returns:
        float64 and int64 [K]: NO_VERDICT where either is NaN, whatever the reason was.

    Raises:
        TypeError, ValueError: a dtype, shape or device doesn't fit.
    """
    require_tensor("first", first, FLOATS)
    require_shape("first", first, ("K",))
    require_tensor("second", second, FLOATS, first)
    require_shape("second", second, first.shape)
    invalid = first.isnan() | second.isnan()
    outcome = ((first > second).to(torch.float64) + (first == second).to(torch.float64) / 2).masked_fill(invalid, float("nan"))
    return PairVerdicts(outcome, invalid.to(torch.int64) * Reason.NO_VERDICT)


def require_labels(labels: Tensor, shape: Sequence[int | str], like: Tensor) -> None:
    """Which of two answers is better, 0 or 1."""
    require_tensor("labels", labels, (torch.int64,), like)
    require_shape("labels", labels, shape)
    require(bool(((labels == 0) | (labels == 1)).all()), "labels", "0 or 1", labels.tolist())


def require_divisor(name: str, value: object, count: int) -> None:
    require(count % whole(name, value, 1) == 0, name, f"a divisor of {count} verdicts", value)


def _right_in_both(verdicts: PairVerdicts, swapped: PairVerdicts, labels: Tensor) -> tuple[Tensor, Tensor]:
    require_labels(labels, verdicts.outcome.shape, verdicts.outcome)
    require_tensor("swapped", swapped.outcome, (torch.float64,), verdicts.outcome)
    require_shape("swapped", swapped.outcome, verdicts.outcome.shape)
    return verdicts.winner == labels, swapped.winner == 1 - labels
