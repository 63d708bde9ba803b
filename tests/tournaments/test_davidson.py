"""davidson against scipy's optimum of the likelihood, evalica, and the cases without a maximum."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrm_core import NativeKernelError
from rrm_core.tournaments import PairCounts, RatingStatus, bradley_terry, davidson, pairwise_counts, schema

CONVERGED, NO_MLE, DISCONNECTED, NOT_CONVERGED = RatingStatus
NAN = float("nan")


@pytest.fixture(autouse=True)
def every_body(impl, monkeypatch):
    """Each test runs once per body."""
    monkeypatch.setitem(globals(), "davidson", functools.partial(davidson, impl=impl))


def random_counts(batch, n, games, *, seed=0, nu=1.0, sigma=1.0):
    """Every pair plays so many games by Davidson's own model."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(batch, n)) * sigma
    wins, ties = np.zeros((batch, n, n)), np.zeros((batch, n, n))
    for b in range(batch):
        for i in range(n):
            for j in range(i):
                weights = np.array([math.exp((theta[b, i] - theta[b, j]) / 2), math.exp((theta[b, j] - theta[b, i]) / 2), nu])
                won, lost, tied = rng.multinomial(games, weights / weights.sum())
                wins[b, i, j], wins[b, j, i], ties[b, i, j], ties[b, j, i] = won, lost, tied, tied
    return PairCounts(torch.tensor(wins), torch.tensor(ties))


def counts_of(n, wins, ties):
    """One problem from {(i, j): wins} and {(i, j): ties}."""
    won, tied = torch.zeros(1, n, n, dtype=torch.float64), torch.zeros(1, n, n, dtype=torch.float64)
    for (i, j), count in wins.items():
        won[0, i, j] = count
    for (i, j), count in ties.items():
        tied[0, i, j] = tied[0, j, i] = count
    return PairCounts(won, tied)


def log_posterior(theta, log_tie, wins, ties, prior):
    """By the definition, pair by pair."""
    total = 0.0
    for i in range(len(theta)):
        for j in range(i):
            half = (theta[i] - theta[j]) / 2
            norm = np.logaddexp(np.logaddexp(half, -half), log_tie)
            total += wins[i, j] * (half - norm) + wins[j, i] * (-half - norm) + ties[i, j] * (log_tie - norm)
        total -= prior / 2 * (np.logaddexp(0, theta[i]) + np.logaddexp(0, -theta[i]))
    nu = math.exp(log_tie)
    return total + prior / 2 * (math.log(nu / (nu + 2)) + math.log(2 / (nu + 2)))


def optimum(wins, ties, prior):
    optimize = pytest.importorskip("scipy.optimize")

    def loss(x):
        return -log_posterior(x[:-1], x[-1], wins, ties, prior) + (0 if prior else x[:-1].sum() ** 2 / 2)

    return optimize.minimize(loss, np.zeros(len(wins) + 1), method="BFGS", options={"gtol": 1e-8}).x


@pytest.mark.parametrize("prior", [0.0, 0.1, 3.0])
def test_is_the_maximum_of_the_log_posterior(prior):
    counts = random_counts(3, 5, 6, seed=1)
    found = davidson(counts, prior=prior, stderr=True)
    assert found.status.tolist() == [CONVERGED] * 3
    for b in range(3):
        wins, ties = counts.wins[b].numpy(), counts.ties[b].numpy()
        x = optimum(wins, ties, prior)
        assert found.rating[b].tolist() == pytest.approx(list(x[:-1] - x[:-1].mean()), abs=2e-5)  # as exactly as BFGS on differences gets
        assert math.log(found.tie_strength[b]) == pytest.approx(x[-1], abs=2e-5)
        h, hessian, steps = 1e-3, np.zeros((6, 6)), np.eye(6) * 1e-3
        for i in range(6):
            for j in range(6):
                corners = [
                    log_posterior((y := x + a * steps[i] + c * steps[j])[:-1], y[-1], wins, ties, prior) * a * c for a in (1, -1) for c in (1, -1)
                ]
                hessian[i, j] = -sum(corners) / (4 * h * h)
        inverse = np.linalg.inv(hessian) if prior else np.linalg.pinv(hessian, rcond=1e-6)
        projection = np.eye(5) - 1 / 5
        expected = np.sqrt(np.diag(projection @ inverse[:-1, :-1] @ projection))
        assert found.stderr[b].tolist() == pytest.approx(list(expected), rel=1e-4)


