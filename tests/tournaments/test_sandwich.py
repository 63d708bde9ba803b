"""Sandwich errors of bradley_terry against sums over the games."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rrm_core.tournaments import PairCounts, bradley_terry, pairwise_counts


def random_matches(count, n, seed=0, ties=0.3):
    generator = torch.Generator().manual_seed(seed)
    strength = torch.randn(n, dtype=torch.float64, generator=generator)
    first = torch.randint(n, (count,), generator=generator)
    second = (first + torch.randint(1, n, (count,), generator=generator)) % n
    outcome = (torch.rand(count, generator=generator) < torch.sigmoid(strength[first] - strength[second])).double()
    return first, second, outcome.masked_fill(torch.rand(count, generator=generator) < ties, 0.5)


def by_the_games(first, second, outcome, rating, prior):
    """sqrt(diag(P H^-1 G H^-1 P)), game by game; the fit's own mean is found first."""
    n = len(rating)
    shift = 0.0
    if prior:
        from scipy.optimize import brentq

        shift = brentq(lambda c: float((torch.sigmoid(rating + c) - 0.5).sum()), -50, 50, xtol=1e-14)
    theta = (rating + shift).numpy()
    hessian, meat = np.zeros((n, n)), np.zeros((n, n))
    for i, j, share in zip(first.tolist(), second.tolist(), outcome.tolist(), strict=True):
        apart = np.zeros(n)
        apart[i], apart[j] = 1.0, -1.0
        chance = 1 / (1 + np.exp(theta[j] - theta[i]))
        hessian += chance * (1 - chance) * np.outer(apart, apart)
        meat += (share - chance) ** 2 * np.outer(apart, apart)
    virtual = 1 / (1 + np.exp(-theta))
    hessian += np.diag(prior * virtual * (1 - virtual))
    inverse = np.linalg.inv(hessian) if prior else np.linalg.pinv(hessian, rcond=1e-9)
    projection = np.eye(n) - 1 / n
    return np.sqrt(np.diag(projection @ inverse @ meat @ inverse @ projection))


@pytest.mark.parametrize("prior", [0.0, 0.1, 5.0])
@pytest.mark.parametrize("n", [2, 6, 40])  # lanes of a vector, and vectors of their own
def test_is_the_sum_over_games(impl, prior, n):
    pytest.importorskip("scipy")
    first, second, outcome = random_matches(60 * n, n)
    counts = pairwise_counts(first, second, outcome, num_candidates=n)
    found = bradley_terry(counts, prior=prior, stderr="sandwich", tol=1e-12, impl=impl)
    assert found.status.item() == 0
    assert found.stderr[0].tolist() == pytest.approx(list(by_the_games(first, second, outcome, found.rating[0], prior)), rel=1e-7)
    plain = bradley_terry(counts.wins + counts.ties / 2, prior=prior, stderr=True, tol=1e-12, impl=impl)
    assert torch.equal(found.rating, plain.rating)
    hessian = bradley_terry(counts, prior=prior, stderr="hessian", tol=1e-12, impl=impl)
    assert torch.equal(hessian.stderr, plain.stderr)


def test_masks_and_batches(impl):
    counts = [pairwise_counts(*random_matches(150, 5, seed), num_candidates=5) for seed in range(3)]
    batch = PairCounts(torch.cat([c.wins for c in counts]), torch.cat([c.ties for c in counts]))
    mask = torch.tensor([[True] * 5, [True, False, True, True, True], [False] * 5])
    noisy = PairCounts(batch.wins.clone(), batch.ties.clone())
    noisy.ties[1, 1], noisy.wins[1, :, 1] = -2.0, float("nan")
    found = bradley_terry(noisy, mask=mask, stderr="sandwich", impl=impl)
    for b in range(2):
        kept = mask[b].nonzero().squeeze(-1)
        alone = bradley_terry(PairCounts(*(x[b : b + 1, kept][:, :, kept] for x in batch)), stderr="sandwich", impl=impl)
        torch.testing.assert_close(found.stderr[b, kept], alone.stderr[0], rtol=1e-12, atol=0)
    assert bool(found.stderr[~mask].isnan().all())


def test_duplicated_matches_are_weights(impl):
    first, second, outcome = random_matches(80, 4)
    times = torch.randint(1, 4, (80,), generator=torch.Generator().manual_seed(5))
    counts = pairwise_counts(first, second, outcome, num_candidates=4, weight=times)
    longer = pairwise_counts(*(x.repeat_interleave(times) for x in (first, second, outcome)), num_candidates=4)
    a, b = (bradley_terry(c, stderr="sandwich", impl=impl) for c in (counts, longer))
    torch.testing.assert_close(a.stderr, b.stderr, rtol=1e-12, atol=0)


def test_bad_input():
    counts = pairwise_counts([0, 1], [1, 0], [1, 1], num_candidates=2)
    with pytest.raises(ValueError, match=r"^wins: expected a PairCounts for sandwich errors, got Tensor"):
        bradley_terry(counts.wins, stderr="sandwich")
    with pytest.raises(ValueError, match=r"^stderr: expected False or True or 'hessian' or 'sandwich', got 'bread'"):
        bradley_terry(counts, stderr="bread")
    with pytest.raises(ValueError, match=r"^ties: expected finite values of at least 0, got -1.0"):
        bradley_terry(PairCounts(counts.wins, counts.ties - 1))


def test_registration():
    counts = pairwise_counts(*random_matches(100, 4), num_candidates=4)
    torch.library.opcheck(torch.ops.rrm.bradley_terry.default, (*counts, None, 0.1, 2, 50, 1e-9))
