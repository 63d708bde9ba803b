"""RoundRobin against loops over its matches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core.tournaments import RoundRobin, borda, bradley_terry, elo

NAN = float("nan")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(1, 7), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_equals_the_loop(problems, n, votes, both, ragged, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(problems, n, generator=generator) < 0.7 if ragged else torch.ones(problems, n, dtype=torch.bool)
    tournament = RoundRobin(problems, n, votes=votes, both_orders=both, mask=mask if ragged else None)
    problem, first, second = (x.tolist() for x in tournament.pairs())
    met = [(b, i, j) for b in range(problems) for i in range(n) for j in range(n) if (i < j or (both and i != j)) and mask[b, i] and mask[b, j]]
    assert sorted(zip(problem, first, second, strict=True)) == sorted(met * votes)
    counts = mask.sum(1)
    assert len(problem) == votes * int((counts * (counts - 1)).sum()) // (1 if both else 2)
    choices = torch.tensor([0.0, 0.5, 1.0, NAN, 0.25], dtype=torch.float64)
    outcome = choices[torch.randint(0, 5, (len(problem),), generator=generator)]
    if not tournament.done:
        tournament.record(outcome)
    assert tournament.done
    wins, points = torch.zeros(problems, n, n, dtype=torch.float64), torch.zeros(problems, n, dtype=torch.float64)
    for k in range(0, len(problem), votes):
        b, i, j = problem[k], first[k], second[k]
        assert {(b, i, j)} == set(zip(problem[k : k + votes], first[k : k + votes], second[k : k + votes], strict=True))
        valid = [v for v in outcome[k : k + votes].tolist() if not math.isnan(v)]
        for v in valid:
            wins[b, i, j] += v
            wins[b, j, i] += 1 - v
        if valid:
            mean = sum(valid) / len(valid)
            points[b, i] += 1 if mean > 0.5 else 0.5 if mean == 0.5 else 0
            points[b, j] += 1 if mean < 0.5 else 0.5 if mean == 0.5 else 0
    assert torch.equal(tournament.wins(), wins)
    assert torch.equal(tournament.points(), points)
    shares = borda(wins)
    for b in range(problems):
        ranked = sorted((c for c in range(n) if mask[b, c]), key=lambda c: (-points[b, c], -shares[b, c], c))
        assert tournament.ranking[b].tolist() == ranked + [-1] * (n - len(ranked))
        assert tournament.champion[b].item() == (ranked or [-1])[0]


def test_feeds_the_ratings():
    tournament = RoundRobin(3, 5)
    pairs = tournament.pairs()
    outcome = (pairs.first < pairs.second).double()
    tournament.record(outcome)
    order = [[0, 1, 2, 3, 4]] * 3
    assert bradley_terry(tournament.wins()).rating.argsort(1, descending=True).tolist() == tournament.ranking.tolist() == order
    rated = elo(pairs.first, pairs.second, outcome, problem=pairs.problem, num_problems=3, num_candidates=5)
    assert rated.rating.argsort(1, descending=True).tolist() == order


def test_a_judge_of_positions_makes_everybody_equal():
    tournament = RoundRobin(1, 4, both_orders=True)
    tournament.record(torch.ones(len(tournament.pairs().first)))
    assert tournament.points().tolist() == [[3.0] * 4]
    assert tournament.ranking.tolist() == [[0, 1, 2, 3]]


def test_can_go_on_elsewhere(tmp_path):
    mask = torch.tensor([[True, True, True], [True, False, True]])
    one = RoundRobin(2, 3, votes=2, mask=mask)
    outcome = torch.tensor([1, 0, 0.5, 1, NAN, 0, 0, 0], dtype=torch.float64)
    one.pairs()
    torch.save(one.state_dict(), tmp_path / "state.pt")
    one.record(outcome)
    two = RoundRobin(2, 3, votes=2)
    two.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert not two.done
    two.record(outcome)
    three = RoundRobin(2, 3, votes=2)
    three.load_state_dict(two.state_dict())
    assert three.done
    for other in (two, three):
        assert torch.equal(other.wins(), one.wins())
        assert torch.equal(other.ranking, one.ranking)


def test_wrong_use_loses_nothing():
    tournament = RoundRobin(1, 3)
    with pytest.raises(ValueError, match=r"^record: expected pairs\(\) to be called before"):
        tournament.record([1, 1, 1])
    for name in ("wins", "points"):
        with pytest.raises(ValueError, match=rf"^{name}: expected every match to be recorded, got 3 matches left"):
            getattr(tournament, name)()
    tournament.pairs()
    with pytest.raises(ValueError, match=r"^outcome: expected shape \[3\], got \[2\]"):
        tournament.record([1, 1])
    tournament.record([1, 1, 0])
    assert tournament.ranking.tolist() == [[0, 2, 1]]
    assert [len(x) for x in tournament.pairs()] == [0, 0, 0]
    with pytest.raises(ValueError, match=r"^record: expected a tournament with matches left"):
        tournament.record([1, 1, 0])
    with pytest.raises(TypeError, match=r"^both_orders: expected a bool, got int"):
        RoundRobin(1, 3, both_orders=1)
    state = tournament.state_dict()
    for change, message in (
        ({"outcome": torch.zeros(2, 1, dtype=torch.float64)}, r"state\['outcome'\]: expected shape \[0, 1\] or \[3, 1\], got \[2, 1\]"),
        ({"outcome": torch.full((3, 1), 2.0, dtype=torch.float64)}, r"state\['outcome'\]: expected values in \[0, 1\] or NaN, got 2.0"),
        ({"taking": torch.ones(1, 4, dtype=torch.bool)}, r"state\['taking'\]: expected shape \[1, 3\], got \[1, 4\]"),
        ({"both_orders": True}, r"state\['both_orders'\]: expected False, got True"),
    ):
        with pytest.raises(ValueError, match=r"^" + message):
            tournament.load_state_dict({**state, **change})
    assert tournament.ranking.tolist() == [[0, 2, 1]]
