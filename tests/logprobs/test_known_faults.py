"""What other kernels get wrong in the numbers of a softmax: one test for each of their known faults, on every body.

Faults of layouts, sizes and batches are in test_known_limits.py.
"""

import math
import sys

import pytest
import torch

from rrm_core import ScoreTokens, linear_token_logprobs, score_token_logprobs, score_token_logprobs_from_logits, token_logprobs
from rrm_core.testing import random_head, random_ids, random_logits, same_bits
from tests.logprobs.oracle import check, run

pytestmark = pytest.mark.triton


def some(*values, here=()):
    """Parameters; those ``here`` are for the C++ and plain bodies, the others for Triton's under the interpreter too."""
    return [*values, *(pytest.param(value, marks=pytest.mark.cpu) for value in here)]


def natively(impl, *wanted):
    """Gradients that autograd through the plain body, in float32, is not held to."""
    return wanted if impl == "native" else ()


NOTHING = -torch.inf
WIDE = 2 * 16384 + 77  # three chunks of columns in Triton, 33 blocks in C++, the last one ragged
PAIR = ScoreTokens({"A": [3, 299], "B": [64]}, values=[1.0, 0.0])
LAST = ScoreTokens({"A": [WIDE - 1, 3], "B": [WIDE - 2]}, values=[1.0, 0.0])


@pytest.mark.parametrize("dead", some(slice(0, 2048), slice(0, WIDE - 2), here=[slice(0, 64), slice(0, 32768), slice(16384, 32768)]), ids=str)
def test_a_block_of_minus_infinity_is_only_absent(impl, dead):
    logits = random_logits(1, WIDE)
    logits[:, dead] = NOTHING
    found = check(token_logprobs, logits, torch.tensor([[20_000, WIDE - 1]]), impl=impl, wanted=["logits"], orders=2)
    assert bool((found["gradient of logits"][:, dead] == 0).all())
    found = check(score_token_logprobs_from_logits, logits, LAST, impl=impl, wanted=["logits"])
    assert bool((found["gradient of logits"][:, dead] == 0).all())


@pytest.mark.parametrize("dead", some(slice(0, 64), slice(0, 298), here=[slice(0, 256), slice(128, 256)]), ids=str)
def test_a_block_of_the_head_may_be_impossible(impl, dead):
    hidden, weight = random_head(3, 20, 300)
    bias = torch.zeros(300)
    bias[dead] = NOTHING
    options = {"bias": bias, "impl": impl, "wanted": ["hidden", "weight", "bias"]}
    found = check(linear_token_logprobs, hidden, weight, torch.tensor([[130, 299]] * 3), **options)
    assert bool((found["gradient of weight"][dead] == 0).all())
    found = check(score_token_logprobs, hidden, weight, ScoreTokens({"A": [299, 3], "B": [298]}, values=[1.0, 0.0]), **options)
    assert bool((found["gradient of weight"][dead] == 0).all())


def test_one_impossible_token_leaves_the_entropy_finite(impl):
    logits = random_logits(3, 700)
    logits[:, 5] = NOTHING
    found = check(
        token_logprobs, logits, random_ids((3,), 700), impl=impl, temperature=torch.tensor([0.5, 1.0, 2.0]), wanted=["logits", "temperature"]
    )
    assert bool(found["entropy"].isfinite().all())
    assert bool((found["gradient of logits"][:, 5] == 0).all())


def test_an_impossible_target_is_minus_infinity_with_a_finite_gradient(impl):
    logits = random_logits(2, 700)
    logits[:, 5] = NOTHING
    leaf = logits.clone().requires_grad_()
    logprob = token_logprobs(leaf, torch.tensor([5, 6]), impl=impl).logprob
    assert logprob[0] == NOTHING
    logprob[1].backward()
    assert bool(leaf.grad.isfinite().all())
    assert bool((leaf.grad[0] == 0).all())


@pytest.mark.parametrize("offset", some(-120.0, 500.0, here=[-60.0, -1000.0]))
def test_an_offset_shared_by_all_logits_moves_no_probability(impl, offset):
    """A maximum that starts at 0 loses everything below -100; an entropy by sum(x exp x) loses 7e-4 at 500."""
    logits = random_logits(3, 2100).mul(8).round().div(8)  # so that adding the offset rounds nothing
    ids = random_ids((3, 2), 2100)
    check(token_logprobs, logits + offset, ids, impl=impl, wanted=natively(impl, "logits"))
    check(score_token_logprobs_from_logits, logits + offset, PAIR, impl=impl, wanted=natively(impl, "logits"))


