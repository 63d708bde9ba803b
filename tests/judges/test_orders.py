"""Both orders of a pair: rewards and shares worked out by hand, and against loops."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.judges import PairVerdicts, Reason
from rrm_core.judges.orders import compare_scores, consistency_reward, order_metrics

NAN = float("nan")
outcomes = st.sampled_from([1.0, 0.0, 0.5, NAN])


def verdicts(*outcome):
    outcome = torch.tensor(outcome, dtype=torch.float64)
    return PairVerdicts(outcome, outcome.isnan().to(torch.int64))


def same(got, expected):
    torch.testing.assert_close(got, torch.tensor(expected, dtype=got.dtype), rtol=0, atol=0, equal_nan=True)


def test_consistency_needs_both_orders():
    # right/right, right/wrong, wrong/right, wrong/wrong, of either label; then ties and invalid ones
    shown = verdicts(1, 1, 0, 0, 0, 0, 1, 1, 1, 0.5, 0.5, NAN, 1, NAN)
    swapped = verdicts(0, 1, 0, 1, 1, 0, 1, 0, 0.5, 0, 0.5, 0, NAN, NAN)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1])
    got = consistency_reward(shown, swapped, labels)
    assert got.dtype == torch.float32
    same(got, [1.0, 0.0, 0.0, 0.0, 1.0, *[0.0] * 9])
    same(consistency_reward(swapped, shown, 1 - labels), got.tolist())


def test_rollouts_meet_the_mean_of_the_other_order():
    shown, swapped = verdicts(1, 0, 1, 1, NAN, 0, 0, 0), verdicts(0, 0, 1, 0, 1, 1, 1, 0.5)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    same(consistency_reward(shown, swapped, labels, rollouts=4), [0.75, 0.0, 0.75, 0.75, 0.0, 0.75, 0.75, 0.75])
    same(consistency_reward(swapped, shown, 1 - labels, rollouts=4), [0.75, 0.75, 0.0, 0.75, 0.75, 0.75, 0.75, 0.0])
    same(consistency_reward(shown, swapped, labels), [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])


@given(st.lists(st.tuples(outcomes, outcomes), min_size=3, max_size=3), st.integers(0, 1))
def test_the_statistic_is_the_mean_over_matchings(pairs, label):
    shown, swapped, labels = [p[0] for p in pairs], [p[1] for p in pairs], torch.full((3,), label)
    matched = [consistency_reward(verdicts(*shown), verdicts(*other), labels) for other in permutations(swapped)]
    got = consistency_reward(verdicts(*shown), verdicts(*swapped), labels, rollouts=3)
    torch.testing.assert_close(got, torch.stack(matched).mean(0))


def test_one_rollout_is_matched_by_index():
    shown, swapped, labels = verdicts(1, 1, 0), verdicts(0, 1, 1), torch.tensor([0, 0, 1])
    same(consistency_reward(shown, swapped, labels, rollouts=1), consistency_reward(shown, swapped, labels).tolist())


def test_metrics_by_hand():
    # consistent, wrong in both, first always, second always, tie, tie, invalid, invalid beside a tie
    shown, swapped = verdicts(1, 0, 1, 0, 0.5, 1, 1, 0.5), verdicts(0, 1, 1, 0, 0.5, 0.5, NAN, NAN)
    got = order_metrics(shown, swapped, torch.zeros(8, dtype=torch.int64))
    assert all(x.dtype == torch.float64 and x.shape == () for x in got)
    assert [x.item() for x in got] == [4 / 8, 2 / 8, 1 / 8, 2 / 8, 2 / 8, 2 / 8]


@given(st.lists(st.tuples(outcomes, outcomes, st.integers(0, 1)), min_size=1, max_size=20))
def test_metrics_equal_a_loop(pairs):
    def loop(first, second, label):
        right, other = first == 1 - label, second == label
        invalid = math.isnan(first) or math.isnan(second)
        tied = not invalid and 0.5 in (first, second)
        return right, other, right and other, not invalid and not tied and first == second, tied, invalid

    shown, swapped, labels = zip(*pairs, strict=True)
    got = order_metrics(verdicts(*shown), verdicts(*swapped), torch.tensor(labels))
    rows = [loop(*p) for p in pairs]
    assert [x.item() for x in got] == pytest.approx([sum(column) / len(rows) for column in zip(*rows, strict=True)], abs=1e-12)
    assert got.consistent_accuracy + got.flip_rate + got.tie_rate + got.invalid_rate <= 1 + 1e-12


def test_no_pairs():
    none, labels = verdicts(), torch.zeros(0, dtype=torch.int64)
    assert consistency_reward(none, none, labels).shape == consistency_reward(none, none, labels, rollouts=4).shape == (0,)
    assert all(x.isnan() for x in order_metrics(none, none, labels))


def test_scores_are_compared_strictly():
    first = torch.tensor([7.0, 3.0, 5.0, 0.0, NAN, 5.0, NAN], dtype=torch.float64)
    second = torch.tensor([3.0, 7.0, 5.0, -0.0, 5.0, NAN, NAN], dtype=torch.float64)
    got = compare_scores(first, second)
    same(got.outcome, [1.0, 0.0, 0.5, 0.5, NAN, NAN, NAN])
    same(got.reason, [0] * 4 + [int(Reason.NO_VERDICT)] * 3)


def test_judges_of_single_answers_never_flip():
    first, second = torch.randint(11, (2, 50)).to(torch.float64)
    labels = torch.randint(2, (50,))
    got = order_metrics(compare_scores(first, second), compare_scores(second, first), labels)
    assert got.flip_rate == got.invalid_rate == 0
    assert got.accuracy == got.swapped_accuracy == got.consistent_accuracy > 0
    assert got.tie_rate == (first == second).double().mean() > 0


def test_errors():
    two, three, labels = verdicts(1, 0), verdicts(1, 0, 1), torch.tensor([0, 1])
    for function in (consistency_reward, order_metrics):
        with pytest.raises(ValueError, match=r"^swapped: expected shape \[2\], got \[3\]$"):
            function(two, three, labels)
        with pytest.raises(ValueError, match=r"^labels: expected shape \[3\], got \[2\]$"):
            function(three, three, labels)
        with pytest.raises(ValueError, match=r"^labels: expected 0 or 1, got \[0, -1\]$"):
            function(two, two, -labels)
        with pytest.raises(TypeError, match=r"^labels: expected a tensor, got list$"):
            function(two, two, [0, 1])
    with pytest.raises(ValueError, match=r"^rollouts: expected a divisor of 3 verdicts, got 2$"):
        consistency_reward(three, three, torch.tensor([0, 1, 0]), rollouts=2)
    with pytest.raises(TypeError, match=r"^rollouts: expected an integer, got bool$"):
        consistency_reward(two, two, labels, rollouts=True)
    with pytest.raises(ValueError, match=r"^second: expected shape \[2\], got \[3\]$"):
        compare_scores(torch.zeros(2), torch.zeros(3))
    with pytest.raises(TypeError, match=r"^first: expected .*, got torch.int64$"):
        compare_scores(torch.zeros(2, dtype=torch.int64), torch.zeros(2))
