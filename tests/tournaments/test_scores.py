"""Scores without a model of the matches against loops, evalica and eigenvectors."""

from __future__ import annotations

import math

import pytest
import torch

from rrm_core import NativeKernelError
from rrm_core.testing import guarded
from rrm_core.tournaments import PairCounts, RatingStatus, borda, copeland, eigenvector, pagerank, pairwise_counts, pairwise_wins, schema, win_rate

CONVERGED, NO_MLE, DISCONNECTED, NOT_CONVERGED = RatingStatus
NAN = float("nan")
PAIR_SCORES, WALKS = [borda, win_rate, copeland], [pagerank, eigenvector]


def some_wins(batch=3, n=6):
    generator = torch.Generator().manual_seed(1)
    wins = torch.randint(0, 4, (batch, n, n), generator=generator).double() / 2
    wins[0, n // 3, :], wins[0, :, n // 3] = 0.0, 0.0  # met nobody
    return wins  # with a diagonal that must not count


def ring(n, extra=0.0):
    """Each beat the next, and lost a little to it."""
    wins = torch.zeros(1, n, n, dtype=torch.float64)
    for i in range(n):
        wins[0, i, (i + 1) % n] = 1.0
        wins[0, (i + 1) % n, i] += extra
    return wins


def points(kind, w, i):
    """By the definition."""
    met = [j for j in range(len(w)) if j != i and w[i, j] + w[j, i] > 0]
    if kind is borda:
        return sum(float(w[i, j]) for j in met)
    if kind is copeland:
        return sum(1.0 if w[i, j] > w[j, i] else 0.5 if w[i, j] == w[j, i] else 0.0 for j in met)
    return sum(float(w[i, j] / (w[i, j] + w[j, i])) for j in met) / len(met) if met else NAN


@pytest.mark.triton
@pytest.mark.parametrize("kind", PAIR_SCORES)
@pytest.mark.parametrize("n", [1, 2, 6, 150])
def test_scores_of_pairs(impl, kind, n):
    wins = guarded(some_wins(2, n))
    got = kind(wins, impl=impl)
    expected = torch.tensor([[points(kind, w, i) for i in range(n)] for w in wins], dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=n * 2.0**-52, atol=0, equal_nan=True)  # a sum of n roundings
    assert kind(wins.float(), impl=impl).dtype == torch.float64
    strided = wins.mT.contiguous().mT
    torch.testing.assert_close(kind(strided, impl=impl), got, rtol=n * 2.0**-52, atol=0, equal_nan=True)


def test_scores_of_ties(impl):
    counts = pairwise_counts([0, 0, 1], [1, 2, 2], [1.0, 0.5, 0.0], num_candidates=3)
    for kind in PAIR_SCORES:
        assert torch.equal(kind(counts, impl=impl), kind(counts.wins + counts.ties / 2, impl=impl))
    assert borda(counts, impl=impl).tolist() == [[1.5, 0.0, 1.5]]
    assert copeland(counts, impl=impl).tolist() == [[1.5, 0.0, 1.5]]


@pytest.mark.triton
@pytest.mark.parametrize("kind", range(3))
def test_unchecked_values_of_pairs(impl, kind):
    """NaN spoils its two candidates, who have played with it, and nobody else."""
    wins = torch.ones(2, 4, 4, dtype=torch.float64)
    wins[0, 1, 2] = NAN
    got = schema.pair_scores.body(impl, wins)(wins, kind)
    assert got.isnan().any(-1).tolist() == [True, False]
    assert not bool(got[0, [0, 3]].isnan().any())


def test_matches_evalica(impl):
    evalica = pytest.importorskip("evalica")
    generator = torch.Generator().manual_seed(2)
    first = torch.randint(7, (300,), generator=generator)
    second = (first + torch.randint(1, 7, (300,), generator=generator)) % 7
    kind = torch.randint(3, (300,), generator=generator)
    kind[(first == 6) & (kind == 1)] = 0
    kind[(second == 6) & (kind == 2)] = 0  # the last one never wins, only ties
    share = torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64)[kind]
    winner = [(evalica.Winner.Draw, evalica.Winner.X, evalica.Winner.Y)[k] for k in kind]
    wins = pairwise_wins(first, second, share, num_candidates=7)
    for ours, theirs in (
        (win_rate(wins, impl=impl)[0], evalica.average_win_rate),
        (pagerank(wins, impl=impl).rating[0], evalica.pagerank),
        (eigenvector(wins.mT, prior=0.0, impl=impl).rating[0], evalica.eigen),  # theirs is of losses: who wins least comes first
        (borda(wins, impl=impl)[0], evalica.counting),
    ):
        options = {"tolerance": 1e-13, "limit": 10_000} if theirs in (evalica.pagerank, evalica.eigen) else {}
        scores = theirs(first.tolist(), second.tolist(), winner, **options).scores
        expected = torch.tensor([scores[i] for i in range(7)], dtype=torch.float64)
        if theirs is evalica.eigen:
            expected = expected / expected.sum()  # theirs has length 1
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.triton
@pytest.mark.parametrize("n", [2, 5, 17])
def test_pagerank_is_the_stationary_walk(impl, n):
    wins = guarded(some_wins(2, n))
    wins[1, :, 0] = 0.0  # who lost nothing passes on to all
    found = pagerank(wins, impl=impl)
    clean = wins * (1 - torch.eye(n))
    for b in range(2):
        lost = clean[b].sum(0)
        step = torch.where(lost > 0, clean[b] / lost, 1 / n)
        x = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - 0.85 * step, torch.full((n,), 0.15 / n, dtype=torch.float64))
        torch.testing.assert_close(found.rating[b], x, rtol=0, atol=1e-11)
    assert found.status.tolist() == [CONVERGED] * 2
    assert found.stderr is None
    assert bool((found.iterations <= 200).all())


