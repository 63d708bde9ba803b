"""Swiss against a loop over its rounds and candidates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core.tournaments import Swiss

NAN = float("nan")


def play(tournament, judge):
    """Rounds of (problem, first, second, outcome) lists."""
    rounds = []
    while not tournament.done:
        pairs = tournament.pairs()
        outcome = torch.as_tensor(judge(*pairs), dtype=torch.float64)
        tournament.record(outcome)
        rounds.append([x.tolist() for x in (*pairs, outcome)])
    return rounds


def standing(points, lots, players):
    return sorted(players, key=lambda c: (-points[c], lots[c]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(1, 11), st.integers(1, 12), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_equals_the_loop(problems, n, rounds, votes, both, ragged, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(problems, n, generator=generator) < 0.7 if ragged else None
    taking = torch.ones(problems, n, dtype=torch.bool) if mask is None else mask
    tournament = Swiss(problems, n, rounds=rounds, seed=seed, votes=votes, both_orders=both, mask=mask)
    lots = tournament.state_dict()["lots"].tolist()
    choices, each = torch.tensor([0.0, 0.5, 1.0, NAN, 0.25]), votes * (1 + both)
    played = play(tournament, lambda p, i, j: choices[torch.randint(0, 5, (len(p),), generator=generator)])
    assert len(played) == (rounds if problems and taking.sum(1).max() > 1 else 0)
    for b in range(problems):
        players = taking[b].nonzero().flatten().tolist()
        m, points, byes, led, votes_won = len(players), [0.0] * n, [0] * n, [0] * n, [0.0] * n
        meetings = [[0] * n for _ in range(n)]
        for problem, first, second, outcome in played if m > 1 else []:
            calls = [k for k, p in enumerate(problem) if p == b]
            matches = [(first[k], second[k], outcome[k : k + each]) for k in calls[::each]]
            busy = [c for i, j, _ in matches for c in (i, j)]
            assert len(matches) == m // 2
            assert len(set(busy)) == len(busy)
            order = standing(points, lots[b], players)
            spare = [c for c in players if c not in busy]
            if m % 2:
                fewest = min(byes[c] for c in players)
                assert spare == [[c for c in order if byes[c] == fewest][-1]]
                order.remove(spare[0])
                byes[spare[0]] += 1
            greedy, left = [], list(order)
            while left:
                one = left.pop(0)
                other = min(left, key=lambda c: (meetings[one][c], left.index(c)))
                left.remove(other)
                greedy.append((one, other))
            again = sum(meetings[i][j] for i, j in greedy)
            assert sum(meetings[i][j] for i, j, _ in matches) <= again
            if again == 0:
                assert [{i, j} for i, j, _ in matches] == [set(pair) for pair in greedy]
            for i, j, shares in matches:
                assert (led[i], lots[b][i]) < (led[j], lots[b][j])
                led[i], led[j] = led[i] + 1, led[j] - 1
                meetings[i][j] += 1
                meetings[j][i] += 1
                valid = [v for v in shares[:votes] + [1 - v for v in shares[votes:]] if not math.isnan(v)]
                votes_won[i] += sum(valid)
                votes_won[j] += len(valid) - sum(valid)
                if valid:
                    mean = sum(valid) / len(valid)
                    points[i] += 1 if mean > 0.5 else 0.5 if mean == 0.5 else 0
                    points[j] += 1 if mean < 0.5 else 0.5 if mean == 0.5 else 0
            for c in spare:
                points[c] += 1
        buchholz = [sum(meetings[c][d] * points[d] for d in range(n)) for c in range(n)]
        assert tournament.points()[b].tolist() == points
        assert tournament.buchholz()[b].tolist() == buchholz
        assert tournament.wins()[b].sum(1).tolist() == votes_won
        ranked = sorted(players, key=lambda c: (-points[c], -buchholz[c], -votes_won[c], c))
        assert tournament.ranking[b].tolist() == ranked + [-1] * (n - m)
        assert max((abs(x) for x in led), default=0) <= 2


def rematches(tournament, judge):
    """Matches between two who had met."""
    n, pairs = tournament.num_candidates, [torch.tensor(day[:3]) for day in play(tournament, judge)]
    problem, first, second = torch.cat(pairs, 1)
    met = (problem * n + first.minimum(second)) * n + first.maximum(second)
    return len(met) - len(met.unique())


@pytest.mark.parametrize("n", range(2, 34))
def test_no_rematch_where_there_need_be_none(n):
    generator = torch.Generator().manual_seed(n)
    strength = torch.rand(100, n, generator=generator)

    def judge(p, i, j):
        """As good as the problem's number says: by lot, by strength, by both, always even, by lot with ties."""
        ahead, noise = strength[p, i] - strength[p, j], torch.randn(len(p), generator=generator)
        verdicts = torch.stack((noise > 0, ahead > 0, ahead + noise / 2 > 0, torch.zeros(len(p)), noise.sign() * (noise.abs() > 0.5))).sign()
        verdicts[:3] = 2 * verdicts[:3] - 1
        return verdicts[p % 5, torch.arange(len(p))] / 2 + 0.5

    assert rematches(Swiss(100, n, rounds=max(n // 2, (n - 1).bit_length()), seed=n), judge) == 0


def test_two_meet_in_every_round():
    assert rematches(Swiss(3, 2, rounds=4, seed=0), lambda p, i, j: [1] * len(p)) == 9


def test_the_best_is_found_among_powers_of_two():
    strength = torch.rand(50, 16, generator=torch.Generator().manual_seed(0))
    tournament = Swiss(50, 16, rounds=4, seed=0)
    play(tournament, lambda p, i, j: (strength[p, i] > strength[p, j]).double())
    assert torch.equal(tournament.champion, strength.argmax(1))
    assert tournament.points().max(1).values.tolist() == [4.0] * 50
    assert tournament.points().sum(1).tolist() == [32.0] * 50


def test_every_round_of_invalid_verdicts():
    tournament = Swiss(1, 5, rounds=5, seed=0, both_orders=True)
    play(tournament, lambda p, i, j: [NAN] * len(p))
    assert tournament.points().tolist() == [[1.0] * 5]  # a bye each
    assert tournament.buchholz().tolist() == [[4.0] * 5]
    assert not tournament.wins().any()
    assert tournament.ranking.tolist() == [[0, 1, 2, 3, 4]]


def test_the_lots_are_random_and_seeded():
    first = [Swiss(2000, 6, rounds=1, seed=seed).pairs() for seed in (0, 0, 1)]
    assert torch.equal(first[0].first, first[1].first)
    assert not torch.equal(first[0].first, first[2].first)
    counts = torch.zeros(6, 6)
    counts.index_put_((first[0].first, first[0].second), torch.ones(6000), accumulate=True)
    off_diagonal = counts[~torch.eye(6, dtype=torch.bool)] / 2000  # a tenth each way; standard deviation 0.007
    assert off_diagonal.tolist() == pytest.approx([0.1] * 30, abs=0.035)
    bye = Swiss(2000, 3, rounds=1, seed=0).pairs()
    assert torch.bincount(3 - bye.first - bye.second).tolist() == pytest.approx([667] * 3, abs=110)  # standard deviation 21


def test_a_problem_does_not_depend_on_the_others():
    """One alone has no rounds, so no byes, whoever else plays."""
    tournament = Swiss(2, 3, rounds=3, seed=0, mask=[[True] * 3, [False, True, False]])
    play(tournament, lambda p, i, j: [1] * len(p))
    assert tournament.points()[1].tolist() == [0.0] * 3
    assert tournament.ranking[1].tolist() == [1, -1, -1]


def test_bad_rounds():
    for rounds, error, message in ((0, ValueError, "an integer of at least 1, got 0"), (1.0, TypeError, "an integer, got float")):
        with pytest.raises(error, match=f"^rounds: expected {message}"):
            Swiss(1, 4, rounds=rounds, seed=0)


ONE, TWO = torch.tensor([0, 1]), torch.tensor([2, 3])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rounds": 3}, ValueError, r"state\['rounds'\]: expected 2, got 3"),
        ({"lots": torch.zeros(1, 6)}, TypeError, r"state\['lots'\]: expected int64, got torch.float32"),
        ({"lots": torch.tensor([[0, 1, 2]])}, ValueError, r"state\['lots'\]: expected shape \[1, 6\], got \[1, 3\]"),
        ({"lots": torch.zeros(1, 6, dtype=torch.int64)}, ValueError, r"state\['lots'\]: expected each lot once per problem, got 0"),
        ({"first": ONE.view(1, 2)}, ValueError, r"state\['first'\]: expected shape \[M\], got \[1, 2\]"),
        ({"first": ONE[:1], "second": TWO[:1]}, ValueError, r"state\['first'\]: expected 1 to 2 rounds of 2 matches, got 1 matches"),
        ({"first": ONE[:0], "second": TWO[:0]}, ValueError, r"state\['first'\]: expected 1 to 2 rounds of 2 matches, got 0 matches"),
        ({"first": ONE.repeat(3), "second": TWO.repeat(3)}, ValueError, r"state\['first'\]: expected 1 to 2 rounds of 2 matches, got 6 matches"),
        ({"second": TWO[:1]}, ValueError, r"state\['second'\]: expected shape \[2\], got \[1\]"),
        ({"second": torch.tensor([2, 6])}, ValueError, r"state\['second'\]: expected values in \[0, 6\), got 6"),
        ({"first": torch.tensor([5, 1])}, ValueError, r"state\['first'\]: expected candidates who take part, got 5"),
        ({"second": torch.tensor([2, 0])}, ValueError, r"state\['second'\]: expected each candidate at most once per round, got 2"),
        ({"first": ONE.repeat(2), "second": TWO.repeat(2)}, ValueError, r"state\['outcome'\]: expected shape \[2, 1\] or \[4, 1\], got \[0, 1\]"),
        ({"outcome": torch.zeros(2, 1, dtype=torch.float64)}, ValueError, r"state\['outcome'\]: expected shape \[0, 1\], got \[2, 1\]"),
        ({"taking": torch.zeros(1, 6, dtype=torch.bool)}, ValueError, r"state\['first'\]: expected 1 to 2 rounds of 0 matches, got 2 matches"),
    ],
)
def test_bad_states(change, error, message):
    tournament = Swiss(1, 6, rounds=2, seed=0, mask=[[True] * 5 + [False]])
    pairs = tournament.pairs()
    state = {**tournament.state_dict(), "first": ONE, "second": TWO}
    with pytest.raises(error, match=r"^" + message):
        tournament.load_state_dict({**state, **change})
    assert all(torch.equal(a, b) for a, b in zip(pairs, tournament.pairs(), strict=True))
    tournament.load_state_dict(state)
    assert tournament.pairs().first.tolist() == [0, 1]
