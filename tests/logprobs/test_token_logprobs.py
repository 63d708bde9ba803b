import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core import NativeKernelError, token_logprobs
from rrm_core.testing import assert_native_within_contract, guarded, layouts, random_ids, random_logits, same_bits

pytestmark = pytest.mark.triton
# blocks of columns: 1024 in C++; 2048 within 16384 in Triton, so that the last shape is three of them with a ragged end
SHAPES = [(1, 1), (3, 7), (5, 1023), (2, 1024), (2, 1025), (4, 5000), (0, 9), (3, 2 * 16384 + 2048 + 77)]


@pytest.mark.native
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_within_contract(shape, dtype):
    logits = guarded(random_logits(*shape, dtype=dtype))
    assert_native_within_contract(token_logprobs, logits, random_ids(shape[:1], shape[1]))


@pytest.mark.native
@pytest.mark.parametrize("temperature", [0.3, 1.7, torch.tensor(0.6), torch.tensor([0.5, 1.0, 2.0])], ids=["0.3", "1.7", "0-d", "[N]"])
def test_native_within_contract_with_temperature(temperature, dtype):
    assert_native_within_contract(token_logprobs, random_logits(3, 700, dtype=dtype), random_ids((3, 4), 700), temperature=temperature)


@pytest.mark.native
@given(
    n=st.integers(1, 6), v=st.integers(1, 1100), k=st.integers(1, 5), scale=st.floats(0, 40), offset=st.floats(-500, 500), seed=st.integers(0, 999)
)
def test_native_within_contract_for_any_shape(n, v, k, scale, offset, seed):
    logits = random_logits(n, v, scale=scale, offset=offset, seed=seed)
    assert_native_within_contract(token_logprobs, logits, random_ids((n, k), v, seed))


@pytest.mark.native
def test_any_layout_gives_the_same_bits(dtype):
    x = random_logits(3, 4, 1100, dtype=dtype)
    ids = random_ids((3, 4), 1100)
    expected = token_logprobs(x, ids, impl="native")
    for name, view in layouts(x).items():
        assert torch.equal(view, x)
        for a, b in zip(token_logprobs(view, ids, impl="native"), expected, strict=True):
            assert same_bits(a, b), name


@pytest.mark.native
def test_expanded_rows_and_a_single_row_agree():
    row = random_logits(1, 333)
    many = token_logprobs(row.expand(9, -1), random_ids((1,), 333).expand(9), impl="native")
    one = token_logprobs(row[0], random_ids((1,), 333)[0], impl="native")
    assert all(same_bits(m[4], o) for m, o in zip(many, one, strict=True))


def test_equals_the_two_lines_of_its_docstring(impl):
    logits, ids = random_logits(2, 3, 50), random_ids((2, 3, 4), 50)
    result = token_logprobs(logits, ids, temperature=0.8, impl=impl)
    log_p = (logits / 0.8).log_softmax(-1)
    torch.testing.assert_close(result.logprob, log_p.gather(-1, ids))
    torch.testing.assert_close(result.entropy, -(log_p.exp() * log_p).sum(-1))
    torch.testing.assert_close(result.logsumexp, (logits / 0.8).logsumexp(-1))


def test_uniform_row_has_the_entropy_of_the_vocabulary(impl):
    result = token_logprobs(torch.full((1, 3000), -120.0), torch.tensor([7]), impl=impl)
    torch.testing.assert_close(result.entropy, torch.tensor([math.log(3000)]))
    torch.testing.assert_close(result.logprob, torch.tensor([-math.log(3000)]))


@pytest.mark.parametrize("gap", [15.0, 18.4, 25.0, 60.0])
def test_probability_near_one_keeps_its_complement(gap, impl, interpreted):
    logits = torch.zeros(1, 2000)
    logits[0, 1234] = gap
    result = token_logprobs(logits, torch.tensor([1234]), impl=impl)
    complement = 1999 * math.exp(-gap)
    # in Triton the exponential's argument is one number, rounded here and in units of log 2
    rtol = 1e-6 + gap * 2.0**-23 if interpreted else 2e-6
    torch.testing.assert_close(result.logprob.double(), torch.tensor([-math.log1p(complement)], dtype=torch.float64), rtol=rtol, atol=0)
    exact = math.log1p(complement) + complement / (1 + complement) * gap
    torch.testing.assert_close(result.entropy.double(), torch.tensor([exact], dtype=torch.float64), rtol=rtol, atol=0)