def test_matches_evalica_where_it_converges():
    evalica = pytest.importorskip("evalica")
    counts = random_counts(1, 6, 9, seed=3)
    found = davidson(counts, prior=0.0)
    games = [(i, j, evalica.Winner.X) for i in range(6) for j in range(6) for _ in range(int(counts.wins[0, i, j]))]
    games += [(i, j, evalica.Winner.Draw) for i in range(6) for j in range(i) for _ in range(int(counts.ties[0, i, j]))]
    theirs = evalica.newman(*map(list, zip(*games, strict=True)), tolerance=1e-12, limit=10_000)
    theta = np.log([theirs.scores[i] for i in range(6)])
    assert found.rating[0].tolist() == pytest.approx(list(theta - theta.mean()), abs=1e-6)
    assert found.tie_strength.item() == pytest.approx(2 * theirs.v, rel=1e-6)


def test_known_values():
    """Two equals, half of whose games are ties: nu / (2 + nu) = 1 / 2. With 3 wins to 1 and 2 ties: odds of 3, and nu from 2 / (4 + 2)."""
    even = davidson(counts_of(2, {(0, 1): 2, (1, 0): 2}, {(0, 1): 4}), prior=0.0)
    assert even.tie_strength.item() == pytest.approx(2.0, rel=1e-8)
    assert even.rating.abs().max() < 1e-8
    found = davidson(counts_of(2, {(0, 1): 3, (1, 0): 1}, {(0, 1): 2}), prior=0.0)
    assert found.rating[0].tolist() == pytest.approx([math.log(3) / 2, -math.log(3) / 2], rel=1e-7)
    assert found.tie_strength.item() == pytest.approx(2 / math.sqrt(3), rel=1e-7)


def test_without_ties_it_tends_to_bradley_terry():
    counts = random_counts(2, 6, 8, seed=5, nu=1e-9)
    assert counts.ties.sum() == 0
    assert davidson(counts, prior=0.0).status.tolist() == [NO_MLE] * 2
    found = davidson(counts, prior=0.0, tie_strength=1e-12)
    torch.testing.assert_close(found.rating, bradley_terry(counts.wins, prior=0.0).rating, rtol=0, atol=1e-7)


EDGE_CASES = {
    "a win and a tie": (2, {(0, 1): 1}, {(0, 1): 1}, NO_MLE),  # a digraph of ties both ways is connected, but strengths and ties grow together
    "only ties": (3, {}, {(0, 1): 1, (1, 2): 1}, NO_MLE),
    "no ties": (2, {(0, 1): 2, (1, 0): 1}, {}, NO_MLE),
    "one undefeated": (3, {(0, 1): 1, (0, 2): 1, (1, 2): 1, (2, 1): 1}, {(1, 2): 1}, NO_MLE),
    "two pairs": (4, {(0, 1): 1, (1, 0): 1, (2, 3): 1, (3, 2): 1}, {(0, 1): 1, (2, 3): 1}, DISCONNECTED),
    "3-1 and a tie": (2, {(0, 1): 3, (1, 0): 1}, {(0, 1): 1}, CONVERGED),
    "round of wins closed by a tie": (3, {(0, 1): 1, (1, 2): 1}, {(2, 0): 1}, CONVERGED),  # two wins and a tie on the way round
    "win, tie, tie around": (3, {(0, 1): 1}, {(1, 2): 1, (2, 0): 1}, NO_MLE),
    "no games": (3, {}, {}, DISCONNECTED),
    "one candidate": (1, {}, {}, NO_MLE),  # nothing says how strong ties are
}


@pytest.mark.parametrize("case", EDGE_CASES)
def test_edge_cases(case):
    n, wins, ties, status = EDGE_CASES[case]
    counts = counts_of(n, wins, ties)
    plain, smoothed = davidson(counts, prior=0.0, stderr=True), davidson(counts, stderr=True)
    assert plain.status.item() == smoothed.status.item() == status
    assert bool(smoothed.rating.isfinite().all() & smoothed.tie_strength.isfinite().all() & smoothed.stderr.isfinite().all())
    assert bool((plain.rating.isfinite() == (status == CONVERGED)).all())
    assert bool(plain.tie_strength.isfinite() == (status == CONVERGED))
    if status == CONVERGED:
        assert bool(plain.stderr.isfinite().all())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 4), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
