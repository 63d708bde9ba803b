"""pairwise_counts against pairwise_wins and a loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core import NativeKernelError
from rrm_core.tournaments import pairwise_counts, pairwise_wins, schema

NAN = float("nan")
OP = torch.ops.rrm.pairwise_counts.default

match = st.tuples(
    st.integers(0, 2),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.5, 1.0, 0.25, 0.3, NAN]),
    st.sampled_from([0.0, 1.0, 2.5, 0.1]),
).filter(lambda m: m[1] != m[2])


@pytest.mark.triton
def test_equals_the_loop(impl):
    @settings(max_examples=40, deadline=None)
    @given(st.lists(match, max_size=40))
    def check(matches):
        problem, first, second, outcome, weight = ([m[k] for m in matches] for k in range(5))
        wins, ties = torch.zeros(3, 5, 5, dtype=torch.float64), torch.zeros(3, 5, 5, dtype=torch.float64)
        for p, i, j, share, w in matches:
            if share == 0.5:
                ties[p, i, j] += w
                ties[p, j, i] += w
            elif not math.isnan(share):
                wins[p, i, j] += w * share
                wins[p, j, i] += w * (1 - share)
        arguments = {"problem": problem, "num_problems": 3, "num_candidates": 5, "weight": weight, "impl": impl}
        got = pairwise_counts(first, second, outcome, **arguments)
        assert torch.equal(got.wins, wins)
        assert torch.equal(got.ties, ties)
        # the same sums in another order
        torch.testing.assert_close(got.wins + got.ties / 2, pairwise_wins(first, second, outcome, **arguments), rtol=1e-14, atol=1e-15)

    check()


def test_verdicts():
    got = pairwise_counts([0, 0, 1, 0], [1, 1, 0, 1], [1, 0, 0.5, NAN], num_candidates=2)
    assert got._fields == ("wins", "ties")
    assert got.wins.tolist() == [[[0.0, 1.0], [1.0, 0.0]]]
    assert got.ties.tolist() == [[[0.0, 1.0], [1.0, 0.0]]]
    assert [x.dtype for x in got] == [torch.float64] * 2
    soft = pairwise_counts([0], [1], torch.tensor([0.25], requires_grad=True), num_candidates=2)
    assert soft.wins.tolist() == [[[0.0, 0.25], [0.75, 0.0]]]
    assert not soft.wins.requires_grad
    assert [x.shape for x in pairwise_counts([], [], [], problem=[], num_problems=0, num_candidates=3)] == [(0, 3, 3)] * 2


@pytest.mark.triton
def test_unchecked_values_are_skipped_or_loud(impl):
    body = schema.pairwise_counts.body(impl, torch.zeros(0))
    first, second = torch.tensor([0, 3, -1, 0, 0, 1, 0, 2]), torch.tensor([1, 0, 0, 2**62, 0, 2, 1, 2])
    outcome, problem = torch.tensor([1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.5]).double(), torch.tensor([0, 0, 0, 0, 0, 2, 0, 0])
    wins, ties = body(first, second, outcome, problem, None, 2, 3)
    expected = torch.zeros(2, 3, 3, dtype=torch.float64)
    expected[0, 0, 1] = 1
    assert torch.equal(wins, expected)
    expected[0, 1, 0] = 1
    assert torch.equal(ties, expected)
    first, second = torch.tensor([0, 0, 1, 0]), torch.tensor([1, 2, 2, 3])
    outcome, weight = torch.tensor([2.0, 1.0, 0.5, 1.0]).double(), torch.tensor([1.0, -1.0, float("inf"), 1.0]).double()
    wins, ties = body(first, second, outcome, None, weight, 1, 4)
    assert wins[0].isnan().tolist() == torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool().tolist()
    assert ties[0].isnan().tolist() == torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool().tolist()


def test_bad_arguments(monkeypatch):
    good = {"first": [0, 1], "second": [1, 2], "outcome": [1, 0], "num_candidates": 3}
    for change, message in (
        ({"first": [0, 5]}, r"first: expected values in \[0, 3\), got 5"),
        ({"outcome": [1, 1.5]}, r"outcome: expected values in \[0, 1\] or NaN, got 1.5"),
        ({"weight": [1, -2]}, "weight: expected finite values of at least 0, got -2.0"),
        ({"num_candidates": 0}, "num_candidates: expected an integer of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match="^" + message):
            pairwise_counts(**{**good, **change})
    monkeypatch.setattr(schema.pairwise_counts, "native_devices", set())
    with pytest.raises(NativeKernelError, match="no native kernel of pairwise_counts"):
        pairwise_counts(**good, impl="native")


def test_opcheck():
    ids, other = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    outcome = torch.tensor([1.0, 0.5, NAN], dtype=torch.float64)
    torch.library.opcheck(OP, (ids, other, outcome, None, None, 1, 3))
    torch.library.opcheck(OP, (ids, other, outcome, torch.tensor([0, 1, 1]), outcome.nan_to_num(), 2, 4))
    with pytest.raises(RuntimeError, match="pairwise_counts is not differentiable"):
        OP(ids, other, outcome.requires_grad_(), None, None, 1, 3)[0].sum().backward()


def test_compiles_with_dynamic_shapes():
    torch._dynamo.reset()

    def count(first, second, outcome, n):
        wins, ties = pairwise_counts(first, second, outcome, num_candidates=n)
        return wins + ties

    compiled = torch.compile(count, fullgraph=True, backend="aot_eager", dynamic=True)
    for size, n in ((3, 4), (5, 6), (8, 7)):
        first, second = torch.arange(size) % n, (torch.arange(size) + 1) % n
        outcome = torch.linspace(0, 1, size, dtype=torch.float64)
        assert torch.equal(compiled(first, second, outcome, n), count(first, second, outcome, n))
