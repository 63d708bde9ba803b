"""The written-out backward against autograd through the reference, in float64, and the ops' gradients end to end."""

import importlib
import math
import sys

import pytest
import torch

from rrm_core import ScoreTokens, linear_token_logprobs, score_token_logprobs, score_token_logprobs_from_logits, token_logprobs
from rrm_core.logprobs import reference, reference_backward, schema
from rrm_core.logprobs.score_tokens import pack
from rrm_core.testing import assert_within_contract, in_float64, random_head, random_ids, random_logits, summation_orders

pytestmark = pytest.mark.triton
SETS = [ScoreTokens({"A": [3, 70], "B": [64]}, values=[1.0, 0.0]), ScoreTokens({str(i): [10 + i] for i in range(1, 6)}, values=range(1, 6))]


def asked(results):
    return [r for r in results if r is not None and not (r.dim() == 1 and r.numel() == 0)]


def upstream(results, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(r.shape, generator=generator, dtype=torch.float64).masked_fill(~r.detach().isfinite(), 0.0) for r in results]


def check_backward(forward, backward, inputs, differentiable, *, as_list, tail=()):
    """backward(grads, entropy and statistics, *inputs, *tail, needs...) == autograd through forward(*inputs), in float64."""
    inputs = [
        x.double().requires_grad_() if i in differentiable else (x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x)
        for i, x in enumerate(inputs)
    ]
    results = forward(*inputs)
    grads = [torch.zeros_like(r) for r in results]
    live = [i for i, r in enumerate(results) if r.requires_grad and r.numel()]
    for i, g in zip(live, upstream([results[i] for i in live]), strict=True):
        grads[i] = g
    expected = torch.autograd.grad([results[i] for i in live], [inputs[i] for i in differentiable], [grads[i] for i in live])
    detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in inputs[: len(inputs) - len(tail)]]
    entropy, statistics = (r.detach() for r in results[-3::2]) if not as_list else (None, results[-1])
    before = (grads[:-1], statistics) if as_list else (*grads[:-1], entropy, statistics)
    needs = [True] * len(differentiable)
    found = backward(*before, *detached, *needs)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    alone = backward(*before, *detached, *[False] * (len(needs) - 1), True)
    assert len(alone) == 1
    torch.testing.assert_close(alone[0], expected[-1], rtol=1e-9, atol=1e-10)


def test_token_logprobs_backward_formula():
    ids = random_ids((2, 3, 4), 50)
    ids[0, 0, 1] = ids[0, 0, 0]  # a repeated id
    ids[0, 1] = -100
    ids[1, 2, 0] = -100
    logits = random_logits(2, 3, 50)
    logits[1, 0, 7] = -torch.inf
    check_backward(
        reference.token_logprobs, reference_backward.token_logprobs_backward, [logits, ids, torch.rand(2, 3) + 0.5, -100], [0, 2], as_list=False
    )


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_linear_token_logprobs_backward_formula(softcap):
    hidden, weight = random_head(5, 12, 60)
    ids = random_ids((6, 2), 55)
    ids[2] = -100
    rows = torch.tensor([4, 0, 1, 1, 3, 0])
    inputs = [hidden, weight, ids, rows, torch.randn(60), torch.rand(6) + 0.5, softcap, -100, 55, True]
    check_backward(
        reference.linear_token_logprobs, reference_backward.linear_token_logprobs_backward, inputs, [0, 1, 4, 5], as_list=False, tail=(True,)
    )


@pytest.mark.parametrize("full_vocab", [True, False])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_score_token_logprobs_backward_formula(full_vocab, softcap):
    hidden, weight = random_head(5, 12, 80)
    form_ids, values = pack(SETS, 80, torch.device("cpu"))
    rows, row_sets = torch.tensor([4, 0, 1, 1, 3, 0]), torch.tensor([0, 1, 1, 0, 0, 1])
    inputs = [hidden, weight, form_ids, values, rows, row_sets, torch.randn(80), torch.rand(6) + 0.5, softcap, full_vocab, 75, True]
    check_backward(reference.score_token_logprobs, reference_backward.score_token_logprobs_backward, inputs, [0, 1, 6, 7], as_list=True, tail=(True,))