def test_status_is_whether_a_maximum_exists(n, games):
    """By linear programming: no direction in which every game's outcome stays or becomes the likeliest, but for those that change nothing."""
    optimize = pytest.importorskip("scipy.optimize")
    games = [(i, j, tie) for i, j, tie in games if i < n and j < n and i != j]
    wins = {(i, j): 1 for i, j, tie in games if not tie}
    ties = {(min(i, j), max(i, j)): 1 for i, j, tie in games if tie}
    got = davidson(counts_of(n, wins, ties), prior=0.0).status.item()
    rows = []  # of constraints rows @ (d_theta, d_eta) <= 0, one for each outcome that a game could have had instead
    for (i, j), outcome in [*((pair, "win") for pair in wins), *((pair, "tie") for pair in ties)]:
        apart, even = np.zeros(n + 1), np.zeros(n + 1)
        apart[i], apart[j], even[n] = 0.5, -0.5, 1.0
        rows += [-2 * apart, even - apart] if outcome == "win" else [apart - even, -apart - even]
    bounded = True
    for k in range(n + 1):
        for sign in (1, -1):  # the largest |d| with d_theta[0] = 0: a direction that moves anything
            cost = np.zeros(n + 1)
            cost[k] = -sign
            bounds = [(0, 0), *[(-1, 1)] * n]
            best = optimize.linprog(cost, A_ub=np.array(rows) if rows else None, b_ub=np.zeros(len(rows)) if rows else None, bounds=bounds)
            bounded = bounded and -best.fun < 1e-6
    assert (got == CONVERGED) == bounded


@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_a_shared_tie_strength_is_the_maximum_of_all(prior):
    optimize = pytest.importorskip("scipy.optimize")
    counts = random_counts(4, 4, 5, seed=7)
    mask = torch.ones(4, 4, dtype=torch.bool)
    found = davidson(counts, shared=True, prior=prior, stderr=True, mask=mask)
    assert found.status.tolist() == [CONVERGED] * 4
    assert len(found.tie_strength.unique()) == 1

    def loss(x):
        theta = x[:-1].reshape(4, 4)
        each = [log_posterior(theta[b], x[-1], counts.wins[b].numpy(), counts.ties[b].numpy(), prior) for b in range(4)]
        nu = math.exp(x[-1])
        virtual = prior / 2 * (math.log(nu / (nu + 2)) + math.log(2 / (nu + 2)))  # counted in each, once is enough
        return -sum(each) + 3 * virtual + (0 if prior else (theta.sum(1) ** 2).sum() / 2)

    x = optimize.minimize(loss, np.zeros(17), method="BFGS", options={"gtol": 1e-7}).x
    theta = x[:-1].reshape(4, 4)
    assert found.rating.flatten().tolist() == pytest.approx(list((theta - theta.mean(1, keepdims=True)).flatten()), abs=1e-4)
    assert math.log(found.tie_strength[0]) == pytest.approx(x[-1], abs=1e-4)
    known = davidson(counts, tie_strength=found.tie_strength, prior=prior, stderr=True)
    torch.testing.assert_close(known.rating, found.rating, rtol=0, atol=1e-8)
    assert bool((found.stderr > known.stderr).all())  # what isn't known for certain adds to the error
    alone = davidson(PairCounts(*(x[:1] for x in counts)), shared=True, prior=prior, stderr=True)
    itself = davidson(PairCounts(*(x[:1] for x in counts)), prior=prior, stderr=True)
    torch.testing.assert_close(alone.rating, itself.rating, rtol=0, atol=1e-7)
    torch.testing.assert_close(alone.stderr, itself.stderr, rtol=1e-6, atol=0)


def test_a_shared_tie_strength_reads_nobody_else():
    counts, mask = random_counts(3, 5, 6, seed=2), torch.tensor([[True, True, True, False, True]] * 3)
    clean = davidson(counts, shared=True, mask=mask, stderr=True)
    noisy = PairCounts(*(x.clone() for x in counts))
    noisy.wins[0, 3, 1], noisy.ties[1, 2, 3], noisy.wins[2].diagonal()[:] = NAN, 1e15, 1e12
    found = davidson(noisy, shared=True, mask=mask, stderr=True)
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(found, clean, strict=True))


