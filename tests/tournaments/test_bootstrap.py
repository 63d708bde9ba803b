"""bootstrap against a loop over its own draws, and against the other errors of a large sample."""

from __future__ import annotations

import functools
import math
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrm_core import NativeKernelError
from rrm_core.tournaments import bootstrap, borda, bradley_terry, pairwise_counts, pairwise_wins, schema, win_rate
from rrm_core.tournaments.reference_scores import drawn_matches

NAN = float("nan")


@pytest.fixture(autouse=True)
def every_body(impl, monkeypatch):
    """Each test runs once per body."""
    monkeypatch.setitem(globals(), "bootstrap", functools.partial(bootstrap, impl=impl))


def random_matches(matches, problems, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    problem = torch.randint(0, problems, (matches,), generator=generator)
    first = torch.randint(0, n, (matches,), generator=generator)
    second = (first + torch.randint(1, n, (matches,), generator=generator)) % n
    choices = torch.tensor([0.0, 1.0, 0.5, 0.25, NAN], dtype=torch.float64)
    outcome = choices[torch.randint(0, 5, (matches,), generator=generator)]
    return {"first": first, "second": second, "outcome": outcome, "problem": problem, "num_problems": problems, "num_candidates": n}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40), st.integers(1, 4), st.integers(2, 5), st.integers(1, 9), st.booleans(), st.integers(0, 10**6))
