"""linear_policy_loss against float64, over its options; what breaks others; bad input."""

import importlib
import itertools

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from rrm_core import LinearPolicyLoss, linear_policy_loss, linear_token_logprobs, policy_loss
from rrm_core.losses.reference import REDUCTIONS
from rrm_core.testing import guarded, random_logits, same_bits
from tests.losses.linear_oracle import INTERPRETED, VOCAB, check, sample
from tests.losses.oracle import NAN

OBJECTIVES = ["ppo", "gspo", "cispo", "reinforce"]
pytestmark = pytest.mark.triton


def combinations(*choices, under_the_interpreter):
    """All of them; under the interpreter, where one takes seconds, those with these numbers."""
    every = itertools.product(*choices)
    return [pytest.param(*chosen, marks=() if i in under_the_interpreter else pytest.mark.cpu) for i, chosen in enumerate(every)]


@pytest.fixture(autouse=True)
def few_rows_at_hand(monkeypatch):
    """Several chunks of rows for the Triton body too."""
    if INTERPRETED:
        monkeypatch.setattr(importlib.import_module("rrm_core._triton.linear_losses"), "LOGITS_AT_HAND", 1)


def gradients(result, *leaves):
    return torch.autograd.grad(result.loss, leaves)


@pytest.mark.parametrize(
    ("packed", "reduction", "objective"), combinations([False, True], REDUCTIONS, OBJECTIVES, under_the_interpreter=(0, 6, 9, 15, 20, 23, 27, 28))
)
def test_objectives_and_reductions(impl, objective, reduction, packed):
    h, w, ids, (old, ref, _), advantages, mask = sample()
    options = {"objective": objective, "reduction": reduction, "normalizer": 300.0 if reduction == "constant" else None, "packed": packed}
    check(h, w, ids, old, advantages, mask, impl=impl, ref_logprob=ref, kl_coef=0.1, entropy_coef=0.02, **options)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_on_policy(impl, objective):
    h, w, ids, _, advantages, mask = sample()
    check(h, w, ids, None, advantages, mask, impl=impl, objective=objective)
    check(h, w, ids, None, random_logits(*mask.shape), mask, impl=impl, objective=objective, entropy_coef=0.1)


@pytest.mark.parametrize(
    ("bias", "softcap", "heat", "vocab"),
    combinations([False, True], [None, 6.0], [1.0, 0.7, "rows"], [None, VOCAB - 60], under_the_interpreter=(4, 11, 13, 22)),
)
def test_heads(impl, bias, softcap, heat, vocab):
    h, w, ids, (old, _, _), advantages, mask = sample()
    temperature = random_logits(*mask.shape).sigmoid() + 0.5 if heat == "rows" else heat
    ids = ids.clamp(max=VOCAB - 61)
    options = {"bias": random_logits(VOCAB, scale=1.0) if bias else None, "softcap": softcap, "temperature": temperature, "vocab_size": vocab}
    _, found = check(h, w, ids, old, advantages, mask, impl=impl, entropy_coef=0.05, **options)
    if vocab:
        assert not found[1][vocab:].any()


@pytest.mark.parametrize("rollout", ["token", "sequence"])
@pytest.mark.parametrize("with_old", [False, True])
def test_truncated_weights_of_the_rollout(impl, rollout, with_old):
    h, w, ids, (old, ref, seen), advantages, mask = sample(spread=0.1)
    options = {"ref_logprob": ref, "kl_coef": 0.1, "kl": "k3_k2", "rollout_logprob": seen, "rollout": rollout, "rollout_clip": 1.3}
    for packed in (False, True):
        check(h, w, ids, old if with_old else None, advantages, mask, impl=impl, packed=packed, **options)


def test_clips(impl):
    h, w, ids, (old, _, _), advantages, mask = sample(spread=1.0)
    check(h, w, ids, old, advantages, mask, impl=impl, clip=(0.01, 0.3), dual_clip=1.5)
    check(h, w, ids, old, advantages, mask, impl=impl, clip=(0.01, 0.3), log_ratio_clamp=0.4, reduction="sequence_sum")


