"""pairwise_wins against a loop over the matches, and against bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrm_core import NativeKernelError
from rrm_core.testing import guarded
from rrm_core.tournaments import pairwise_wins, schema

NAN = float("nan")
OP = torch.ops.rrm.pairwise_wins.default

match = st.tuples(
    st.integers(0, 2),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.5, 1.0, 0.25, 0.3, NAN]),
    st.sampled_from([0.0, 1.0, 2.5, 0.1]),
).filter(lambda m: m[1] != m[2])


def loop(problem, first, second, outcome, weight, num_problems, n):
    wins = [[[0.0] * n for _ in range(n)] for _ in range(num_problems)]
    for p, i, j, share, w in zip(problem, first, second, outcome, weight, strict=True):
        if not math.isnan(share):
            wins[p][i][j] += w * share
            wins[p][j][i] += w * (1 - share)
    return torch.tensor(wins, dtype=torch.float64).view(num_problems, n, n)


@pytest.mark.triton
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(match, max_size=40))
def test_equals_the_loop(impl, matches):
    problem, first, second, outcome, weight = ([m[k] for m in matches] for k in range(5))
    expected = loop(problem, first, second, outcome, weight, 3, 5)
    got = pairwise_wins(first, second, outcome, problem=problem, num_problems=3, num_candidates=5, weight=weight, impl=impl)
    assert got.dtype == torch.float64
    assert torch.equal(got, expected)  # the loop's order of additions, so the loop's bits


@pytest.mark.triton
@pytest.mark.parametrize("outcomes", ["verdicts", "shares"])
def test_several_blocks_of_cells(impl, outcomes):
    generator = torch.Generator().manual_seed(3)
    first = torch.randint(0, 9, (700,), generator=generator)
    second = (first + torch.randint(1, 9, first.shape, generator=generator)) % 9
    problem = torch.randint(0, 5, first.shape, generator=generator)  # 405 cells, of which some heavy
    second[:200], first[:200], problem[:200] = 8, 7, 4
    outcome = torch.rand(first.shape, dtype=torch.float64, generator=generator)
    outcome = (2 * outcome).round() / 2 if outcomes == "verdicts" else outcome
    weight = torch.rand(first.shape, dtype=torch.float64, generator=generator)
    columns = [guarded(x) for x in (first, second, outcome)]
    got = pairwise_wins(*columns, problem=guarded(problem), num_problems=5, num_candidates=9, weight=guarded(weight), impl=impl)
    assert torch.equal(got, loop(*(x.tolist() for x in (problem, first, second, outcome, weight)), 5, 9))


def test_array_likes_agree():
    first, second, outcome = [0, 1, 2, 0], [1, 2, 0, 2], [1.0, 0.5, 0.3, NAN]
    expected = loop([0] * 4, first, second, outcome, [1.0] * 4, 1, 3)
    for kind in (list, tuple, np.array, torch.tensor):
        got = pairwise_wins(kind(first), kind(second), kind(outcome), num_candidates=3)
        assert torch.allclose(got, expected, rtol=0, atol=1e-7 if kind is torch.tensor else 0)  # torch.tensor(floats) is float32
    assert torch.equal(pairwise_wins(torch.tensor(first), second, outcome, num_candidates=3), expected)
    assert torch.equal(pairwise_wins(np.array(first, np.int32), second, outcome, num_candidates=3), expected)
    verdicts = pairwise_wins([0, 0], [1, 1], [1, 0], num_candidates=2)
    assert torch.equal(verdicts, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64))
    assert torch.equal(pairwise_wins([0, 0], [1, 1], torch.tensor([True, False]), num_candidates=2), verdicts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_outcome_dtypes_and_gradients(dtype):
    outcome = torch.tensor([0.75, 0.5], dtype=dtype, requires_grad=True)
    wins = pairwise_wins([0, 0], [1, 2], outcome, num_candidates=3)
    assert wins[0, 0].tolist() == [0.0, 0.75, 0.5]
    assert wins[0, 1, 0] == 0.25
    assert not wins.requires_grad


@pytest.mark.triton
def test_empty(impl):
    for empty in ([], torch.empty(0, dtype=torch.int64)):
        assert torch.equal(pairwise_wins(empty, empty, [], problem=empty, num_problems=2, num_candidates=3, impl=impl), torch.zeros(2, 3, 3))
    assert pairwise_wins([], [], [], problem=[], num_problems=0, num_candidates=3, impl=impl).shape == (0, 3, 3)
    assert pairwise_wins([], [], [], num_candidates=1, impl=impl).tolist() == [[[0.0]]]


@pytest.mark.parametrize("problems", [1, 300])
def test_same_bits_at_any_thread_count(impl, threads, problems):
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 4, (200_000,), generator=generator)
    second = (first + torch.randint(1, 4, first.shape, generator=generator)) % 4
    problem = torch.randint(0, problems, first.shape, generator=generator)
    outcome = torch.rand(first.shape, dtype=torch.float64, generator=generator)
    results = []
    for count in (1, 2, 2):
        threads(count)
        results.append(pairwise_wins(first, second, outcome, problem=problem, num_problems=problems, num_candidates=4, impl=impl))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[1], results[2])
    assert results[0].sum() == pytest.approx(200_000, rel=1e-12)
    in_order = problem.argsort(stable=True)
    columns = (first[in_order], second[in_order], outcome[in_order])
    assert torch.equal(pairwise_wins(*columns, problem=problem[in_order], num_problems=problems, num_candidates=4, impl=impl), results[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": [0, 5]}, r"first: expected values in \[0, 3\), got 5"),
        ({"second": [1, -1]}, r"second: expected values in \[0, 3\), got -1"),
        ({"problem": [0, 2]}, r"problem: expected values in \[0, 2\), got 2"),
        ({"second": [1, 1]}, r"second: expected another candidate than first, got 1"),
        ({"outcome": [0.5, 1.5]}, r"outcome: expected values in \[0, 1\] or NaN, got 1.5"),
        ({"outcome": [-1, 1]}, r"outcome: expected values in \[0, 1\] or NaN, got -1.0"),
        ({"weight": [1.0, -2.0]}, r"weight: expected finite values of at least 0, got -2.0"),
        ({"weight": [1.0, float("inf")]}, r"weight: expected finite values of at least 0, got inf"),
        ({"weight": [NAN, 1.0]}, r"weight: expected finite values of at least 0, got nan"),
        ({"second": [1]}, r"second: expected shape \[2\], got \[1\]"),
        ({"outcome": [1]}, r"outcome: expected shape \[2\], got \[1\]"),
        ({"weight": [1]}, r"weight: expected shape \[2\], got \[1\]"),
        ({"problem": [1]}, r"problem: expected shape \[2\], got \[1\]"),
        ({"first": [[0, 1]]}, r"first: expected shape \[M\], got \[1, 2\]"),
        ({"problem": None}, r"problem: expected each match's problem, with 2 problems, got None"),
        ({"num_candidates": 0}, r"num_candidates: expected an integer of at least 1, got 0"),
        ({"num_problems": -1}, r"num_problems: expected an integer of at least 0, got -1"),
        ({"impl": "fast"}, r"impl: expected None, 'native' or 'reference', got 'fast'"),
    ],
)
def test_bad_values(change, message):
    good = {"first": [0, 1], "second": [1, 2], "outcome": [1, 0], "problem": [0, 1], "num_problems": 2, "num_candidates": 3}
    with pytest.raises(ValueError, match="^" + message):
        pairwise_wins(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": [0.0, 1.0]}, "first: expected integers, got torch.float32"),
        ({"first": torch.tensor([0, 1], dtype=torch.int32)}, "first: expected int64, got torch.int32"),
        ({"second": [True, False]}, "second: expected integers, got torch.bool"),
        ({"outcome": ["A", "B"]}, "outcome: expected numbers, got list"),
        ({"outcome": None}, "outcome: expected numbers, got NoneType"),
        ({"outcome": torch.zeros(2, dtype=torch.complex64)}, "outcome: expected float32 or .*, got torch.complex64"),
        ({"num_candidates": 3.0}, "num_candidates: expected an integer, got float"),
    ],
)
def test_bad_types(change, message):
    with pytest.raises(TypeError, match="^" + message):
        pairwise_wins(**{"first": [0, 1], "second": [1, 2], "outcome": [1, 0], "num_candidates": 3, **change})


def test_native_is_refused_without_a_kernel(monkeypatch):
    monkeypatch.setattr(schema.pairwise_wins, "native_devices", set())
    with pytest.raises(NativeKernelError, match="no native kernel of pairwise_wins"):
        pairwise_wins([0], [1], [1], num_candidates=2, impl="native")


@pytest.mark.triton
def test_unchecked_values_are_skipped_or_loud(impl):
    """What the op does where ops.py cannot look: ids out of range and matches against oneself count nothing, bad shares and weights are NaN."""
    body = schema.pairwise_wins.body(impl, torch.zeros(0))
    first = torch.tensor([0, 3, -1, 0, 0, 1, 0, 0, 2])
    second = torch.tensor([1, 0, 0, 2**62, 0, 2, 1, 2, 2])
    outcome = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.5], dtype=torch.float64)
    problem = torch.tensor([0, 0, 0, 0, 0, 2, 0, -1, 0])
    wins = body(first, second, outcome, problem, None, 2, 3)
    expected = torch.zeros(2, 3, 3, dtype=torch.float64)
    expected[0, 0, 1], expected[0, 1, 0] = 1.5, 0.5
    assert torch.equal(wins, expected)
    assert body(first, second, outcome, problem, None, 0, 3).shape == (0, 3, 3)

    first, second = torch.tensor([0, 0, 1, 2, 0]), torch.tensor([1, 2, 2, 3, 3])
    outcome, weight = torch.tensor([2.0, 1.0, 1.0, NAN, -1.0]), torch.tensor([1.0, -1.0, float("inf"), 1.0, 1.0])
    loud = body(first, second, outcome, None, weight, 1, 4)[0]
    pair_is_nan = torch.tensor([[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(loud.isnan(), pair_is_nan)


def test_runs_without_looking_at_values():
    """Meta tensors have no values: whatever would wait for a device raises here."""
    ids = torch.zeros(5, dtype=torch.int64, device="meta")
    wins = pairwise_wins(ids, ids, ids.double(), problem=ids, num_problems=2, num_candidates=3, weight=ids.double(), impl="reference")
    assert wins.shape == (2, 3, 3)
    assert wins.device.type == "meta"


def test_opcheck():
    ids, other = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    outcome = torch.tensor([1.0, 0.5, NAN], dtype=torch.float64)
    torch.library.opcheck(OP, (ids, other, outcome, None, None, 1, 3))
    torch.library.opcheck(OP, (ids, other, outcome, torch.tensor([0, 1, 1]), outcome.nan_to_num(), 2, 4))
    with pytest.raises(RuntimeError, match="pairwise_wins is not differentiable"):
        OP(ids, other, outcome.requires_grad_(), None, None, 1, 3).sum().backward()


def test_compiles_with_dynamic_shapes():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def count(first, second, outcome, n):
        return 2 * pairwise_wins(first, second, outcome, num_candidates=n)

    compiled = torch.compile(count, fullgraph=True, backend="aot_eager", dynamic=True)
    for size, n in ((3, 4), (5, 6), (8, 7)):
        first, second = torch.arange(size) % n, (torch.arange(size) + 1) % n
        outcome = torch.linspace(0, 1, size, dtype=torch.float64)
        assert torch.equal(compiled(first, second, outcome, n), count(first, second, outcome, n))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