@pytest.mark.parametrize("full_vocab", [True, False])
def test_score_token_logprobs_from_logits_backward_formula(full_vocab):
    form_ids, values = pack(SETS, 80, torch.device("cpu"))
    logits = random_logits(3, 2, 80)
    logits[0, 1, 70] = -torch.inf
    inputs = [logits, form_ids, values, torch.tensor([[0, 1], [1, 1], [0, 0]]), torch.rand(3, 2) + 0.5, full_vocab]
    check_backward(
        reference.score_token_logprobs_from_logits, reference_backward.score_token_logprobs_from_logits_backward, inputs, [0, 4], as_list=True
    )


def gradients(function, arguments, options, wanted, impl, order=0):
    """Gradients of a fixed random combination of every result for the arguments and options named in ``wanted``; order: of the sums over H."""
    arguments = [x.detach().clone().requires_grad_() if i in wanted else x for i, x in enumerate(arguments)]
    options = {k: v.detach().clone().requires_grad_() if k in wanted else v for k, v in options.items()}
    results = [r for r in asked(function(*summation_orders(arguments, order + 1)[-1], **options, impl=impl)) if r.numel()]
    leaves = [arguments[w] if isinstance(w, int) else options[w] for w in wanted]
    return torch.autograd.grad(results, leaves, [g.to(r.dtype) for g, r in zip(upstream(results), results, strict=True)])


HEAD, BIAS, HEAT = random_head(20, 48, 300), random_logits(300, scale=1.0), random_logits(9).sigmoid() + 0.5
CASES = {
    "token_logprobs": (token_logprobs, [random_logits(4, 500), random_ids((4, 3), 500)], {"temperature": HEAT[:4]}, [0, "temperature"]),
    "linear_token_logprobs": (
        linear_token_logprobs,
        [*HEAD, random_ids((9,), 290)],
        {"rows": random_ids((9,), 20), "bias": BIAS, "temperature": torch.tensor(0.7), "softcap": 8.0, "vocab_size": 290},
        [0, 1, "bias", "temperature"],
    ),
    **{
        f"score_token_logprobs full_vocab={full}": (
            score_token_logprobs,
            [*HEAD, SETS],
            {"rows": random_ids((9,), 20), "row_sets": random_ids((9,), 2), "bias": BIAS, "temperature": HEAT, "full_vocab": full},
            [0, 1, "bias", "temperature"],
        )
        for full in (True, False)
    },
    "score_token_logprobs_from_logits": (
        score_token_logprobs_from_logits,
        [random_logits(4, 300), SETS[0]],
        {"temperature": HEAT[:4]},
        [0, "temperature"],
    ),
}


WIDE = random_head(6, 600, 40)
CHUNKS = 16384 + 2048 + 77  # columns: several blocks and a ragged end, in C++ and in Triton
FAR = [ScoreTokens({"A": [3, 600], "B": [16384 + 5]}, values=[1.0, 0.0]), ScoreTokens({"1": [CHUNKS - 1], "2": [600], "3": [3, 0]}, values=[1, 2, 3])]
SHARED = [ScoreTokens({"A": [0, 7], "B": [30]}, values=[1.0, 0.0]), ScoreTokens({"1": [7], "2": [0], "3": [39, 5]}, values=[1, 2, 3])]
CASES |= {
    "token_logprobs, many columns, an ignored id": (
        token_logprobs,
        [random_logits(2, CHUNKS), torch.tensor([[7, 16384, 16384], [CHUNKS - 1, 600, 7]])],
        {"temperature": HEAT[:2], "ignore_index": 7},
        [0, "temperature"],
    ),
    "score_token_logprobs_from_logits, many columns": (
        score_token_logprobs_from_logits,
        [random_logits(2, CHUNKS), FAR],
        {"row_sets": torch.tensor([1, 0]), "temperature": HEAT[:2]},
        [0, "temperature"],
    ),
    **{
        f"{name}, transposed, strided options": (
            function,
            [WIDE[0].T.contiguous().T, WIDE[1], *more],
            {"rows": torch.tensor([[5, 9], [1, 9], [1, 9], [0, 9]])[:, 0], "bias": random_logits(80)[::2], "temperature": HEAT[:4], **options},
            [0, 1, "temperature"],
        )
        for name, function, more, options in (
            ("linear_token_logprobs", linear_token_logprobs, [random_ids((4, 2), 40)], {"softcap": 9.0}),
            ("score_token_logprobs", score_token_logprobs, [SHARED], {"row_sets": random_ids((4,), 2)}),
            ("score_token_logprobs, labels only", score_token_logprobs, [SHARED], {"row_sets": random_ids((4,), 2), "full_vocab": False}),
        )
    },
    "linear_token_logprobs, bf16": (
        linear_token_logprobs,
        [*random_head(20, 48, 300, dtype=torch.bfloat16), random_ids((20,), 300)],
        {"temperature": 0.7},
        [0, 1],
    ),
    "token_logprobs, bf16": (token_logprobs, [random_logits(3, 2100, dtype=torch.bfloat16), random_ids((3, 2), 2100)], {}, [0]),
}


