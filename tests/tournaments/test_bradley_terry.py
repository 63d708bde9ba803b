"""bradley_terry against independent optimisers, other libraries, and the cases they get wrong."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrm_core.tournaments import RatingStatus, bradley_terry

CONVERGED, NO_MLE, DISCONNECTED, NOT_CONVERGED = RatingStatus


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


def play(pairs, n, games, *, batch=1, sigma=1.0, seed=0, extra=0.0):
    """[batch, n, n]: every pair plays so many games, strengths normal; extra: added both ways, so that an MLE exists on any connected graph."""
    rng = np.random.default_rng(seed)
    wins = torch.zeros(batch, n, n, dtype=torch.float64)
    for b in range(batch):
        strength = rng.normal(size=n) * sigma
        for i, j in pairs:
            won = rng.binomial(games, 1 / (1 + math.exp(strength[j] - strength[i])))
            wins[b, i, j] += won + extra
            wins[b, j, i] += games - won + extra
    return wins


def all_pairs(n, start=0):
    return [(i, j) for i in range(start, start + n) for j in range(start, i)]


def log_posterior(theta, wins, prior):
    """By the definition, pair by pair."""
    total = 0.0
    for i in range(len(theta)):
        for j in range(len(theta)):
            total -= wins[i, j] * np.logaddexp(0, theta[j] - theta[i]) if i != j else 0
        total -= prior / 2 * (np.logaddexp(0, -theta[i]) + np.logaddexp(0, theta[i]))
    return total


def optimum(wins, prior):
    """theta by scipy, not centred; without a prior the mean is held at 0."""
    optimize = pytest.importorskip("scipy.optimize")
    n = len(wins)

    def gradient(theta):
        grad = np.zeros(n)
        for i in range(n):
            for j in range(n):
                if i != j:
                    pull = wins[i, j] / (1 + math.exp(theta[i] - theta[j]))
                    grad[i] -= pull
                    grad[j] += pull
            grad[i] += prior * (1 / (1 + math.exp(-theta[i])) - 0.5)
        return grad + (0 if prior else theta.sum())

    def loss(theta):
        return -log_posterior(theta, wins, prior) + (0 if prior else theta.sum() ** 2 / 2)

    return optimize.minimize(loss, np.zeros(n), jac=gradient, method="BFGS", options={"gtol": 1e-9}).x


def kkt(rating, wins, prior=0.0):
    """The residual by the definition; with a prior the fit's own mean is found first."""
    shift = 0.0
    if prior:
        from scipy.optimize import brentq

        shift = brentq(lambda c: float((torch.sigmoid(rating + c) - 0.5).sum()), -100, 100, xtol=1e-14)
    expected = (wins + wins.T) * torch.sigmoid(rating.unsqueeze(-1) - rating)
    off = wins.sum(-1) - expected.sum(-1) + prior * (0.5 - torch.sigmoid(rating + shift))
    return float((off.abs() / ((wins + wins.T).sum(-1) + prior)).max())


@pytest.mark.parametrize("prior", [0.0, 0.1, 3.0])
def test_is_the_maximum_of_the_log_posterior(prior):
    wins = play(all_pairs(6), 6, 3, batch=3, extra=0.25)
    result = bradley_terry(wins, prior=prior)
    for b in range(3):
        theta = optimum(wins[b].numpy(), prior)
        assert result.rating[b].tolist() == pytest.approx(list(theta - theta.mean()), abs=1e-6)
    assert result.status.tolist() == [CONVERGED] * 3
    assert result.stderr is None


@pytest.mark.parametrize("prior", [0.0, 0.1, 2.0])
def test_stderr_is_the_inverse_hessian_in_the_mean_0_gauge(prior):
    wins = play(all_pairs(5), 5, 4, extra=0.5)[0].numpy()
    theta, n, h = optimum(wins, prior), 5, 1e-3
    hessian = np.zeros((n, n))
    steps = np.eye(n) * h
    for i in range(n):
        for j in range(n):
            corners = [log_posterior(theta + a * steps[i] + b * steps[j], wins, prior) * a * b for a in (1, -1) for b in (1, -1)]
            hessian[i, j] = -sum(corners) / (4 * h * h)
    projection = np.eye(n) - 1 / n
    inverse = np.linalg.inv(hessian) if prior else np.linalg.pinv(hessian, rcond=1e-6)
    expected = np.sqrt(np.diag(projection @ inverse @ projection))
    got = bradley_terry(torch.tensor(wins).unsqueeze(0), prior=prior, stderr=True).stderr
    assert got[0].tolist() == pytest.approx(list(expected), rel=1e-5)


