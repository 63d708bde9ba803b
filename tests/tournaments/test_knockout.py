"""Knockout against what a bracket must do."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core.tournaments import Knockout

NAN = float("nan")


def play(tournament, judge):
    """Rounds of (problem, first, second, outcome) lists, once per judge call."""
    rounds = []
    while not tournament.done:
        pairs = tournament.pairs()
        outcome = judge(*pairs)
        tournament.record(outcome)
        rounds.append([x.tolist() for x in (*pairs, torch.as_tensor(outcome))])
    return rounds


def by_strength(strength):
    return lambda problem, first, second: (strength[problem, first] > strength[problem, second]).double()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(1, 19), st.integers(1, 3), st.integers(0, 10**6), st.booleans())
def test_every_problem_is_a_knockout(problems, n, votes, seed, ragged):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(problems, n, generator=generator) < 0.7 if ragged else None
    taking = torch.ones(problems, n, dtype=torch.bool) if mask is None else mask
    tournament = Knockout(problems, n, seed=seed, votes=votes, mask=mask)
    rounds = play(tournament, lambda p, i, j: torch.rand(len(p), generator=generator).round())
    assert len(rounds) <= (n - 1).bit_length()
    champion, ranking = tournament.champion.tolist(), tournament.ranking.tolist()
    for b in range(problems):
        players = set(taking[b].nonzero().flatten().tolist())
        left, calls, lost_in = set(players), 0, {}
        for r, (problem, first, second, outcome) in enumerate(rounds):
            met = [(i, j, o) for p, i, j, o in zip(problem, first, second, outcome, strict=True) if p == b]
            calls += len(met)
            busy = []
            for k in range(0, len(met), votes):
                i, j, _ = met[k]
                assert {m[:2] for m in met[k : k + votes]} == {(i, j)}
                assert {i, j} <= left
                busy += [i, j]
                share = sum(m[2] for m in met[k : k + votes])
                loser = j if share >= votes / 2 else i
                lost_in[loser] = (r, i + j - loser)
            assert len(set(busy)) == len(busy)
            left -= set(lost_in)
        assert calls == votes * max(0, len(players) - 1)
        assert left == ({champion[b]} - {-1})
        assert set(ranking[b]) - {-1} == players
        kept = ranking[b][: len(players)]
        assert ranking[b][len(players) :] == [-1] * (n - len(players))
        assert kept[:1] == ([champion[b]] if players else [])
        key = [(-lost_in[c][0], kept.index(lost_in[c][1])) for c in kept[1:]]
        assert key == sorted(key)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
def test_the_best_wins_and_the_second_is_found_when_seeded(n):
    strength = torch.rand(6, n, generator=torch.Generator().manual_seed(n))
    by_rank = strength.argsort(1, descending=True)
    drawn = Knockout(6, n, seed=0)
    play(drawn, by_strength(strength))
    assert torch.equal(drawn.champion, by_rank[:, 0])
    seeded = Knockout(6, n, seed=0, order=by_rank)
    rounds = play(seeded, by_strength(strength))
    width = 1 << (n - 1).bit_length()
    for r in range(len(rounds)):  # who should survive a round does: the best half of the places
        survivors = seeded.ranking[:, : width >> (r + 1)].sort(1).values
        assert torch.equal(survivors, by_rank[:, : width >> (r + 1)].sort(1).values)


def test_a_seeded_bracket():
    tournament = Knockout(1, 6, seed=0, order=[[5, 4, 3, 2, 1, 0]])
    assert [x.tolist() for x in tournament.pairs()] == [[0, 0], [2, 3], [1, 0]]  # seeds 3-4 and 2-5; 0 and 1 have byes
    tournament.record([1, 1])
    assert [x.tolist() for x in tournament.pairs()] == [[0, 0], [5, 4], [2, 3]]
    tournament.record([0, 1])
    assert [x.tolist() for x in tournament.pairs()] == [[0], [2], [4]]
    assert not tournament.done
    tournament.record([1])
    assert tournament.done
    assert tournament.champion.tolist() == [2]
    assert tournament.ranking.tolist() == [[2, 4, 5, 3, 1, 0]]
    assert [len(x) for x in tournament.pairs()] == [0, 0, 0]


def test_the_draw_is_random_and_seeded():
    first = torch.cat([Knockout(500, 5, seed=s).pairs().first for s in (0, 1)])
    assert torch.equal(first[:500], Knockout(500, 5, seed=0).pairs().first)
    assert not torch.equal(first[:500], first[500:])
    meetings = torch.bincount(first, minlength=5) / len(first)  # 2000 draws of a fifth: standard deviation 0.009
    assert meetings.tolist() == pytest.approx([0.2] * 5, abs=0.05)


@pytest.mark.parametrize(("votes", "winner"), [([1, 0, 1], 0), ([0, 0, 1], 1), ([NAN, 0, NAN], 1), ([0.9, 0.4, 0.4], 0), ([0.3, 0.7, 0.4], 1)])
def test_the_majority_of_valid_votes_decides(votes, winner):
    tournament = Knockout(1, 2, seed=0, votes=3, order=[[0, 1]])
    tournament.pairs()
    tournament.record(votes)
    assert tournament.champion.tolist() == [winner]


@pytest.mark.parametrize("votes", [[0.5, 0.5], [1, 0], [NAN, NAN], [NAN, 0.5], [0.3, 0.7]])
def test_ties(votes):
    champions = {}
    for rule in ("first", "second", "random"):
        tournament = Knockout(400, 2, seed=3, votes=2, on_tie=rule, order=[[0, 1]] * 400)
        tournament.pairs()
        tournament.record(votes * 400)
        champions[rule] = tournament.champion
    assert champions["first"].tolist() == [0] * 400
    assert champions["second"].tolist() == [1] * 400
    assert champions["random"].double().mean().item() == pytest.approx(0.5, abs=0.1)  # standard deviation 0.025
    again = Knockout(400, 2, seed=3, votes=2, on_tie="random", order=[[0, 1]] * 400)
    again.pairs()
    again.record(votes * 400)
    assert torch.equal(again.champion, champions["random"])


def test_coins_differ_from_match_to_match_and_round_to_round():
    tournament = Knockout(1, 64, seed=0, on_tie="random", order=[list(range(64))])
    rounds = []
    while not tournament.done:
        first = tournament.pairs().first
        tournament.record([0.5] * len(first))
        survivors = tournament._slots[0]
        rounds.append(torch.isin(first, survivors))
    assert [len(r) for r in rounds] == [32, 16, 8, 4, 2, 1]
    for a, b in itertools.pairwise(rounds):
        assert 0 < a.sum() + b.sum() < len(a) + len(b)
        assert not torch.equal(a[: len(b)], b) or len(b) < 4


def test_coins_go_on_elsewhere():
    whole, part = (Knockout(7, 11, seed=1, on_tie="random") for _ in range(2))
    play(whole, lambda p, i, j: [0.5] * len(p))
    while not part.done:
        part.record([0.5] * len(part.pairs().first))
        state = part.state_dict()
        part = Knockout(7, 11, seed=99, on_tie="random")
        part.load_state_dict(state)
    assert torch.equal(part.ranking, whole.ranking)


@pytest.mark.parametrize("rule", ["first", "second"])
def test_both_orders_leave_a_judge_of_positions_to_the_tie_rule(rule):
    tournament = Knockout(1, 4, seed=0, votes=2, both_orders=True, on_tie=rule, order=[[0, 1, 2, 3]])
    assert [ids.tolist() for ids in tournament.pairs()] == [[0] * 8, [0, 0, 3, 3, 1, 1, 2, 2], [3, 3, 0, 0, 2, 2, 1, 1]]
    tournament.record([1] * 8)
    assert tournament.pairs().first.tolist() == ([0, 0, 1, 1] if rule == "first" else [3, 3, 2, 2])
    tournament.record([1, 1, 0, 1])
    assert tournament.champion.tolist() == ([0] if rule == "first" else [3])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"on_tie": "both"}, ValueError, "on_tie: expected 'first', 'second' or 'random', got 'both'"),
        ({"order": [[0, 1, 2]]}, ValueError, r"order: expected shape \[2, 3\], got \[1, 3\]"),
        ({"order": [[0, 1, 2], [0, 1, 1]]}, ValueError, "order: expected each candidate once per problem"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=r"^" + message):
        Knockout(**{"num_problems": 2, "num_candidates": 3, "seed": 0, **arguments})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scheduler": "Swiss"}, ValueError, r"state\['scheduler'\]: expected 'Knockout', got 'Swiss'"),
        ({"on_tie": "second"}, ValueError, r"state\['on_tie'\]: expected 'first', got 'second'"),
        ({"slots": torch.zeros(2, 8)}, TypeError, r"state\['slots'\]: expected int64, got torch.float32"),
        ({"slots": torch.zeros(2, 3, dtype=torch.int64)}, ValueError, r"state\['slots'\]: expected shape \[2, 1\] or \[2, 2\] or .*, got \[2, 3\]"),
        ({"slots": torch.full((2, 8), 5)}, ValueError, r"state\['slots'\]: expected values in \[0, 5\) or -1, got 5"),
        ({"lost_to": torch.full((2, 5), -2)}, ValueError, r"state\['lost_to'\]: expected values in \[0, 5\) or -1, got -2"),
        ({"lost_round": torch.zeros(2, 4, dtype=torch.int64)}, ValueError, r"state\['lost_round'\]: expected shape \[2, 5\], got \[2, 4\]"),
        ({"coins": torch.zeros(2, 8, dtype=torch.bool)}, ValueError, r"state\['coins'\]: expected shape \[2, 7\], got \[2, 8\]"),
    ],
)
def test_bad_states(change, error, message):
    tournament = Knockout(2, 5, seed=0)
    pairs = tournament.pairs()
    with pytest.raises(error, match=r"^" + message):
        tournament.load_state_dict({**tournament.state_dict(), **change})
    assert all(torch.equal(a, b) for a, b in zip(pairs, tournament.pairs(), strict=True))
