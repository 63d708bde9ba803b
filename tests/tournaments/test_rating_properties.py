"""What bradley_terry says of a problem's status, and how it treats problems, masks, orders and scales."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrm_core.tournaments import RatingStatus, borda, bradley_terry

CONVERGED, NO_MLE, DISCONNECTED, NOT_CONVERGED = RatingStatus

CHAIN = {(0, 1): 1, (1, 2): 1}
TWO_PAIRS = {(0, 1): 3, (1, 0): 1, (2, 3): 2, (3, 2): 1}


@pytest.fixture(autouse=True)
def every_body(impl, monkeypatch):
    """Each test runs once per body."""
    for function in (bradley_terry,):
        monkeypatch.setitem(globals(), function.__name__, functools.partial(function, impl=impl))


def wins_of(n, games):
    """[1, n, n] from {(i, j): what i won against j}."""
    wins = torch.zeros(1, n, n, dtype=torch.float64)
    for (i, j), count in games.items():
        wins[0, i, j] += count
    return wins


def round_robin(n, games, *, batch, sigma=1.0, seed=0, extra=0.0):
    """[batch, n, n]: every pair plays so many games, strengths normal; extra: added both ways."""
    rng = np.random.default_rng(seed)
    strength = rng.normal(size=(batch, n)) * sigma
    won = np.triu(rng.binomial(games, 1 / (1 + np.exp(strength[:, None] - strength[:, :, None]))), 1)
    lost = np.triu(games - won, 1)
    return torch.tensor((won + lost.transpose(0, 2, 1) + extra) * (1 - np.eye(n)), dtype=torch.float64)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14), st.integers(0, 63))
def test_status_is_the_connectivity_of_the_data(n, edges, out):
    csgraph = pytest.importorskip("scipy.sparse.csgraph")
    wins = wins_of(n, {(i, j): 0.5 for i, j in edges if i < n and j < n})
    mask = torch.tensor([[not out >> i & 1 for i in range(n)]])
    kept = wins[0][mask[0]][:, mask[0]].fill_diagonal_(0).numpy()
    parts = {kind: csgraph.connected_components(kept, connection=kind)[0] if len(kept) else 1 for kind in ("weak", "strong")}
    expected = DISCONNECTED if parts["weak"] > 1 else NO_MLE if parts["strong"] > 1 else CONVERGED
    assert bradley_terry(wins, mask=mask).status.item() == bradley_terry(wins, mask=mask, prior=0).status.item() == expected


def test_long_chains_are_connected():
    for n in (2, 3, 4, 5, 9, 17, 33):  # the longest path has n - 1 edges
        ring = wins_of(n, {(i, (i + 1) % n): 1 for i in range(n)})
        assert bradley_terry(ring, prior=0).status.item() == CONVERGED
        ring[0, n - 1, 0] = 0
        assert bradley_terry(ring).status.item() == NO_MLE
        ring[0, 0, 1] = 0
        assert bradley_terry(ring).status.item() == DISCONNECTED


def test_problems_stop_on_their_own(impl):
    tied, close = wins_of(3, {(i, j): 0.5 for i in range(3) for j in range(3)}), wins_of(3, {(0, 1): 2, (1, 0): 1, (1, 2): 1, (2, 1): 1})
    far = wins_of(3, {(0, 1): 1e6, (1, 0): 1, (1, 2): 1e6, (2, 1): 1})
    together = bradley_terry(torch.cat((tied, close, far)), prior=0)
    apart = [bradley_terry(wins, prior=0) for wins in (tied, close, far)]
    assert together.iterations.tolist() == [one.iterations.item() for one in apart]
    assert together.iterations[0] == 0 < together.iterations[1] < together.iterations[2]
    assert torch.allclose(together.rating, torch.cat([one.rating for one in apart]), rtol=0, atol=1e-12)
    short = bradley_terry(torch.cat((tied, close, far)), prior=0, max_iter=int(together.iterations[1]))
    assert short.status.tolist() == [CONVERGED, CONVERGED, NOT_CONVERGED]
    assert torch.equal(short.rating[1], together.rating[1])
    assert bool(short.rating.isfinite().all())
    if impl == "reference":  # sweeps settle a chain of three at once
        assert bradley_terry(far, prior=0, tol=1e-2).iterations.item() < together.iterations[2]
    ring = wins_of(4, {**{(i, i + 1): 1e3 for i in range(3)}, **{(i + 1, i): 1 for i in range(3)}, (0, 3): 1})
    loose, exact = bradley_terry(ring, prior=0, tol=1e-2), bradley_terry(ring, prior=0)
    assert loose.status.item() == CONVERGED
    assert loose.iterations.item() < exact.iterations.item()


def test_not_converged_comes_first_where_an_iteration_was_run():
    chain = wins_of(3, CHAIN)
    pairs = wins_of(4, TWO_PAIRS)
    assert bradley_terry(chain, max_iter=1).status.item() == NOT_CONVERGED
    assert bradley_terry(pairs, max_iter=1).status.item() == NOT_CONVERGED
    assert bradley_terry(chain, max_iter=1, prior=0).status.item() == NO_MLE
    assert bradley_terry(pairs, max_iter=1, prior=0).status.item() == DISCONNECTED


@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_a_mask_removes_candidates(prior):
    wins = round_robin(7, 3, batch=3, extra=0.2)
    mask = torch.tensor([[1, 1, 0, 1, 1, 0, 1], [1] * 7, [0, 0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    poisoned = wins.clone()
    poisoned[0, 2, :], poisoned[0, :, 5], poisoned[2, 0, 1] = float("nan"), -1.0, float("inf")  # not read
    result = bradley_terry(poisoned, mask=mask, prior=prior, stderr=True)
    for b in range(3):
        kept = bradley_terry(wins[b : b + 1, mask[b]][:, :, mask[b]], prior=prior, stderr=True)
        assert torch.allclose(result.rating[b, mask[b]], kept.rating[0], rtol=0, atol=1e-12)
        assert torch.allclose(result.stderr[b, mask[b]], kept.stderr[0], rtol=1e-10)
        assert result.iterations[b] == kept.iterations[0]
        assert result.status[b] == kept.status[0]
    assert bool((result.rating[~mask] == float("-inf")).all())
    assert bool(result.stderr[~mask].isnan().all())
    nobody = bradley_terry(wins, mask=torch.zeros(3, 7, dtype=torch.bool), prior=prior, stderr=True)
    assert nobody.status.tolist() == [CONVERGED] * 3
    assert bool((nobody.rating == float("-inf")).all())


@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_permutation_transposition_and_scale(prior):
    wins = round_robin(9, 3, batch=4, sigma=2, extra=0.01, seed=7)
    result = bradley_terry(wins, prior=prior, stderr=True, tol=1e-12)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    permuted = bradley_terry(wins[:, order][:, :, order], prior=prior, stderr=True, tol=1e-12)
    assert torch.allclose(permuted.rating, result.rating[:, order], rtol=0, atol=1e-9)
    assert torch.allclose(permuted.stderr, result.stderr[:, order], rtol=1e-9)
    assert torch.allclose(bradley_terry(wins.mT, prior=prior, tol=1e-12).rating, -result.rating, rtol=0, atol=1e-9)
    scaled = bradley_terry(1e6 * wins, prior=1e6 * prior, stderr=True, tol=1e-12)
    assert torch.allclose(scaled.rating, result.rating, rtol=0, atol=1e-9)
    assert torch.allclose(1e3 * scaled.stderr, result.stderr, rtol=1e-9)


def test_a_complete_round_robin_ranks_like_borda():
    wins = round_robin(8, 1, batch=32, sigma=1)
    points, rating = borda(wins), bradley_terry(wins).rating
    ahead = points.unsqueeze(-1) - points.unsqueeze(-2)
    assert bool(((rating.unsqueeze(-1) - rating.unsqueeze(-2)) * ahead >= 0).all())
    assert bool((ahead != 0).any())