@pytest.fixture
def small_pieces(monkeypatch):
    """Where the Triton bodies answer: several passes over rows and vocabulary, several steps of a merge and over a row's ids."""
    if "tests.triton_bodies" in sys.modules:
        names = ("logprobs_backward", "logprobs", "score_tokens")
        backward, forward, scores = (importlib.import_module(f"rrm_core._triton.{name}") for name in names)
        monkeypatch.setattr(backward, "PIECE", 128)
        monkeypatch.setattr(backward, "PASS_ROWS", 4)
        monkeypatch.setattr(backward, "NAMES", {**backward.NAMES, "BLOCK": 2})
        for module in (backward, forward, scores):
            monkeypatch.setattr(module, "FINISH", {**module.FINISH, "BLOCK": 2})


@pytest.mark.native
@pytest.mark.parametrize("case", ["token_logprobs", "linear_token_logprobs", "score_token_logprobs full_vocab=True"])
def test_gradients_in_several_passes(case, small_pieces):
    test_gradients_within_contract(case)


@pytest.mark.native
@pytest.mark.parametrize("case", CASES)
def test_gradients_within_contract(case):
    function, arguments, options, wanted = CASES[case]
    native = gradients(function, arguments, options, wanted, "native")
    orders = 1 if "ignore_index" in options else 16  # a permuted id would not be ignored
    eager = [gradients(function, arguments, options, wanted, "reference", order) for order in range(orders)]
    exact = gradients(function, in_float64(arguments), in_float64(options), wanted, "reference")
    for i, name in enumerate(wanted):
        assert_within_contract(native[i], [run[i] for run in eager], exact[i], f"gradient of {name}")


@pytest.mark.native
@pytest.mark.parametrize("gap", [15.0, 25.0, 60.0])
def test_the_gradient_of_a_probability_near_one_keeps_its_digits(gap):
    logits = torch.zeros(1, 2000)
    logits[0, 1234] = gap
    hidden, weight = torch.ones(1, 1), logits.T.clone().requires_grad_()
    logits.requires_grad_()
    ids, pair = torch.tensor([1234]), ScoreTokens({"A": [1234], "B": [5]})
    results = [
        (token_logprobs(logits, ids, impl="native").logprob, logits),
        (linear_token_logprobs(hidden, weight, ids, impl="native").logprob, weight),
        (score_token_logprobs_from_logits(logits, pair, impl="native").logprob[:, 0], logits),
        (score_token_logprobs(hidden, weight, pair, impl="native").logprob[:, 0], weight),
    ]
    complement = 1999 * math.exp(-gap)
    for logprob, leaf in results:
        found = torch.autograd.grad(logprob, leaf)[0].flatten()[1234].item()
        # Triton's exponentials: see test_probability_near_one_keeps_its_complement
        assert found == pytest.approx(complement / (1 + complement), rel=1e-6 + gap * 2.0**-23, abs=0)


@pytest.mark.native
@pytest.mark.parametrize("labels_only", [False, True])
def test_a_temperatures_gradient_is_as_exact_far_from_zero(labels_only):
    """What all logits share moves no probability: an offset of 500 may cost nothing."""
    inputs = [random_logits(4, 500).mul(8).round().div(8), random_ids((4, 3), 500)]

    def gradient(logits, ids, heat, impl):
        heat = heat.clone().requires_grad_()
        if labels_only:
            results = asked(score_token_logprobs_from_logits(logits, SETS[1], temperature=heat, full_vocab=False, impl=impl))
        else:
            results = token_logprobs(logits, ids, temperature=heat, impl=impl)[:2]
        return torch.autograd.grad(sum(r.sum() for r in results), heat)[0]

    eager = [gradient(*order, HEAT[:4], "reference") for order in ([inputs] if labels_only else summation_orders(inputs))]
    native, exact = gradient(inputs[0] + 500.0, inputs[1], HEAT[:4], "native"), gradient(*in_float64(inputs), HEAT[:4].double(), "reference")
    assert_within_contract(native, eager, exact)