def test_equals_the_loop(impl, total, problems, n, replicates, weighted, seed):
    arguments = random_matches(total, problems, n, seed)
    weight = torch.randint(0, 3, (total,), generator=torch.Generator().manual_seed(seed)).double() if weighted else None
    found = bootstrap(**arguments, weight=weight, replicates=replicates, seed=seed, rate=borda, keep_samples=True, level=0.5)
    rows = [k for b in range(problems) for k in range(total) if arguments["problem"][k] == b and not math.isnan(arguments["outcome"][k])]
    by_problem = [[k for k in rows if arguments["problem"][k] == b] for b in range(problems)]
    bits = torch.empty((replicates * len(rows) + 1) // 2, dtype=torch.int64).random_(generator=torch.Generator().manual_seed(seed))
    draws = bits.view(torch.int32)[: replicates * len(rows)].view(replicates, len(rows)) & 0x7FFFFFFF
    samples = torch.zeros(replicates, problems, n, dtype=torch.float64)
    for r in range(replicates):
        at = 0
        for b, its in enumerate(by_problem):
            for _ in its:
                k = its[int(draws[r, at]) * len(its) >> 31]
                share, w = float(arguments["outcome"][k]), 1.0 if weight is None else float(weight[k])
                samples[r, b, arguments["first"][k]] += w * share
                samples[r, b, arguments["second"][k]] += w * (1 - share)
                at += 1
    assert torch.equal(found.samples, samples)
    assert torch.equal(found.rating, borda(pairwise_wins(**arguments, weight=weight)))
    torch.testing.assert_close(found.lower, samples.quantile(0.25, 0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.upper, samples.quantile(0.75, 0), rtol=1e-12, atol=1e-12)
    rank = 1 + (samples.unsqueeze(-2) > samples.unsqueeze(-1)).sum(-1)
    assert torch.equal(found.rank_lower, rank.double().quantile(0.25, 0, interpolation="lower").long())
    assert torch.equal(found.rank_upper, rank.double().quantile(0.75, 0, interpolation="higher").long())
    top = (rank == 1).double()
    torch.testing.assert_close(found.best, (top / top.sum(-1, keepdim=True)).mean(0), rtol=1e-12, atol=0)


def test_intervals_are_as_wide_as_the_sandwich_says():
    generator = torch.Generator().manual_seed(0)
    strength = torch.linspace(-1, 1, 6, dtype=torch.float64)
    first = torch.randint(6, (6000,), generator=generator)
    second = (first + torch.randint(1, 6, (6000,), generator=generator)) % 6
    outcome = (torch.rand(6000, generator=generator) < torch.sigmoid(strength[first] - strength[second])).double()
    outcome[torch.rand(6000, generator=generator) < 0.4] = 0.5  # ties, which make the Hessian's errors too wide
    found = bootstrap(first, second, outcome, num_candidates=6, replicates=1500)
    counts = pairwise_counts(first, second, outcome, num_candidates=6)
    fitted = bradley_terry(counts, stderr="sandwich")
    width = (found.upper - found.lower) / (2 * 1.959964)
    assert (width / fitted.stderr)[0].tolist() == pytest.approx([1.0] * 6, abs=0.1)  # 2.5 % quantiles of 1500: 4 % of a standard error
    assert bool((width < 0.9 * bradley_terry(counts, stderr="hessian").stderr).all())
    torch.testing.assert_close(found.rating, fitted.rating, rtol=0, atol=1e-8)
    assert bool(((found.lower < found.rating) & (found.rating < found.upper)).all())
    assert found.best.sum().item() == pytest.approx(1.0)
    assert found.best.argmax().item() == 5
    assert bool(((found.rank_lower >= 1) & (found.rank_lower <= found.rank_upper) & (found.rank_upper <= 6)).all())


def test_draws_are_uniform_and_seeded():
    arguments = random_matches(50, 1, 4)
    a, b, c = (bootstrap(**arguments, replicates=20, seed=s, keep_samples=True).samples for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    draws = torch.empty(4000, 7, dtype=torch.int32).random_(generator=torch.Generator().manual_seed(0))
    hits = drawn_matches(torch.tensor([0, 7]), draws).flatten().bincount(minlength=7)
    assert bool(((hits - 4000).abs() < 5 * math.sqrt(4000)).all())  # 5 standard deviations
    extremes = torch.tensor([[0, 2**31 - 1, 0, 2**31 - 1, -1]], dtype=torch.int32)
    assert drawn_matches(torch.tensor([0, 2, 2, 5]), extremes).tolist() == [[0, 1, 2, 4, 4]]  # the sign is no part of a draw


def test_chunks_change_nothing(monkeypatch):
    arguments = random_matches(60, 3, 4)
    whole = bootstrap(**arguments, replicates=25, keep_samples=True)
    monkeypatch.setattr(sys.modules["rrm_core.tournaments.bootstrap"], "_AT_ONCE", 7 * 60)
    parts = bootstrap(**arguments, replicates=25, keep_samples=True)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_masks_and_candidates_without_matches():
    mask = torch.tensor([[True, True, False, True]])
    found = bootstrap([0, 1, 3, 0], [1, 3, 0, 3], [1, 0.5, 0, 1], num_candidates=4, mask=mask, replicates=50)
    for field in (found.rating, found.lower, found.upper):
        assert field[0, 2] == -math.inf
        assert bool(field[0, [0, 1, 3]].isfinite().all())
    assert (found.rank_lower[0, 2], found.rank_upper[0, 2], found.best[0, 2]) == (0, 0, 0)
    assert int(found.rank_upper.max()) <= 3
    assert found.samples is None
    nobody = bootstrap([], [], [], num_candidates=3, replicates=5)
    assert nobody.rating.tolist() == nobody.lower.tolist() == [[0.0] * 3]
    assert nobody.best[0].tolist() == pytest.approx([1 / 3] * 3)
    assert bootstrap([], [], [], problem=[], num_problems=0, num_candidates=3, replicates=5).rating.shape == (0, 3)


def test_ratings_that_are_nan_are_left_out():
    """A candidate met once is left out of a third of the replicates: its win rate is NaN there."""
    found = bootstrap([0, 0, 1], [1, 1, 2], [1, 0, 1], num_candidates=3, replicates=400, rate=win_rate, keep_samples=True)
    sampled = found.samples[:, 0, 2]
    assert 50 < int(sampled.isnan().sum()) < 200
    assert found.lower[0, 2] == found.upper[0, 2] == 0.0
    rank = 1 + (found.samples.unsqueeze(-2) > found.samples.unsqueeze(-1)).sum(-1)[:, 0]
    for i in range(3):
        its = rank[~found.samples[:, 0, i].isnan(), i].double()
        assert found.rank_lower[0, i] == its.quantile(0.025, interpolation="lower")
        assert found.rank_upper[0, i] == its.quantile(0.975, interpolation="higher")
    top = ((rank == 1) & ~found.samples[:, 0].isnan()).double()
    torch.testing.assert_close(found.best[0], (top / top.sum(-1, keepdim=True).clamp(min=1)).mean(0), rtol=1e-12, atol=0)
    unknown = bootstrap([0], [1], [1], num_candidates=3, prior=0.0, replicates=5)  # somebody won everything, somebody met nobody
    assert bool(unknown.rating.isnan().all() & unknown.lower.isnan().all())
    assert unknown.rank_lower.tolist() == unknown.rank_upper.tolist() == [[0, 0, 0]]
    assert unknown.best.tolist() == [[0.0] * 3]


def test_gradients_stop():
    scale = torch.tensor(2.0, requires_grad=True)
    found = bootstrap([0, 1], [1, 0], [1, 1], num_candidates=2, replicates=5, rate=lambda wins: wins.sum(-1) * scale, keep_samples=True)
    assert not any(x.requires_grad for x in found)


@pytest.mark.native
@pytest.mark.triton
@pytest.mark.parametrize("weighted", [False, True])
def test_native_counts_are_the_references(weighted):
    arguments = random_matches(90, 3, 5)
    arguments["outcome"] = arguments["outcome"].nan_to_num(0.5)
    order = arguments["problem"].argsort(stable=True)
    first, second, outcome = (arguments[k][order] for k in ("first", "second", "outcome"))
    first[3], second[7] = 5, -1  # not counted where nobody looks
    offsets = torch.searchsorted(arguments["problem"][order], torch.arange(4))
    draws = torch.empty(11, 90, dtype=torch.int32).random_(generator=torch.Generator().manual_seed(1))
    weight = torch.rand(90, dtype=torch.float64).mul(8).round() if weighted else None
    op = schema.resampled_wins
    got = op.body("native", first)(first, second, outcome, weight, offsets, draws, 5)
    assert torch.equal(got, op.reference(first, second, outcome, weight, offsets, draws, 5))
    assert got.shape == (11, 3, 5, 5)


def test_registration():
    first, second, outcome = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]), torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    draws = torch.empty(4, 3, dtype=torch.int32).random_()
    torch.library.opcheck(torch.ops.rrm.resampled_wins.default, (first, second, outcome, None, torch.tensor([0, 2, 3]), draws, 3))


@pytest.mark.native
@pytest.mark.cpu
def test_offsets_that_are_none_are_refused(impl):
    if impl == "reference":
        pytest.skip("the C++ body alone reads by them")
    columns, draws = (torch.tensor([0, 1]), torch.tensor([1, 0]), torch.ones(2, dtype=torch.float64), None), torch.zeros(1, 2, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="num_candidates: expected 1 to 46340"):
        schema.resampled_wins.dispatched(*columns, torch.tensor([0, 2]), draws, 0)
    for offsets in ([0, 3], [1, 2], [0, 2, 1, 2], [0, -1, 2]):
        with pytest.raises(RuntimeError, match="offsets: expected to ascend from 0 to the number of matches"):
            schema.resampled_wins.dispatched(*columns, torch.tensor(offsets), draws, 2)


def test_bad_input():
    arguments = random_matches(9, 1, 3)
    for options, message in (
        ({"replicates": 0}, "replicates: expected an integer of at least 1, got 0"),
        ({"level": 1.0}, r"level: expected a number in \(0, 1\), got 1.0"),
        ({"level": 0}, "level: expected a finite number above 0, got 0"),
        ({"mask": [[True, True]]}, r"mask: expected shape \[1, 3\], got \[1, 2\]"),
        ({"rate": lambda wins: wins}, r"rate: expected scores \[1000, 3\], got torch.Size\(\[1000, 3, 3\]\)"),
        ({"rate": lambda wins: None}, r"rate: expected scores \[1000, 3\], got None"),
    ):
        with pytest.raises(ValueError, match=r"^" + message):
            bootstrap(**arguments, **options)
    with pytest.raises(TypeError, match=r"^rate: expected a callable, got int"):
        bootstrap(**arguments, rate=3)
    with pytest.raises(ValueError, match=r"^seed: expected an integer of 64 bits"):
        bootstrap(**arguments, seed=1 << 64)
    with pytest.raises(TypeError, match=r"^seed: expected an integer, got float"):
        bootstrap(**arguments, seed=0.5)


def test_impl(monkeypatch):
    monkeypatch.setattr(schema.resampled_wins, "native_devices", set())
    with pytest.raises(NativeKernelError, match="no native kernel of resampled_wins"):
        schema.resampled_wins.body("native", torch.zeros(0))


@pytest.mark.parametrize("pair", [(2, 0), (0, 2), (2, 2), (-1, 0), (0, -1)])
def test_candidates_that_do_not_exist_count_nowhere(impl, pair):
    first, second, outcome = torch.tensor([0, pair[0]]), torch.tensor([1, pair[1]]), torch.ones(2, dtype=torch.float64)
    draws = torch.tensor([[2**31 - 1] * 2, [0, 0]], dtype=torch.int32)
    found = schema.resampled_wins.body(impl, first)(first, second, outcome, None, torch.tensor([0, 2]), draws, 2)
    assert found.tolist() == [[[[0, 0], [0, 0]]], [[[0, 2], [0, 0]]]]