@pytest.mark.triton
@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_eigenvector_is_one(impl, prior):
    wins = some_wins(3, 6) + 0.5
    found = eigenvector(wins, prior=prior, impl=impl)
    matrix = (wins + prior / 2 / 5) * (1 - torch.eye(6))
    for b in range(3):
        value, vector = torch.linalg.eig(matrix[b])
        x = vector[:, value.real.argmax()].real
        torch.testing.assert_close(found.rating[b], x / x.sum(), rtol=0, atol=1e-10)
    assert found.status.tolist() == [CONVERGED] * 3


def test_walks_that_go_round_in_circles_arrive(impl):
    """Two players, or a ring: the plain power iteration never settles."""
    for wins in (torch.tensor([[[0.0, 3.0], [1.0, 0.0]]], dtype=torch.float64), ring(4), ring(7)):
        found = eigenvector(wins, prior=0.0, impl=impl)
        assert found.status.item() == CONVERGED
        x = found.rating[0]
        grown = wins[0] @ x
        torch.testing.assert_close(grown / grown.sum(), x, rtol=0, atol=1e-9)
    assert eigenvector(ring(4), prior=0.0, impl=impl).rating[0].tolist() == pytest.approx([0.25] * 4)


def test_status(impl):
    chain = torch.zeros(1, 3, 3, dtype=torch.float64)
    chain[0, 0, 1] = chain[0, 1, 2] = 1.0
    pairs = torch.zeros(1, 4, 4, dtype=torch.float64)
    pairs[0, 0, 1] = pairs[0, 1, 0] = pairs[0, 2, 3] = pairs[0, 3, 2] = 1.0
    for wins, status in ((chain, NO_MLE), (pairs, DISCONNECTED), (torch.zeros(1, 3, 3), DISCONNECTED), (torch.zeros(1, 1, 1), CONVERGED)):
        plain, smoothed = eigenvector(wins, prior=0.0, impl=impl), eigenvector(wins, impl=impl)
        assert plain.status.item() == smoothed.status.item() == status
        assert bool(plain.rating.isnan().all()) == (status != CONVERGED)
        assert smoothed.rating.sum().item() == pytest.approx(1.0)
        ranked = pagerank(wins, impl=impl)
        assert ranked.status.item() == CONVERGED
        assert ranked.rating.sum().item() == pytest.approx(1.0)
    assert eigenvector(chain, impl=impl).rating[0].argsort(descending=True).tolist() == [0, 1, 2]
    assert eigenvector(some_wins() + 1, max_iter=2, impl=impl).status.tolist() == [NOT_CONVERGED] * 3
    assert pagerank(some_wins() + 1, max_iter=2, impl=impl).status.tolist() == [NOT_CONVERGED] * 3
    assert eigenvector(some_wins() + 1, max_iter=2, impl=impl).iterations.tolist() == [2] * 3


