"""policy_loss against float64, in every combination of its options; what breaks others; bad input."""

from __future__ import annotations

import itertools

import pytest
import torch

from rrm_core import PolicyLoss, policy_loss
from rrm_core.losses import reference, reference_backward
from rrm_core.losses.reference import KLS, REDUCTIONS
from rrm_core.testing import same_bits
from tests.losses.oracle import INF, NAN, check, sample

OBJECTIVES = ["ppo", "gspo", "cispo", "reinforce"]
pytestmark = pytest.mark.triton


def here(*values):
    """Parameters for the C++ and plain bodies alone; the interpreter is too slow for them."""
    return [pytest.param(value, marks=pytest.mark.cpu) for value in values]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_and_reductions(impl, objective, reduction, packed):
    x, old, ref, _, advantages, mask = sample()
    options = {"objective": objective, "reduction": reduction, "normalizer": 300.0 if reduction == "constant" else None, "packed": packed}
    check(x, old, advantages, mask, impl=impl, **options)
    check(x, old, advantages, mask, impl=impl, ref_logprob=ref, kl_coef=0.1, **options)
    check(x, None, advantages, mask, impl=impl, **options)


@pytest.mark.parametrize("kl", KLS)
@pytest.mark.parametrize("spread", [1e-4, 0.3, 4.0])
def test_divergences(impl, kl, spread):
    x, old, ref, _, advantages, mask = sample(spread=spread)
    check(x, old, advantages, mask, impl=impl, ref_logprob=ref, kl_coef=0.5, kl=kl)
    check(x, old, advantages, mask, impl=impl, ref_logprob=ref, kl_coef=0.0, kl=kl)


@pytest.mark.parametrize(("dual_clip", "clamp"), [*itertools.product([None, 1.5], [None, 0.4])])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("clip", [(0.2, 0.28), *here((3e-4, 4e-4), (1.0, 4.0))])
def test_clips(impl, objective, clip, dual_clip, clamp):
    x, old, _, _, advantages, mask = sample(rows=9, spread=1.0)
    check(x, old, advantages, mask, impl=impl, objective=objective, clip=clip, dual_clip=dual_clip, log_ratio_clamp=clamp)


@pytest.mark.parametrize("rollout", ["token", "sequence"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("with_old", [False, True])
def test_truncated_weights_of_the_rollout(impl, rollout, objective, with_old):
    x, old, ref, seen, advantages, mask = sample(spread=0.2)
    options = {"ref_logprob": ref, "kl_coef": 0.1, "rollout_logprob": seen, "rollout": rollout, "rollout_clip": 1.3}
    check(x, old if with_old else None, advantages, mask, impl=impl, objective=objective, **options)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_advantages_of_tokens(impl, objective):
    x, old, _, _, _, mask = sample()
    for packed in (False, True):
        check(x, old, x.flip(0), mask, impl=impl, objective=objective, packed=packed)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 17), (2, 2048), (2, 8193), *here((2, 2049), (1, 70_001), (70, 3))], ids=str)
def test_shapes(impl, shape):
    x, old, ref, _, advantages, mask = sample(*shape)
    for objective in ("ppo", "gspo"):
        check(x, old, advantages, mask, impl=impl, objective=objective, ref_logprob=ref, kl_coef=0.1, reduction="sequence_mean")


def test_a_window_of_a_batch_adds_up_to_the_whole(impl):
    """Parts of a batch with the batch's normaliser: gradient accumulation and data parallelism."""
    x, old, ref, _, advantages, mask = sample(rows=8)
    for reduction, whole in (("token_mean", mask.sum()), ("sequence_mean", mask.any(1).sum()), ("sequence_sum", mask.any(1).sum())):
        options = {"reduction": reduction, "kl_coef": 0.1, "impl": impl}
        expected = policy_loss(x, old, advantages, mask, ref_logprob=ref, **options).loss
        parts = [slice(0, 3), slice(3, 4), slice(4, 8)]
        total = sum(policy_loss(x[p], old[p], advantages[p], mask[p], ref_logprob=ref[p], normalizer=whole, **options).loss for p in parts)
        torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("difference", [1e-5, -3e-4, 0.01, -0.1, 0.29, 0.31])
def test_a_small_divergence_keeps_its_digits(impl, difference):
    """exp(-d) + d - 1 in float32 is 0, or off by its own size, below 3e-4."""
    x = torch.full((1, 9), difference).requires_grad_()
    got = policy_loss(x, x.detach(), torch.zeros(1), ref_logprob=torch.zeros(1, 9), kl_coef=1.0, impl=impl)
    d = torch.tensor(difference).double()
    assert got.kl.item() == pytest.approx((torch.expm1(-d) + d).item() if abs(difference) > 1e-3 else (d * d / 2 - d**3 / 6).item(), rel=2e-6)
    (gradient,) = torch.autograd.grad(got.loss, x)
    assert (gradient[0, 0] * 9).item() == pytest.approx(-torch.expm1(-d).item(), rel=2e-6)