@pytest.mark.parametrize(
    ("rows", "length", "hidden", "vocab"),
    [(1, 1, 1, 1), (1, 97, 33, 257), (3, 5, 64, 3), *(pytest.param(*s, marks=pytest.mark.cpu) for s in [(2, 2100, 5, 40), (2, 60, 300, 17_000)])],
)
def test_shapes(impl, rows, length, hidden, vocab):
    h, w, ids, (old, _, _), advantages, mask = sample(rows, length, hidden, vocab)
    check(h, w, ids, old, advantages, mask, impl=impl, entropy_coef=0.01, bias=random_logits(vocab, scale=0.3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(impl, dtype):
    h, w, ids, (old, _, _), advantages, mask = sample(dtype=dtype)
    check(h, w, ids, old, advantages, mask, impl=impl, entropy_coef=0.01)
    check(h, w, ids, old, advantages, mask, impl=impl, bias=random_logits(VOCAB, scale=1.0).to(dtype))


def test_only_what_is_needed_is_formed(impl):
    h, w, ids, (old, _, _), advantages, mask = sample()
    bias = random_logits(VOCAB, scale=1.0)
    leaves = [x.clone().requires_grad_() for x in (h, w)]
    whole = gradients(linear_policy_loss(*leaves, ids, old, advantages, mask, bias=bias, impl=impl), *leaves)
    for i in (0, 1):
        some = [x.clone().requires_grad_(i == k) for k, x in enumerate((h, w))]
        assert same_bits(gradients(linear_policy_loss(*some, ids, old, advantages, mask, bias=bias, impl=impl), some[i])[0], whole[i])
    wanted = bias.clone().requires_grad_()
    assert gradients(linear_policy_loss(h, w, ids, old, advantages, mask, bias=wanted, impl=impl), wanted)[0].any()
    frozen = linear_policy_loss(h, w, ids, old, advantages, mask, bias=bias, impl=impl)
    assert not frozen.loss.requires_grad
    with torch.no_grad():
        again = linear_policy_loss(h.clone().requires_grad_(), w, ids, old, advantages, mask, bias=bias, impl=impl)
    assert all(same_bits(a, b) for a, b in zip(frozen, again, strict=True))


@pytest.mark.cpu
def test_what_comes_from_above_scales_the_gradients(impl):
    h, w, ids, (old, _, _), advantages, mask = sample()
    leaves = [x.clone().requires_grad_() for x in (h, w)]
    found = [torch.autograd.grad(factor * linear_policy_loss(*leaves, ids, old, advantages, mask, impl=impl).loss, leaves) for factor in (1, -4)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, -4 * a)
    loss = linear_policy_loss(*leaves, ids, old, advantages, mask, impl=impl).loss
    twice = [torch.autograd.grad(loss, leaves, retain_graph=True), torch.autograd.grad(2 * loss, leaves), found[0]]
    for a, b, c in zip(*twice, strict=True):
        torch.testing.assert_close(a, c)
        torch.testing.assert_close(b, 2 * a)


@pytest.mark.cpu
def test_what_comes_from_above_is_multiplied_in_before_rounding(impl):
    """Scaled losses of float16, whose small gradients it could not hold."""
    h, w, ids, (old, _, _), advantages, mask = sample(dtype=torch.float16)
    scale, old, advantages = 65536.0, old.double(), 1e-3 * advantages.double()

    def run(dtype, body):
        leaves = [x.to(dtype).requires_grad_() for x in (h, w)]
        got = linear_policy_loss(*leaves, ids, old, advantages, mask, impl=body)
        return [g.double() / scale for g in torch.autograd.grad(got.loss * scale, leaves)]

    for got, exact in zip(run(torch.float16, impl), run(torch.float64, "reference"), strict=True):
        assert (got - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.cpu
def test_backward_as_often_as_wanted(impl):
    h, w, ids, (old, _, _), advantages, mask = sample()
    leaf, head = h.flatten(0, 1).clone().requires_grad_(), w.clone().requires_grad_()

    def loss():
        return linear_policy_loss(leaf.view(h.shape), head, ids, old, advantages, mask, impl=impl).loss

    kept = loss()
    for times in (1, 2, 3):
        kept.backward(retain_graph=True)
        torch.testing.assert_close(leaf.grad, times * torch.autograd.grad(loss(), leaf)[0])
    (first,) = torch.autograd.grad(kept, head, retain_graph=True)
    expected = first.clone()
    first.zero_()
    assert same_bits(torch.autograd.grad(kept, head)[0], expected)


@pytest.mark.cpu
def test_checkpointed(impl):
    h, w, ids, (old, _, _), advantages, mask = sample()
    leaves = [x.clone().requires_grad_() for x in (h, w)]

    def loss(*inputs):
        return linear_policy_loss(*inputs, ids, old, advantages, mask, impl=impl).loss

    expected = torch.autograd.grad(loss(*leaves), leaves)
    again = torch.autograd.grad(checkpoint(loss, *leaves, use_reentrant=False), leaves)
    for a, b in zip(expected, again, strict=True):
        torch.testing.assert_close(b, a)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_compiled_ids_out_of_range_are_nan_the_usual_label_of_nothing_too(impl, ratio):
    torch._dynamo.reset()
    h, w, ids, (old, _, _), advantages, mask = sample()
    places = mask.nonzero()[:3]
    for place, bad in zip(places, (-100, -1, w.shape[0]), strict=True):
        ids[tuple(place)] = bad

    def run(i):
        return linear_policy_loss(h, w, i, old, advantages, mask, ratio=ratio, impl=impl)

    got = torch.compile(run, fullgraph=True, backend="aot_eager")(ids)
    assert got.loss.isnan()
    assert got.logprob.isnan().nonzero().tolist() == places.tolist()


@pytest.mark.native
def test_double_backward_is_refused():
    h, w, ids, (old, _, _), advantages, mask = sample()
    h.requires_grad_()
    result = linear_policy_loss(h, w, ids, old, advantages, mask, impl="native")
    (first,) = torch.autograd.grad(result.loss, h, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not supported"):
        first.sum().backward()


@pytest.mark.native
def test_a_token_has_the_same_bits_in_every_batch():
    h, w, ids, (old, ref, _), advantages, mask = sample(rows=9, length=12)
    options = {"ref_logprob": ref, "kl_coef": 0.1, "entropy_coef": 0.1, "normalizer": 100.0, "impl": "native"}

    def run(rows):
        leaf = h[rows].clone().requires_grad_()
        given = {**options, "ref_logprob": ref[rows]}
        got = linear_policy_loss(leaf, w, ids[rows], old[rows], advantages[rows], mask[rows], **given)
        return got.logprob, gradients(got, leaf)[0]

    whole = run(torch.arange(9))
    for rows in (torch.arange(9).flip(0), torch.tensor([6]), torch.tensor([8, 3, 4, 7])):
        assert all(same_bits(part, all_of[rows]) for part, all_of in zip(run(rows), whole, strict=True))


@pytest.mark.native
@pytest.mark.cpu
def test_the_same_bits_at_any_thread_count(threads):
    h, w, ids, (old, _, _), advantages, mask = sample(rows=6, length=50, hidden=200, vocab=20_000)
    runs = []
    for count in (1, 2, 5):
        threads(count)
        leaves = [x.clone().requires_grad_() for x in (h, w, random_logits(20_000))]
        got = linear_policy_loss(*leaves[:2], ids, old, advantages, mask, bias=leaves[2], entropy_coef=0.1, impl="native")
        runs.append([*(x.detach() for x in got), *gradients(got, *leaves)])
    assert all(same_bits(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def test_any_layout(impl):
    h, w, ids, (old, _, _), advantages, mask = sample()
    expected = linear_policy_loss(h, w, ids, old, advantages, mask, impl=impl)
    longer = torch.full((h.shape[0], h.shape[1] + 1, h.shape[2]), NAN)
    longer[:, :-1] = h
    for hidden in (longer[:, :-1], h.permute(2, 1, 0).contiguous().permute(2, 1, 0), guarded(h)):
        got = linear_policy_loss(hidden, torch.cat([w, w], 1)[:, : w.shape[1]], ids.T.contiguous().T, old, advantages, mask, impl=impl)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.native
@pytest.mark.cpu
def test_a_view_of_hidden_has_the_bits_of_its_copy():
    h, w, ids, (old, _, _), advantages, mask = sample()
    found = []
    for leaf in (torch.cat([h, h[:, :1]], 1).requires_grad_(), h.clone().requires_grad_()):
        got = linear_policy_loss(leaf[:, : h.shape[1]], w, ids, old, advantages, mask, impl="native")
        found.append([*got, gradients(got, leaf)[0][:, : h.shape[1]]])
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))


def test_nothing_counts(impl):
    h, w, ids, _, _, mask = sample()
    for some, which, keep in ((h[:0], ids[:0], mask[:0]), (h[:, :0], ids[:, :0], mask[:, :0]), (h * NAN, ids, mask & False)):
        leaves = [some.clone().requires_grad_(), w.clone().requires_grad_()]
        got = linear_policy_loss(leaves[0], leaves[1], which, None, torch.ones(len(some)), keep, entropy_coef=0.1, impl=impl)
        assert [x.item() for x in got[:7]] == [0.0] * 7
        assert not got.logprob.any()
        assert not any(g.any() for g in gradients(got, *leaves))


def test_packed_tokens_of_no_sequence_do_not_count(impl):
    h, w, ids, (old, _, _), _, _ = sample(rows=1)
    h, ids, old = h[0].clone(), ids[0].clone(), old[0]
    cu_seqlens = torch.tensor([3, 9, 9, 20], dtype=torch.int32)
    h[:3], h[20:], ids[:3] = NAN, NAN, -1
    leaf = h.requires_grad_()
    worth = torch.tensor([1.0, 5.0, -2.0])
    got = linear_policy_loss(leaf, w, ids, old, worth, cu_seqlens=cu_seqlens, impl=impl)
    found = linear_token_logprobs(h[3:20], w, ids[3:20])
    expected = policy_loss(found.logprob, old[3:20], worth, cu_seqlens=cu_seqlens - 3)
    for a, b in zip(got, expected, strict=False):
        torch.testing.assert_close(a, b)
    (gradient,) = gradients(got, leaf)
    assert not gradient[:3].any()
    assert not gradient[20:].any()
    assert gradient[3:20].isfinite().all()


def test_a_nan_that_counts_is_not_hidden(impl):
    h, w, ids, (old, _, _), advantages, mask = sample()
    h[0, 2, 0] = NAN
    leaf = h.requires_grad_()
    got = linear_policy_loss(leaf, w, ids, old, advantages, mask, impl=impl)
    assert got.loss.isnan()
    assert got.entropy.isnan()
    (gradient,) = gradients(got, leaf)
    assert gradient[0, 2].isnan().all()
    assert gradient[0, 3].isfinite().all()


@pytest.mark.cpu
def test_two_steps_where_a_token_asks_for_others(impl):
    h, w, ids, (old, _, seen), advantages, mask = sample()
    found = linear_token_logprobs(h.flatten(0, 1), w, ids.flatten(), impl=impl)
    logprob = found.logprob.view(mask.shape)
    for options in ({"ratio": "sequence"}, {"objective": "gspo"}, {"rollout_logprob": seen, "rollout": "sequence", "old_logprob": None}):
        behaviour = {"old_logprob": old, **options}
        expected = policy_loss(logprob, behaviour.pop("old_logprob"), advantages, mask, impl=impl, **behaviour)
        behaviour = {"old_logprob": old, **options}
        got = linear_policy_loss(h, w, ids, behaviour.pop("old_logprob"), advantages, mask, impl=impl, **behaviour)
        for a, b in zip(got, expected, strict=False):
            torch.testing.assert_close(a, b)


def test_the_module_holds_options(impl):
    h, w, ids, (old, ref, _), advantages, mask = sample()
    module = LinearPolicyLoss("cispo", clip=(1.0, 4.0), kl_coef=0.1, entropy_coef=0.01, temperature=0.8, impl=impl)
    got = module(h, w, ids, old, advantages, mask, ref_logprob=ref, normalizer=100.0)
    options = {"objective": "cispo", "clip": (1.0, 4.0), "kl_coef": 0.1, "entropy_coef": 0.01, "temperature": 0.8}
    expected = linear_policy_loss(h, w, ids, old, advantages, mask, ref_logprob=ref, normalizer=100.0, impl=impl, **options)
    assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))
    assert "cispo" in repr(module)


BATCH = {"hidden": torch.zeros(2, 3, 4), "weight": torch.zeros(5, 4), "token_ids": torch.zeros(2, 3, dtype=torch.int64), "old_logprob": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": torch.zeros(2, dtype=torch.int64)}, r"token_ids: expected shape \[B, T\], got \[2\]"),
        ({"hidden": torch.zeros(2, 4, 4)}, r"hidden: expected shape \[2, 3, H\], got \[2, 4, 4\]"),
        ({"weight": torch.zeros(5, 3)}, r"weight: expected shape \[V, 4\], got \[5, 3\]"),
        ({"token_ids": torch.full((2, 3), 5)}, r"token_ids: expected values in \[0, 5\), got 5"),
        (
            {"token_ids": torch.full((2, 3), -1), "mask": torch.tensor([[True] * 3, [False] * 3])},
            r"token_ids: expected values in \[0, 5\), got -1",
        ),
        ({"vocab_size": 6}, "vocab_size: expected an integer from 1 to 5, got 6"),
        ({"bias": torch.zeros(4)}, r"bias: expected shape \[5\], got \[4\]"),
        ({"old_logprob": torch.zeros(2, 4)}, r"old_logprob: expected shape \[2, 3\], got \[2, 4\]"),
        ({"advantages": torch.zeros(3)}, r"advantages: expected shape \[2\] or \[2, 3\], got \[3\]"),
        ({"mask": torch.ones(3, 2, dtype=torch.bool)}, r"mask: expected shape \[2, 3\], got \[3, 2\]"),
        ({"entropy_coef": -0.1}, "entropy_coef: expected a finite number of at least 0, got -0.1"),
        ({"temperature": 0.0}, "temperature: expected a finite number above 0, got 0.0"),
        ({"temperature": torch.ones(2)}, r"temperature: expected shape \[\] or \[2, 3\], got \[2\]"),
        ({"kl_coef": 0.1}, "ref_logprob: expected log probabilities with a kl_coef, got None"),
        ({"cu_seqlens": torch.tensor([0, 3])}, r"token_ids: expected shape \[T\], got \[2, 3\]"),
    ],
)
def test_bad_values(change, message):
    with pytest.raises(ValueError, match="^" + message):
        linear_policy_loss(**{**BATCH, "advantages": torch.zeros(2), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": [0.0]}, "hidden: expected a tensor, got list"),
        ({"weight": torch.zeros(5, 4).half()}, "weight: expected float32, got torch.float16"),
        ({"token_ids": torch.zeros(2, 3)}, "token_ids: expected int64, got torch.float32"),
        ({"mask": torch.ones(2, 3)}, "mask: expected bool, got torch.float32"),
    ],
)
def test_bad_types(change, message):
    with pytest.raises(TypeError, match="^" + message):
        linear_policy_loss(**{**BATCH, "advantages": torch.zeros(2), **change})


@pytest.mark.cpu
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("objective", ["ppo", "gspo"])
def test_compiles_without_a_graph_break_forward_and_backward(objective, backend):
    torch._dynamo.reset()

    def run(h, w, ids, old, advantages, mask, bias):
        return linear_policy_loss(h, w, ids, old, advantages, mask, bias=bias, entropy_coef=0.1, objective=objective)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=backend)
    for rows in (4, 6):
        h, w, ids, (old, _, _), advantages, mask = sample(rows=rows, length=9 + rows, vocab=80)
        found = []
        for function in (run, compiled):
            leaves = [x.clone().requires_grad_() for x in (h, w, random_logits(80))]
            got = function(*leaves[:2], ids, old, advantages, mask, leaves[2])
            found.append([*got, *gradients(got, *leaves)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(b, a)
