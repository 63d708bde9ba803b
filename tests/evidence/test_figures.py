"""Intervals over items and seeds, and what counts as an answer."""

import math

import pytest
import torch
from scipy import stats

from bench.evidence.figures import Figure, Question, figure, questions
from examples.evidence.phases import phases
from examples.evidence.settings import QUICK, Settings


def test_intervals_are_students_over_seeds_and_normal_over_items():
    seeds = [torch.rand(n, generator=torch.Generator().manual_seed(n)) for n in (40, 50, 60)]
    found = figure(seeds)
    means = [x.double().mean().item() for x in seeds]
    assert found.each == pytest.approx(means)
    assert found.mean == pytest.approx(sum(means) / 3)
    low, high = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert found.seeds == pytest.approx((high - low) / 2)
    standard_error = math.sqrt(sum((stats.sem(x.double().numpy())) ** 2 for x in seeds)) / 3
    assert found.items == pytest.approx(1.959964 * standard_error, rel=1e-6)


def test_items_cover_the_truth_as_often_as_they_say():
    seed = torch.Generator().manual_seed(0)
    found = [figure([(torch.rand(200, generator=seed) < 0.7).double() for _ in range(3)]) for _ in range(600)]
    assert abs(sum(abs(f.mean - 0.7) < f.items for f in found) / 600 - 0.95) < 0.03  # 3 standard errors
    assert abs(sum(abs(f.mean - 0.7) < f.seeds for f in found) / 600 - 0.95) < 0.03


def test_one_seed_has_no_interval_over_seeds():
    found = figure([torch.tensor([1.0, 0.0])])
    assert math.isnan(found.seeds)
    assert found.told() == "50.0 ±98.0 ±?"


@pytest.mark.parametrize(
    ("mean", "items", "seeds", "shown"),
    [
        (0.1, 0.05, 0.09, "yes"),
        (-0.1, 0.05, 0.09, "no, the opposite"),
        (0.1, 0.05, 0.11, "not shown"),
        (0.1, 0.11, 0.05, "not shown"),
        (0.1, 0.05, math.nan, "yes"),
        (0.0, 0.0, 0.0, "not shown"),
    ],
)
def test_a_difference_is_shown_where_both_intervals_leave_out_zero(mean, items, seeds, shown):
    assert Figure(mean, items, seeds, []).shown == shown


def test_differences_are_taken_item_by_item():
    easy, hard = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 0.0])
    found = [{"a": {"x": easy}, "b": {"y": hard}}] * 2
    assert Question("", "a / x", "b / y").answer(found).mean == 0.25
    assert Question("", "a / x", "a / x").answer(found) == Figure(0.0, 0.0, 0.0, [0.0, 0.0])


@pytest.mark.parametrize("settings", [Settings(), QUICK])
def test_questions_are_about_phases(settings):
    asked = [q for topic in questions(settings._asdict()).values() for q in topic]
    assert len({(q.first, q.second) for q in asked}) == len(asked)
    assert {name.split(" / ")[0] for q in asked for name in q[1:]} <= set(phases(settings))
