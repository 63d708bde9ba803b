"""elo against a loop over the matches, evalica, and bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rrm_core import NativeKernelError
from rrm_core.testing import guarded
from rrm_core.tournaments import RatingStatus, elo, schema

NAN = float("nan")
OP = torch.ops.rrm.elo.default
DATA = Path(__file__).parents[3] / "shared/data/pandalm"


def loop(problem, first, second, outcome, weight, num_problems, n, k=4.0, init=1000.0, scale=400.0):
    """(rating, matches counted)"""
    rating, counted = [[init] * n for _ in range(num_problems)], [0] * num_problems
    for p, i, j, share, w in zip(problem, first, second, outcome, weight, strict=True):
        if not math.isnan(share):
            r = rating[p]
            gain = k * w * (share - 1 / (1 + 10 ** ((r[j] - r[i]) / scale)))
            r[i], r[j] = r[i] + gain, r[j] - gain
            counted[p] += 1
    return torch.tensor(rating, dtype=torch.float64).view(num_problems, n), counted


def random_matches(matches, problems, n, seed=0):
    """problem, first, second, outcome, weight: problems in no order, some verdicts invalid, some soft."""
    generator = torch.Generator().manual_seed(seed)
    problem = torch.randint(0, max(problems, 1), (matches,), generator=generator)
    first = torch.randint(0, n, (matches,), generator=generator)
    second = (first + torch.randint(1, n, (matches,), generator=generator)) % n
    choices = torch.tensor([0.0, 1.0, 0.5, 0.3, NAN], dtype=torch.float64)
    outcome = choices[torch.randint(0, 5, (matches,), generator=generator)]
    return problem, first, second, outcome, torch.rand(matches, dtype=torch.float64, generator=generator) * 2


def assert_same(got, expected):
    """Bodies may round every power and sum differently: about 1e-16 of a rating per match."""
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)


@pytest.mark.triton
@pytest.mark.parametrize(("matches", "problems", "n"), [(0, 2, 3), (1, 1, 2), (7, 3, 2), (60, 4, 5), (300, 3, 33), (90, 40, 4), (40, 1, 70)])
@pytest.mark.parametrize("options", [{}, {"k": 32, "init": -20.5, "scale": 173.7}])
def test_equals_the_loop(impl, matches, problems, n, options):
    columns = random_matches(matches, problems, n)
    problem, first, second, outcome, weight = (guarded(c) for c in columns)
    rating, counted = loop(*(c.tolist() for c in columns), problems, n, **options)
    got = elo(first, second, outcome, problem=problem, num_problems=problems, num_candidates=n, weight=weight, impl=impl, **options)
    assert_same(got.rating, rating)
    assert got.rating.dtype == torch.float64
    assert got.iterations.tolist() == counted
    assert got.status.tolist() == [RatingStatus.CONVERGED] * problems
    assert got.stderr is None


@pytest.mark.triton
@pytest.mark.parametrize("problems", [1, 3])
def test_orders_are_the_seeds_and_their_ratings_are_averaged(impl, problems):
    columns = random_matches(50, problems, 6, seed=1)
    generator = torch.Generator().manual_seed(5)
    orders = torch.stack([torch.randperm(50, generator=generator) for _ in range(4)])
    ratings = [loop(*(c[order].tolist() for c in columns), problems, 6)[0] for order in orders]
    problem, first, second, outcome, weight = columns
    arguments = {"problem": problem, "num_problems": problems, "num_candidates": 6, "weight": weight, "impl": impl}
    got = elo(first, second, outcome, orders=4, seed=5, **arguments)
    torch.testing.assert_close(got.rating, torch.stack(ratings).mean(0), rtol=1e-13, atol=0)
    assert torch.equal(elo(first, second, outcome, orders=orders, **arguments).rating, got.rating)
    assert not torch.equal(elo(first, second, outcome, orders=4, **arguments).rating, got.rating)
    assert_same(elo(first, second, outcome, orders=orders[1:2], **arguments).rating, ratings[1])
    assert got.iterations.tolist() == elo(first, second, outcome, **arguments).iterations.tolist()


def test_matches_evalica(impl):
    evalica = pytest.importorskip("evalica")
    _, first, second, outcome, _ = (c.tolist() for c in random_matches(2000, 1, 12, seed=2))
    kinds = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    kept = [(i, j, o) for i, j, o in zip(first, second, outcome, strict=True) if o in kinds]
    xs, ys, shares = (list(column) for column in zip(*kept, strict=True))
    scores = evalica.elo(xs, ys, [kinds[o] for o in shares]).scores
    got = elo(xs, ys, shares, num_candidates=12, impl=impl).rating[0]
    assert got.tolist() == pytest.approx([scores[i] for i in range(12)], abs=1e-9)


@pytest.mark.skipif(not DATA.exists(), reason="the PandaLM judgements are not in ../shared/data")
def test_matches_evalica_on_real_judgements(impl):
    evalica = pytest.importorskip("evalica")
    records = json.loads((DATA / "testset-v1.json").read_text())
    names = [r["cmp_key"].split("_") for r in records]
    models = sorted({m for pair in names for m in pair})
    share = {"1": 1.0, "2": 0.0, "0": 0.5, "Tie": 0.5}
    kinds = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    outcome = [share[str(r["annotator1"])] for r in records]
    scores = evalica.elo([n[0] for n in names], [n[1] for n in names], [kinds[o] for o in outcome]).scores
    first, second = ([models.index(n[side]) for n in names] for side in (0, 1))
    got = elo(first, second, outcome, num_candidates=len(models), impl=impl).rating[0]
    assert got.tolist() == pytest.approx([scores[m] for m in models], abs=1e-9)


@pytest.mark.triton
def test_known_values(impl):
    assert elo([0], [1], [1], num_candidates=3, impl=impl).rating.tolist() == [[1002.0, 998.0, 1000.0]]
    assert elo([0], [1], [1], num_candidates=2, weight=[0.0], impl=impl).rating.tolist() == [[1000.0, 1000.0]]
    assert elo([0], [1], [1], num_candidates=2, k=400, init=0, weight=[2.0], impl=impl).rating.tolist() == [[400.0, -400.0]]
    assert elo([], [], [], problem=[], num_problems=2, num_candidates=2, orders=3, impl=impl).rating.tolist() == [[1000.0] * 2] * 2
    assert elo([], [], [], problem=[], num_problems=0, num_candidates=2, impl=impl).rating.shape == (0, 2)
    assert elo([0], [1], [NAN], num_candidates=2, impl=impl).iterations.tolist() == [0]
    # 1600 points apart are odds of 1e4 to 1; of 4e5, of nothing to 1: no overflow
    far = elo([0, 0, 0], [1, 1, 1], [1, 0, 1], num_candidates=2, k=1e6, init=0, impl=impl)
    assert far.rating.tolist() == [[0.0, 0.0]] or far.rating.tolist() == [[500000.0, -500000.0]]


@pytest.mark.parametrize("scale", [1e-306, 1e-308])
def test_any_scale(impl, scale):
    """Where a point is worth more than a double can say: even odds of equals, certainty of all others."""
    assert elo([0, 0], [1, 1], [1, 1], num_candidates=2, scale=scale, impl=impl).rating.tolist() == [[1002.0, 998.0]]
    assert elo([0, 0, 1], [1, 1, 0], [1, 1, 1], num_candidates=2, scale=scale, impl=impl).rating.tolist() == [[998.0, 1002.0]]


def test_points_are_neither_made_nor_lost(impl):
    problem, first, second, outcome, weight = random_matches(500, 5, 9)
    rating = elo(first, second, outcome, problem=problem, num_problems=5, num_candidates=9, weight=weight, k=64, impl=impl).rating
    assert rating.mean(1).tolist() == pytest.approx([1000.0] * 5, rel=1e-13)


@pytest.mark.triton
def test_each_problem_alone_has_the_same_bits(impl):
    problem, first, second, outcome, weight = random_matches(300, 13, 6, seed=4)
    together = elo(first, second, outcome, problem=problem, num_problems=13, num_candidates=6, weight=weight, impl=impl).rating
    for b in range(13):
        its = problem == b
        alone = elo(first[its], second[its], outcome[its], num_candidates=6, weight=weight[its], impl=impl).rating
        assert torch.equal(alone[0], together[b])


def test_same_bits_at_any_thread_count(impl, threads):
    problem, first, second, outcome, weight = random_matches(20_000, 501, 5, seed=3)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(elo(first, second, outcome, problem=problem, num_problems=501, num_candidates=5, weight=weight, orders=2, impl=impl).rating)
    assert torch.equal(*results)


@pytest.mark.triton
def test_unchecked_values_are_skipped_or_loud(impl):
    """What the op does where ops.py cannot look."""
    body = schema.elo.body(impl, torch.zeros(0))
    first = torch.tensor([0, 3, -1, 0, 0, 1, 0, 0, 2, 1])
    second = torch.tensor([1, 0, 0, 2**62, 0, 2, 1, 2, 2, 0])
    problem = torch.tensor([0, 0, 0, 0, 0, 2, 0, -1, 0, 1])
    outcome = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.5, 0.0], dtype=torch.float64)
    rating, counted = body(first, second, outcome, problem, None, None, 2, 3, 4.0, 1000.0, 400.0)
    expected = torch.cat([loop([0, 0], [0, 0], [1, 1], [1.0, 0.5], [1, 1], 1, 3)[0], loop([0], [1], [0], [0.0], [1], 1, 3)[0]])
    assert_same(rating, expected)
    assert counted.tolist() == [2, 1]
    assert body(first, second, outcome, problem, None, None, 0, 3, 4.0, 1000.0, 400.0)[0].shape == (0, 3)

    orders = torch.tensor([[9, -1, 6, 10, 0, 2**62, 1, 2, 3, 4]])  # of the first problem 6, 0; of the second 9
    rating, _ = body(first, second, outcome, problem, None, orders, 2, 3, 4.0, 1000.0, 400.0)
    assert_same(rating[:1], loop([0, 0], [0, 0], [1, 1], [0.5, 1.0], [1, 1], 1, 3)[0])
    assert_same(rating[1:], expected[1:])
    repeated = torch.tensor([[9, 9, 9, 9, 9, 9, 9, 9, 0, 0]])
    rating, _ = body(first, second, outcome, problem, None, repeated, 2, 3, 4.0, 1000.0, 400.0)
    assert_same(rating[1:], loop([0] * 8, [1] * 8, [0] * 8, [0.0] * 8, [1] * 8, 1, 3)[0])

    rating, _ = body(first, second, outcome, problem, None, torch.cat((repeated, orders)), 2, 3, 4.0, 1000.0, 400.0)  # each by its own counts
    alone = [body(first, second, outcome, problem, None, order, 2, 3, 4.0, 1000.0, 400.0)[0] for order in (repeated, orders)]
    torch.testing.assert_close(rating, (alone[0] + alone[1]) / 2, rtol=1e-15, atol=0)

    first, second = torch.tensor([0, 1, 3]), torch.tensor([1, 2, 4])
    for outcome, weight in (([2.0, 1.0, 1.0], None), ([-1.0, 1.0, 1.0], None), ([1.0] * 3, [-1.0, 1.0, 1.0]), ([1.0] * 3, [NAN, 1.0, 1.0])):
        weights = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        rating, _ = body(first, second, torch.tensor(outcome, dtype=torch.float64), None, weights, None, 1, 6, 4.0, 1000.0, 400.0)
        assert rating[0].isnan().tolist() == [True, True, True, False, False, False]
        assert rating[0, 3:].tolist() == [1002.0, 998.0, 1000.0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: expected a finite number above 0, got 0"),
        ({"k": "4"}, TypeError, "k: expected a number, got str"),
        ({"init": NAN}, ValueError, "init: expected a finite number, got nan"),
        ({"init": True}, TypeError, "init: expected a number, got bool"),
        ({"scale": -1}, ValueError, "scale: expected a finite number above 0, got -1"),
        ({"orders": 0}, ValueError, "orders: expected an integer of at least 1, got 0"),
        ({"orders": 2.0}, TypeError, "orders: expected an integer, got float"),
        ({"orders": 2, "seed": "x"}, TypeError, "seed: expected an integer, got str"),
        ({"orders": torch.zeros(1, 2)}, TypeError, "orders: expected int64, got torch.float32"),
        ({"orders": torch.tensor([[0, 1, 2]])}, ValueError, r"orders: expected shape \[R, 2\], got \[1, 3\]"),
        ({"orders": torch.zeros(0, 2, dtype=torch.int64)}, ValueError, r"orders: expected at least one order, got \[0, 2\]"),
        ({"orders": torch.tensor([[0, 2]])}, ValueError, r"orders: expected values in \[0, 2\), got 2"),
        ({"orders": torch.tensor([[0, 1], [1, 1]])}, ValueError, "orders: expected permutations of the matches, got a match twice in one order"),
        ({"first": [0, 3]}, ValueError, r"first: expected values in \[0, 3\), got 3"),
        ({"second": [1, 1]}, ValueError, "second: expected another candidate than first, got 1"),
        ({"outcome": [1, 2]}, ValueError, r"outcome: expected values in \[0, 1\] or NaN, got 2.0"),
        ({"weight": [1, -1]}, ValueError, "weight: expected finite values of at least 0, got -1.0"),
        ({"problem": [0, 1]}, ValueError, r"problem: expected values in \[0, 1\), got 1"),
        ({"impl": "fast"}, ValueError, "impl: expected None, 'native' or 'reference', got 'fast'"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match="^" + message):
        elo(**{"first": [0, 1], "second": [1, 2], "outcome": [1, 0], "num_candidates": 3, **change})


def test_native_is_refused_without_a_kernel(monkeypatch):
    monkeypatch.setattr(schema.elo, "native_devices", set())
    with pytest.raises(NativeKernelError, match="no native kernel of elo"):
        elo([0], [1], [1], num_candidates=2, impl="native")


def test_array_likes_and_gradients(impl):
    expected = elo([0, 1], [1, 2], [1.0, 0.25], num_candidates=3, impl=impl).rating
    arrays = elo(np.array([0, 1], np.int32), np.array([1, 2]), np.array([1, 0.25], np.float32), num_candidates=3, impl=impl)
    assert torch.equal(arrays.rating, expected)
    outcome = torch.tensor([1.0, 0.25], dtype=torch.bfloat16, requires_grad=True)
    assert torch.equal(elo([0, 1], [1, 2], outcome, num_candidates=3, impl=impl).rating, expected)
    with pytest.raises(RuntimeError, match="elo is not differentiable"):
        OP(torch.tensor([0]), torch.tensor([1]), outcome[:1].double(), None, None, None, 1, 2, 4.0, 0.0, 400.0)[0].sum().backward()


def test_runs_without_looking_at_values():
    """Meta tensors have no values: whatever would wait for a device raises here."""
    ids = torch.zeros(5, dtype=torch.int64, device="meta")
    rated = elo(ids, ids, ids.double(), problem=ids, num_problems=2, num_candidates=3, weight=ids.double(), orders=2, impl="reference")
    assert rated.rating.shape == (2, 3)
    assert rated.rating.device.type == "meta"


def test_opcheck():
    problem, first, second, outcome, weight = random_matches(9, 2, 4)
    options = (4.0, 1000.0, 400.0)
    torch.library.opcheck(OP, (first, second, outcome, None, None, None, 1, 4, *options))
    torch.library.opcheck(OP, (first, second, outcome, problem, weight, torch.stack((torch.arange(9), torch.arange(9).flip(0))), 2, 4, *options))


def test_compiles_with_dynamic_shapes():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def rate(first, second, outcome, orders, n):
        return 2 * elo(first, second, outcome, num_candidates=n, orders=orders).rating

    compiled = torch.compile(rate, fullgraph=True, backend="aot_eager", dynamic=True)
    for size, n in ((3, 4), (5, 6), (8, 7)):
        first, second = torch.arange(size) % n, (torch.arange(size) + 1) % n
        outcome, orders = torch.linspace(0, 1, size, dtype=torch.float64), torch.arange(size).flip(0).expand(2, -1)
        assert torch.equal(compiled(first, second, outcome, orders, n), rate(first, second, outcome, orders, n))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_the_reference_compiles():
    torch._dynamo.reset()
    problem, first, second, outcome, weight = random_matches(6, 2, 4)

    def rate(outcome):
        return elo(first, second, outcome, problem=problem, num_problems=2, num_candidates=4, weight=weight, impl="reference").rating

    assert torch.equal(torch.compile(rate, fullgraph=True, backend="aot_eager")(outcome), rate(outcome))


@pytest.mark.parametrize("apart", [1e5, 1.3e5, 2e5, 3e5, 1e6, 1e9])
@pytest.mark.parametrize("second", [0, 1], ids=["the stronger wins again", "the stronger is second"])
def test_who_is_far_ahead_gains_nothing(impl, apart, second):
    pairs = [0, second], [1, 1 - second]
    found = elo(*pairs, [1, 1 - second], num_candidates=2, k=2 * apart, init=0, impl=impl).rating[0].tolist()
    assert found == [apart, -apart]


def test_a_weight_of_0_is_a_match(impl):
    assert elo([0, 0], [1, 1], [1, 1], weight=[0.0, 1.0], num_candidates=2, impl=impl).iterations.tolist() == [2]


def test_an_order_past_the_last_match_reads_nothing(impl):
    columns = (torch.tensor([0, 0])[:1], torch.tensor([1, 1])[:1], torch.ones(2, dtype=torch.float64)[:1])  # a match that is not theirs behind them
    found = schema.elo.body(impl, columns[0])(*columns, None, None, torch.tensor([[1]]), 1, 2, 4.0, 1000.0, 400.0)[0]
    assert found.tolist() == [[1000.0, 1000.0]]
