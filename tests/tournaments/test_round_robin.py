"""RoundRobin against loops over its matches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core.tournaments import RoundRobin, borda, bradley_terry, elo

NAN = float("nan")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 3), st.integers(1, 9), st.none() | st.integers(1, 9), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_equals_the_loop(problems, n, opponents, votes, both, ragged, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(problems, n, generator=generator) < 0.7 if ragged else torch.ones(problems, n, dtype=torch.bool)
    options = {"opponents": opponents, "seed": seed, "votes": votes, "both_orders": both, "mask": mask if ragged else None}
    tournament = RoundRobin(problems, n, **options)
    problem, first, second = (x.tolist() for x in tournament.pairs())
    each = 2 * votes if both else votes
    met = list(zip(problem[::each], first[::each], second[::each], strict=True))
    if opponents is None:
        assert met == [(b, i, j) for b in range(problems) for i in range(n) for j in range(i + 1, n) if mask[b, i] and mask[b, j]]
    choices = torch.tensor([0.0, 0.5, 1.0, NAN, 0.25], dtype=torch.float64)
    outcome = choices[torch.randint(0, 5, (len(problem),), generator=generator)]
    if not tournament.done:
        tournament.record(outcome)
    assert tournament.done
    wins, points, matches = (torch.zeros(size, dtype=torch.float64) for size in ((problems, n, n), (problems, n), (problems, n)))
    for k, (b, i, j) in enumerate(met):
        calls = outcome[k * each : (k + 1) * each].tolist()
        valid = [v for v in calls[:votes] + [1 - v for v in calls[votes:]] if not math.isnan(v)]
        for v in valid:
            wins[b, i, j] += v
            wins[b, j, i] += 1 - v
        matches[b, [i, j]] += 1
        if valid:
            mean = sum(valid) / len(valid)
            points[b, i] += 1 if mean > 0.5 else 0.5 if mean == 0.5 else 0
            points[b, j] += 1 if mean < 0.5 else 0.5 if mean == 0.5 else 0
    assert torch.equal(tournament.wins(), wins)
    assert torch.equal(tournament.points(), points)
    matches.clamp_(min=1)
    shares, votes_won = points / matches, borda(wins) / matches
    for b in range(problems):
        ranked = sorted((c for c in range(n) if mask[b, c]), key=lambda c: (-shares[b, c], -votes_won[b, c], c))
        assert tournament.ranking[b].tolist() == ranked + [-1] * (n - len(ranked))
        assert tournament.champion[b].item() == (ranked or [-1])[0]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 4), st.integers(1, 15), st.integers(1, 16), st.booleans(), st.integers(0, 10**6))
def test_a_circle(problems, n, opponents, ragged, seed):
    mask = torch.rand(problems, n, generator=torch.Generator().manual_seed(seed)) < 0.7 if ragged else torch.ones(problems, n, dtype=torch.bool)
    problem, first, second = (x.tolist() for x in RoundRobin(problems, n, opponents=opponents, seed=seed, mask=mask).pairs())
    for b in range(problems):
        taking = mask[b].nonzero().flatten().tolist()
        met = [(i, j) for p, i, j in zip(problem, first, second, strict=True) if p == b]
        assert len({frozenset(pair) for pair in met}) == len(met)
        degree = min(opponents, max(0, len(taking) - 1))
        assert len(met) == math.ceil(len(taking) * degree / 2)
        led, followed = [i for i, _ in met], [j for _, j in met]
        each = sorted(led.count(c) + followed.count(c) for c in taking)
        assert each == sorted([degree] * (len(taking) - 1) + [degree + degree * len(taking) % 2] if taking else [])
        assert all(abs(led.count(c) - followed.count(c)) <= 1 for c in taking)
        assert set(led) | set(followed) <= set(taking)
        if degree >= 2:
            reached = {taking[0]}
            for _ in taking:
                reached |= {c for pair in met for c in pair if reached & set(pair)}
            assert reached == set(taking)


@pytest.mark.parametrize(("n", "opponents"), [(6, 2), (7, 3), (5, 1)])
def test_opponents_are_drawn_for_each_problem(n, opponents):
    drawn = [RoundRobin(4000, n, opponents=opponents, seed=seed).pairs() for seed in (0, 0, 1)]
    assert torch.equal(drawn[0].second, drawn[1].second)
    assert not torch.equal(drawn[0].second, drawn[2].second)
    counts = torch.zeros(n, n)
    counts.index_put_((drawn[0].first, drawn[0].second), torch.ones(len(drawn[0].first)), accumulate=True)
    expected = math.ceil(n * opponents / 2) / (n * (n - 1))  # of the 4000, each way round; standard deviation 0.008 at most
    off_diagonal = counts[~torch.eye(n, dtype=torch.bool)] / 4000
    assert off_diagonal.tolist() == pytest.approx([expected] * (n * (n - 1)), abs=0.04)


@pytest.mark.parametrize("seed", range(8))
def test_one_match_more_is_no_advantage(seed):
    """Of five with three opponents each, one has four: three of four points are less than three of three, whoever has the lower id."""
    tournament = RoundRobin(1, 5, opponents=3, seed=seed)
    pairs = tournament.pairs()
    matches = torch.bincount(torch.cat((pairs.first, pairs.second)), minlength=5)
    busy = int(matches.argmax())
    beats = torch.zeros(5).scatter(0, torch.tensor([busy]), 1.0)
    met = torch.where(pairs.first == busy, pairs.second, torch.where(pairs.second == busy, pairs.first, -1))
    best = int(met[met >= 0][0])
    beats[best] = 2.0
    tournament.record((beats[pairs.first] - beats[pairs.second]).sign() / 2 + 0.5)
    assert matches.sort().values.tolist() == [3, 3, 3, 3, 4]
    assert tournament.points()[0, busy] == tournament.points()[0, best] == 3
    assert tournament.ranking[0, :2].tolist() == [best, busy]


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
    assert [ids[:4].tolist() for ids in tournament.pairs()] == [[0] * 4, [0, 1, 0, 2], [1, 0, 2, 0]]
    tournament.record(torch.ones(len(tournament.pairs().first)))
    assert tournament.points().tolist() == [[1.5] * 4]
    assert tournament.ranking.tolist() == [[0, 1, 2, 3]]


def test_bad_opponents():
    with pytest.raises(ValueError, match=r"^opponents: expected an integer of at least 1, got 0"):
        RoundRobin(1, 3, opponents=0)
    with pytest.raises(TypeError, match=r"^opponents: expected an integer, got float"):
        RoundRobin(1, 3, opponents=2.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"opponents": 3}, ValueError, r"state\['opponents'\]: expected 2, got 3"),
        ({"opponents": None}, ValueError, r"state\['opponents'\]: expected 2, got None"),
        ({"circle": torch.zeros(1, 4)}, TypeError, r"state\['circle'\]: expected int64, got torch.float32"),
        ({"circle": torch.tensor([[0, 1, 2]])}, ValueError, r"state\['circle'\]: expected shape \[1, 4\], got \[1, 3\]"),
        ({"circle": torch.tensor([[0, 1, 1, -1]])}, ValueError, r"state\['circle'\]: expected each candidate who takes part once, then -1, got 1"),
        ({"circle": torch.tensor([[0, 1, 2, -1]])}, ValueError, r"state\['circle'\]: expected each candidate who takes part once, then -1, got 2"),
        ({"circle": torch.tensor([[3, 1, -1, 0]])}, ValueError, r"state\['circle'\]: expected each candidate who takes part once"),
        ({"circle": torch.tensor([[3, 1, 0, -2]])}, ValueError, r"state\['circle'\]: expected each candidate who takes part once, then -1, got -2"),
        ({"circle": torch.tensor([[4, 1, 0, -1]])}, ValueError, r"state\['circle'\]: expected each candidate who takes part once"),
        ({"taking": torch.ones(1, 4, dtype=torch.bool)}, ValueError, r"state\['circle'\]: expected each candidate who takes part once"),
    ],
)
def test_bad_states(change, error, message):
    tournament = RoundRobin(1, 4, opponents=2, mask=[[True, True, False, True]])
    pairs = tournament.pairs()
    with pytest.raises(error, match=r"^" + message):
        tournament.load_state_dict({**tournament.state_dict(), **change})
    assert all(torch.equal(a, b) for a, b in zip(pairs, tournament.pairs(), strict=True))
