"""combine_orders against its formulas, vote_status against exact probabilities and the published savings."""

from __future__ import annotations

import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.tournaments import combine_orders, vote_status

NAN, INF = float("nan"), float("inf")


def combined(forward, swapped):
    """One pair, in Python."""
    if math.isnan(forward) or math.isnan(swapped):
        return (-swapped if math.isnan(forward) else forward), NAN, False
    log_odds = 0.0 if math.isinf(forward) and forward == swapped else forward / 2 - swapped / 2
    bias = 0.0 if math.isinf(forward) and forward == -swapped else forward / 2 + swapped / 2
    return log_odds, bias, (forward > 0, forward < 0) == (swapped < 0, swapped > 0)


log_odds = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -3.0, INF, -INF, NAN, 1.7e308, -1.7e308]) | st.floats(-50, 50)


@given(st.lists(st.tuples(log_odds, log_odds), min_size=1, max_size=20))
def test_orders_equal_the_loop(pairs):
    got = combine_orders(*(torch.tensor([p[i] for p in pairs], dtype=torch.float64) for i in (0, 1)))
    expected = [combined(*p) for p in pairs]
    for i in (0, 1):
        torch.testing.assert_close(got[i], torch.tensor([e[i] for e in expected], dtype=torch.float64), rtol=0, atol=0, equal_nan=True)
    assert got.consistent.tolist() == [e[2] for e in expected]


def test_orders_in_words():
    got = combine_orders([3.0, 1.0, INF, INF, INF, 0.0, NAN, 2.0, NAN], [-1.0, 3.0, INF, -INF, 5.0, 0.0, 4.0, NAN, NAN])
    assert got._fields == ("log_odds", "bias", "consistent")
    torch.testing.assert_close(got.log_odds, torch.tensor([2.0, -1.0, 0.0, INF, INF, 0.0, -4.0, 2.0, NAN]).double(), equal_nan=True)
    torch.testing.assert_close(got.bias, torch.tensor([1.0, 2.0, INF, 0.0, INF, 0.0, NAN, NAN, NAN]).double(), equal_nan=True)
    assert got.consistent.tolist() == [True, False, False, True, False, True, False, False, False]
    assert not combine_orders(NAN, 0.0).consistent  # torch's sign of NaN is 0


def test_orders_shapes_and_dtypes():
    assert combine_orders(torch.zeros(3, 1), torch.zeros(4)).log_odds.shape == (3, 4)
    for dtype, wide in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        got = combine_orders(torch.tensor([30000.0], dtype=dtype), torch.tensor([-50000.0], dtype=dtype))
        assert got.log_odds.dtype == got.bias.dtype == wide
        assert got.log_odds.item() == pytest.approx(40000, rel=0.01)
    assert combine_orders(torch.zeros(1), torch.zeros(1).double()).bias.dtype == torch.float64
    assert combine_orders(np.ones(2), torch.ones(2)).log_odds.tolist() == [0.0, 0.0]
    assert combine_orders(torch.tensor([3e38]), torch.tensor([-3e38])).log_odds.item() == pytest.approx(3e38)
    for bad, error, message in (
        ((torch.zeros(2), torch.zeros(3)), ValueError, r"forward, swapped: expected shapes that broadcast, got \[\[2\], \[3\]\]"),
        ((torch.zeros(2, dtype=torch.int64), 1.0), TypeError, "forward: expected float32 or .*, got torch.int64"),
        ((0.0, "second"), TypeError, "swapped: expected numbers, got str"),
    ):
        with pytest.raises(error, match="^" + message):
            combine_orders(*bad)


def test_orders_have_gradients():
    forward = torch.tensor([1.0, -2.0, 0.0, NAN, 3.0, INF], requires_grad=True)
    swapped = torch.tensor([0.5, -1.0, 0.0, 2.0, NAN, INF], requires_grad=True)
    got = combine_orders(forward, swapped)
    grads = torch.autograd.grad(got.log_odds[:5].sum(), (forward, swapped), retain_graph=True)
    assert grads[0].tolist() == [0.5, 0.5, 0.5, 0.0, 1.0, 0.0]
    assert grads[1].tolist() == [-0.5, -0.5, -0.5, -1.0, 0.0, 0.0]
    assert [g.tolist()[:3] for g in torch.autograd.grad(got.bias[:3].sum(), (forward, swapped))] == [[0.5] * 3] * 2