@pytest.mark.native
def test_a_row_without_a_distribution_has_a_nan_gradient_alone():
    logits = random_logits(5, 60)
    logits[0, 3], logits[1], logits[2, 59] = torch.nan, -torch.inf, torch.inf
    logits.requires_grad_()
    tokens, scores = (f(logits, x, impl="native") for f, x in ((token_logprobs, random_ids((5,), 60)), (score_token_logprobs_from_logits, SETS[1])))
    for result in (tokens, scores):
        (gradient,) = torch.autograd.grad(result.logprob.sum(), logits)
        assert bool(gradient[:3].isnan().all())
        assert bool(gradient[3:].isfinite().all())


@pytest.mark.native
def test_a_tiny_temperature_and_logits_summed_in_two_orders():
    """A label's logit may be another kernel's than the whole vocabulary's: their last bits make no probability above 1."""
    (hidden, weight), heat = random_head(16, 300, 8), torch.tensor(1e-9, requires_grad=True)
    hidden.requires_grad_()
    everything = ScoreTokens({"A": [0, 1, 2, 3], "B": [4, 5, 6, 7]})
    score_token_logprobs(hidden, weight, everything, temperature=heat, impl="native").logprob.sum().backward()
    assert bool(hidden.grad.isfinite().all() & heat.grad.isfinite())


@pytest.mark.native
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_gradients_have_the_inputs_dtype(half):
    hidden, weight = (x.requires_grad_() for x in random_head(4, 16, 80, dtype=half))
    bias = torch.randn(80, requires_grad=True)
    score_token_logprobs(hidden, weight, SETS[0], bias=bias, impl="native").expected.sum().backward()
    assert (hidden.grad.dtype, weight.grad.dtype, bias.grad.dtype) == (half, half, torch.float32)


def test_frozen_inputs_get_no_gradient(impl, monkeypatch):
    hidden, weight = random_head(4, 16, 80)
    asked_for = []
    backward = schema.linear_token_logprobs_backward
    monkeypatch.setattr(backward, "dispatched", lambda *a, real=backward.dispatched: asked_for.append(a[-4:]) or real(*a))
    hidden.requires_grad_()
    linear_token_logprobs(hidden, weight, random_ids((4,), 80), impl=impl).logprob.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert asked_for == ([(True, False, False, False)] if impl == "native" else [])


def test_ignored_rows_have_zero_gradient_even_with_nan(impl):
    logits = random_logits(3, 40)
    logits[1] = torch.nan
    logits.requires_grad_()
    result = token_logprobs(logits, torch.tensor([4, -100, 5]), impl=impl)
    (result.logprob.sum() + result.entropy.sum() + result.logsumexp.sum()).backward()
    assert bool((logits.grad[1] == 0).all())
    assert bool(logits.grad[[0, 2]].isfinite().all())


def test_ignored_rows_of_hidden_have_zero_gradient_even_with_nan(impl):
    hidden, weight = random_head(3, 8, 40)
    hidden[1] = torch.nan
    hidden.requires_grad_(), weight.requires_grad_()
    result = linear_token_logprobs(hidden, weight, torch.tensor([4, -100, 5]), impl=impl)
    (result.logprob.sum() + result.entropy.sum()).backward()
    assert bool((hidden.grad[1] == 0).all())
    assert bool(weight.grad.isfinite().all())


@pytest.mark.parametrize("full_vocab", [True, False])
def test_labels_without_probability_do_not_poison_other_gradients(impl, full_vocab):
    hidden, weight = (x.requires_grad_() for x in random_head(3, 8, 80))
    bias = torch.zeros(80)
    bias[[3, 64, 70]] = -torch.inf  # set 0 cannot be said
    result = score_token_logprobs(hidden, weight, SETS, row_sets=torch.tensor([0, 1, 0]), bias=bias, full_vocab=full_vocab, impl=impl)
    result.expected[1].backward()
    assert bool(weight.grad.isfinite().all())
    assert bool((hidden.grad[[0, 2]] == 0).all())
    assert bool((hidden.grad[1] != 0).any())


def test_an_ignored_nan_row_leaves_a_shared_temperature_its_gradient(impl):
    logits, temperature = random_logits(3, 40), torch.tensor(0.7, requires_grad=True)
    logits[1] = torch.nan
    token_logprobs(logits, torch.tensor([4, -100, 5]), temperature=temperature, impl=impl).logprob.sum().backward()
    assert bool(temperature.grad.isfinite())


