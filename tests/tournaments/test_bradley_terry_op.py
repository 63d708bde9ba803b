"""bradley_terry's inputs, its registration, and its behaviour where values cannot be looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rrm_core import NativeKernelError
from rrm_core.tournaments import Ratings, RatingStatus, bradley_terry, schema
from rrm_core.tournaments import reference_bradley_terry as reference

OP = torch.ops.rrm.bradley_terry.default
NAN, INF = float("nan"), float("inf")


def some_wins(batch=3, n=5, seed=0):
    return torch.randint(1, 9, (batch, n, n), generator=torch.Generator().manual_seed(seed)).double() / 2


def same(a: Ratings, b: Ratings) -> bool:
    return all((x is None) == (y is None) and (x is None or torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0))) for x, y in zip(a, b, strict=True))


def test_result():
    result = bradley_terry(some_wins(), stderr=True)
    assert result._fields == ("rating", "stderr", "status", "iterations")
    assert result.rating.shape == result.stderr.shape == (3, 5)
    assert result.status.shape == result.iterations.shape == (3,)
    assert [x.dtype for x in result] == [torch.float64, torch.float64, torch.int64, torch.int64]
    assert list(RatingStatus) == [0, 1, 2, 3]
    assert RatingStatus(int(result.status[0])) is RatingStatus.CONVERGED


@pytest.mark.parametrize("kind", [torch.Tensor.float, torch.Tensor.bfloat16, torch.Tensor.half, torch.Tensor.numpy, torch.Tensor.tolist])
def test_inputs_are_computed_in_float64(impl, kind):
    wins = some_wins()  # halves up to 4: exact in every dtype
    assert same(bradley_terry(kind(wins), stderr=True, impl=impl), bradley_terry(wins, stderr=True, impl=impl))
    assert same(bradley_terry((2 * wins).long(), impl=impl), bradley_terry(2 * wins, impl=impl))
    assert torch.equal(schema.bradley_terry.body(impl, wins)(wins.float(), None, None, 0.1, 0, 50, 1e-9)[0], bradley_terry(wins, impl=impl).rating)


def test_diagonal_strides_and_autocast(impl):
    wins = some_wins()
    expected = bradley_terry(wins, stderr=True, impl=impl)
    noisy = wins.clone()
    noisy.diagonal(dim1=1, dim2=2).copy_(torch.tensor([NAN, -1.0, INF, 0.0, 5.0]))
    assert same(bradley_terry(noisy, stderr=True, impl=impl), expected)
    assert same(bradley_terry(wins.mT.contiguous().mT, stderr=True, impl=impl), expected)
    assert same(bradley_terry(wins[:1].expand(3, 5, 5), impl=impl), bradley_terry(wins[:1].repeat(3, 1, 1), impl=impl))
    with torch.autocast("cpu", torch.bfloat16):
        assert same(bradley_terry(wins, stderr=True, impl=impl), expected)


def test_flushed_denormals(impl):
    """No factorisation leans on numbers that some processors round to 0."""
    wins, mask = some_wins(), torch.tensor([[False, True, True, False, True], [True] * 5, [False, False, True, False, False]])
    expected = bradley_terry(wins, mask=mask, prior=0, stderr=True, impl=impl)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        flushed = bradley_terry(wins, mask=mask, prior=0, stderr=True, impl=impl)
    finally:
        torch.set_flush_denormal(False)
    assert same(flushed, expected)
    assert flushed.stderr[2, 2] == 0


def test_stops_early_on_cpu(monkeypatch):
    calls = []
    monkeypatch.setattr(reference, "_cholesky", lambda *args, body=reference._cholesky: calls.append(args) or body(*args))
    result = bradley_terry(some_wins(), impl="reference")
    assert len(calls) == int(result.iterations.max()) > 0


def test_gradients_stop():
    wins = some_wins().requires_grad_()
    assert not bradley_terry(wins).rating.requires_grad
    assert not bradley_terry(wins, impl="reference").rating.requires_grad
    with pytest.raises(RuntimeError, match="bradley_terry is not differentiable"):
        OP(wins, None, None, 0.1, 0, 50, 1e-9)[0].sum().backward()


@pytest.mark.triton
@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_empty_batch(impl, prior):
    result = bradley_terry(torch.zeros(0, 4, 4), prior=prior, stderr=True, mask=torch.ones(0, 4, dtype=torch.bool), impl=impl)
    assert [list(x.shape) for x in result] == [[0, 4], [0, 4], [0], [0]]


@pytest.mark.parametrize(
    ("wins", "options", "message"),
    [
        (torch.zeros(3, 3), {}, r"wins: expected shape \[B, n, n\], got \[3, 3\]"),
        (torch.zeros(1, 3, 4), {}, r"wins: expected shape \[B, n, n\] with n > 0, got \[1, 3, 4\]"),
        (torch.zeros(1, 0, 0), {}, r"wins: expected shape \[B, n, n\] with n > 0, got \[1, 0, 0\]"),
        ([[[0, -2], [1, 0]]], {}, "wins: expected finite values of at least 0, got -2.0"),
        ([[[0, NAN], [1, 0]]], {}, "wins: expected finite values of at least 0, got nan"),
        ([[[0, 1], [INF, 0]]], {}, "wins: expected finite values of at least 0, got inf"),
        ([[[0, NAN], [1, 0]]], {"mask": [[True, True]]}, "wins: expected finite values of at least 0, got nan"),
        (torch.zeros(1, 2, 2), {"mask": [True, True]}, r"mask: expected shape \[1, 2\], got \[2\]"),
        (torch.zeros(1, 2, 2), {"prior": -0.1}, "prior: expected a finite number of at least 0, got -0.1"),
        (torch.zeros(1, 2, 2), {"prior": NAN}, "prior: expected a finite number of at least 0, got nan"),
        (torch.zeros(1, 2, 2), {"prior": INF}, "prior: expected a finite number of at least 0, got inf"),
        (torch.zeros(1, 2, 2), {"tol": 0}, "tol: expected a finite number above 0, got 0"),
        (torch.zeros(1, 2, 2), {"max_iter": 0}, "max_iter: expected an integer of at least 1, got 0"),
        (torch.zeros(1, 2, 2), {"impl": "fast"}, "impl: expected None, 'native' or 'reference', got 'fast'"),
    ],
)
def test_bad_values(wins, options, message):
    with pytest.raises(ValueError, match="^" + message):
        bradley_terry(wins, **options)


@pytest.mark.parametrize(
    ("wins", "options", "message"),
    [
        ("AB", {}, "wins: expected numbers, got str"),
        (torch.zeros(1, 2, 2, dtype=torch.complex64), {}, "wins: expected float32 or .*, got torch.complex64"),
        (torch.zeros(1, 2, 2), {"mask": torch.ones(1, 2)}, "mask: expected bool, got torch.float32"),
        (torch.zeros(1, 2, 2), {"mask": [[1, 0]]}, "mask: expected bools, got torch.int64"),
        (torch.zeros(1, 2, 2), {"prior": "weak"}, "prior: expected a number, got str"),
        (torch.zeros(1, 2, 2), {"tol": True}, "tol: expected a number, got bool"),
        (torch.zeros(1, 2, 2), {"max_iter": 10.0}, "max_iter: expected an integer, got float"),
    ],
)
def test_bad_types(wins, options, message):
    with pytest.raises(TypeError, match="^" + message):
        bradley_terry(wins, **options)


def test_impl(monkeypatch):
    """Native bodies take float64 here, unlike elsewhere: the dispatcher must be asked although wins are float64."""
    monkeypatch.setattr(schema.bradley_terry, "native_devices", set())
    with pytest.raises(NativeKernelError, match="no native kernel of bradley_terry"):
        bradley_terry(some_wins(), impl="native")
    assert same(bradley_terry(some_wins(), impl="reference"), bradley_terry(some_wins(), impl="reference"))
    calls = []
    monkeypatch.setattr(schema.bradley_terry, "dispatched", lambda *args: calls.append(args) or OP(*args))
    bradley_terry(some_wins())
    monkeypatch.setattr(schema.bradley_terry, "native_devices", {"cpu"})
    bradley_terry(some_wins(), impl="native")
    assert len(calls) == 2
    assert calls[0][0].dtype == torch.float64
    bradley_terry(some_wins(), impl="reference")
    assert len(calls) == 2


@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_unchecked_values_spoil_their_problem_alone(impl, prior):
    body = schema.bradley_terry.body(impl, torch.zeros(0))
    wins = some_wins(5)
    clean = body(wins, None, None, prior, 1, 50, 1e-9)
    wins[1, 0, 1], wins[2, 3, 4], wins[4, 2, 0] = NAN, -1.0, INF
    rating, error, status, _ = body(wins, None, None, prior, 1, 50, 1e-9)
    for b in (1, 2, 4):
        assert bool(rating[b].isnan().all())
        assert bool(error[b].isnan().all())
        assert status[b] == RatingStatus.NOT_CONVERGED
    for b in (0, 3):
        assert torch.equal(rating[b], clean[0][b])
        assert torch.equal(error[b], clean[1][b])
        assert status[b] == RatingStatus.CONVERGED
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[1, 0], mask[2, 3], mask[4, 2] = False, False, False
    assert body(wins, None, mask, prior, 0, 50, 1e-9)[2].tolist() == [RatingStatus.CONVERGED] * 5


def test_runs_without_looking_at_values():
    """Meta tensors have no values: whatever would wait for a device raises here."""
    wins, mask = torch.zeros(2, 4, 4, device="meta"), torch.ones(2, 4, dtype=torch.bool, device="meta")
    for prior in (0.0, 0.1):
        result = bradley_terry(wins, mask=mask, prior=prior, stderr=True, max_iter=3, impl="reference")
        assert [list(x.shape) for x in result] == [[2, 4], [2, 4], [2], [2]]


@pytest.mark.parametrize("prior", [0.0, 0.1])
def test_opcheck(prior):
    mask = torch.tensor([[True, True, False, True, True]] * 3)
    torch.library.opcheck(OP, (some_wins(), None, None, prior, 1, 50, 1e-9))
    # with stderr there would be NaN, which opcheck calls a difference
    torch.library.opcheck(OP, (some_wins(), some_wins(seed=1), mask, prior, 0, 50, 1e-9))


def test_compiles_with_dynamic_shapes():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def fit(wins):
        rating, stderr, status, _ = bradley_terry(wins, stderr=True)
        return rating + stderr, status

    compiled = torch.compile(fit, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, n in ((2, 4), (5, 7), (3, 6)):
        for got, expected in zip(compiled(some_wins(batch, n)), fit(some_wins(batch, n)), strict=True):
            assert torch.equal(got, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_the_reference_compiles():
    """Without the early stop: the steps after the last one that was needed change nothing."""
    torch._dynamo.reset()
    mask = torch.tensor([[True, True, False, True, True]])
    wins = some_wins(1)
    for prior in (0.0, 0.1):
        options = {"mask": mask, "prior": prior, "stderr": True, "max_iter": 7, "impl": "reference"}
        compiled = torch.compile(lambda w, options=options: bradley_terry(w, **options), fullgraph=True, backend="aot_eager")
        eager = bradley_terry(wins, **options)
        assert eager.iterations.item() < 7
        assert same(Ratings(*compiled(wins)), eager)


def test_numpy_mask():
    mask = np.array([[True, True, False, True, True]] * 3)
    assert same(bradley_terry(some_wins(), mask=mask), bradley_terry(some_wins(), mask=torch.from_numpy(mask)))
