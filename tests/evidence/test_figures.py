"""Intervals over items and seeds, and what counts as an answer."""

import math

import pytest
import torch
from scipy import stats

from bench.evidence import figures
from bench.evidence.figures import Figure, Question, figure, fixed_for, odd


def test_intervals_are_students_over_seeds_and_normal_over_items():
    seeds = [torch.rand(n, generator=torch.Generator().manual_seed(n)) for n in (40, 50, 60)]
    found = figure(seeds)
    means = [x.double().mean().item() for x in seeds]
    assert found.each == pytest.approx(means)
    assert found.mean == pytest.approx(sum(means) / 3)
    low, high = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert found.seeds == pytest.approx((high - low) / 2)
    # two pseudo-items at a distance of 1 add 2 to the squares of n items around their own mean
    variances = [((len(x) - 1) * x.double().var().item() + 2) / (len(x) + 1) / len(x) for x in seeds]
    standard_error = math.sqrt(sum(variances)) / 3
    assert found.items == pytest.approx(1.959964 * standard_error, rel=1e-6)


def test_items_cover_the_truth_as_often_as_they_say():
    seed = torch.Generator().manual_seed(0)
    found = [figure([(torch.rand(200, generator=seed) < 0.7).double() for _ in range(3)]) for _ in range(600)]
    assert abs(sum(abs(f.mean - 0.7) < f.items for f in found) / 600 - 0.95) < 0.03  # 3 standard errors
    assert abs(sum(abs(f.mean - 0.7) < f.seeds for f in found) / 600 - 0.95) < 0.03


def test_one_seed_has_no_interval_over_seeds():
    found = figure([torch.tensor([1.0, 0.0])])
    assert math.isnan(found.seeds)
    assert found.told() == "50.0 ±126.5 ±?"


def test_an_interval_does_not_vanish_where_all_are_right():
    found = figure([torch.ones(1000)] * 3)
    assert found.mean == 1
    assert 0.001 < found.items < 0.002  # the rule of three for 3000 items says 0.001
    assert found.seeds == 0
    assert found.width == found.items
    alone = figure([torch.tensor([0.9])])  # one number a seed, as an AUC: no interval over items
    assert math.isnan(alone.items)
    assert alone.width == 0


@pytest.mark.parametrize(
    ("mean", "items", "seeds", "margin", "shown"),
    [
        (0.1, 0.05, 0.09, 0.0, "yes"),
        (-0.1, 0.05, 0.09, 0.0, "no, the opposite"),
        (0.1, 0.05, 0.11, 0.0, "not shown"),
        (0.1, 0.11, 0.05, 0.0, "not shown"),
        (0.1, 0.05, math.nan, 0.0, "yes"),
        (0.0, 0.0, 0.0, 0.0, "not shown"),
        (0.0, 0.005, 0.0, 0.01, "yes"),
        (-0.005, 0.005, 0.0, 0.01, "not shown"),
        (-0.03, 0.005, 0.001, 0.01, "no, the opposite"),
    ],
)
def test_a_difference_is_shown_where_both_intervals_leave_out_the_margin(mean, items, seeds, margin, shown, monkeypatch):
    monkeypatch.setattr(figures, "figure", lambda values: Figure(mean, items, seeds, []))
    assert Question("", "a / x", "a / x", margin).answer([])[1] == shown


def test_numbers_of_votes_that_cost_as_much():
    assert odd(9) == [1, 3, 5, 9]
    assert [fixed_for(calls, 9) for calls in (0.5, 1, 3.1, 8.9, 12)] == [1, 1, 5, 9, 9]


def test_differences_are_taken_item_by_item():
    easy, hard = torch.tensor([0.0, 1.0, 1.0, 0.0] * 50), torch.tensor([0.0, 0.0, 1.0, 0.0] * 50)
    found = [{"a": {"x": easy}, "b": {"y": hard}}] * 2
    difference, shown = Question("", "a / x", "b / y").answer(found)
    assert difference.mean == 0.25
    assert difference.items == pytest.approx(figure([easy - hard] * 2).items)
    assert shown == "yes"
    same, shown = Question("", "a / x", "a / x").answer(found)
    assert (same.mean, same.seeds, shown) == (0.0, 0.0, "not shown")
