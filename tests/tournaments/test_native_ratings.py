"""bradley_terry's native bodies against the reference: the same answers, and bits that don't depend on the batch."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rrm_core.testing import guarded
from rrm_core.tournaments import RatingStatus, bradley_terry
from rrm_core.tournaments import reference_bradley_terry as reference

pytestmark = pytest.mark.native

# both sides of what divides work: vectors, problems a lane each (up to 32), columns of a Cholesky panel (48)
SIZES = [1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 47, 48, 49, 100]


def round_robin(n, games, *, batch, sigma=1.0, seed=0):
    """[batch, n, n]: every pair plays so many games, strengths normal."""
    rng = np.random.default_rng(seed)
    strength = rng.normal(size=(batch, n)) * sigma
    won = np.triu(rng.binomial(games, 1 / (1 + np.exp(strength[:, None] - strength[:, :, None]))), 1)
    lost = np.triu(games - won, 1)
    return torch.tensor(won + lost.transpose(0, 2, 1), dtype=torch.float64)


def sparse(n, batch, seed=0):
    """[batch, n, n]: a ring of narrow results and a few other matches, where sweeps are hopeless."""
    generator = torch.Generator().manual_seed(seed)
    wins = (torch.rand(batch, n, n, dtype=torch.float64, generator=generator) < 1 / n).double()
    for i in range(n):
        j = (i + 1) % n
        wins[:, i, j] += 2 * torch.rand(batch, dtype=torch.float64, generator=generator)
        wins[:, j, i] += torch.rand(batch, dtype=torch.float64, generator=generator)
    return wins * (1 - torch.eye(n, dtype=torch.float64))


def assert_close(got, expected, wins, mask, prior, tol):
    """Two points whose gradients are within tol of the games differ by at most those two gradients over the smallest curvature, which along the
    way is no less than half of what it is at either end: the points are that close."""
    assert got.status.tolist() == expected.status.tolist()
    for b in range(len(wins)):
        kept = mask[b]
        assert torch.equal(got.rating[b][~kept], expected.rating[b][~kept])
        rating, m = expected.rating[b][kept], int(kept.sum())
        assert torch.equal(got.rating[b][kept].isnan(), rating.isnan())
        if m == 0 or bool(rating.isnan().any()):
            continue
        games = wins[b][kept][:, kept]
        games = (games + games.T).fill_diagonal_(0)
        x = rating.unsqueeze(-1) - rating
        curvature = games * torch.sigmoid(x) * torch.sigmoid(-x)
        gauge = prior * torch.diag(torch.sigmoid(rating) * torch.sigmoid(-rating)) if prior else curvature.mean() / m
        smallest = torch.linalg.eigvalsh(torch.diag(curvature.sum(-1)) - curvature + gauge)[0]
        slack = 4 * tol * float((games.sum(-1) + prior).norm()) / max(float(smallest), 1e-300) + 1e-13 * float(1 + rating.abs().max())
        assert float((got.rating[b][kept] - rating).abs().max()) <= slack


@pytest.mark.parametrize("prior", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("graph", ["round robin", "sparse"])
def test_agrees_with_the_reference_within_contract(graph, n, prior):
    batch = 11 if n < 40 else 3
    wins = round_robin(n, 2, batch=batch, sigma=1.5) if graph == "round robin" else sparse(n, batch)
    mask = torch.rand(batch, n, generator=torch.Generator().manual_seed(n)) < 0.8
    mask[0], mask[-1] = True, False
    options = {"mask": mask, "prior": prior, "stderr": True, "tol": 1e-12, "max_iter": 100}
    got, expected = (bradley_terry(wins, impl=impl, **options) for impl in ("native", "reference"))
    assert_close(got, expected, wins, mask, prior, 1e-12)
    # the same formula at points this close; ridges against rounding differ by as much
    torch.testing.assert_close(got.stderr, expected.stderr, rtol=1e-6, atol=1e-9, equal_nan=True)
    coarse = bradley_terry(wins, impl="native", **{**options, "tol": 1e-6})
    assert_close(coarse, expected, wins, mask, prior, 1e-6)


@pytest.mark.triton
@pytest.mark.parametrize("prior", [0.0, 0.1])
@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_small_problems(n, prior):
    batch = 4 if n < 16 else 1
    wins = guarded(round_robin(n, 3, batch=batch, sigma=1.0, seed=2))
    mask = torch.rand(batch, n, generator=torch.Generator().manual_seed(n)) < 0.8
    mask[0], mask[-1, 0] = True, True
    slow = n == 16 and "tests.triton_bodies" in sys.modules  # fewer sweeps for the interpreter
    tol = 1e-3 if slow else 1e-9
    options = {"mask": mask, "prior": prior, "stderr": True, "tol": tol}
    got, expected = (bradley_terry(wins, impl=impl, **options) for impl in ("native", "reference"))
    assert_close(got, expected, wins, mask, prior, tol)
    if not slow:  # the same formula at points this close
        torch.testing.assert_close(got.stderr, expected.stderr, rtol=1e-6, atol=1e-9, equal_nan=True)
    for b in range(batch):
        alone = bradley_terry(wins[b : b + 1], mask=mask[b : b + 1], prior=prior, tol=tol, impl="native")
        assert torch.equal(alone.rating[0].nan_to_num(7.0), got.rating[b].nan_to_num(7.0))
        assert alone.iterations[0] == got.iterations[b]


@pytest.mark.triton
def test_a_weak_prior_does_not_keep_sweeps_from_settling():
    """All strengths together are held by the prior alone, a hundredth of the games: they must be moved as one."""
    wins, mask = round_robin(5, 10, batch=1), torch.tensor([[True, True, False, True, True]])
    got, newton = (bradley_terry(wins, mask=mask, tol=1e-6, impl=impl) for impl in ("native", "reference"))
    assert got.status.item() == RatingStatus.CONVERGED
    assert newton.iterations.item() < got.iterations.item() < 16  # Newton has not been asked
    assert_close(got, newton, wins, mask, 0.1, 1e-6)


@pytest.mark.triton
@pytest.mark.parametrize("prior", [1e-20, 1e-305])
def test_next_to_no_prior(prior):
    """Strengths run out of range on the way: never a silent NaN."""
    chain = torch.zeros(1, 3, 3, dtype=torch.float64)
    chain[0, 0, 1] = chain[0, 1, 2] = 1.0
    got, expected = (bradley_terry(chain, prior=prior, impl=impl) for impl in ("native", "reference"))
    assert got.status.item() == expected.status.item()
    assert bool(got.rating.isfinite().all())


@pytest.mark.triton
def test_what_sweeps_leave_is_left_to_newton():
    """Two pairs who hardly met each other are hopeless for sweeps; their neighbours in the batch are not."""
    pairs = torch.zeros(1, 4, 4, dtype=torch.float64)
    pairs[0, 0, 1] = pairs[0, 1, 0] = pairs[0, 2, 3] = pairs[0, 3, 2] = 500.0
    pairs[0, 1, 2], pairs[0, 2, 1] = 0.03, 0.01
    wins = torch.cat((round_robin(4, 3, batch=1) + 0.5 * (1 - torch.eye(4)), pairs))
    got, expected = (bradley_terry(wins, prior=0.0, impl=impl) for impl in ("native", "reference"))
    assert got.status.tolist() == expected.status.tolist() == [RatingStatus.CONVERGED] * 2
    assert got.iterations[1] == expected.iterations[1]
    torch.testing.assert_close(got.rating[1], expected.rating[1], rtol=1e-9, atol=1e-12)  # the same steps from the same start


@pytest.mark.parametrize("n", [3, 8, 20, 32, 33, 50])
@pytest.mark.parametrize("prior", [0.0, 0.1])
@pytest.mark.parametrize("tol", [1e-9, 1e-2])
def test_bits_are_invariant_to_batch_order_and_threads(n, prior, tol, threads):
    wins = torch.cat((round_robin(n, 2, batch=13), sparse(n, 8), round_robin(n, 1, batch=6, sigma=2)))
    mask = torch.rand(len(wins), n, generator=torch.Generator().manual_seed(1)) < 0.9

    def fit(which):
        result = bradley_terry(wins[which], mask=mask[which], prior=prior, stderr=True, tol=tol, impl="native")
        return torch.stack((result.rating, result.stderr), 1).nan_to_num(7.0), result.status, result.iterations

    whole = fit(slice(None))
    shuffled = torch.randperm(len(wins), generator=torch.Generator().manual_seed(2))
    for a, b in zip(fit(shuffled), whole, strict=True):
        assert torch.equal(a, b[shuffled])
    for one in range(len(wins)):
        for a, b in zip(fit(slice(one, one + 1)), whole, strict=True):
            assert torch.equal(a[0], b[one])
    for count in (1, 2):
        threads(count)
        for a, b in zip(fit(slice(None)), whole, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("n", [32, 33, 200])
def test_strengths_beyond_double_precision_reach_the_same_ratings(n):
    """Each of n beats all behind it a million times: exp of the best rating is no double for the largest n."""
    ordered = 1e6 * torch.ones(1, n, n, dtype=torch.float64).triu(1)
    got, expected = (bradley_terry(ordered, max_iter=200, impl=impl) for impl in ("native", "reference"))
    assert got.status.item() == expected.status.item() == RatingStatus.NO_MLE
    assert bool((got.rating[0].diff() < 0).all())
    assert got.iterations.item() == expected.iterations.item()  # Newton's, from the same start
    if n == 200:
        assert float(got.rating[0, 0]) > 710
    # rounding of the sums, 1e-16 or so, times the condition of the last step
    torch.testing.assert_close(got.rating, expected.rating, rtol=0, atol=1e-9 * float(expected.rating.max()))


@pytest.mark.parametrize("prior", [0.0, 0.1])
@pytest.mark.parametrize("n", [20, 33, 300])
def test_round_robins_are_settled_by_sweeps(n, prior):
    wins = round_robin(n, 4, batch=1)
    got, newton = (bradley_terry(wins, prior=prior, impl=impl) for impl in ("native", "reference"))
    assert got.status.item() == RatingStatus.CONVERGED
    assert newton.iterations.item() < got.iterations.item() < 16  # of which each costs a fraction of Newton's
    assert_close(got, newton, wins, torch.ones(1, n, dtype=torch.bool), prior, 1e-9)


def test_newton_takes_the_steps_of_the_reference(monkeypatch):
    """Counts from 1e-6 to 1e6 of few pairs: hopeless for sweeps, and somewhere the long step is refused."""
    generator = torch.Generator().manual_seed(0)
    shape = (64, 40, 40)
    wins = 10 ** (torch.rand(shape, dtype=torch.float64, generator=generator) * 12 - 6)
    wins = wins.masked_fill(torch.rand(shape, generator=generator) > 0.08, 0.0)
    refused = []

    def step(x, dx, promised, games, both, body=reference._step):
        part = body(x, dx, promised, games, both)
        refused.append(part < reference._damping(x, dx, both, reference._LONG_MOVE))
        return part

    monkeypatch.setattr(reference, "_step", step)
    got, expected = (bradley_terry(wins, prior=1e-3, max_iter=100, impl=impl) for impl in ("native", "reference"))
    assert bool(torch.stack(refused).any())
    assert torch.equal(got.iterations, expected.iterations)


def test_max_iter_bounds_sweeps_and_steps():
    hard, easy = sparse(40, 1), round_robin(40, 4, batch=1)
    for wins in (hard, easy):
        counts = [bradley_terry(wins, max_iter=m, impl="native") for m in (1, 2, 3, 50)]
        assert [c.iterations.item() <= m for c, m in zip(counts, (1, 2, 3, 50), strict=True)] == [True] * 4
        assert [c.status.item() for c in counts] == [RatingStatus.NOT_CONVERGED] * 3 + [RatingStatus.CONVERGED]
        assert all(bool(c.rating.isfinite().all()) for c in counts)


def test_the_sizes_above_name_every_constant_that_divides_work():
    """A new or changed constant in the kernels must be met by the sizes of this file, and of test_elo.py."""
    files = [p for p in (Path(__file__).parents[2] / "kernels/cpu").iterdir() if "tournaments" in p.name]
    constants = [c for p in sorted(files) for c in re.findall(r"constexpr int64_t (k\w+ = [^;]+);", p.read_text())]
    assert constants == [
        "kThreadTime = 20'000",
        "kLaneCandidates = 32, kMostLanes = 8",
        "kAbreast = 8",
        "kPanel = 48",
        "kMostSweeps = 40",
    ]