def test_ties_of_the_clip_have_the_full_gradient(impl):
    """On policy r A and clip(r) A are equal: the gradient is A, not half of it."""
    x = torch.zeros(2, 3).requires_grad_()
    for old in (None, torch.zeros(2, 3)):
        got = policy_loss(x, old, torch.tensor([1.0, -2.0]), impl=impl)
        (gradient,) = torch.autograd.grad(got.loss, x)
        assert gradient.tolist() == [[pytest.approx(-1 / 6)] * 3, [pytest.approx(2 / 6)] * 3]
        assert (got.ratio_mean.item(), got.ratio_max.item()) == (1.0, 1.0)


def test_nothing_counts(impl):
    for x, mask in ((torch.zeros(0, 5), None), (torch.zeros(3, 0), None), (torch.full((2, 3), NAN), torch.zeros(2, 3, dtype=torch.bool))):
        leaf = x.clone().requires_grad_()
        got = policy_loss(leaf, None, torch.ones(len(x)), mask, impl=impl)
        assert [value.item() for value in got] == [0.0] * 6
        got.loss.backward()
        assert leaf.grad.tolist() == torch.zeros_like(x).tolist()


def test_packed_tokens_of_no_sequence_do_not_count(impl):
    x = torch.tensor([NAN, -1.0, -2.0, NAN, -3.0, NAN]).requires_grad_()
    got = policy_loss(x, None, torch.tensor([1.0, 5.0, 2.0]), torch.tensor([True, True, True, False, True, True]),
                      cu_seqlens=torch.tensor([1, 4, 4, 5], dtype=torch.int32), objective="reinforce", impl=impl)  # fmt: skip
    assert got.loss.item() == pytest.approx((1 + 2 + 2 * 3) / 3)
    got.loss.backward()
    assert x.grad.tolist() == [0.0, pytest.approx(-1 / 3), pytest.approx(-1 / 3), 0.0, pytest.approx(-2 / 3), 0.0]


def test_a_nan_or_an_infinity_is_not_hidden(impl):
    x, old, _, _, advantages, mask = sample(padded=False)
    for value in (NAN, INF):
        broken = x.clone()
        broken[0, 3] = value
        assert not policy_loss(broken, old, advantages.abs(), mask, objective="reinforce", impl=impl).loss.isfinite()
    assert policy_loss(x.index_fill(1, torch.tensor([2]), NAN), old, advantages, mask, impl=impl).ratio_max.isnan()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_nan_that_counts_reaches_loss_and_gradient(impl, objective):
    """Of the token, its old self or the rollout; a bound or a truncation makes no number of it."""
    clean = torch.tensor([[-1.0, -2.0, -3.0]])
    broken = torch.tensor([[-1.0, NAN, -3.0]])
    uses_ratio = objective != "reinforce"
    for old, rollout in ((broken, None), (clean, broken)):
        if rollout is None and not uses_ratio:
            continue
        x = clean.clone().requires_grad_()
        got = policy_loss(x, old, torch.tensor([1.0]), rollout_logprob=rollout, objective=objective, impl=impl)
        assert bool(got.loss.isnan())
        assert bool(torch.autograd.grad(got.loss, x)[0][0, 1].isnan())


def test_a_reference_for_the_metric_alone_does_not_touch_the_loss(impl):
    x, ref = torch.full((1, 3), -3.0).requires_grad_(), torch.tensor([[-1.0, -1.0, 200.0]])
    got = policy_loss(x, None, torch.tensor([1.0]), ref_logprob=ref, impl=impl)
    assert got.loss.item() == -1.0
    assert torch.autograd.grad(got.loss, x)[0].tolist() == [[pytest.approx(-1 / 3)] * 3]


def test_far_from_the_reference_the_divergence_has_its_slope(impl):
    x = torch.tensor([[-1.0, -1.0]]).requires_grad_()
    got = policy_loss(x, None, torch.tensor([0.0]), ref_logprob=torch.tensor([[-torch.inf, -40.0]]), kl_coef=1.0, impl=impl)
    assert torch.autograd.grad(got.loss, x)[0].tolist() == [[0.5, 0.5]]


def test_as_many_sequences_as_tokens_have_an_advantage_each(impl):
    x, advantages, cu_seqlens = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, 5.0, 7.0]), torch.tensor([0, 2, 2, 3])
    got = policy_loss(x, None, advantages, cu_seqlens=cu_seqlens, objective="reinforce", impl=impl)
    assert got.loss.item() == pytest.approx((1 + 2 + 21) / 3)
    nothing = policy_loss(x, None, advantages[:0], cu_seqlens=cu_seqlens[:1], impl=impl)
    assert [value.item() for value in nothing] == [0.0] * 6