def test_problems_help_each_other_to_a_shared_tie_strength():
    only_ties, no_ties = counts_of(2, {}, {(0, 1): 3}), counts_of(2, {(0, 1): 2, (1, 0): 1}, {})
    both = PairCounts(*(torch.cat(x) for x in zip(only_ties, no_ties, strict=True)))
    found = davidson(both, shared=True, prior=0.0)
    assert found.status.tolist() == [CONVERGED] * 2
    assert bool(found.rating.isfinite().all())
    for lonely in (only_ties, no_ties):
        assert davidson(lonely, shared=True).status.item() == NO_MLE  # of the data, whatever the prior
        found = davidson(lonely, shared=True, prior=0.0)
        assert found.status.item() == NO_MLE
        assert bool(found.rating.isnan().all())


def test_masks_permutations_and_batches():
    counts, mask = random_counts(3, 6, 7, seed=9), torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6])
    noisy = PairCounts(*(x.clone() for x in counts))
    noisy.wins[1, 1], noisy.ties[1, :, 4] = NAN, -3.0
    found = davidson(noisy, mask=mask, stderr=True)
    kept = mask[1].nonzero().squeeze(-1)
    part = davidson(PairCounts(*(x[1:2, kept][:, :, kept] for x in counts)), stderr=True)
    torch.testing.assert_close(found.rating[1, kept], part.rating[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.stderr[1, kept], part.stderr[0], rtol=1e-10, atol=0)
    assert bool((found.rating[1, ~mask[1]] == -math.inf).all())
    assert bool(found.stderr[1, ~mask[1]].isnan().all())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = davidson(PairCounts(*(x[:1, order][:, :, order] for x in counts)), stderr=True)
    torch.testing.assert_close(moved.rating[0], found.rating[0, order], rtol=0, atol=1e-9)
    alone = davidson(PairCounts(*(x[:1] for x in counts)), stderr=True)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(alone, found, strict=True))


def test_hard_problems_converge():
    """A consistent judge of 40 candidates with a few ties, and counts over ten decades."""
    ordered = torch.ones(1, 40, 40, dtype=torch.float64).triu(1)
    near = torch.zeros_like(ordered)
    near[0, torch.arange(39), torch.arange(1, 40)] = 1.0
    found = davidson(PairCounts(ordered, near + near.mT), max_iter=60)
    assert found.status.item() != NOT_CONVERGED
    assert bool((found.rating[0].diff() < 0).all())
    generator = torch.Generator().manual_seed(0)
    wild = [10 ** (torch.rand(64, 8, 8, dtype=torch.float64, generator=generator) * 10 - 5) for _ in range(2)]
    wild = [x.masked_fill(torch.rand(x.shape, generator=generator) > 0.3, 0.0) for x in wild]
    found = davidson(PairCounts(wild[0], wild[1] + wild[1].mT), max_iter=100)
    assert NOT_CONVERGED not in found.status.tolist()
    assert bool(found.rating.isfinite().all())


def test_unchecked_values_spoil_their_problem_alone(impl):
    body = schema.davidson.body(impl, torch.zeros(0))
    wins, ties = random_counts(4, 5, 6)
    clean = body(wins, ties, None, None, 0.1, True, 50, 1e-9)
    wins[1, 0, 1], ties[3, 2, 4] = NAN, -1.0
    found = body(wins, ties, None, None, 0.1, True, 50, 1e-9)
    for b in (1, 3):
        assert bool(found[0][b].isnan().all())
        assert found[6][b] == NOT_CONVERGED
    for b in (0, 2):
        assert all(torch.equal(x[b], y[b]) for x, y in zip(found, clean, strict=True))


def test_bodies_agree_and_are_the_same_at_any_thread_count(threads):
    counts = random_counts(70, 9, 3, seed=11)
    found = []
    for count in (1, 2):
        threads(count)
        found.append(davidson(counts, stderr=True))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    expected = schema.davidson.reference(*counts, None, None, 0.1, True, 50, 1e-9)
    for got, want in ((found[0].rating, expected[0]), (found[0].tie_strength.log(), expected[2]), (found[0].stderr, expected[1])):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-7)  # either may stop 1e-9 of a game short
    assert (found[0].iterations - expected[7]).abs().max() <= 1


