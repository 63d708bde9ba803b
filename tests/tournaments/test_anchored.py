"""Anchored against loops over its matches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core.tournaments import Anchored, bradley_terry

NAN = float("nan")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 10), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_equals_the_loop(problems, n, count, votes, both, ragged, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(problems, n, generator=generator) < 0.7 if ragged else torch.ones(problems, n, dtype=torch.bool)
    options = {"votes": votes, "both_orders": both, "mask": mask if ragged else None}
    tournament = Anchored(problems, n, anchors=count, seed=seed, **options)
    anchors = tournament.anchors
    assert anchors.shape == (problems, min(count, n))
    problem, first, second = (x.tolist() for x in tournament.pairs())
    each = 2 * votes if both else votes
    met = list(zip(problem[::each], first[::each], second[::each], strict=True))
    choices = torch.tensor([0.0, 0.5, 1.0, NAN, 0.25], dtype=torch.float64)
    outcome = choices[torch.randint(0, 5, (len(problem),), generator=generator)]
    if not tournament.done:
        tournament.record(outcome)
    wins, points = torch.zeros(problems, n, n, dtype=torch.float64), torch.zeros(problems, n, dtype=torch.float64)
    expected = []
    for b in range(problems):
        players, pool = mask[b].nonzero().flatten().tolist(), [a for a in anchors[b].tolist() if a >= 0]
        assert anchors[b].tolist() == pool + [-1] * (anchors.shape[1] - len(pool))
        assert len(pool) == len(set(pool)) == min(count, len(players))
        assert set(pool) <= set(players)
        for k, anchor in enumerate(pool):
            for other in players:
                if other not in pool[: k + 1]:
                    expected.append((b, other, anchor) if k % 2 else (b, anchor, other))
    assert met == expected
    for k, (b, i, j) in enumerate(met):
        calls = outcome[k * each : (k + 1) * each].tolist()
        valid = [v for v in calls[:votes] + [1 - v for v in calls[votes:]] if not math.isnan(v)]
        for v in valid:
            wins[b, i, j] += v
            wins[b, j, i] += 1 - v
        if valid:
            mean = sum(valid) / len(valid)
            points[b, i] += 1 if mean > 0.5 else 0.5 if mean == 0.5 else 0
            points[b, j] += 1 if mean < 0.5 else 0.5 if mean == 0.5 else 0
    assert torch.equal(tournament.wins(), wins)
    assert torch.equal(tournament.points(), points)
    rating = bradley_terry(wins, mask=mask).rating
    for b in range(problems):
        ranked = sorted((c for c in range(n) if mask[b, c]), key=lambda c: (-round(float(rating[b, c]), 6), c))
        assert tournament.ranking[b].tolist() == ranked + [-1] * (n - len(ranked))
        assert tournament.champion[b].item() == (ranked or [-1])[0]


def test_named_anchors():
    tournament = Anchored(2, 4, anchors=[[2, 0], [3, -1]], mask=[[True] * 4, [False, True, True, True]])
    assert tournament.anchors.tolist() == [[2, 0], [3, -1]]
    assert [ids.tolist() for ids in tournament.pairs()] == [[0, 0, 0, 0, 0, 1, 1], [2, 2, 2, 1, 3, 3, 3], [0, 1, 3, 0, 0, 1, 2]]
    tournament.anchors[0, 0] = 1
    assert tournament.anchors.tolist() == [[2, 0], [3, -1]]
    given = torch.tensor([[1]])
    kept = Anchored(1, 3, anchors=given)
    given[0, 0] = 2
    assert kept.anchors.tolist() == [[1]]


def test_anchors_are_drawn_for_each_problem():
    drawn = [Anchored(3000, 5, anchors=2, seed=seed).anchors for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for place in (0, 1):  # a fifth of 3000; standard deviation 22
        assert torch.bincount(drawn[0][:, place], minlength=5).tolist() == pytest.approx([600] * 5, abs=110)


def test_many_matches_are_no_merit():
    """The anchor has most points, as it has most matches, but lost to one of whom more than that is not known."""
    tournament = Anchored(1, 5, anchors=[[1]])
    assert tournament.pairs().second.tolist() == [0, 2, 3, 4]
    tournament.record([1, 1, 0, 1])
    assert tournament.points().tolist() == [[0, 3, 0, 1, 0]]
    assert tournament.ranking.tolist() == [[3, 1, 0, 2, 4]]
    assert tournament.champion.tolist() == [3]


def test_the_order_is_found_where_anchors_lie_between():
    strength = torch.tensor([[0.0, 4.0, 1.0, 3.0, 2.0]])
    tournament = Anchored(1, 5, anchors=[[3, 2]])
    tournament.record([float(strength[p, i] > strength[p, j]) for p, i, j in zip(*tournament.pairs(), strict=True)])
    assert tournament.ranking.tolist() == [[1, 3, 4, 2, 0]]


@pytest.mark.parametrize(
    ("anchors", "error", "message"),
    [
        (0, ValueError, "an integer of at least 1, got 0"),
        (True, TypeError, "an integer, got bool"),
        (1.5, TypeError, "integers, got torch.float"),
        ([[0], [1], [2]], ValueError, r"shape \[2, a\], got \[3, 1\]"),
        ([0, 1], ValueError, r"shape \[2, a\], got \[2\]"),
        (torch.zeros(2, 0, dtype=torch.int64), ValueError, r"shape \[2, a\] with a > 0, got \[2, 0\]"),
        ([[0], [4]], ValueError, r"values in \[0, 4\) or -1, got 4"),
        ([[0], [3]], ValueError, "candidates who take part, got 3"),
        ([[0, 1], [1, 1]], ValueError, "each anchor once, got 1"),
    ],
)
def test_bad_anchors(anchors, error, message):
    with pytest.raises(error, match=r"^anchors: expected " + message):
        Anchored(2, 4, anchors=anchors, mask=[[True] * 4, [True, True, True, False]])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"anchors": torch.zeros(2, 2)}, TypeError, r"state\['anchors'\]: expected int64, got torch.float32"),
        ({"anchors": torch.tensor([[0], [1]])}, ValueError, r"state\['anchors'\]: expected shape \[2, 2\], got \[2, 1\]"),
        ({"anchors": torch.tensor([[0, 1], [2, -2]])}, ValueError, r"state\['anchors'\]: expected values in \[0, 4\) or -1, got -2"),
        ({"anchors": torch.tensor([[0, 1], [2, 3]])}, ValueError, r"state\['anchors'\]: expected candidates who take part, got 3"),
        ({"anchors": torch.tensor([[0, 0], [2, 1]])}, ValueError, r"state\['anchors'\]: expected each anchor once, got 0"),
        ({"taking": torch.zeros(2, 4, dtype=torch.bool)}, ValueError, r"state\['anchors'\]: expected candidates who take part"),
    ],
)
def test_bad_states(change, error, message):
    tournament = Anchored(2, 4, anchors=2, mask=[[True] * 4, [True, True, True, False]])
    pairs = tournament.pairs()
    with pytest.raises(error, match=r"^" + message):
        tournament.load_state_dict({**tournament.state_dict(), **change})
    assert all(torch.equal(a, b) for a, b in zip(pairs, tournament.pairs(), strict=True))