def test_any_layout_and_dtype(impl):
    x, old, _, _, advantages, mask = sample()
    expected = policy_loss(x, old, advantages, mask, impl=impl)
    got = policy_loss(x.T.contiguous().T, old.repeat(1, 2)[:, : old.shape[1]], advantages.repeat_interleave(2)[::2], mask, impl=impl)
    assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))
    half = policy_loss(x.bfloat16(), old.bfloat16(), advantages.bfloat16(), mask, impl=impl)
    assert half.loss.dtype == torch.float32
    leaf = x.bfloat16().requires_grad_()
    policy_loss(leaf, old, advantages, mask, impl=impl).loss.backward()
    assert leaf.grad.dtype == torch.bfloat16


def test_the_gradient_is_scaled_by_what_comes_from_above(impl):
    x, old, _, _, advantages, mask = sample()
    x.requires_grad_()
    grads = [torch.autograd.grad(factor * policy_loss(x, old, advantages, mask, impl=impl).loss, x)[0] for factor in (1.0, -3.0)]
    torch.testing.assert_close(grads[1], -3 * grads[0])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rollout", ["token", "sequence"])
@pytest.mark.parametrize(("reduction", "kl"), [("token_mean", "k3"), ("sequence_mean", "k1"), ("sequence_sum", "k2"), ("constant", "k3_k2")])
def test_the_plain_backward_is_what_autograd_makes_of_the_plain_forward(objective, rollout, reduction, kl):
    x, old, ref, seen, advantages, mask = (v.double() if v.is_floating_point() else v for v in sample(spread=0.5))
    numbers = (OBJECTIVES.index(objective) - 1 if objective in ("cispo", "reinforce") else 0, objective == "gspo", 0.2, 0.28, 1.5, 0.6, 0.3)
    options = (torch.tensor(50.0), *numbers, KLS[kl], REDUCTIONS[reduction], 1.2, rollout == "sequence")
    leaf = x.clone().requires_grad_()
    arguments = (old, advantages, mask, None, ref, seen, *options)
    loss, *_, facts = reference.policy_loss(leaf, *arguments)
    expected = torch.autograd.grad(2.5 * loss, leaf)[0]
    got = reference_backward.policy_loss_backward(torch.tensor(2.5), facts, x, *arguments)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.native