@pytest.mark.parametrize("offset", some(-120.0, here=[-60.0, 500.0]))
def test_an_offset_of_the_head(impl, offset):
    hidden, weight = random_head(3, 20, 300)
    options = {"bias": torch.full((300,), offset), "impl": impl, "wanted": natively(impl, "hidden", "weight")}
    check(linear_token_logprobs, hidden, weight, random_ids((3,), 300), **options)
    check(score_token_logprobs, hidden, weight, PAIR, **options)


def near_one(complement, impl, interpreted):
    """Logits [1, 2000] whose token 1234 lacks about so much of probability 1, what it lacks exactly, and a bound for float32's error in that."""
    gap = float(torch.tensor(math.log(1999 / complement)))
    logits = torch.zeros(1, 2000)
    logits[0, 1234] = gap
    # an exponential, and 64 additions of equal terms, which all round alike; in Triton the exponent is rounded too, in units of log 2
    return logits, 1999 * math.exp(-gap), 65 * 2.0**-24 + (gap * 2.0**-23 if interpreted else 0.0)


@pytest.mark.parametrize("complement", some(4.15e-9, 1e-20, here=[1e-4, 1e-12, 1e-30]))
def test_a_confident_token_keeps_its_complement(impl, interpreted, complement):
    logits, odds, rtol = near_one(complement, impl, interpreted)
    hidden, weight, ids, label = torch.ones(1, 1), logits.T.contiguous(), torch.tensor([1234]), ScoreTokens({"A": [1234], "B": [5]})
    for logprob in (
        token_logprobs(logits, ids, impl=impl).logprob,
        linear_token_logprobs(hidden, weight, ids, impl=impl).logprob,
        score_token_logprobs_from_logits(logits, label, impl=impl).logprob[:, 0],
        score_token_logprobs(hidden, weight, label, impl=impl).logprob[:, 0],
    ):
        assert logprob.item() == pytest.approx(-math.log1p(odds), rel=rtol, abs=0)


@pytest.mark.native
@pytest.mark.parametrize("complement", some(4.15e-9, 1e-20, here=[1e-4, 1e-12, 1e-30]))
def test_the_gradient_of_a_confident_token_keeps_its_complement(complement):
    """d logprob / d logit = 1 - p, which is no longer there once p is rounded (as under autograd through the plain body)."""
    impl, interpreted = "native", "tests.triton_bodies" in sys.modules
    logits, odds, rtol = near_one(complement, impl, interpreted)
    leaf, label = logits.requires_grad_(), ScoreTokens({"A": [1234], "B": [5]})
    hidden, weight, ids = torch.ones(1, 1), logits.detach().T.clone().requires_grad_(), torch.tensor([1234])
    for logprob, x in (
        (token_logprobs(leaf, ids, impl=impl).logprob, leaf),
        (linear_token_logprobs(hidden, weight, ids, impl=impl).logprob, weight),
        (score_token_logprobs_from_logits(leaf, label, impl=impl).logprob[:, 0], leaf),
        (score_token_logprobs(hidden, weight, label, impl=impl).logprob[:, 0], weight),
    ):
        gradient = torch.autograd.grad(logprob.sum(), x)[0].flatten()
        assert gradient[1234].item() == pytest.approx(odds / (1 + odds), rel=rtol, abs=0)
        assert gradient[7].item() == pytest.approx(-odds / (1 + odds) / 1999, rel=rtol, abs=0)


def test_small_gradients_are_not_filtered(impl):
    """A block whose probabilities are all below a threshold may still matter once the loss weighs it: token 100 has p = 1e-9, the loss 1e9."""
    leaf = torch.zeros(1, 2000)
    leaf[0, 1500] = gap = float(torch.tensor(math.log(1e9)))
    leaf.requires_grad_()
    (gradient,) = torch.autograd.grad(token_logprobs(leaf, torch.tensor([1500]), impl=impl).logprob.sum() * 1e9, leaf)
    p = 1 / (math.exp(gap) + 1999)
    # the exponent, rounded once
    torch.testing.assert_close(gradient[0, :1500], torch.full((1500,), -p * 1e9), rtol=1e-6 + gap * 2.0**-23, atol=0)


def test_a_half_precision_head_gives_float32_results(impl):
    """Logits rounded to bfloat16 are off by 0.05 nat and more here."""
    hidden, weight = random_head(4, 256, 1500, dtype=torch.bfloat16)
    hidden, ids = 2 * hidden, random_ids((4, 3), 1500)
    found = check(linear_token_logprobs, hidden, weight, ids, temperature=torch.full((4,), 0.7), impl=impl, wanted=["temperature"])
    check(score_token_logprobs, hidden, weight, PAIR, impl=impl)
    exact = linear_token_logprobs(hidden.double(), weight.double(), ids, temperature=0.7, impl="reference").logprob
    rounded = token_logprobs(hidden @ weight.T, ids, temperature=0.7, impl="reference").logprob
    assert (rounded - exact).abs().max() > 0.05
    assert (found["logprob"] - exact).abs().max() < (rounded - exact).abs().max() / 1000


