"""Logits far from zero and close together, distributions without a slope, labels and rows without probability: forward and gradients."""

import sys

import pytest
import torch

from rrm_core import ScoreTokens, TokenLogprobs, linear_token_logprobs, score_token_logprobs_from_logits, token_logprobs
from rrm_core.logprobs import schema
from rrm_core.logprobs.score_tokens import pack
from rrm_core.testing import assert_native_within_contract, assert_within_contract, random_head, random_ids, random_logits, summation_orders

pytestmark = [pytest.mark.native, pytest.mark.triton]
IDS = torch.tensor([3, 700])


@pytest.mark.cpu  # Triton counts logits below -1e30 as -inf
@pytest.mark.parametrize(
    ("value", "temperature"), [(torch.finfo(torch.float32).min, 1.0), *((v, t) for v in (-1e10, 3e8, -3e8, 8.94e6) for t in (1.0, 0.647, 7e-4))]
)
def test_rows_of_one_large_logit(value, temperature):
    assert_native_within_contract(token_logprobs, torch.full((2, 1024), value), IDS, temperature=temperature)


@pytest.mark.parametrize("away", [55.0, 61.0, 62.0, 70.0, 87.0, 100.0, 104.0])  # from 87.4 to 96 single terms are flushed, though their sum is not
def test_everything_else_far_below(away):
    logits = torch.full((2, 2048), 5.0 - away)
    logits[:, 700] = 5.0
    assert_native_within_contract(token_logprobs, logits, IDS)


@pytest.mark.cpu
@pytest.mark.parametrize("hidden_size", [4096, 8192, 16384 + 5])
def test_long_hidden_states(hidden_size, dtype):
    assert_native_within_contract(linear_token_logprobs, *random_head(11, hidden_size, 15, dtype=dtype), random_ids((11,), 15))


def of_temperature(function, arguments, heat, impl):
    heat = heat.clone().requires_grad_()
    fields = [f for f in function(*arguments, temperature=heat, impl=impl) if f is not None]
    weights = (torch.randn(f.shape, generator=torch.Generator().manual_seed(1)).to(f.dtype) for f in fields)
    return torch.autograd.grad(sum((f * w).sum() for f, w in zip(fields, weights, strict=True)), heat)[0]


@pytest.mark.cpu  # Triton's normaliser is one float32 number
@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("scale", [0.1, 1.0])
@pytest.mark.parametrize("columns", [1, 40])
def test_the_temperature_of_flat_distributions(temperature, scale, columns):
    arguments, heat = [random_logits(97, 256, scale=scale), random_ids((97, columns), 256)], torch.full((97,), temperature)
    native = of_temperature(token_logprobs, arguments, heat, "native")
    eager = [of_temperature(token_logprobs, order, heat, "reference") for order in summation_orders(arguments)]
    exact = of_temperature(token_logprobs, [arguments[0].double(), arguments[1]], heat.double(), "reference")
    assert_within_contract(native, eager, exact)


@pytest.mark.cpu
@pytest.mark.parametrize("temperature", [1.0, 16.0, 100.0])
@pytest.mark.parametrize("field", TokenLogprobs._fields)
def test_the_temperature_of_each_field_alone(temperature, field):
    """Of a flat distribution: a difference of moments many times as large, unless they are taken around the mean."""
    logits, ids, heat = random_logits(330, 65, scale=0.5), random_ids((330,), 65), temperature * (0.5 + torch.rand(330))

    def gradient(logits, heat, impl):
        heat = heat.clone().requires_grad_()
        return torch.autograd.grad(getattr(token_logprobs(logits, ids, temperature=heat, impl=impl), field).sum(), heat)[0]

    exact = gradient(logits.double(), heat.double(), "reference")
    assert_within_contract(gradient(logits, heat, "native"), gradient(logits, heat, "reference"), exact)


@pytest.mark.cpu
def test_the_temperature_of_labels_among_many_tokens():
    """A rounding that all columns share (of the line, of the normaliser) would add up over 2000 of them."""
    logits, heat = random_logits(33, 2000, scale=0.5), torch.linspace(0.5, 1.5, 33)
    arguments = [logits, ScoreTokens({"A": [3, 70], "B": [64], "C": [5]}, values=[0.0, 1.0, 2.0])]
    native, eager = (of_temperature(score_token_logprobs_from_logits, arguments, heat, impl) for impl in ("native", "reference"))
    exact = of_temperature(score_token_logprobs_from_logits, [logits.double(), arguments[1]], heat.double(), "reference")
    assert_within_contract(native, eager, exact)