@pytest.mark.cpu
def test_the_same_bits_at_any_thread_count():
    x, old, ref, _, advantages, mask = sample(rows=40, length=3000)
    before, runs = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        got = policy_loss(leaf, old, advantages, mask, ref_logprob=ref, kl_coef=0.1, objective="gspo", impl="native")
        runs.append([*(value.detach() for value in got), torch.autograd.grad(got.loss, leaf)[0]])
    torch.set_num_threads(before)
    assert all(same_bits(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.mark.native
@pytest.mark.cpu
@pytest.mark.parametrize("options", [{}, {"ref": True}, {"ref": True, "kl": "k1"}, {"objective": "cispo"}], ids=str)
def test_a_token_has_the_same_bits_wherever_it_lies(options):
    """In a pair of whole vectors, in one with tokens that don't count, in the rest of a sequence; common jobs have loops of their own."""
    options = {"kl_coef": 0.1 if "ref" in options else 0.0, "reduction": "constant", "normalizer": 1.0, "log_ratio_clamp": 0.7, **options}
    generator = torch.Generator().manual_seed(0)
    lone, old, reference = (torch.randn(5, generator=generator) * 0.5 for _ in range(3))
    has_reference = options.pop("ref", False)

    def gradient(place, length, mask):
        tokens = [torch.randn(1, length, generator=generator) for _ in range(3)]
        for token, alone in zip(tokens, (lone, old, reference), strict=True):
            token[0, place : place + 5] = alone
        x = tokens[0].requires_grad_()
        loss = policy_loss(x, tokens[1], torch.tensor([-0.75]), mask, ref_logprob=tokens[2] if has_reference else None, impl="native", **options).loss
        return torch.autograd.grad(loss, x)[0][0, place : place + 5]

    expected = gradient(0, 5, None)
    for length in (5, 8, 16, 21, 32, 33, 47, 64, 100):
        for place in {0, (length - 5) // 2, length - 5}:
            thinned = torch.rand(1, length, generator=generator) < 0.5
            thinned[0, place : place + 5] = True
            for mask in (None, torch.ones(1, length, dtype=torch.bool), thinned):
                assert same_bits(gradient(place, length, mask), expected)


def test_the_module_holds_options(impl):
    x, old, ref, _, advantages, mask = sample()
    module = PolicyLoss("cispo", clip=(1.0, 4.0), kl_coef=0.1, reduction="constant", impl=impl)
    got = module(x, old, advantages, mask, ref_logprob=ref, normalizer=100.0)
    expected = policy_loss(
        x, old, advantages, mask, ref_logprob=ref, objective="cispo", clip=(1.0, 4.0), kl_coef=0.1, reduction="constant", normalizer=100.0, impl=impl
    )
    assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))
    assert "cispo" in repr(module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprob": torch.zeros(3)}, r"logprob: expected shape \[B, T\], got \[3\]"),
        ({"old_logprob": torch.zeros(2, 4)}, r"old_logprob: expected shape \[2, 3\], got \[2, 4\]"),
        ({"advantages": torch.zeros(3)}, r"advantages: expected shape \[2\] or \[2, 3\], got \[3\]"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"mask: expected shape \[2, 3\], got \[2, 4\]"),
        ({"objective": "sft"}, "objective: expected 'ppo' or 'cispo' or 'reinforce', got 'sft'"),
        ({"ratio": "word"}, "ratio: expected 'token' or 'sequence', got 'word'"),
        ({"kl": "k4"}, "kl: expected 'k1' or 'k2' or 'k3' or 'k3_k2', got 'k4'"),
        ({"reduction": "mean"}, "reduction: expected 'token_mean' or .*, got 'mean'"),
        ({"reduction": "constant"}, "normalizer: expected a number with reduction 'constant', got None"),
        ({"normalizer": 0.0}, "normalizer: expected a finite number above 0, got 0.0"),
        ({"normalizer": torch.tensor(-3)}, "normalizer: expected a finite number above 0, got -3"),
        ({"normalizer": torch.tensor(float("nan"))}, "normalizer: expected a finite number above 0, got nan"),
        ({"normalizer": torch.ones(1)}, r"normalizer: expected shape \[\], got \[1\]"),
        ({"clip": (-0.1, 0.2)}, "clip: expected a finite number of at least 0, got -0.1"),
        ({"dual_clip": 1.0}, "dual_clip: expected a number above 1, got 1.0"),
        ({"log_ratio_clamp": 0}, "log_ratio_clamp: expected a finite number above 0, got 0"),
        ({"kl_coef": 0.1}, "ref_logprob: expected log probabilities with a kl_coef, got None"),
        ({"cu_seqlens": torch.tensor([0, 3])}, r"logprob: expected shape \[T\], got \[2, 3\]"),
        ({"logprob": torch.zeros(3), "cu_seqlens": torch.tensor([0, 2, 1])}, r"cu_seqlens: expected ascending offsets in \[0, 3\], got \[0, 2, 1\]"),
        ({"logprob": torch.zeros(3), "cu_seqlens": torch.tensor([0, 4])}, r"cu_seqlens: expected ascending offsets in \[0, 3\], got \[0, 4\]"),
    ],
)
def test_bad_values(change, message):
    with pytest.raises(ValueError, match="^" + message):
        policy_loss(**{"logprob": torch.zeros(2, 3), "old_logprob": None, "advantages": torch.zeros(2), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprob": [0.0]}, "logprob: expected a tensor, got list"),
        ({"mask": torch.ones(2, 3)}, "mask: expected bool, got torch.float32"),
        ({"advantages": torch.zeros(2, dtype=torch.int64)}, "advantages: expected float32 or .*, got torch.int64"),
        ({"normalizer": torch.tensor(True)}, "normalizer: expected float32 or .*, got torch.bool"),
        ({"kl_coef": "0.1"}, "kl_coef: expected a number, got str"),
    ],
)
def test_bad_types(change, message):
    with pytest.raises(TypeError, match="^" + message):
        policy_loss(**{"logprob": torch.zeros(2, 3), "old_logprob": None, "advantages": torch.zeros(2), **change})


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("packed", [False, True])
def test_compiles_without_a_graph_break_forward_and_backward(impl, packed, backend):
    torch._dynamo.reset()

    def run(x, old, ref, advantages, mask, normalizer):
        options = {"ref_logprob": ref, "kl_coef": 0.1, "objective": "gspo", "normalizer": normalizer, "impl": impl}
        if packed:
            return policy_loss(x.flatten(), old.flatten(), advantages, cu_seqlens=mask.sum(1).cumsum(0), **{**options, "ref_logprob": ref.flatten()})
        return policy_loss(x, old, advantages, mask, **options)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=backend)
    for rows in (4, 7):
        x, old, ref, _, advantages, mask = sample(rows=rows, length=9 + rows)
        advantages = advantages[: rows - 1] if packed else advantages
        results = []
        for function in (run, compiled):
            leaf = x.clone().requires_grad_()
            got = function(leaf, old, ref, advantages, mask, torch.tensor(30.0))
            results.append([*got, *torch.autograd.grad(got.loss, leaf)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(b, a)