@pytest.fixture
def precision():
    """Sets what torch's own float32 products may be rounded to."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.native
def test_float32_products_are_not_rounded_to_tf32(precision):
    hidden, weight = random_head(4, 256, 300)
    ids = random_ids((4,), 300)
    results = []
    for allowed in ("highest", "medium"):
        precision(allowed)
        results.append(run(linear_token_logprobs, (hidden, weight, ids), {"impl": "native"}))
    precision("highest")
    check(linear_token_logprobs, hidden, weight, ids, impl="native")
    assert all(same_bits(results[0][name], results[1][name]) for name in results[0])


def test_float16_products_past_65504(impl):
    hidden, weight = torch.full((2, 10), 100.0, dtype=torch.float16), torch.full((300, 10), 100.0, dtype=torch.float16)
    weight[3, 0], weight[64, 0] = 100.0625, 99.9375
    assert (hidden[0].float() @ weight[3].float()).item() == 100_006.25  # the others 100 000 and 99 993.75
    found = check(linear_token_logprobs, hidden, weight, torch.tensor([3, 64]), impl=impl, wanted=natively(impl, "hidden"))
    rest = math.log1p(298 * math.exp(-6.25) + math.exp(-12.5))
    assert found["logprob"].tolist() == pytest.approx([-rest, -12.5 - rest], rel=1e-6)  # 8 ulp
    check(score_token_logprobs, hidden, weight, PAIR, impl=impl, wanted=natively(impl, "hidden"))


@pytest.mark.parametrize("softcap", some(30.0, here=[1e-2, 1e4]))
def test_a_softcap_of_any_size(impl, softcap):
    hidden, weight = random_head(30, 20, 300)
    weight[5] *= 1e4  # far into saturation
    heat = torch.tensor([0.5, 1.0, 2.0]).repeat(10)
    options = {"softcap": softcap, "temperature": heat, "impl": impl, "wanted": ["hidden", "weight", "temperature"]}
    check(linear_token_logprobs, hidden, weight, random_ids((30,), 300), **options)
    check(score_token_logprobs, hidden, weight, PAIR, **options)


@pytest.mark.parametrize("rows", some(30, here=[100]))
def test_a_saturated_softcap_still_passes_its_gradient(impl, rows):
    """1 - tanh^2 is 1e-3 here, a difference of numbers near 1; many rows, so that eager's largest error is a yardstick."""
    hidden, weight = random_head(rows, 20, 300)
    options = {"bias": torch.full((300,), -120.0), "softcap": 30.0, "impl": impl, "wanted": ["hidden", "weight", "bias"], "orders": 2}
    check(linear_token_logprobs, hidden, weight, random_ids((rows,), 300), **options)
    check(score_token_logprobs, hidden, weight, PAIR, **options)
    check(score_token_logprobs, hidden, weight, PAIR, full_vocab=False, **options)


def test_every_row_has_its_own_temperature(impl):
    hidden, weight = random_head(4, 20, 300)
    heat, ids = torch.tensor([0.1, 0.7, 1.0, 5.0]), random_ids((4,), 300)
    found = check(linear_token_logprobs, hidden, weight, ids, temperature=heat, impl=impl, wanted=["hidden", "temperature"])
    check(score_token_logprobs, hidden, weight, PAIR, temperature=heat, impl=impl, wanted=["hidden", "temperature"])
    if impl == "native":
        for row, value in enumerate(heat.tolist()):
            alone = linear_token_logprobs(hidden, weight, ids, temperature=value, impl=impl)
            assert same_bits(alone.logprob[row], found["logprob"][row])


def test_a_score_with_several_tokenisations_is_their_sum(impl):
    logits = random_logits(4, 300)
    forms = [[3, 299, 64], [5], [70, 71]]
    grades = ScoreTokens({str(i): ids for i, ids in enumerate(forms)}, values=[1.0, 2.0, 3.0])
    found = check(score_token_logprobs_from_logits, logits, grades, impl=impl, wanted=["logits"])
    p = logits.double().softmax(-1)
    mass = torch.stack([p[:, ids].sum(-1) for ids in forms], -1)
    torch.testing.assert_close(found["logprob"].double(), mass.log(), rtol=1e-6, atol=0)  # 8 ulp, like the next
    torch.testing.assert_close(found["expected"].double(), mass @ torch.tensor([1.0, 2.0, 3.0]).double() / mass.sum(-1), rtol=1e-6, atol=0)
