"""What all tournaments share: calls, orders, invalid verdicts, states, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core.tournaments import Anchored, Knockout, RoundRobin, Swiss

NAN = float("nan")
# how it is made, and its matches among m candidates
EVERY = {
    "knockout": (lambda *sizes, seed=0, **options: Knockout(*sizes, seed=seed, **options), lambda m: max(0, m - 1)),
    "round robin": (RoundRobin, lambda m: m * (m - 1) // 2),
    "two opponents": (lambda *sizes, **options: RoundRobin(*sizes, opponents=2, **options), lambda m: m if m > 2 else m // 2),
    "three opponents": (
        lambda *sizes, **options: RoundRobin(*sizes, opponents=3, **options),
        lambda m: (3 * m + 1) // 2 if m > 3 else m * (m - 1) // 2,
    ),
    "swiss": (lambda *sizes, seed=0, **options: Swiss(*sizes, rounds=3, seed=seed, **options), lambda m: 3 * (m // 2)),
    "anchored": (lambda *sizes, **options: Anchored(*sizes, anchors=2, **options), lambda m: 2 * (m - 2) + 1 if m > 1 else 0),
}
every = pytest.mark.parametrize("kind", EVERY)


def make(kind, *sizes, **options):
    return EVERY[kind][0](*sizes, **options)


def play(tournament, judge):
    """Every call: (problem, first, second, outcome) as lists."""
    calls = [[], [], [], []]
    while not tournament.done:
        pairs = tournament.pairs()
        outcome = torch.as_tensor(judge(*pairs), dtype=torch.float64)
        tournament.record(outcome)
        for column, values in zip(calls, (*pairs, outcome), strict=True):
            column += values.tolist()
    return calls


def some_judge(problem, first, second):
    return ((first * 7 + second * 3 + problem) % 3).double() / 2


def same(one, other):
    """States."""
    return one.keys() == other.keys() and all(
        torch.equal(v.nan_to_num(7), other[k].nan_to_num(7)) if isinstance(v, torch.Tensor) else v == other[k] for k, v in one.items()
    )


@every
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.integers(1, 9), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_judge_calls(kind, problems, n, votes, both, ragged, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(problems, n, generator=generator) < 0.7 if ragged else None
    taking = torch.ones(problems, n, dtype=torch.bool) if mask is None else mask
    tournament = make(kind, problems, n, seed=seed, votes=votes, both_orders=both, mask=mask)
    choices = torch.tensor([0.0, 0.5, 1.0, NAN])
    problem, first, second, _ = play(tournament, lambda p, i, j: choices[torch.randint(0, 4, (len(p),), generator=generator)])
    calls = list(zip(problem, first, second, strict=True))
    each = votes * (1 + both)
    for k in range(0, len(calls), each):
        b, i, j = calls[k]
        assert calls[k : k + each] == [(b, i, j)] * votes + [(b, j, i)] * votes * both
        assert i != j
        assert taking[b, i]
        assert taking[b, j]
    for b in range(problems):
        m = int(taking[b].sum())
        assert problem.count(b) == each * EVERY[kind][1](m)
        ranking = tournament.ranking[b].tolist()
        assert set(ranking[:m]) == set(taking[b].nonzero().flatten().tolist())
        assert ranking[m:] == [-1] * (n - m)
        assert tournament.champion[b] == ranking[0]
    assert [len(ids) for ids in tournament.pairs()] == [0, 0, 0]


@every
@pytest.mark.parametrize("votes", [1, 3])
@pytest.mark.parametrize("share", [0.003, 0.3, 1.0])
def test_both_orders_cancel_a_judge_of_positions(kind, votes, share):
    """Whatever the rounding of 1 - share: every match is a tie."""
    tournament, ties = make(kind, 3, 7, votes=votes, both_orders=True), make(kind, 3, 7)
    play(tournament, lambda p, i, j: torch.full((len(p),), share, dtype=torch.float64))
    play(ties, lambda p, i, j: torch.full((len(p),), 0.5))
    assert torch.equal(tournament.ranking, ties.ranking)
    if kind != "knockout":
        assert torch.equal(tournament.points(), ties.points())


@every
def test_both_orders_are_twice_the_votes_of_a_judge_who_sees_no_position(kind):
    strength = torch.rand(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    judge = lambda p, i, j: (strength[p, i] - strength[p, j] + 1) / 2  # noqa: E731
    once, both = make(kind, 4, 8, votes=2), make(kind, 4, 8, both_orders=True)
    play(once, judge)
    play(both, judge)
    assert torch.equal(once.ranking, both.ranking)
    if kind != "knockout":
        torch.testing.assert_close(both.wins(), once.wins(), rtol=0, atol=1e-14)
        assert both.points().sum() > 0


@every
@pytest.mark.parametrize(("outcome", "winner"), [([1, NAN], 0), ([NAN, 1], 1), ([NAN, 0], 0), ([0.6, 0.7], 1), ([0.4, NAN], 1)])
def test_an_invalid_verdict_is_no_vote(kind, outcome, winner):
    """Of two candidates; the second outcome is that of the swapped pair."""
    tournament = make(kind, 1, 2, both_orders=True)
    first = tournament.pairs().first[0]
    while not tournament.done:
        here = tournament.pairs().first[0]
        tournament.record(outcome if here == first else [outcome[1], outcome[0]])
    assert tournament.champion == (first if winner == 0 else 1 - first)


@every
@pytest.mark.parametrize("both", [False, True])
def test_can_go_on_elsewhere(kind, both, tmp_path):
    """Before and after every round, from a file that holds nothing but tensors, strings and numbers."""
    options = {"votes": 2, "both_orders": both, "mask": torch.rand(7, 11, generator=torch.Generator().manual_seed(0)) < 0.8}
    whole, part = make(kind, 7, 11, seed=1, **options), make(kind, 7, 11, seed=1, **options)
    play(whole, some_judge)

    def elsewhere(tournament):
        torch.save(tournament.state_dict(), tmp_path / "state.pt")
        other = make(kind, 7, 11, seed=99, **{**options, "mask": None})
        other.load_state_dict(torch.load(tmp_path / "state.pt"))
        assert same(other.state_dict(), tournament.state_dict())
        return other

    while not part.done:
        with pytest.raises(ValueError, match=r"^record: expected pairs\(\) to be called before"):
            elsewhere(part).record([])
        outcome = some_judge(*part.pairs())
        part = elsewhere(part)
        part.record(outcome)
        part = elsewhere(part)
    assert torch.equal(part.champion, whole.champion)
    assert torch.equal(part.ranking, whole.ranking)
    if kind != "knockout":
        assert torch.equal(part.wins(), whole.wins())
        assert torch.equal(part.points(), whole.points())


@every
def test_a_state_is_a_copy(kind):
    tournament = make(kind, 2, 5)
    tournament.pairs()
    before, other = tournament.state_dict(), make(kind, 2, 5, seed=3)
    kept = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in before.items()}
    other.load_state_dict(before)
    play(tournament, some_judge)
    play(other, some_judge)
    assert same(before, kept)
    for tensor in (v for v in tournament.state_dict().values() if isinstance(v, torch.Tensor)):
        tensor.zero_()
    assert torch.equal(other.ranking, tournament.ranking)


@every
def test_nobody_to_meet(kind):
    for problems, n in ((0, 5), (0, 1), (3, 1)):
        tournament = make(kind, problems, n, both_orders=True)
        assert tournament.done
        assert [len(ids) for ids in tournament.pairs()] == [0, 0, 0]
        assert tournament.ranking.tolist() == [[0]] * problems
        assert tournament.ranking.shape == (problems, n)
        assert tournament.champion.tolist() == [0] * problems
        if kind != "knockout":
            assert tournament.points().tolist() == [[0.0]] * problems
            assert tournament.wins().shape == (problems, n, n)
        other = make(kind, problems, n, both_orders=True)
        other.load_state_dict(tournament.state_dict())
        assert other.done
    empty = make(kind, 2, 4, mask=[[False] * 4, [False, False, True, False]])
    assert empty.done
    assert empty.champion.tolist() == [-1, 2]
    assert empty.ranking.tolist() == [[-1] * 4, [2, -1, -1, -1]]


@every
def test_wrong_use_loses_nothing(kind):
    tournament = make(kind, 2, 4, both_orders=True)
    before = tournament.state_dict()
    with pytest.raises(ValueError, match=r"^record: expected pairs\(\) to be called before, got outcomes of no pairs"):
        tournament.record([1, 1, 1, 1])
    for name in ("champion", "ranking", "wins", "points", "buchholz"):
        if hasattr(type(tournament), name):
            with pytest.raises(ValueError, match=r"^\w+: expected every match to be recorded, got \d+ matches left in this round"):
                getattr(tournament, name)()
    calls = len(tournament.pairs().first)
    for outcome, message in (
        ([1] * (calls // 2), rf"outcome: expected shape \[{calls}\], got \[{calls // 2}\]"),
        ([1] * (calls - 1) + [2], r"outcome: expected values in \[0, 1\] or NaN, got 2.0"),
        ([-0.1] * calls, r"outcome: expected values in \[0, 1\] or NaN, got -0.1"),
    ):
        with pytest.raises(ValueError, match=r"^" + message):
            tournament.record(outcome)
    with pytest.raises(TypeError, match=r"^outcome: expected numbers, got str"):
        tournament.record("AABB")
    assert same({**before, "asked": True}, tournament.state_dict())
    tournament.record(torch.ones(calls, dtype=torch.bool))
    after = tournament.state_dict()
    with pytest.raises(ValueError, match=r"^record: expected (pairs\(\) to be called before|a tournament with matches left)"):
        tournament.record([1] * calls)
    assert same(after, tournament.state_dict())
    play(tournament, some_judge)
    with pytest.raises(ValueError, match=r"^record: expected a tournament with matches left, got one that is done"):
        tournament.record([])


@every
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_problems": -1}, ValueError, "num_problems: expected an integer of at least 0, got -1"),
        ({"num_candidates": 0}, ValueError, "num_candidates: expected an integer of at least 1, got 0"),
        ({"votes": 0}, ValueError, "votes: expected an integer of at least 1, got 0"),
        ({"votes": True}, TypeError, "votes: expected an integer, got bool"),
        ({"both_orders": 1}, TypeError, "both_orders: expected a bool, got int"),
        ({"seed": 1.5}, TypeError, "seed: expected an integer, got float"),
        ({"mask": [[True] * 3]}, ValueError, r"mask: expected shape \[2, 3\], got \[1, 3\]"),
        ({"mask": [[1] * 3] * 2}, TypeError, "mask: expected bools, got torch.int64"),
    ],
)
def test_bad_arguments(kind, arguments, error, message):
    arguments = {"num_problems": 2, "num_candidates": 3, **arguments}
    with pytest.raises(error, match=r"^" + message):
        make(kind, arguments.pop("num_problems"), arguments.pop("num_candidates"), **arguments)


BAD = [
    ({"version": 2}, ValueError, r"state\['version'\]: expected 1, got 2"),
    ({"scheduler": "Ladder"}, ValueError, r"state\['scheduler'\]: expected '(\w+)', got 'Ladder'"),
    ({"num_problems": 1}, ValueError, r"state\['num_problems'\]: expected 2, got 1"),
    ({"num_candidates": 4}, ValueError, r"state\['num_candidates'\]: expected 5, got 4"),
    ({"votes": 2}, ValueError, r"state\['votes'\]: expected 1, got 2"),
    ({"votes": True}, ValueError, r"state\['votes'\]: expected 1, got True"),
    ({"votes": torch.ones(3)}, ValueError, r"state\['votes'\]: expected 1, got tensor"),
    ({"both_orders": True}, ValueError, r"state\['both_orders'\]: expected False, got True"),
    ({"asked": 1}, TypeError, r"state\['asked'\]: expected a bool, got int"),
    ({"more": 1}, ValueError, "state: expected entries"),
]
OF_LEAGUES = [
    ({"taking": torch.ones(2, 5)}, TypeError, r"state\['taking'\]: expected bool, got torch.float32"),
    ({"taking": torch.ones(2, 4, dtype=torch.bool)}, ValueError, r"state\['taking'\]: expected shape \[2, 5\], got \[2, 4\]"),
    ({"outcome": torch.zeros(1, 1, dtype=torch.float64)}, ValueError, r"state\['outcome'\]: expected shape \[0, 1\].*, got \[1, 1\]"),
    ({"outcome": torch.zeros(0, 2, dtype=torch.float64)}, ValueError, r"state\['outcome'\]: expected shape .*, got \[0, 2\]"),
]


@pytest.mark.parametrize(("kind", "bad"), [(kind, bad) for kind in EVERY for bad in (BAD + OF_LEAGUES if kind != "knockout" else BAD)])
def test_bad_states(kind, bad):
    change, error, message = bad
    tournament = make(kind, 2, 5)
    tournament.pairs()
    before = tournament.state_dict()
    with pytest.raises(error, match=r"^" + message):
        tournament.load_state_dict({**make(kind, 2, 5, seed=7).state_dict(), **change})
    with pytest.raises(ValueError, match=r"^state: expected entries"):
        tournament.load_state_dict({})
    assert same(before, tournament.state_dict())


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind != "knockout"])
def test_recorded_outcomes_are_checked(kind):
    done, other = make(kind, 2, 5), make(kind, 2, 5)
    play(done, some_judge)
    state = done.state_dict()
    with pytest.raises(ValueError, match=r"^state\['outcome'\]: expected values in \[0, 1\] or NaN, got 2.0"):
        other.load_state_dict({**state, "outcome": torch.full_like(state["outcome"], 2.0)})
    with pytest.raises(ValueError, match=r"^state\['outcome'\]: expected shape"):
        other.load_state_dict({**state, "outcome": state["outcome"][1:]})
    assert not other.done
    other.load_state_dict(state)
    assert torch.equal(other.ranking, done.ranking)
