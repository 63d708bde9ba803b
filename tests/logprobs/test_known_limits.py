"""Where other kernels stop: layouts, sizes, ids and batches they get wrong or refuse, one test for each, on every body."""

import pytest
import torch

from rrm_core import ScoreTokens, linear_token_logprobs, score_token_logprobs, score_token_logprobs_from_logits, token_logprobs
from rrm_core.testing import guarded, random_head, random_ids, random_logits, same_bits
from tests.logprobs.oracle import check, run

pytestmark = pytest.mark.triton
PAIR = ScoreTokens({"A": [3, 70], "B": [64]}, values=[1.0, 0.0])
MANY = 70_001  # more than a grid's second axis holds


def assert_same_bits(found, expected):
    for name, result in found.items():
        assert same_bits(result, expected[name]), name


@pytest.mark.parametrize("vocab", [1, 2, 255, 257, 1023, 1025, pytest.param(4097, marks=pytest.mark.cpu)])
def test_a_vocabulary_divisible_by_nothing(impl, vocab):
    hidden, weight = random_head(2, 5, vocab)
    ids = torch.tensor([[0, vocab - 1], [vocab // 2, vocab // 3]])
    check(linear_token_logprobs, guarded(hidden), guarded(weight), ids, impl=impl, wanted=["hidden", "weight"])
    check(token_logprobs, guarded(random_logits(2, vocab)), ids, impl=impl, wanted=["logits"])


@pytest.mark.parametrize("hidden_size", [1, 127, 129])
def test_a_hidden_size_divisible_by_nothing(impl, hidden_size):
    hidden, weight = random_head(3, hidden_size, 80, dtype=torch.bfloat16)
    check(score_token_logprobs, guarded(hidden), guarded(weight), PAIR, impl=impl, wanted=["hidden", "weight"])


@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e4])
def test_padded_rows_of_the_head_are_no_tokens(impl, padding):
    """No probability, no gradient, and an ignore_index among their numbers is no token either."""
    hidden, weight = random_head(3, 16, 80)
    padded = torch.cat([weight, torch.full((50, 16), padding)])
    ids, options = torch.tensor([79, 100, 3]), {"impl": impl, "vocab_size": 80}
    for function, argument, more in ((linear_token_logprobs, ids, {"ignore_index": 100}), (score_token_logprobs, PAIR, {})):
        trimmed = run(function, (hidden, weight, argument), {**more, "impl": impl}, ["hidden", "weight"])
        found = run(function, (hidden, padded, argument), {**more, **options}, ["hidden", "weight"])
        gradient = found.pop("gradient of weight")
        assert bool((gradient[80:] == 0).all())
        assert_same_bits(found | {"gradient of weight": gradient[:80]}, trimmed)
    assert run(linear_token_logprobs, (hidden, padded, ids), {"ignore_index": 100, **options})["logprob"][1] == 0.0


def test_an_ignored_row_is_never_read(impl):
    """Nor is its slot of any scratch memory: label -100 gives exactly 0, not what happens to be there."""
    hidden, weight = random_head(5, 16, 80)
    hidden[1], hidden[3] = torch.nan, torch.inf
    ids = torch.tensor([4, -100, 5, -100, 79])
    found = run(linear_token_logprobs, (hidden, weight, ids), {"impl": impl}, ["hidden", "weight"])
    logits = hidden @ weight.T
    stored = run(token_logprobs, (logits, ids), {"impl": impl}, ["logits"])
    for name in ("logprob", "entropy", "logsumexp", "gradient of hidden", "gradient of logits"):
        for results in (found, stored):
            assert name not in results or bool((results[name][[1, 3]] == 0).all()), name
    assert bool(found["gradient of weight"].isfinite().all())
    live = run(linear_token_logprobs, (hidden[::2], weight, ids[::2]), {"impl": impl})
    for name, field in live.items():
        torch.testing.assert_close(found[name][::2], field)


@pytest.mark.parametrize("beyond", [torch.nan, torch.inf, -torch.inf])
def test_labels_alone_read_nothing_else(impl, beyond):
    """Not even where the sets are padded to the longest one."""
    sets = [PAIR, ScoreTokens({"1": [5], "2": [6], "3": [7, 8, 9]}, values=[1.0, 2.0, 3.0])]
    options = {"row_sets": torch.tensor([0, 1, 0]), "full_vocab": False, "impl": impl}
    hidden, weight = random_head(3, 16, 80)
    other = torch.ones(80, dtype=torch.bool)
    other[[3, 70, 64, 5, 6, 7, 8, 9]] = False
    for function, args, changed, leaf in (
        (score_token_logprobs, (hidden, weight), (hidden, weight.masked_fill(other[:, None], beyond)), "hidden"),
        (score_token_logprobs_from_logits, (hidden @ weight.T,), ((hidden @ weight.T).masked_fill(other, beyond),), "logits"),
    ):
        assert_same_bits(run(function, (*changed, sets), options, [leaf]), run(function, (*args, sets), options, [leaf]))


def test_each_row_has_its_own_ids_in_their_order_with_repetitions(impl):
    logits = random_logits(3, 300)
    ids = torch.tensor([[5, 5, 299, 0], [0, 299, 5, 5], [7, -100, 7, 7]])
    found = check(token_logprobs, logits, ids, impl=impl, wanted=["logits"])
    assert found["logprob"][0, 0] == found["logprob"][0, 1]
    assert found["logprob"][2].tolist()[1] == 0.0


LAYOUTS = {
    "last column cut off": (lambda x: torch.cat([x, torch.full_like(x[:, :1], torch.nan)], 1), lambda base: base[:, :-1]),
    "transposed": (lambda x: x.T.contiguous(), lambda base: base.T),
    "every other column": (lambda x: x.repeat_interleave(2, 1), lambda base: base[:, ::2]),
    "expanded": (lambda x: x[:1].clone(), lambda base: base.expand(4, -1)),
}


LAYOUTS = {
    "last column cut off": (lambda x: torch.cat([x, torch.full_like(x[:, :1], torch.nan)], 1), lambda base: base[:, :-1]),
    "transposed": (lambda x: x.T.contiguous(), lambda base: base.T),
    "every other column": (lambda x: x.repeat_interleave(2, 1), lambda base: base[:, ::2]),
    "expanded": (lambda x: x[:1].clone(), lambda base: base.expand(4, -1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_view_is_read_as_it_is(impl, layout):
    make, view = LAYOUTS[layout]
    base = make(random_logits(4, 300, dtype=torch.bfloat16)).requires_grad_()
    for function, argument in ((token_logprobs, random_ids((4, 2), 300)), (score_token_logprobs_from_logits, PAIR)):
        found = []
        for logits in (view(base), view(base).contiguous()):
            fields = function(logits, argument, impl=impl)
            found.append([*fields, *torch.autograd.grad([f.sum() for f in fields], base)])
        for a, b in zip(*found, strict=True):
            assert same_bits(a, b) if impl == "native" else torch.allclose(a, b, equal_nan=True)


def test_nothing_is_written_into_the_inputs(impl):
    hidden, weight = random_head(3, 16, 80)
    inputs = [hidden, weight, random_logits(3, 80), random_ids((3,), 80)]
    before = [x.clone() for x in inputs]
    run(token_logprobs, inputs[2:], {"impl": impl}, ["logits"])
    run(score_token_logprobs_from_logits, (inputs[2], PAIR), {"impl": impl}, ["logits"])
    run(linear_token_logprobs, (hidden, weight, inputs[3]), {"impl": impl}, ["hidden", "weight"])
    run(score_token_logprobs, (hidden, weight, PAIR), {"impl": impl}, ["hidden", "weight"])
    assert all(same_bits(a, b) for a, b in zip(before, inputs, strict=True))


WEIGHT = random_head(1, 40, 150)[1]
BY_ROWS = {
    "token_logprobs": (150, lambda x, ids: token_logprobs(x, ids, impl="native")),
    "linear_token_logprobs": (40, lambda x, ids: linear_token_logprobs(x, WEIGHT.to(x.dtype), ids, impl="native")),
    "score_token_logprobs": (40, lambda x, ids: score_token_logprobs(x, WEIGHT.to(x.dtype), PAIR, impl="native")),
    "score_token_logprobs_from_logits": (150, lambda x, ids: score_token_logprobs_from_logits(x, PAIR, impl="native")),
}


@pytest.mark.native
@pytest.mark.cpu  # Triton's: test_a_batch_leaves_no_trace
@pytest.mark.parametrize("name", BY_ROWS)
def test_a_batch_of_8_and_batches_of_1_or_3_have_the_same_bits(name, dtype):
    width, function = BY_ROWS[name]
    x, ids = random_logits(8, width, dtype=dtype).requires_grad_(), random_ids((8,), 150)
    runs = []
    for size in (8, 1, 3):
        parts = [function(*part) for part in zip(x.split(size), ids.split(size), strict=True)]
        fields = [torch.cat(field) for field in zip(*parts, strict=True)]
        runs.append([*fields, *torch.autograd.grad([f.sum() for f in fields], x)])
    for other in runs[1:]:
        assert all(same_bits(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.native
@pytest.mark.cpu
def test_calls_and_threads_leave_no_trace_in_any_gradient(threads):
    hidden, weight = random_head(300, 40, 150, dtype=torch.bfloat16)
    options = {"bias": random_logits(150), "temperature": torch.tensor(0.7), "impl": "native"}
    wanted = ["hidden", "weight", "bias", "temperature"]
    for function, argument in ((linear_token_logprobs, random_ids((300,), 150)), (score_token_logprobs, PAIR)):
        runs = []
        for count in (1, 2, 2, 3):
            threads(count)
            runs.append(run(function, (hidden, weight, argument), options, wanted))
        for other in runs[1:]:
            assert_same_bits(other, runs[0])


@pytest.mark.cpu
def test_gradients_of_half_precision_are_summed_in_float32(impl):
    """In bfloat16 a sum of equal numbers, or of equal parts of a batch, stalls at 256 of them."""
    weight = random_logits(8, 1, dtype=torch.bfloat16, scale=1.0)
    options = {"impl": impl, "wanted": ["hidden", "weight"], "orders": 1}
    nowhere, one = torch.zeros(MANY, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bfloat16)
    check(linear_token_logprobs, one.expand(MANY, -1), weight, nowhere, **options)
    check(linear_token_logprobs, one, weight, nowhere, rows=nowhere, **options)


@pytest.mark.cpu
def test_more_rows_than_a_grid_axis_holds(impl):
    hidden, weight = random_head(MANY, 3, 5)
    few, ids = ScoreTokens({"A": [0, 4], "B": [2]}, values=[1.0, 0.0]), random_ids((MANY,), 5)
    options = {"impl": impl, "orders": 1}
    check(linear_token_logprobs, hidden, weight, ids, wanted=["hidden", "weight"], **options)
    check(score_token_logprobs, hidden, weight, few, wanted=["hidden", "weight"], **options)
    check(token_logprobs, hidden @ weight.T, ids, wanted=["logits"], **options)
    check(score_token_logprobs_from_logits, hidden @ weight.T, few, wanted=["logits"], **options)


@pytest.mark.native
@pytest.mark.cpu
def test_more_elements_than_an_int32_counts():
    """Windows [2^22, 1025] on a memory of 16 MB: 2^32 elements, of which a copy would take as many bytes times 4."""
    rows, vocab = 2**22, 1025
    memory = random_logits(rows + vocab)
    windows = memory.as_strided((rows, vocab), (1, 1))
    live = torch.tensor([0, 2**21 - 1, 2**21, rows - 1])
    ids = torch.full((rows,), -100)
    ids[live] = random_ids((4,), vocab)
    found, alone = token_logprobs(windows, ids, impl="native"), token_logprobs(windows[live], ids[live], impl="native")
    assert all(same_bits(f[live], a) for f, a in zip(found, alone, strict=True))
    assert int((found.logprob != 0).sum()) == 4
    options = {"full_vocab": False, "impl": "native"}
    labels, alone = (score_token_logprobs_from_logits(x, PAIR, **options) for x in (windows, windows[live]))
    assert same_bits(labels.conditional[live], alone.conditional)


@pytest.mark.native
@pytest.mark.cpu
def test_more_logits_of_a_head_than_an_int32_counts():
    rows, vocab = 2**21 + 3, 1025
    hidden, weight = random_head(rows, 1, vocab)
    live = torch.tensor([0, 2**20, rows - 1])
    ids = torch.full((rows,), -100)
    ids[live] = random_ids((3,), vocab)
    found = run(linear_token_logprobs, (hidden, weight, ids), {"impl": "native"}, ["hidden"])
    alone = linear_token_logprobs(hidden[live], weight, ids[live], impl="native")
    assert all(same_bits(found[name][live], getattr(alone, name)) for name in alone._fields)
    assert found["gradient of hidden"].nonzero()[:, 0].tolist() == live.tolist()