def test_large_offset_changes_nothing(impl):
    logits = random_logits(4, 1500).round(decimals=1).mul(8).round().div(8)
    ids = random_ids((4,), 1500)
    base, shifted = token_logprobs(logits, ids, impl=impl), token_logprobs(logits + 500.0, ids, impl=impl)
    torch.testing.assert_close(shifted.entropy, base.entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shifted.logprob, base.logprob, rtol=1e-5, atol=1e-4)


def test_minus_infinity_is_probability_zero(impl):
    logits = random_logits(3, 2100)
    logits[0, 5] = -torch.inf
    logits[1, :1024] = -torch.inf  # the native body's whole first block
    logits[2, :] = -torch.inf
    logits[2, 77] = 3.0
    ids = torch.tensor([[5, 6], [3, 1500], [77, 78]])
    result = token_logprobs(logits, ids, impl=impl)
    log_p = logits.double().log_softmax(-1)
    torch.testing.assert_close(result.logprob.double(), log_p.gather(-1, ids), rtol=1e-5, atol=1e-5)
    assert result.logprob[0, 0] == result.logprob[1, 0] == result.logprob[2, 1] == -torch.inf
    assert result.logprob[2, 0] == 0.0
    assert result.entropy[2] == 0.0
    assert bool(result.entropy.isfinite().all())


def test_a_row_without_a_distribution_is_nan_alone(impl):
    logits = random_logits(5, 1100)
    logits[0, 3] = torch.nan
    logits[1, :] = -torch.inf
    logits[2, 1099] = torch.inf
    logits[3, :] = torch.nan
    result = token_logprobs(logits, torch.zeros(5, dtype=torch.int64), impl=impl)
    assert result.logprob[:4].isnan().all()
    assert result.entropy[:4].isnan().all()
    assert same_bits(result.logsumexp[1:3], torch.tensor([-torch.inf, torch.inf]))
    assert result.logsumexp[[0, 3]].isnan().all()
    alone = token_logprobs(logits[4:], torch.zeros(1, dtype=torch.int64), impl=impl)
    for a, b in zip(result, alone, strict=True):
        torch.testing.assert_close(a[4:], b)


def test_a_vocabulary_of_one(impl):
    result = token_logprobs(torch.tensor([[3.0], [-torch.inf]]), torch.tensor([0, 0]), impl=impl)
    assert (result.logprob[0], result.entropy[0], result.logsumexp[0]) == (0.0, 0.0, 3.0)
    assert result.logprob[1].isnan()
    assert result.entropy[1].isnan()


def test_ignored_rows_are_exactly_zero_even_with_nan(impl):
    logits = random_logits(4, 60)
    logits[1] = torch.nan
    ids = torch.tensor([[3, 4], [-100, -100], [5, -100], [0, 1]])
    result = token_logprobs(logits, ids, impl=impl)
    assert result.logprob[1].tolist() == [0.0, 0.0]
    assert result.entropy[1] == result.logsumexp[1] == 0.0
    assert result.logprob[2, 1] == 0.0
    assert result.logprob[2, 0] < 0.0
    assert result.entropy[2] > 0.0
    other = token_logprobs(logits, torch.where(ids == -100, 7, ids), ignore_index=7, impl=impl)
    assert all(same_bits(a, b) for a, b in zip(result, other, strict=True))