def test_missing_labels_pass_no_gradient(impl):
    logits = random_logits(1, 80).requires_grad_()
    sets = [SETS[0], SETS[1]]
    result = score_token_logprobs_from_logits(logits, sets, row_sets=torch.tensor([0]), impl=impl)
    seed = torch.zeros_like(result.conditional)
    seed[0, 2:] = 1.0
    for field in (result.conditional, result.logprob):
        (gradient,) = torch.autograd.grad(field, logits, seed, retain_graph=True)
        assert bool((gradient == 0).all())


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 3)], ids=str)
def test_no_rows_have_no_gradients(shape, impl):
    logits = torch.empty(*shape[: 2 if len(shape) == 3 else 1], 30, requires_grad=True)
    token_logprobs(logits, torch.empty(shape, dtype=torch.int64), impl=impl).logprob.sum().backward()
    assert logits.grad.shape == logits.shape
    hidden, weight = torch.empty(0, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    if len(shape) < 3:
        linear_token_logprobs(hidden, weight, torch.empty(shape, dtype=torch.int64), impl=impl).logprob.sum().backward()
        assert bool((weight.grad == 0).all())


def test_an_expanded_gradient_is_read_as_it_is(impl):
    """sum() hands its gradient down as one number with strides of 0."""
    hidden, weight = random_head(2, 12, 80)
    for name in ("logprob", "variance"):
        leaf = hidden.clone().requires_grad_()
        field = getattr(score_token_logprobs(leaf, weight, SETS[1], impl=impl), name)
        summed = torch.autograd.grad(field.sum(), leaf, retain_graph=True)[0]
        assert torch.equal(summed, torch.autograd.grad(field, leaf, torch.ones_like(field))[0]), name


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("full_vocab", [True, False])
def test_rows_that_do_not_exist_leave_no_trace(softcap, full_vocab, impl):
    """Unchecked calls (CUDA, torch.compile): the stand-in row holds NaN, and none of it comes through."""
    hidden, weight = random_head(4, 12, 80)
    hidden[0] = torch.nan
    form_ids, values = pack(SETS, 80, torch.device("cpu"))
    rows, sets = torch.tensor([-1, 2, 2**40, 4, 1]), torch.tensor([0, 1, 0, 1, 9])
    hidden.requires_grad_(), weight.requires_grad_()
    run = (lambda op: op.reference) if impl == "reference" else (lambda op: op.dispatched)
    scores = run(schema.score_token_logprobs)(hidden, weight, form_ids, values, rows, sets, None, None, softcap, full_vocab, 80, True)
    tokens = run(schema.linear_token_logprobs)(hidden, weight, torch.tensor([3, 80, -100, 4, -7]), rows, None, None, softcap, -100, 80, True)
    assert tokens[0].isnan().tolist() == [True, True, False, True, True]
    for result in (scores[1], scores[3], tokens[1], tokens[2]):
        grads = torch.autograd.grad(result[1].sum(), (hidden, weight), retain_graph=True)
        assert bool(grads[0][2].isfinite().all())
        assert bool((grads[0][[0, 1, 3]] == 0).all())
        assert bool(grads[1].isfinite().all())
    assert scores[1].isnan().all(1).tolist() == [True, False, True, True, True]


def test_an_ignored_nan_row_under_a_softcap(impl):
    hidden, weight = random_head(3, 8, 40)
    hidden[1] = torch.nan
    hidden.requires_grad_(), weight.requires_grad_()
    linear_token_logprobs(hidden, weight, torch.tensor([4, -100, 5]), softcap=5.0, impl=impl).logprob.sum().backward()
    assert bool((hidden.grad[1] == 0).all())
    assert bool(weight.grad.isfinite().all())


def test_a_tiny_temperature_beside_an_impossible_logit(impl):
    logits = torch.tensor([[1.0, -torch.inf, 0.5]], requires_grad=True)
    token_logprobs(logits, torch.tensor([0]), temperature=1e-9, impl=impl).logprob.sum().backward()
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_double_backward_says_that_it_is_not_supported():
    logits = random_logits(2, 9).requires_grad_()
    (first,) = torch.autograd.grad(token_logprobs(logits, random_ids((2,), 9)).logprob.sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match=r"rrm::token_logprobs_backward is not differentiable; double backward is not supported"):
        first.sum().backward()