@pytest.mark.parametrize("full_vocab", [True, False])
def test_an_impossible_labels_upstream_gradient_reaches_the_temperature(full_vocab):
    logits, labels = torch.tensor([[0.3, 1.0, -0.4, -torch.inf, 0.2, 0.9]]), ScoreTokens({"A": [1, 2], "B": [3], "C": [5]})

    def gradient(logits, impl):
        heat = torch.tensor([1.5], dtype=logits.dtype, requires_grad=True)
        result = score_token_logprobs_from_logits(logits, labels, temperature=heat, full_vocab=full_vocab, impl=impl)
        return torch.autograd.grad(result.conditional, heat, torch.tensor([[0.3, 0.7, -1.2]], dtype=logits.dtype))[0]

    assert_within_contract(gradient(logits, "native"), gradient(logits, "reference"), gradient(logits.double(), "reference"))


@pytest.mark.parametrize("labels_only", [True, False])
def test_a_row_without_probability_leaves_a_shared_temperature_its_gradient(labels_only):
    logits = random_logits(2, 40)
    logits[0] = -torch.inf

    def gradient(logits, impl):
        heat = torch.tensor(0.7, dtype=logits.dtype, requires_grad=True)
        if labels_only:
            found = score_token_logprobs_from_logits(logits, ScoreTokens({"A": [1], "B": [2]}), temperature=heat, full_vocab=False, impl=impl)
            chosen = found.conditional[:, 0]
        else:
            chosen = token_logprobs(logits, torch.tensor([3, 4]), temperature=heat, impl=impl).logprob
        return torch.autograd.grad(chosen[1], heat)[0]

    native, exact = gradient(logits, "native"), gradient(logits[1:].expand(2, -1).double(), "reference")
    assert native.item() == pytest.approx(exact.item(), rel=1e-5)  # a handful of float32 operations


@pytest.mark.parametrize("token", [90, 2**40])
def test_labels_out_of_the_vocabulary_are_never_read(token):
    """Unchecked calls: as if they could not be said, forward and backward."""
    hidden, weight = random_head(3, 12, 80)
    form_ids, _ = pack([ScoreTokens({"A": [3], "B": [7], "C": [9]})], 80, torch.device("cpu"))
    form_ids[0, 2, 0] = token
    hidden.requires_grad_(), weight.requires_grad_()
    for full_vocab in (True, False):
        results = schema.score_token_logprobs.dispatched(hidden, weight, form_ids, None, None, None, None, None, None, full_vocab, 80, True)
        grads = torch.autograd.grad(results[1].sum(), (hidden, weight))
        assert grads[1].shape == weight.shape
        assert bool((grads[1][80:] == 0).all())


@pytest.mark.parametrize("tokens", [5, 800])  # 800: several passes over the rows, too
def test_gradients_of_several_pieces_of_the_vocabulary(tokens):
    if tokens > 5 and "tests.triton_bodies" in sys.modules:
        pytest.skip("too slow for the interpreter")
    arguments, bias = [*random_head(tokens, 16, 3300), random_ids((tokens,), 3300)], random_logits(3300, scale=1.0)

    def gradients(hidden, weight, ids, bias, impl):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        found = linear_token_logprobs(*leaves[:2], ids, bias=leaves[2], impl=impl)
        return torch.autograd.grad(found.logprob.sum() + found.entropy.sum(), leaves)

    native = gradients(*arguments, bias, "native")
    eager = [gradients(*order, bias, "reference") for order in summation_orders(arguments, 4)]
    exact = gradients(arguments[0].double(), arguments[1].double(), arguments[2], bias.double(), "reference")
    for i, name in enumerate(("hidden", "weight", "bias")):
        runs = [run[i] for run in eager] if name == "bias" else [eager[0][i]]  # in another order of H they are others
        assert_within_contract(native[i], runs, exact[i], name)
