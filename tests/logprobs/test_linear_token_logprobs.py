import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core import linear_token_logprobs, token_logprobs
from rrm_core.testing import assert_native_within_contract, guarded, random_head, random_ids, same_bits

pytestmark = pytest.mark.triton
# tokens, hidden size, vocabulary: around the lanes, the packing, the tiles and the vocabulary blocks
SHAPES = [(1, 1, 1), (2, 15, 5), (3, 16, 63), (4, 17, 64), (5, 31, 65), (7, 33, 500), (33, 64, 129), (0, 8, 9), (70, 100, 300)]


@pytest.mark.native
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_within_contract(shape, dtype):
    tokens, _, vocab = shape
    hidden, weight = random_head(*shape, dtype=dtype)
    assert_native_within_contract(linear_token_logprobs, guarded(hidden), guarded(weight), random_ids((tokens,), vocab))


@pytest.mark.native
def test_native_within_contract_with_every_option(dtype):
    hidden, weight = random_head(20, 48, 300, dtype=dtype)
    assert_native_within_contract(
        linear_token_logprobs,
        hidden,
        weight,
        random_ids((9, 3), 290),
        rows=random_ids((9,), 20),
        bias=torch.randn(300),
        temperature=torch.rand(9) + 0.5,
        softcap=7.0,
        vocab_size=290,
    )


@pytest.mark.native
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(1, 200)),
    softcap=st.sampled_from([None, 0.5, 30.0]),
    temperature=st.sampled_from([1.0, 0.25, 3.0]),
    seed=st.integers(0, 999),
)
def test_native_within_contract_for_any_shape(shape, softcap, temperature, seed):
    hidden, weight = random_head(*shape, seed=seed)
    ids = random_ids((shape[0],), shape[2], seed)
    assert_native_within_contract(linear_token_logprobs, hidden, weight, ids, softcap=softcap, temperature=temperature)


def test_equals_the_two_lines_of_its_docstring(impl):
    hidden, weight = random_head(6, 20, 90)
    rows, ids, bias = torch.tensor([5, 0, 0, 3]), random_ids((4, 2), 80), torch.randn(90)
    result = linear_token_logprobs(hidden, weight, ids, rows=rows, bias=bias, temperature=0.7, softcap=9.0, vocab_size=80, impl=impl)
    logits = hidden[rows] @ weight[:80].T + bias[:80]
    expected = token_logprobs(9.0 * (logits / 9.0).tanh(), ids, temperature=0.7, impl="reference")
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.native
def test_any_layout_gives_the_same_bits(dtype):
    hidden, weight = random_head(6, 40, 150, dtype=dtype)
    ids = random_ids((6,), 150)
    expected = linear_token_logprobs(hidden, weight, ids, impl="native")
    wide_hidden, wide_weight = hidden.repeat_interleave(2, 0)[::2], torch.cat([weight, weight.new_full((150, 9), torch.nan)], 1)[:, :40]
    for h, w in [(hidden.T.contiguous().T, weight.T.contiguous().T), (wide_hidden, wide_weight), (hidden.repeat_interleave(3, 1)[:, ::3], weight)]:
        assert torch.equal(h, hidden)
        assert torch.equal(w, weight)
        for a, b in zip(linear_token_logprobs(h, w, ids, impl="native"), expected, strict=True):
            assert same_bits(a, b)


@pytest.mark.native
def test_padded_rows_of_the_head_are_never_read():
    hidden, weight = random_head(3, 16, 70)
    ids = random_ids((3,), 70)
    padded = torch.cat([weight, torch.full((10, 16), torch.nan)])
    for a, b in zip(
        linear_token_logprobs(hidden, padded, ids, vocab_size=70, impl="native"),
        linear_token_logprobs(hidden, weight, ids, impl="native"),
        strict=True,
    ):
        assert same_bits(a, b)


