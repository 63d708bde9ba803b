"""sum_vote and majority_vote against plain Python loops, and against bad input."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrm_core import NativeKernelError
from rrm_core.testing import guarded, layouts, same_bits
from rrm_core.tournaments import majority_vote, schema, sum_vote
from tests.tournaments.vote_loops import assert_same, drawn, majority_votes, nested, sum_votes

NAN, INF = float("nan"), float("inf")
SCORES = [1.0, 2.0, 10.0, 0.1, 0.3, -0.7, 1e16]  # the order of additions shows
RATINGS = [0.5, 0.5, -0.25, 0.0, -0.0, INF, -INF, 1e-300, NAN]
given_impl = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sampled(seed, batch, k, n, scores=SCORES, faults=0.1):
    """scores, permutation, valid, mask, meta as lists."""
    source = random.Random(seed)
    return {
        "scores": nested((batch, k, n), lambda: source.choice([NAN, INF, -INF]) if source.random() < faults / n else source.choice(scores)),
        "permutation": nested((batch, k), lambda: source.sample(range(n), n)),
        "valid": nested((batch, k), lambda: source.random() > faults),
        "mask": nested((batch, n), lambda: source.random() > faults),
        "meta": nested((batch, k), lambda: source.choice(RATINGS)),
    }


def ballots(seed, batch, k, n, faults=0.1):
    """votes, weight, valid, mask as lists."""
    source = random.Random(seed)
    return {
        "votes": nested((batch, k), lambda: -1 if source.random() < faults else source.randrange(n)),
        "weight": nested((batch, k), lambda: source.choice([0.0, 1.0, 0.1, 0.3, 0.7, 1e16])),
        "valid": nested((batch, k), lambda: source.random() > faults),
        "mask": nested((batch, n), lambda: source.random() > faults),
    }


def shaped(columns, batch, k, n):
    """As tensors amid poison: empty lists don't tell their shape."""
    shapes = {"scores": (batch, k, n), "permutation": (batch, k, n), "mask": (batch, n)}
    dtypes = {"permutation": torch.int64, "votes": torch.int64, "valid": torch.bool, "mask": torch.bool}
    return {name: guarded(torch.tensor(x, dtype=dtypes.get(name, torch.float64)).view(shapes.get(name, (batch, k)))) for name, x in columns.items()}


sizes = st.tuples(st.integers(0, 1 << 30), st.integers(0, 4), st.integers(0, 9), st.sampled_from([1, 2, 3, 7, 17]))


@pytest.mark.triton
@given_impl
@given(sizes, st.integers(1, 6), st.sets(st.sampled_from(["permutation", "valid", "mask", "meta"])), st.integers(0, 99))
def test_sums_equal_the_loop(impl, size, k_meta, left_out, seed):
    _, batch, k, n = size
    columns = sampled(*size)
    plain = {
        "permutation": nested((batch, k), lambda: list(range(n))),
        "valid": nested((batch, k), lambda: True),
        "mask": nested((batch, n), lambda: True),
        "meta": None,
    }
    expected = sum_votes(**{**columns, **{name: plain[name] for name in left_out}}, draws=drawn(seed, batch), k_meta=k_meta)
    arguments = {name: x for name, x in shaped(columns, batch, k, n).items() if name not in left_out}
    options = {"k_meta": None if "meta" in left_out else k_meta, "seed": seed, "impl": impl}
    assert_same(sum_vote(**arguments, **options), expected)


@pytest.mark.triton
@given_impl
@given(sizes, st.sets(st.sampled_from(["weight", "valid", "mask"])), st.integers(0, 99))
def test_counts_equal_the_loop(impl, size, left_out, seed):
    _, batch, k, n = size
    columns = ballots(*size)
    plain = {
        "weight": nested((batch, k), lambda: 1.0),
        "valid": nested((batch, k), lambda: True),
        "mask": nested((batch, n), lambda: True),
    }
    expected = majority_votes(**{**columns, **{name: plain[name] for name in left_out}}, draws=drawn(seed, batch))
    arguments = {name: x for name, x in shaped(columns, batch, k, n).items() if name not in left_out}
    assert_same(majority_vote(**arguments, num_candidates=n, seed=seed, impl=impl), expected)