def test_matches_choix():
    choix = pytest.importorskip("choix")
    wins = play(all_pairs(8), 8, 5, extra=0.1, seed=3)
    rating = bradley_terry(wins, prior=0.0, tol=1e-13).rating[0]
    assert rating.tolist() == pytest.approx(list(choix.ilsr_pairwise_dense(wins[0].numpy(), tol=1e-12)), abs=1e-9)
    whole = play(all_pairs(8), 8, 6, seed=4)
    games = [(i, j) for i in range(8) for j in range(8) for _ in range(int(whole[0, i, j]))]
    fitted = choix.opt_pairwise(8, games, alpha=0, tol=1e-12)
    assert bradley_terry(whole, prior=0.0).rating[0].tolist() == pytest.approx(list(fitted - fitted.mean()), abs=1e-5)


def test_matches_evalica_where_an_mle_exists():
    evalica = pytest.importorskip("evalica")
    wins = play(all_pairs(6), 6, 8, sigma=0.7, seed=5)
    result = bradley_terry(wins, prior=0.0)
    assert result.status.item() == CONVERGED
    games = [(i, j) for i in range(6) for j in range(6) for _ in range(int(wins[0, i, j]))]
    scores = evalica.bradley_terry([i for i, _ in games], [j for _, j in games], [evalica.Winner.X] * len(games), tolerance=1e-13, limit=1000).scores
    theta = np.log([scores[i] for i in range(6)])
    assert result.rating[0].tolist() == pytest.approx(list(theta - theta.mean()), abs=1e-8)


CYCLE_OF_3 = {(1, 2): 1, (2, 3): 1, (3, 1): 1}
EDGE_CASES = {  # the table of cases other libraries answer with equal scores, garbage or an exception
    "two players, 3-1": (2, {(0, 1): 3, (1, 0): 1}, CONVERGED),
    "chain": (3, {(0, 1): 1, (1, 2): 1}, NO_MLE),
    "one undefeated, one cycle": (4, {**CYCLE_OF_3, (0, 1): 1, (0, 2): 1, (0, 3): 1}, NO_MLE),
    "one winless, one cycle": (4, {**CYCLE_OF_3, (1, 0): 1, (2, 0): 1, (3, 0): 1}, NO_MLE),
    "two disconnected pairs": (4, {(0, 1): 3, (1, 0): 1, (2, 3): 2, (3, 2): 1}, DISCONNECTED),
    "all ties": (3, {(i, j): 0.5 for i in range(3) for j in range(3)}, CONVERGED),
    "star": (4, {**{(0, j): 3 for j in (1, 2, 3)}, **{(j, 0): 1 for j in (1, 2, 3)}}, CONVERGED),
    "no games": (3, {}, DISCONNECTED),
    "one candidate": (1, {}, CONVERGED),
    "million to one": (3, {(0, 1): 1e6, (1, 0): 1, (1, 2): 1e6, (2, 1): 1}, CONVERGED),
    "won all by one": (2, {(0, 1): 1}, NO_MLE),
}


@pytest.mark.parametrize("case", EDGE_CASES)
def test_edge_cases(case):
    n, games, status = EDGE_CASES[case]
    wins = wins_of(n, games)
    plain, smoothed = bradley_terry(wins, prior=0.0, stderr=True), bradley_terry(wins, stderr=True)
    assert plain.status.item() == smoothed.status.item() == status
    assert bool(smoothed.rating.isfinite().all())
    assert bool(smoothed.stderr.isfinite().all())
    assert abs(float(smoothed.rating.sum())) < 1e-12
    if status == CONVERGED:
        assert bool(plain.rating.isfinite().all())
        assert bool(plain.stderr.isfinite().all())
    else:
        assert bool(plain.rating.isnan().all())
        assert bool(plain.stderr.isnan().all())
        assert plain.iterations.item() == 0
    order = {"chain": [0, 1, 2], "one undefeated, one cycle": [0], "one winless, one cycle": [], "won all by one": [0, 1]}.get(case)
    if order:  # the prior keeps who won ahead of who lost
        assert smoothed.rating[0].argsort(descending=True)[: len(order)].tolist() == order