def test_registration_and_compilation(impl):
    counts = random_counts(2, 4, 5)
    op = torch.ops.rrm.davidson.default
    torch.library.opcheck(op, (*counts, None, None, 0.1, True, 50, 1e-9))
    torch.library.opcheck(op, (*counts, torch.ones(2, 4, dtype=torch.bool), torch.zeros(2), 0.1, False, 50, 1e-9))
    if impl == "reference":
        return  # steps unrolled, with every shortening of each: minutes
    torch._dynamo.reset()
    compiled = torch.compile(lambda w, t: davidson(PairCounts(w, t), max_iter=2).rating, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(*counts), davidson(counts, max_iter=2).rating, rtol=0, atol=1e-12)


def test_bad_input():
    counts = random_counts(1, 3, 4)
    with pytest.raises(TypeError, match=r"^counts: expected a PairCounts, got Tensor"):
        davidson(counts.wins)
    with pytest.raises(ValueError, match=r"^ties: expected finite values of at least 0, got -1.0"):
        davidson(PairCounts(counts.wins, counts.ties * 0 - 1))
    with pytest.raises(ValueError, match=r"^ties: expected shape \[1, 3, 3\], got \[3, 3\]"):
        davidson(PairCounts(counts.wins, counts.ties[0]))
    with pytest.raises(ValueError, match=r"^tie_strength: expected finite numbers above 0, got 0.0"):
        davidson(counts, tie_strength=0.0)
    with pytest.raises(ValueError, match=r"^shared: expected False with a given tie_strength, got True"):
        davidson(counts, tie_strength=1.0, shared=True)
    with pytest.raises(ValueError, match=r"^prior: expected a finite number of at least 0, got -1"):
        davidson(counts, prior=-1)
    with pytest.raises(TypeError, match=r"^stderr: expected a bool, got str"):
        davidson(counts, stderr="sandwich")
    assert davidson(PairCounts(torch.zeros(0, 3, 3), torch.zeros(0, 3, 3)), stderr=True).rating.shape == (0, 3)


def test_impl(monkeypatch):
    monkeypatch.setattr(schema.davidson, "native_devices", set())
    with pytest.raises(NativeKernelError, match="no native kernel of davidson"):
        schema.davidson.body("native", torch.zeros(0))


def test_from_matches():
    counts = pairwise_counts([0, 0, 1, 1], [1, 1, 0, 2], [1, 0.5, 1, 0.5], num_candidates=3)
    assert davidson(counts).rating.shape == (1, 3)


def test_ties_are_halves_of_both_cells(impl):
    wins = torch.tensor([[[0.0, 3, 1], [1, 0, 2], [2, 1, 0]]], dtype=torch.float64)
    ties = torch.tensor([[[0.0, 4, 1], [0, 0, 3], [2, 1, 0]]], dtype=torch.float64)
    found = davidson(PairCounts(wins, ties), stderr=True, impl=impl)
    for ours, theirs in zip(found, davidson(PairCounts(wins, (ties + ties.mT) / 2), stderr=True, impl=impl), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_a_tie_strength_of_nan_is_not_converged_and_nobody_elses(impl):
    wins = torch.ones(2, 3, 3, dtype=torch.float64)
    strength = torch.tensor([math.nan, 0.5], dtype=torch.float64)
    found = schema.davidson.body(impl, wins)(wins, wins, None, strength, 0.1, True, 50, 1e-9)
    assert found[0].isnan().all(1).tolist() == found[2].isnan().tolist() == [True, False]
    assert found[6].tolist() == [RatingStatus.NOT_CONVERGED, RatingStatus.CONVERGED]


@pytest.mark.parametrize(
    ("games", "drawn", "prior"), [([[0, 1e-3, 0], [0, 0, 0], [0, 0, 0]], 0.0, 1.0), ([[0, 20, 0], [20, 0, 0], [0, 0, 0]], 0.25, 5.0)]
)
@pytest.mark.parametrize("tol", [0.3, 0.1, 1e-2, 1e-3, 1e-5])
def test_tol_is_of_all_games_virtual_ones_included(impl, games, drawn, prior, tol):
    wins = torch.tensor([games], dtype=torch.float64)
    found = davidson(PairCounts(wins, wins * drawn), prior=prior, tol=tol, impl=impl)
    assert found.iterations.tolist() == schema.davidson.reference(wins, wins * drawn, None, None, prior, False, 50, tol)[7].tolist()