# ---- vote_status


def certainty(a, b):
    """P(Bin(a + b + 1, 1/2) <= a), exactly."""
    return Fraction(sum(comb(a + b + 1, i) for i in range(a + 1)), 2 ** (a + b + 1))


def decided(yes, no, spent, max_votes, rule, confidence=0.95, accuracy=0.8, error=0.05):
    a, b = max(yes, no), min(yes, no)
    if spent >= max_votes or a - b > max_votes - spent:
        return True
    if rule == "beta":
        return certainty(a, b) >= Fraction(confidence)
    return rule == "sprt" and a - b >= math.log((1 - error) / error) / math.log(accuracy / (1 - accuracy))


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("majority", {}),
        ("beta", {}),
        ("beta", {"confidence": 0.6}),
        ("beta", {"confidence": 0.75}),  # what 1 vote to 0 gives exactly
        ("beta", {"confidence": 0.999}),
        ("sprt", {}),
        ("sprt", {"accuracy": 0.6, "error": 0.01}),
    ],
)
@pytest.mark.parametrize("max_votes", [1, 2, 9, 16])
def test_every_state_of_a_budget(rule, options, max_votes):
    states = [(a, b, a + b + c) for a in range(max_votes + 1) for b in range(max_votes + 1 - a) for c in range(max_votes + 1 - a - b)]
    yes, no, spent = (list(column) for column in zip(*states, strict=True))
    got = vote_status(yes, no, spent=spent, max_votes=max_votes, rule=rule, **options)
    expected = [decided(*state, max_votes, rule, **options) for state in states]
    assert got._fields == ("decided", "leader", "remaining")
    assert got.decided.tolist() == expected
    assert got.leader.tolist() == [(a > b) - (a < b) for a, b, _ in states]
    assert got.remaining.tolist() == [0 if done else max_votes - s for done, s in zip(expected, spent, strict=True)]
    bare = [state for state in states if state[2] == state[0] + state[1]]
    default = vote_status([s[0] for s in bare], [s[1] for s in bare], max_votes=max_votes, rule=rule, **options)
    assert default.decided.tolist() == [decided(*state, max_votes, rule, **options) for state in bare]


def test_first_stops_of_adaptive_consistency():
    stops = []
    for b in range(12):
        a = torch.arange(b, 60)
        found = vote_status(a, torch.full_like(a, b), max_votes=1000, rule="beta").decided
        stops.append(int(a[found][0]))
    assert stops == [4, 6, 8, 9, 11, 12, 14, 15, 17, 18, 19, 21]


@pytest.mark.parametrize(("accuracy", "threshold"), [(0.6, 7.3), (0.7, 3.5), (0.8, 2.1), (0.9, 1.3)])
def test_leads_of_walds_test(accuracy, threshold):
    lead = torch.arange(12)
    found = vote_status(lead, torch.zeros_like(lead), max_votes=1000, rule="sprt", accuracy=accuracy)
    assert found.decided.tolist() == [x >= threshold for x in range(12)]
    assert vote_status(0, lead, max_votes=1000, rule="sprt", accuracy=accuracy).decided.tolist() == found.decided.tolist()


def test_a_lead_that_rounding_raises_is_the_whole_number():
    for p, power in ((Fraction(3, 4), 3), (Fraction(2, 3), 7), (Fraction(9, 10), 5), (Fraction(3, 5), 6)):
        odds = (p / (1 - p)) ** power  # error and accuracy for which a lead of exactly `power` is enough
        options = {"max_votes": 99, "rule": "sprt", "accuracy": float(p), "error": float(1 / (1 + odds))}
        assert vote_status([power - 1, power], 0, **options).decided.tolist() == [False, True]
        options["error"] *= 0.999
        assert vote_status([power, power + 1], 0, **options).decided.tolist() == [False, True]


def expected_votes(accuracy, k, max_votes, rule):
    """(votes cast on average, probability of the right verdict) of at most k votes, by going through all states."""
    states = [(a, b) for a in range(k + 1) for b in range(k + 1 - a)]
    status = vote_status([s[0] for s in states], [s[1] for s in states], max_votes=max_votes, rule=rule)
    stops = dict(zip(states, status.decided.tolist(), strict=True))
    reached = {(0, 0): 1.0}
    votes = right = 0.0
    for total in range(k + 1):
        for a in range(total + 1):
            chance = reached.pop((a, total - a), 0.0)
            if stops[a, total - a] or total == k:
                votes += chance * total
                right += chance * (a > total - a)
            else:
                reached[a + 1, total - a] = reached.get((a + 1, total - a), 0.0) + chance * accuracy
                reached[a, total - a + 1] = reached.get((a, total - a + 1), 0.0) + chance * (1 - accuracy)
    assert not reached
    return votes, right