def test_ignored_rows_are_exactly_zero_even_with_nan(impl):
    hidden, weight = random_head(4, 16, 70)
    hidden[1] = torch.nan
    result = linear_token_logprobs(hidden, weight, torch.tensor([3, -100, 5, 6]), impl=impl)
    assert result.logprob[1] == result.entropy[1] == result.logsumexp[1] == 0.0
    assert bool((result.logprob[[0, 2, 3]] < 0).all())


def test_a_nan_row_is_nan_alone(impl):
    hidden, weight = random_head(4, 16, 70)
    hidden[2, 3] = torch.nan
    result = linear_token_logprobs(hidden, weight, random_ids((4,), 70), impl=impl)
    for field in result:
        assert field.isnan().tolist() == [False, False, True, False]


def test_minus_infinite_bias_takes_a_token_out(impl):
    hidden, weight = random_head(4, 16, 70)
    bias = torch.zeros(70)
    bias[:65] = -torch.inf
    result = linear_token_logprobs(hidden, weight, torch.tensor([0, 65, 66, 69]), bias=bias, impl=impl)
    expected = linear_token_logprobs(hidden, weight[65:], torch.tensor([0, 0, 1, 4]), impl="reference")
    assert result.logprob[0] == -torch.inf
    torch.testing.assert_close(result.logprob[1:], expected.logprob[1:])
    torch.testing.assert_close(result.entropy, expected.entropy)


def test_confident_token_keeps_its_complement(impl):
    weight = torch.zeros(1000, 8)
    weight[321, 0] = 25.0
    hidden = torch.zeros(1, 8)
    hidden[0, 0] = 1.0
    logprob = linear_token_logprobs(hidden, weight, torch.tensor([321]), impl=impl).logprob.double()
    torch.testing.assert_close(logprob, -torch.log1p(999 * torch.exp(torch.tensor([-25.0], dtype=torch.float64))), rtol=2e-6, atol=0)


@pytest.mark.native
def test_bfloat16_logits_are_not_rounded():
    hidden, weight = random_head(16, 256, 2000, dtype=torch.bfloat16)
    ids = random_ids((16,), 2000)
    exact = linear_token_logprobs(hidden.double(), weight.double(), ids).logprob
    native = linear_token_logprobs(hidden, weight, ids, impl="native").logprob
    rounded = (hidden @ weight.T).float().log_softmax(-1).gather(1, ids[:, None])[:, 0]
    assert (native - exact).abs().max() < 2e-5
    assert (rounded - exact).abs().max() > 5e-3


def test_autocast_changes_nothing(impl):
    hidden, weight = random_head(5, 64, 90)
    ids, bias = random_ids((5,), 90), torch.randn(90)

    def run(autocast):
        inputs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            result = linear_token_logprobs(*inputs, ids, bias=bias, impl=impl)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast and impl == "native"):  # autograd's own backward is the caller's affair
            return *result, *torch.autograd.grad(result.logprob.sum(), inputs)

    assert all(same_bits(a, b) for a, b in zip(run(True), run(False), strict=True))


def test_bias_may_have_the_dtype_of_hidden(impl):
    hidden, weight = random_head(5, 16, 90, dtype=torch.bfloat16)
    ids, bias = random_ids((5,), 90), torch.randn(90).bfloat16()
    narrow, wide = (linear_token_logprobs(hidden, weight, ids, bias=b, impl=impl) for b in (bias, bias.float()))
    assert all(same_bits(a, b) for a, b in zip(narrow, wide, strict=True))