@pytest.mark.native
@pytest.mark.cpu
def test_offsets_beyond_two_to_the_31_elements():
    stride = 2**30 + 1
    memory = torch.empty(2 * stride + 50, dtype=torch.bfloat16)  # untouched pages cost nothing
    logits = memory.as_strided((3, 50), (stride, 1))
    logits.copy_(random_logits(3, 50, dtype=torch.bfloat16))
    ids = random_ids((3,), 50)
    for a, b in zip(token_logprobs(logits, ids, impl="native"), token_logprobs(logits.contiguous(), ids, impl="native"), strict=True):
        assert same_bits(a, b)


@pytest.mark.native
@pytest.mark.cpu
def test_many_rows_of_few_tokens():
    logits, ids = random_logits(70_001, 3), random_ids((70_001,), 3)
    assert_native_within_contract(token_logprobs, logits, ids)


def test_float64_goes_to_the_reference():
    logits, ids = random_logits(2, 9).double(), random_ids((2,), 9)
    assert token_logprobs(logits, ids).logprob.dtype == torch.float64
    with pytest.raises(NativeKernelError, match=r"no native kernel of token_logprobs for torch\.float64 on cpu"):
        token_logprobs(logits, ids, impl="native")


def test_autocast_leaves_results_float32(impl):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = token_logprobs(random_logits(2, 9), random_ids((2,), 9), impl=impl)
    assert {r.dtype for r in result} == {torch.float32}


LOGITS = random_logits(2, 9)
IDS = random_ids((2,), 9)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((LOGITS.tolist(), IDS), {}, TypeError, "logits: expected a tensor, got list"),
        ((LOGITS.int(), IDS), {}, TypeError, "logits: expected float32 or bfloat16 or float16 or float64, got torch.int32"),
        ((LOGITS.to_sparse(), IDS), {}, TypeError, "logits: expected a strided tensor, got torch.sparse_coo"),
        ((torch.tensor(1.0), IDS), {}, ValueError, r"logits: expected shape \[\.\.\., V\], got \[\]"),
        ((LOGITS[:, :0], IDS), {}, ValueError, r"logits: expected a vocabulary of at least one token, got \[2, 0\]"),
        ((LOGITS, IDS.int()), {}, TypeError, "token_ids: expected int64, got torch.int32"),
        ((LOGITS, IDS[:1]), {}, ValueError, r"token_ids: expected shape \[2\] or \[2, K\], got \[1\]"),
        ((LOGITS, IDS[:, None][:, :0]), {}, ValueError, r"token_ids: expected at least one id per row, got \[2, 0\]"),
        ((LOGITS, IDS.to("meta")), {}, ValueError, "token_ids: expected a tensor on cpu, got meta"),
        ((LOGITS, torch.tensor([0, 9])), {}, ValueError, r"token_ids: expected values in \[0, 9\) or -100, got 9"),
        ((LOGITS, torch.tensor([-1, 0])), {}, ValueError, r"token_ids: expected values in \[0, 9\) or -100, got -1"),
        ((LOGITS, IDS), {"temperature": 0.0}, ValueError, "temperature: expected a finite number above 0, got 0.0"),
        ((LOGITS, IDS), {"temperature": float("nan")}, ValueError, "temperature: expected a finite number above 0, got nan"),
        ((LOGITS, IDS), {"temperature": 1e300}, ValueError, r"temperature: expected a number float32 can hold, got 1e\+300"),
        ((LOGITS, IDS), {"ignore_index": None}, TypeError, "ignore_index: expected an integer, got None"),
        ((LOGITS, IDS), {"temperature": "warm"}, TypeError, "temperature: expected a number, got str"),
        ((LOGITS, IDS), {"temperature": torch.tensor([1.0, -1.0])}, ValueError, "temperature: expected finite values above 0, got -1.0"),
        ((LOGITS, IDS), {"temperature": torch.ones(3)}, ValueError, r"temperature: expected shape \[\] or \[2\], got \[3\]"),
        ((LOGITS, IDS), {"impl": "cuda"}, ValueError, "impl: expected None, 'native' or 'reference', got 'cuda'"),
    ],
)
def test_bad_input_is_told_in_one_sentence(arguments, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        token_logprobs(*arguments, **options)
