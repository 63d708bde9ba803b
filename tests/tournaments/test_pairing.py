"""pair_off against a loop, and where a loop alone would leave rematches."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core.tournaments.pairing import pair_off


def greedy(order, meetings):
    """The highest left and the nearest of those it has met least often."""
    left, pairs = [c for c in order if c >= 0], []
    while left:
        one = left.pop(0)
        other = min(left, key=lambda c: (meetings[one][c], left.index(c)))
        left.remove(other)
        pairs.append((one, other))
    return pairs


def rematches(pairs, meetings):
    return sum(int(meetings[i][j]) for i, j in pairs)


def history(problems, n, days, generator):
    """Meetings [problems, n, n] in so many rounds of random pairs."""
    meetings = torch.zeros(problems, n, n, dtype=torch.int32)
    for b in range(problems):
        for _ in range(days):
            drawn = torch.randperm(n, generator=generator)
            meetings[b, drawn[::2], drawn[1::2]] += 1
            meetings[b, drawn[1::2], drawn[::2]] += 1
    return meetings


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 4), st.integers(1, 12), st.integers(0, 14), st.booleans(), st.integers(0, 10**6))
def test_is_the_loop_or_better(problems, n, days, ragged, seed):
    generator = torch.Generator().manual_seed(seed)
    meetings = history(problems, n - n % 2, days, generator)
    n = meetings.shape[1]
    order = torch.rand(problems, n, generator=generator).argsort(1)
    if ragged:
        order[torch.arange(n) >= 2 * torch.randint(0, n // 2 + 1, (problems, 1), generator=generator)] = -1
    before = meetings.clone()
    pairs = pair_off(order, meetings)
    assert torch.equal(meetings, before)
    assert pairs.shape == (problems, n // 2, 2)
    for b in range(problems):
        count = int((order[b] >= 0).sum()) // 2
        assert pairs[b, count:].eq(-1).all()
        got = [tuple(pair) for pair in pairs[b, :count].tolist()]
        assert sorted(c for pair in got for c in pair) == sorted(order[b, : 2 * count].tolist())
        expected = greedy(order[b].tolist(), meetings[b].tolist())
        again = rematches(expected, meetings[b])
        if again == 0:
            assert got == expected
        assert rematches(got, meetings[b]) <= again
        for (a, b_), (c, d) in itertools.combinations(got, 2):  # no exchange between two pairs is left that would help
            now = meetings[b, a, b_] + meetings[b, c, d]
            if now > 0:
                assert meetings[b, a, c] + meetings[b, b_, d] >= now
                assert meetings[b, a, d] + meetings[b, b_, c] >= now


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 16), st.integers(0, 10**6))
def test_nobody_meets_anybody_twice_who_has_met_less_than_half(half, seed):
    """Histories as dense as the proof allows."""
    generator = torch.Generator().manual_seed(seed)
    n, problems = 2 * half, 8
    meetings = torch.zeros(problems, n, n, dtype=torch.int32)
    for b in range(problems):
        seats = torch.randperm(n, generator=generator)
        steps = torch.randperm(half - 1, generator=generator)[: (half - 1) // 2] + 1  # circulant: each step adds two
        for step in steps.tolist():
            other = seats.roll(step)
            meetings[b, seats, other], meetings[b, other, seats] = 1, 1
        if (half - 1) % 2:
            other = seats.roll(half)
            meetings[b, seats, other], meetings[b, other, seats] = 1, 1
    assert meetings.sum(2).unique().tolist() == [half - 1]
    pairs = pair_off(torch.rand(problems, n, generator=generator).argsort(1), meetings)
    for b in range(problems):
        assert rematches(pairs[b].tolist(), meetings[b]) == 0


def meetings_of(n, *pairs):
    meetings = torch.zeros(1, n, n, dtype=torch.int32)
    for i, j in pairs:
        meetings[0, i, j] = meetings[0, j, i] = 1
    return meetings


@pytest.mark.parametrize(
    ("n", "met", "expected"),
    [
        (4, [], [[0, 1], [2, 3]]),
        (4, [(0, 1)], [[0, 2], [1, 3]]),
        (4, [(2, 3)], [[0, 2], [1, 3]]),  # the last two exchange: as it is or crossed, the nearer
        (4, [(2, 3), (0, 2)], [[0, 3], [1, 2]]),
        (6, [(4, 5)], [[0, 1], [2, 4], [3, 5]]),  # with the nearer of the two pairs
        (6, [(4, 5), (2, 4), (2, 5), (3, 4), (3, 5)], [[0, 4], [1, 5], [2, 3]]),  # with the only one that can
        (4, [(0, 1), (0, 2), (0, 3)], [[0, 1], [2, 3]]),  # there is no way round
    ],
)
def test_who_exchanges(n, met, expected):
    got = pair_off(torch.arange(n).unsqueeze(0), meetings_of(n, *met))[0].tolist()
    assert sorted(sorted(pair) for pair in got) == expected


def test_where_all_have_met_those_meet_who_have_met_least():
    meetings = 3 * (1 - torch.eye(4, dtype=torch.int32)).unsqueeze(0)
    meetings[0, 0, 3] = meetings[0, 3, 0] = 2
    assert pair_off(torch.arange(4).unsqueeze(0), meetings).tolist() == [[[0, 3], [1, 2]]]