def test_known_values():
    def fit(n, games, **options):
        return bradley_terry(wins_of(n, games), **options)

    half_log_3 = math.log(3) / 2
    assert fit(2, EDGE_CASES["two players, 3-1"][1], prior=0).rating[0].tolist() == pytest.approx([half_log_3, -half_log_3], rel=1e-8)
    # 4 games at 3/4: the difference has variance 4 / 3, each of the two a quarter of it
    assert fit(2, EDGE_CASES["two players, 3-1"][1], prior=0, stderr=True).stderr[0].tolist() == pytest.approx([1 / math.sqrt(3)] * 2, rel=1e-8)
    assert fit(4, EDGE_CASES["star"][1], prior=0).rating[0].tolist() == pytest.approx([1.5 * half_log_3] + [-half_log_3 / 2] * 3, rel=1e-8)
    million = fit(3, EDGE_CASES["million to one"][1], prior=0, tol=1e-14)
    assert million.rating[0].tolist() == pytest.approx([math.log(1e6), 0, -math.log(1e6)], rel=1e-8)
    assert fit(3, EDGE_CASES["all ties"][1]).rating.tolist() == [[0.0] * 3]
    assert fit(3, EDGE_CASES["no games"][1]).rating.tolist() == [[0.0] * 3]
    alone = fit(1, {}, prior=0, stderr=True)
    assert (alone.rating.item(), alone.stderr.item(), alone.iterations.item()) == (0.0, 0.0, 0)
    assert fit(1, {}, stderr=True).stderr.item() == 0.0


N = 64
RING, PATH = [(i, (i + 1) % N) for i in range(N)], [(i, i + 1) for i in range(N - 1)]
FAMILIES = {
    "cycle": play(RING, N, 4, batch=4, extra=0.05),
    "path": play(PATH, N, 20, batch=4, extra=0.05),
    "cliques with a bridge": play(all_pairs(32) + all_pairs(32, 32), N, 4, batch=2, extra=0.05) + wins_of(N, {(0, 32): 1, (32, 0): 1}),
    "steep path": wins_of(N, {**dict.fromkeys(PATH, 19), **{(j, i): 1 for i, j in PATH}}),
    "knockout": wins_of(N, {e: w for k in range(6) for i in range(0, N, 2 << k) for e, w in (((i, i + (1 << k)), 1.05), ((i + (1 << k), i), 0.05))}),
    "two leagues": play(all_pairs(N), N, 2, extra=0.05) + wins_of(N, {**{(i, j): 20 for i in range(32) for j in range(32, N)}, (40, 3): 1}),
}


@pytest.mark.parametrize("prior", [0.0, 0.1])
@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_graphs_take_few_iterations(family, prior):
    wins = FAMILIES[family]
    result = bradley_terry(wins, prior=prior)
    assert result.status.tolist() == [CONVERGED] * len(wins)
    assert int(result.iterations.max()) <= 20
    for b in range(len(wins)):
        assert kkt(result.rating[b], wins[b], prior) <= 1.001e-9


def test_a_perfectly_consistent_judge_converges():
    """The best of 64 is far from the worst: hundreds of units where counts are large."""
    ordered = torch.ones(1, N, N, dtype=torch.float64).triu(1)
    for count in (1.0, 1e6):
        result = bradley_terry(ordered * count)
        assert result.status.item() == NO_MLE
        assert int(result.iterations) <= 25
        assert bool((result.rating[0].diff() < 0).all())
        assert kkt(result.rating[0], ordered[0] * count, 0.1) <= 1.001e-9


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 0.1, 1.0, 100.0]), st.integers(0, 6))
def test_with_a_prior_every_problem_converges(seed, prior, decades):
    generator = torch.Generator().manual_seed(seed)
    shape = (16, 10, 10)
    wins = 10 ** (torch.rand(shape, dtype=torch.float64, generator=generator) * 2 * decades - decades)
    wins = wins.masked_fill(torch.rand(shape, generator=generator) > 0.25, 0.0)
    result = bradley_terry(wins, prior=prior)
    assert bool(result.rating.isfinite().all())
    assert NOT_CONVERGED not in result.status.tolist()


def test_steps_that_would_overshoot_are_cut():
    """Counts of 1e-6 to 1e6 and next to no prior: the plain Newton step throws some candidates thousands of units away."""
    generator = torch.Generator().manual_seed(0)
    shape = (256, 10, 10)
    wins = 10 ** (torch.rand(shape, dtype=torch.float64, generator=generator) * 12 - 6)
    wins = wins.masked_fill(torch.rand(shape, generator=generator) > 0.25, 0.0)
    for prior in (1e-6, 1e-12):
        result = bradley_terry(wins, prior=prior, max_iter=100)
        assert bool(result.rating.isfinite().all())
        assert NOT_CONVERGED not in result.status.tolist()