@pytest.mark.parametrize(
    ("accuracy", "full", "lossless", "beta_alone", "beta", "early"),
    [(0.8, 0.9958, 9.99, 7.91, 7.40, 0.9944), (0.9, 1.0000, 8.89, 5.59, 5.50, 0.9999)],
)
def test_votes_saved(accuracy, full, lossless, beta_alone, beta, early):
    majority = sum(comb(15, i) * accuracy**i * (1 - accuracy) ** (15 - i) for i in range(8, 16))
    votes, right = expected_votes(accuracy, 15, 15, "majority")
    assert right == pytest.approx(majority, abs=1e-14)
    assert (round(votes, 2), round(right, 4)) == (lossless, full)
    votes, right = expected_votes(accuracy, 15, 1000, "beta")  # a budget that says nothing of the lead: the rule alone, cut at 15
    assert (round(votes, 2), round(right, 4)) == (beta_alone, early)
    saved, same = expected_votes(accuracy, 15, 15, "beta")
    assert round(saved, 2) == beta
    assert same == pytest.approx(right, abs=1e-14)


def test_status_shapes_and_large_budgets():
    got = vote_status(torch.tensor([[3], [0]]), torch.tensor([0, 1, 2]), max_votes=5)
    assert got.decided.tolist() == [[True, True, True], [False, False, False]]
    assert got.leader.tolist() == [[1, 1, 1], [0, -1, -1]]
    assert got.remaining.dtype == got.leader.dtype == torch.int64
    assert vote_status(2, 1, max_votes=9).remaining.item() == 6
    counts = [1060, 1074, 1075, 1076, 1090]
    assert [certainty(a, 1000) >= Fraction(0.95) for a in counts] == [False, False, True, True, True]
    assert vote_status(counts, 1000, max_votes=5000, rule="beta").decided.tolist() == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"for_": [-1, 0]}, ValueError, "for_: expected counts of at least 0, got -1"),
        ({"against": [0, -2]}, ValueError, "against: expected counts of at least 0, got -2"),
        ({"against": [1, 9]}, ValueError, "spent: expected at most max_votes = 9, got 10"),
        ({"spent": [5, 1]}, ValueError, r"spent: expected at least for_ \+ against, got 1"),
        ({"spent": [5, 10]}, ValueError, "spent: expected at most max_votes = 9, got 10"),
        ({"spent": [5, 5, 5]}, ValueError, r"for_, against, spent: expected shapes that broadcast, got \[\[2\], \[2\], \[3\]\]"),
        ({"for_": [0.5, 1.0]}, TypeError, "for_: expected integers, got torch.float32"),
        ({"max_votes": 0}, ValueError, "max_votes: expected an integer of at least 1, got 0"),
        ({"rule": "wald"}, ValueError, "rule: expected 'majority' or 'beta' or 'sprt', got 'wald'"),
        ({"confidence": 0.5}, ValueError, r"confidence: expected a number in \(0.5, 1.0\), got 0.5"),
        ({"confidence": 1}, ValueError, r"confidence: expected a number in \(0.5, 1.0\), got 1"),
        ({"accuracy": 1.0}, ValueError, r"accuracy: expected a number in \(0.5, 1.0\), got 1.0"),
        ({"accuracy": 0.5}, ValueError, r"accuracy: expected a number in \(0.5, 1.0\), got 0.5"),
        ({"error": 0.0}, ValueError, r"error: expected a number in \(0.0, 0.5\), got 0.0"),
        ({"error": 0.5}, ValueError, r"error: expected a number in \(0.0, 0.5\), got 0.5"),
        ({"error": "5%"}, TypeError, "error: expected a number, got str"),
    ],
)
def test_bad_status_arguments(change, error, message):
    with pytest.raises(error, match="^" + message):
        vote_status(**{"for_": [2, 1], "against": [1, 1], "max_votes": 9, **change})