@pytest.mark.triton
@pytest.mark.parametrize(("batch", "k", "n"), [(2, 3, 1500), (1, 70, 33), (3, 1, 1)])
def test_many_candidates_or_samples(impl, batch, k, n):
    columns, cast = sampled(n, batch, k, n, scores=[1.0, 2.0], faults=0.02), ballots(n, batch, k, n)
    got = sum_vote(**shaped(columns, batch, k, n), seed=3, impl=impl)
    assert_same(got, sum_votes(**columns, draws=drawn(3, batch), k_meta=max(1, k // 2)))
    assert_same(majority_vote(**shaped(cast, batch, k, n), num_candidates=n, seed=3, impl=impl), majority_votes(**cast, draws=drawn(3, batch)))


def test_known_votes(impl):
    scores = [[[3.0, 5.0, 5.0], [9.0, 1.0, 1.0], [1.0, 4.0, 4.0]]]
    by_first = sum_vote(scores, on_tie="first", impl=impl)
    assert [x.tolist() for x in by_first] == [[0], [[13.0, 10.0, 10.0]], [3], [1]]
    without = sum_vote(scores, valid=[[True, False, True]], on_tie="first", impl=impl)
    assert [x.tolist() for x in without] == [[1], [[4.0, 9.0, 9.0]], [2], [2]]
    shown = sum_vote(scores, permutation=[[[2, 0, 1], [0, 1, 2], [1, 0, 2]]], on_tie="none", impl=impl)
    assert [x.tolist() for x in shown] == [[0], [[18.0, 7.0, 8.0]], [3], [1]]
    assert sum_vote(scores, valid=[[True, False, True]], on_tie="none", impl=impl).winner.tolist() == [-1]
    assert [x.tolist() for x in majority_vote([[1, 1, 0, -1]], num_candidates=2, impl=impl)] == [[1], [[1.0, 2.0]], [3], [1]]
    weighted = majority_vote([[1, 1, 0, -1]], num_candidates=2, weight=[[0.25, 0.5, 0.875, NAN]], impl=impl)
    assert [x.tolist() for x in weighted] == [[0], [[0.875, 0.75]], [3], [1]]


@pytest.mark.triton
def test_nobody_wins_without_candidates_or_samples(impl):
    none = [[False, False]]
    assert [x.tolist() for x in sum_vote([[[1.0, 2.0]]], mask=none, impl=impl)] == [[-1], [[-INF, -INF]], [1], [0]]
    assert [x.tolist() for x in majority_vote([[1]], num_candidates=2, mask=none, impl=impl)] == [[-1], [[-INF, -INF]], [0], [0]]
    for empty in (sum_vote([[[NAN, 2.0]]], impl=impl), sum_vote(torch.zeros(1, 0, 2), impl=impl), majority_vote([[-1]], num_candidates=2, impl=impl)):
        assert [x.tolist() for x in empty] == [[-1], [[0.0, 0.0]], [0], [0]]
    assert majority_vote(torch.zeros(1, 0, dtype=torch.int64), num_candidates=2, impl=impl).winner.tolist() == [-1]
    assert [x.shape for x in sum_vote(torch.zeros(0, 3, 2), impl=impl)] == [(0,), (0, 2), (0,), (0,)]
    assert [x.shape for x in majority_vote(torch.zeros(0, 3, dtype=torch.int64), num_candidates=2, impl=impl)] == [(0,), (0, 2), (0,), (0,)]
    weightless = majority_vote([[1, 0]], num_candidates=3, weight=[[0.0, 0.0]], on_tie="first", impl=impl)
    assert [x.tolist() for x in weightless] == [[0], [[0.0, 0.0, 0.0]], [2], [3]]


@pytest.mark.triton
def test_sums_that_overflow_are_ordered(impl):
    large = torch.tensor([[[1e308, -1e308, 1.0], [1e308, -1e308, 1.0], [-1e308, 1e308, 1.0]], [[-1e308] * 3] * 3], dtype=torch.float64)
    got = sum_vote(large, on_tie="first", mask=[[True, True, True], [False, True, True]], impl=impl)
    assert [x.tolist() for x in got] == [[0, 1], [[INF, -INF, 3.0], [-INF] * 3], [3, 3], [1, 2]]


@pytest.mark.triton
@pytest.mark.parametrize("k_meta", [None, 1, 2, 5, 9])
def test_the_highest_rated_are_counted(impl, k_meta):
    source = random.Random(2)
    meta = nested((20, 8), lambda: source.choice(RATINGS))
    samples = torch.eye(8, dtype=torch.float64).expand(20, 8, 8)  # sample j votes for candidate j
    got = sum_vote(samples, meta=torch.tensor(meta, dtype=torch.float64), k_meta=k_meta, impl=impl)
    keep = 4 if k_meta is None else k_meta
    for row, counted, score in zip(meta, got.used.tolist(), got.score, strict=True):
        ordered = sorted((j for j in range(8) if row[j] == row[j]), key=lambda j: (-row[j], j))
        assert score.nonzero().flatten().tolist() == sorted(ordered[:keep])
        assert counted == len(ordered[:keep])
    assert sum_vote(torch.ones(1, 1, 2), meta=[[0.0]], impl=impl).used.tolist() == [1]  # at least one


@pytest.mark.triton
def test_labels_and_order_of_samples_do_not_matter(impl):
    source, generator = random.Random(1), torch.Generator().manual_seed(1)
    scores = torch.tensor(nested((5, 6, 4), lambda: source.randrange(1, 11)))
    votes = torch.tensor(nested((5, 6), lambda: source.randrange(-1, 4)))
    plain, cast = sum_vote(scores, impl=impl), majority_vote(votes, num_candidates=4, impl=impl)
    label, order = torch.randperm(4, generator=generator), torch.randperm(6, generator=generator)  # candidate c is now label[c]
    shown = label.expand(5, 6, 4)
    assert torch.equal(sum_vote(scores[:, order], permutation=shown, impl=impl).score[:, label], plain.score)
    renamed = torch.where(votes < 0, -1, label[votes.clamp(min=0)])[:, order]
    assert torch.equal(majority_vote(renamed, num_candidates=4, impl=impl).score[:, label], cast.score)
    assert torch.equal(plain.score, scores.sum(1).double())


@pytest.mark.triton
def test_what_is_invalid_or_takes_no_part_is_not_read(impl):
    columns, cast = shaped(sampled(5, 3, 6, 4, faults=0.3), 3, 6, 4), shaped(ballots(5, 3, 6, 4, faults=0.3), 3, 6, 4)
    sums, counts = sum_vote(**columns, impl=impl), majority_vote(**cast, num_candidates=4, impl=impl)
    invalid, unread = ~columns["valid"], ~cast["valid"] | (cast["votes"] < 0)
    out = ~columns["mask"].unsqueeze(1).expand(3, 6, 4).gather(2, columns["permutation"])
    for value in (NAN, INF, -3.0):
        scores = columns["scores"].masked_fill(invalid.unsqueeze(2) | out, value)
        changed = {**columns, "scores": scores, "meta": columns["meta"].masked_fill(invalid, value)}
        assert all(map(same_bits, sum_vote(**changed, impl=impl), sums))
        changed = {**cast, "weight": cast["weight"].masked_fill(unread, value)}
        assert all(map(same_bits, majority_vote(**changed, num_candidates=4, impl=impl), counts))
    assert invalid.any()
    assert not columns["mask"].all()


def test_ties_are_broken_evenly_and_by_the_seed(impl):
    scores = torch.tensor([2.0, 5.0, 5.0, 1.0, 5.0]).expand(3000, 1, 5)
    got = sum_vote(scores, seed=7, impl=impl)
    assert got.tied.tolist() == [3] * 3000
    counts = torch.bincount(got.winner, minlength=5).tolist()
    assert counts[0] == counts[3] == 0
    assert all(900 < counts[c] < 1100 for c in (1, 2, 4))  # 1000, four standard deviations of 26
    assert torch.equal(got.winner, sum_vote(scores, seed=7, impl=impl).winner)
    assert not torch.equal(got.winner, sum_vote(scores, seed=8, impl=impl).winner)
    over_seeds = {int(majority_vote([[0, 2]], num_candidates=3, seed=seed, impl=impl).winner) for seed in range(20)}
    assert over_seeds == {0, 2}
    assert sum_vote(scores, on_tie="first", impl=impl).winner.tolist() == [1] * 3000


@pytest.mark.triton
@pytest.mark.parametrize("draw", [0.0, 0.3333, 0.3334, 1 - 2**-53, 1.0, NAN, -1.0])
def test_a_draw_always_names_one_of_those_tied(impl, draw):
    draws = torch.full((2,), draw, dtype=torch.float64)
    scores = torch.tensor([[[1.0, 0.0, 1.0, 1.0]], [[0.0, 2.0, 0.0, 0.0]]], dtype=torch.float64)
    winner = schema.sum_vote.body(impl, scores)(scores, None, None, None, None, draws, 1)[0].tolist()
    assert winner == [{0.0: 0, -1.0: 0, 0.3333: 0, 0.3334: 2, 1 - 2**-53: 3, 1.0: 3}.get(draw, winner[0]), 1]
    assert winner[0] in (0, 2, 3)


@pytest.mark.triton
def test_a_draw_between_two_belongs_to_the_second(impl):
    scores, draws = torch.ones(1, 1, 2, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    assert schema.sum_vote.body(impl, scores)(scores, None, None, None, None, draws, 1)[0].tolist() == [1]


@pytest.mark.triton
def test_ties_far_apart(impl):
    """In several blocks of the Triton body."""
    scores = torch.zeros(6, 1, 3000, dtype=torch.float64)
    scores[:, :, [3, 1500, 2047, 2048, 2999]] = 1.0
    draws = torch.tensor([0.0, 0.21, 0.41, 0.61, 0.81, 0.99], dtype=torch.float64)
    winner, _, _, tied = schema.sum_vote.body(impl, scores)(scores, None, None, None, None, draws, 1)
    assert winner.tolist() == [3, 1500, 2047, 2048, 2999, 2999]
    assert tied.tolist() == [5] * 6


@pytest.mark.triton
def test_each_problem_alone_has_the_same_bits(impl):
    columns, cast = shaped(sampled(3, 9, 5, 3), 9, 5, 3), shaped(ballots(3, 9, 5, 3), 9, 5, 3)
    together, counts = sum_vote(**columns, on_tie="first", impl=impl), majority_vote(**cast, num_candidates=3, on_tie="first", impl=impl)
    for b in range(9):
        alone = sum_vote(**{name: x[b : b + 1] for name, x in columns.items()}, on_tie="first", impl=impl)
        assert all(same_bits(x, y[b : b + 1]) for x, y in zip(alone, together, strict=True))
        alone = majority_vote(**{name: x[b : b + 1] for name, x in cast.items()}, num_candidates=3, on_tie="first", impl=impl)
        assert all(same_bits(x, y[b : b + 1]) for x, y in zip(alone, counts, strict=True))


@pytest.mark.native
@pytest.mark.cpu
def test_thread_invariance_with_the_bits_of_the_reference(threads):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3000, 9, 5, generator=generator, dtype=torch.float64)
    permutation = torch.rand(3000, 9, 5, generator=generator).argsort(-1)
    arguments = {"permutation": permutation, "valid": scores[..., 0] > 0.1, "mask": scores[:, 0] > 0.1, "meta": scores[..., 1], "k_meta": 4}
    votes, weight = permutation[..., 0], scores[..., 2]
    expected = [
        *sum_vote(scores, **arguments, impl="reference"),
        *majority_vote(votes, num_candidates=5, weight=weight, valid=arguments["valid"], mask=arguments["mask"], impl="reference"),
    ]
    for count in (1, 2):
        threads(count)
        got = [
            *sum_vote(scores, **arguments, impl="native"),
            *majority_vote(votes, num_candidates=5, weight=weight, valid=arguments["valid"], mask=arguments["mask"], impl="native"),
        ]
        assert all(map(same_bits, got, expected))


@pytest.mark.triton
def test_any_layout(impl):
    columns = shaped(sampled(4, 4, 6, 3), 4, 6, 3)
    expected = sum_vote(**columns, impl=impl)
    for name, scores in layouts(columns["scores"]).items():
        changed = {**columns, "scores": scores, "permutation": columns["permutation"].permute(2, 0, 1).contiguous().permute(1, 2, 0)}
        for other in ("valid", "mask", "meta"):
            changed[other] = columns[other].T.contiguous().T
        assert all(map(same_bits, sum_vote(**changed, impl=impl), expected)), name
    cast = shaped(ballots(4, 4, 6, 3), 4, 6, 3)
    strided = {name: x.T.contiguous().T for name, x in cast.items()}
    assert all(map(same_bits, majority_vote(**strided, num_candidates=3, impl=impl), majority_vote(**cast, num_candidates=3, impl=impl)))


@pytest.mark.triton
def test_unchecked_values_are_skipped_or_loud(impl):
    """What the ops do where votes.py cannot look."""
    scores = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64).expand(5, 1, 3)
    rows = torch.tensor([[[2, 0, 1]], [[0, 0, 1]], [[0, 1, 3]], [[-1, 1, 2]], [[0, 1, 2**62]]])
    winner, total, used, tied = schema.sum_vote.body(impl, scores)(scores, rows, None, None, None, None, 1)
    assert total.tolist() == [[2.0, 4.0, 1.0], *[[0.0] * 3] * 4]
    assert winner.tolist() == [1, -1, -1, -1, -1]
    assert used.tolist() == tied.tolist() == [1, 0, 0, 0, 0]

    votes = torch.tensor([[0, 3, -1, 2**62, -7, 1], [0, 1, 0, 2, 2, 2]])
    body = schema.majority_vote.body(impl, votes)
    winner, total, used, _ = body(votes, None, None, None, None, 3)
    assert (winner.tolist(), total.tolist(), used.tolist()) == ([0, 2], [[1.0, 1.0, 0.0], [2.0, 1.0, 3.0]], [2, 6])
    for bad in (-1.0, INF, NAN):
        weight = torch.tensor([[1.0] * 6, [1.0, bad, 1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
        winner, total, used, tied = body(votes, weight, None, None, None, 3)
        assert (winner.tolist(), used.tolist(), tied.tolist()) == ([0, -1], [2, 6], [2, 0])
        assert total[1].isnan().tolist() == [False, True, False]


def test_array_likes_dtypes_and_gradients(impl):
    expected = sum_vote([[[1, 2], [3, 1]]], impl=impl)
    for scores in (np.array([[[1, 2], [3, 1]]], np.int32), torch.tensor([[[1.0, 2.0], [3.0, 1.0]]], dtype=torch.bfloat16, requires_grad=True)):
        got = sum_vote(scores, valid=np.array([[True, True]]), impl=impl)
        assert all(map(same_bits, got, expected))
        assert not got.score.requires_grad
    assert majority_vote(np.array([[1, 1, 0]], np.int8), num_candidates=2, impl=impl).score.tolist() == [[1.0, 2.0]]
    with pytest.raises(RuntimeError, match="sum_vote is not differentiable"):
        torch.ops.rrm.sum_vote(torch.ones(1, 1, 2, dtype=torch.float64, requires_grad=True), *[None] * 5, 1)[1].sum().backward()


def test_runs_without_looking_at_values():
    """Meta tensors have no values: whatever would wait for a device raises here."""
    ids, one = torch.zeros(2, 3, 4, dtype=torch.int64, device="meta"), torch.zeros(2, 3, device="meta")
    assert sum_vote(ids, permutation=ids, valid=one > 0, mask=ids[:, 0] > 0, meta=one, impl="reference").score.shape == (2, 4)
    assert majority_vote(ids[..., 0], num_candidates=5, weight=one, impl="reference").score.shape == (2, 5)


def test_compiles_with_dynamic_shapes():
    torch._dynamo.reset()

    def elect(scores, votes, n):
        sums = sum_vote(scores, meta=scores[..., 0], on_tie="first")
        return sums.score, sums.winner + majority_vote(votes, num_candidates=n, on_tie="none").winner

    compiled = torch.compile(elect, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, k, n in ((2, 3, 4), (3, 5, 6), (5, 4, 7)):
        scores, votes = torch.rand(batch, k, n), torch.arange(batch * k).view(batch, k) % n
        assert all(map(torch.equal, compiled(scores, votes, n), elect(scores, votes, n)))


SUM = {"scores": [[[1.0, 2.0, 3.0]] * 2], "meta": [[1.0, 2.0]]}
MAJORITY = {"votes": [[0, 1]], "num_candidates": 2}


@pytest.mark.parametrize(
    ("vote", "change", "error", "message"),
    [
        (sum_vote, {"scores": [[1.0]]}, ValueError, r"scores: expected shape \[B, k, n\], got \[1, 1\]"),
        (sum_vote, {"scores": torch.zeros(1, 2, 0)}, ValueError, r"scores: expected shape \[B, k, n\] with n > 0, got \[1, 2, 0\]"),
        (sum_vote, {"scores": "ten"}, TypeError, "scores: expected numbers, got str"),
        (sum_vote, {"permutation": [[[0, 1, 2]]]}, ValueError, r"permutation: expected shape \[1, 2, 3\], got \[1, 1, 3\]"),
        (sum_vote, {"permutation": [[[0, 1, 3], [0, 1, 2]]]}, ValueError, r"permutation: expected values in \[0, 3\), got 3"),
        (sum_vote, {"permutation": [[[0, 1, 1], [0, 1, 2]]]}, ValueError, "permutation: expected permutations of the candidates, got a candidate tw"),
        (sum_vote, {"permutation": [[[0.0, 1.0, 2.0]] * 2]}, TypeError, "permutation: expected integers, got torch.float32"),
        (sum_vote, {"valid": [[True]]}, ValueError, r"valid: expected shape \[1, 2\], got \[1, 1\]"),
        (sum_vote, {"valid": [[1, 0]]}, TypeError, "valid: expected bools, got torch.int64"),
        (sum_vote, {"mask": [[True, False]]}, ValueError, r"mask: expected shape \[1, 3\], got \[1, 2\]"),
        (sum_vote, {"meta": [[1.0]]}, ValueError, r"meta: expected shape \[1, 2\], got \[1, 1\]"),
        (sum_vote, {"k_meta": 0}, ValueError, "k_meta: expected an integer of at least 1, got 0"),
        (sum_vote, {"k_meta": 1, "meta": None}, ValueError, "k_meta: expected None without meta, got 1"),
        (sum_vote, {"on_tie": "last"}, ValueError, "on_tie: expected 'random' or 'first' or 'none', got 'last'"),
        (sum_vote, {"seed": "x"}, TypeError, "seed: expected an integer, got str"),
        (sum_vote, {"impl": "fast"}, ValueError, "impl: expected None, 'native' or 'reference', got 'fast'"),
        (majority_vote, {"votes": [0, 1]}, ValueError, r"votes: expected shape \[B, k\], got \[2\]"),
        (majority_vote, {"votes": [[0, 2]]}, ValueError, r"votes: expected values in \[0, 2\) or -1, got 2"),
        (majority_vote, {"votes": [[0, -2]]}, ValueError, r"votes: expected values in \[0, 2\) or -1, got -2"),
        (majority_vote, {"votes": [[0.0, 1.0]]}, TypeError, "votes: expected integers, got torch.float32"),
        (majority_vote, {"num_candidates": 0}, ValueError, "num_candidates: expected an integer of at least 1, got 0"),
        (majority_vote, {"weight": [[1.0, -2.0]]}, ValueError, "weight: expected finite values of at least 0, got -2.0"),
        (majority_vote, {"weight": [[1.0, NAN]], "valid": [[True, True]]}, ValueError, "weight: expected finite values of at least 0, got nan"),
        (majority_vote, {"weight": [[1.0]]}, ValueError, r"weight: expected shape \[1, 2\], got \[1, 1\]"),
        (majority_vote, {"valid": [[True]]}, ValueError, r"valid: expected shape \[1, 2\], got \[1, 1\]"),
        (majority_vote, {"mask": [[True]]}, ValueError, r"mask: expected shape \[1, 2\], got \[1, 1\]"),
        (majority_vote, {"on_tie": None}, ValueError, "on_tie: expected 'random' or 'first' or 'none', got None"),
    ],
)
def test_bad_arguments(vote, change, error, message):
    with pytest.raises(error, match="^" + message):
        vote(**{**(SUM if vote is sum_vote else MAJORITY), **change})


def test_native_is_refused_without_a_kernel(monkeypatch):
    for vote, arguments, op in ((sum_vote, SUM, schema.sum_vote), (majority_vote, MAJORITY, schema.majority_vote)):
        monkeypatch.setattr(op, "native_devices", set())
        with pytest.raises(NativeKernelError, match=f"no native kernel of {op.name}"):
            vote(**arguments, impl="native")