@pytest.mark.parametrize("walk", WALKS)
def test_masks(impl, walk):
    wins = some_wins(2, 6) + 0.25
    mask = torch.tensor([[True, False, True, True, False, True], [False] * 6])
    noisy = wins.clone()
    noisy[0, 1], noisy[0, :, 4] = NAN, -1.0
    found = walk(noisy, mask=mask, impl=impl)
    kept = mask[0].nonzero().squeeze(-1)
    torch.testing.assert_close(found.rating[0, kept], walk(wins[:1, kept][:, :, kept], impl=impl).rating[0], rtol=0, atol=1e-14)
    assert bool((found.rating[~mask] == -math.inf).all())
    assert found.status.tolist() == [CONVERGED] * 2


@pytest.mark.native
@pytest.mark.triton
@pytest.mark.parametrize("walk", WALKS)
def test_bodies_agree_and_problems_are_alone(walk):
    wins = some_wins(5, 9) + 0.125
    native, plain = walk(wins, impl="native"), walk(wins, impl="reference")
    torch.testing.assert_close(native.rating, plain.rating, rtol=0, atol=1e-12)
    assert (native.iterations - plain.iterations).abs().max() <= 1
    for b in range(5):
        assert torch.equal(walk(wins[b : b + 1], impl="native").rating[0], native.rating[b])


@pytest.mark.parametrize("score", [*PAIR_SCORES, *WALKS])
def test_bad_wins(score):
    with pytest.raises(ValueError, match=r"^wins: expected shape \[B, n, n\], got \[3, 3\]"):
        score(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"^wins: expected shape \[B, n, n\] with n > 0, got \[1, 3, 2\]"):
        score(torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match=r"^wins: expected finite values of at least 0, got -1.0"):
        score([[[0, -1], [1, 0]]])
    with pytest.raises(ValueError, match=r"^ties: expected finite values of at least 0, got -1.0"):
        score(PairCounts(torch.ones(1, 2, 2), -torch.ones(1, 2, 2)))
    for found in (score([[[-5, 1], [1, 0]]]), score(torch.zeros(0, 2, 2))):  # the diagonal is not read
        assert (found if isinstance(found, torch.Tensor) else found.rating).shape[1:] == (2,)


def test_bad_options():
    with pytest.raises(ValueError, match=r"^damping: expected a number in \[0, 1\), got 1"):
        pagerank(some_wins(), damping=1)
    with pytest.raises(ValueError, match=r"^prior: expected a finite number of at least 0, got -1"):
        eigenvector(some_wins(), prior=-1)
    with pytest.raises(ValueError, match=r"^mask: expected shape \[3, 6\], got \[3\]"):
        pagerank(some_wins(), mask=[True] * 3)


def test_impl(monkeypatch):
    for op, call in ((schema.pair_scores, borda), (schema.power_iteration, pagerank)):
        monkeypatch.setattr(op, "native_devices", set())
        with pytest.raises(NativeKernelError, match=f"no native kernel of {op.name}"):
            call(some_wins(), impl="native")


def test_compiles_and_registers():
    torch._dynamo.reset()

    def score(wins):
        return borda(wins) + win_rate(wins) + copeland(wins) + pagerank(wins).rating + eigenvector(wins).rating

    compiled = torch.compile(score, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (4, 6):
        wins = some_wins(n=n) + 1
        torch.testing.assert_close(compiled(wins), score(wins), rtol=1e-12, atol=0)
    wins = some_wins() + 1
    torch.library.opcheck(torch.ops.rrm.pair_scores.default, (wins, 1))
    torch.library.opcheck(torch.ops.rrm.power_iteration.default, (wins, torch.full((3, 6), 1 / 6), torch.ones(3), 0.0, 50, 1e-9))


def test_any_options_run_on_meta():
    """Meta tensors have no values: whatever would wait for a device raises here."""
    wins = torch.zeros(2, 4, 4, device="meta")
    for walk in WALKS:
        assert walk(wins, max_iter=3, impl="reference").rating.shape == (2, 4)