@pytest.mark.parametrize("leading", [(), (2, 3), (2, 3, 2), (0, 3), (3, 0)])
def test_leading_sizes_of_hidden_are_those_of_the_results(impl, leading):
    n = math.prod(leading)
    hidden, weight = random_head(2 * n, 8, 20)
    hidden = hidden.view(n, 2, 8)[:, 1].unflatten(0, leading) if leading else hidden[1]  # rows are not next to each other
    temperature = torch.rand(leading) + 0.5
    for ids in (random_ids(leading, 20), random_ids((*leading, 3), 20)):
        found = linear_token_logprobs(hidden, weight, ids, temperature=temperature, impl=impl)
        flat = ids.reshape(n, *ids.shape[len(leading) :])
        expected = linear_token_logprobs(hidden.reshape(n, 8), weight, flat, temperature=temperature.reshape(n), impl=impl)
        assert [x.shape for x in found] == [ids.shape, leading, leading]
        assert all(same_bits(x.flatten(), y.flatten()) for x, y in zip(found, expected, strict=True))


def test_leading_sizes_compile(impl):
    def run(hidden, weight, ids):
        return linear_token_logprobs(hidden, weight, ids, temperature=0.7, impl=impl).logprob.sum()

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for leading in ((2, 3), (4, 5)):
        n = math.prod(leading)
        hidden, weight = (x.requires_grad_() for x in random_head(n, 8, 20))
        ids = random_ids(leading, 20)
        expected, found = (torch.autograd.grad(f(hidden.view(*leading, 8), weight, ids), (hidden, weight)) for f in (run, compiled))
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True))  # sums in other orders


def test_rows_are_of_all_leading_sizes_together(impl):
    hidden, weight = random_head(6, 8, 20)
    ids, rows = random_ids((3,), 20), torch.tensor([5, 0, 3])
    found, expected = (linear_token_logprobs(x, weight, ids, rows=rows, impl=impl) for x in (hidden.view(2, 3, 8), hidden))
    assert all(same_bits(x, y) for x, y in zip(found, expected, strict=True))


HIDDEN, WEIGHT = random_head(3, 8, 20)
IDS = random_ids((3,), 20)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((HIDDEN[0, 0], WEIGHT, IDS), {}, ValueError, r"hidden: expected shape \[..., H\], got \[\]"),
        ((HIDDEN.view(1, 3, 8), WEIGHT, IDS), {}, ValueError, r"token_ids: expected shape \[1, 3\] or \[1, 3, K\], got \[3\]"),
        ((HIDDEN, WEIGHT[:, :7], IDS), {}, ValueError, r"weight: expected shape \[V, 8\], got \[20, 7\]"),
        ((HIDDEN, WEIGHT.half(), IDS), {}, TypeError, "weight: expected float32, got torch.float16"),
        ((HIDDEN, WEIGHT[:0], IDS), {}, ValueError, r"weight: expected at least one row and one column, got \[0, 8\]"),
        ((HIDDEN, WEIGHT, IDS[:2]), {}, ValueError, r"token_ids: expected shape \[3\] or \[3, K\], got \[2\]"),
        ((HIDDEN, WEIGHT, IDS), {"rows": torch.tensor([0, 1, 3])}, ValueError, r"rows: expected values in \[0, 3\), got 3"),
        ((HIDDEN, WEIGHT, IDS), {"rows": torch.tensor([0, 1])}, ValueError, r"token_ids: expected shape \[2\] or \[2, K\], got \[3\]"),
        ((HIDDEN, WEIGHT, IDS), {"rows": torch.tensor([0.0, 1, 2])}, TypeError, "rows: expected int64, got torch.float32"),
        ((HIDDEN, WEIGHT, IDS), {"bias": torch.zeros(19)}, ValueError, r"bias: expected shape \[20\], got \[19\]"),
        ((HIDDEN, WEIGHT, IDS), {"softcap": -1}, ValueError, "softcap: expected a finite number above 0, got -1"),
        ((HIDDEN, WEIGHT, IDS), {"vocab_size": 21}, ValueError, "vocab_size: expected an integer from 1 to 20, got 21"),
        ((HIDDEN, WEIGHT, torch.tensor([0, 1, 12])), {"vocab_size": 12}, ValueError, r"token_ids: expected values in \[0, 12\) or -100, got 12"),
    ],
)
def test_bad_input_is_told_in_one_sentence(arguments, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        linear_token_logprobs(*arguments, **options)
