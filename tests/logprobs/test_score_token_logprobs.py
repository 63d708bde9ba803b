import math

import pytest
import torch

from rrm_core import ScoreTokenHead, ScoreTokens, score_token_logprobs, score_token_logprobs_from_logits
from rrm_core.testing import assert_native_within_contract, guarded, layouts, random_head, random_ids, random_logits, same_bits

PAIR = ScoreTokens({"A": [3, 70], "B": [64]}, values={"A": 1.0, "B": 0.0})
SCALE = ScoreTokens({str(i): [10 + i] for i in range(1, 10)}, values=range(1, 10))
SETS = [PAIR, SCALE]
pytestmark = pytest.mark.triton


@pytest.mark.native
@pytest.mark.parametrize("full_vocab", [True, False])
@pytest.mark.parametrize("shape", [(1, 8, 71), (5, 33, 128), (18, 20, 300), pytest.param((130, 20, 1000), marks=pytest.mark.cpu)], ids=str)
def test_native_within_contract(shape, full_vocab, dtype):
    hidden, weight = random_head(*shape, dtype=dtype)
    assert_native_within_contract(score_token_logprobs, guarded(hidden), guarded(weight), PAIR, full_vocab=full_vocab)


@pytest.mark.native
@pytest.mark.parametrize("full_vocab", [True, False])
def test_native_within_contract_with_every_option(full_vocab, dtype):
    hidden, weight = random_head(20, 48, 300, dtype=dtype)
    options = {"rows": random_ids((33,), 20), "row_sets": random_ids((33,), 2), "bias": torch.randn(300), "temperature": torch.rand(33) + 0.5}
    assert_native_within_contract(score_token_logprobs, hidden, weight, SETS, **options, softcap=9.0, vocab_size=290, full_vocab=full_vocab)


@pytest.mark.native
@pytest.mark.parametrize("full_vocab", [True, False])
def test_from_logits_native_within_contract(full_vocab, dtype):
    logits = random_logits(2, 2, 1100, dtype=dtype)
    options = {"row_sets": random_ids((2, 2), 2), "temperature": torch.rand(2, 2) + 0.5, "full_vocab": full_vocab}
    expected = score_token_logprobs_from_logits(logits, SETS, **options, impl="native")
    for name, view in layouts(logits).items():
        assert_native_within_contract(score_token_logprobs_from_logits, view, SETS, **options)
        for a, b in zip(score_token_logprobs_from_logits(view, SETS, **options, impl="native"), expected, strict=True):
            assert a is b is None or same_bits(a, b), name


def test_equals_the_two_lines_of_its_docstring(impl):
    hidden, weight = random_head(6, 20, 90)
    rows, bias = torch.tensor([5, 0, 0]), torch.randn(90)
    result = score_token_logprobs(hidden, weight, PAIR, rows=rows, bias=bias, temperature=0.7, impl=impl)
    log_p = (hidden[rows] @ weight.T + bias).div(0.7).log_softmax(-1)
    logprob = torch.stack([log_p[:, list(ids)].logsumexp(-1) for ids in PAIR.forms], -1)
    q = logprob.softmax(-1)
    torch.testing.assert_close(result.logprob, logprob)
    torch.testing.assert_close(result.conditional, logprob.log_softmax(-1))
    torch.testing.assert_close(result.log_mass, logprob.logsumexp(-1))
    torch.testing.assert_close(result.expected, q[:, 0])
    torch.testing.assert_close(result.variance, q[:, 0] * q[:, 1])
    torch.testing.assert_close(result.entropy, -(q * q.log()).sum(-1))


@pytest.mark.native
def test_labels_only_has_the_bits_of_the_full_result(dtype):
    hidden, weight = random_head(35, 96, 300, dtype=dtype)
    options = {"row_sets": random_ids((35,), 2), "bias": torch.randn(300), "temperature": 0.7, "softcap": 20.0, "impl": "native"}
    full = score_token_logprobs(hidden, weight, SETS, **options)
    labels = score_token_logprobs(hidden, weight, SETS, **options, full_vocab=False)
    assert labels.logprob is labels.log_mass is None
    for name in ("conditional", "expected", "variance", "entropy"):
        assert same_bits(getattr(full, name), getattr(labels, name)), name


@pytest.mark.native
@pytest.mark.parametrize("full_vocab", [True, False])
def test_any_layout_of_the_head_gives_the_same_bits(full_vocab, dtype):
    hidden, weight = random_head(6, 40, 150, dtype=dtype)
    expected = score_token_logprobs(hidden, weight, PAIR, full_vocab=full_vocab, impl="native")
    wide = torch.cat([weight, weight.new_full((150, 9), torch.nan)], 1)[:, :40]
    for h, w in [(hidden.T.contiguous().T, weight.T.contiguous().T), (hidden, wide), (hidden.repeat_interleave(3, 1)[:, ::3], weight)]:
        for a, b in zip(score_token_logprobs(h, w, PAIR, full_vocab=full_vocab, impl="native"), expected, strict=True):
            assert a is b is None or same_bits(a, b)


def test_columns_past_a_rows_labels_are_minus_infinity(impl):
    hidden, weight = random_head(4, 16, 80)
    mixed = score_token_logprobs(hidden, weight, SETS, row_sets=torch.tensor([0, 1, 0, 1]), impl=impl)
    alone = score_token_logprobs(hidden, weight, PAIR, impl=impl)
    assert mixed.logprob.shape == (4, 9)
    assert bool((mixed.logprob[[0, 2], 2:] == -torch.inf).all())
    assert bool((mixed.conditional[[0, 2], 2:] == -torch.inf).all())
    torch.testing.assert_close(mixed.logprob[[0, 2], :2], alone.logprob[[0, 2]])
    torch.testing.assert_close(mixed.expected[[0, 2]], alone.expected[[0, 2]])
    torch.testing.assert_close(mixed.entropy[[0, 2]], alone.entropy[[0, 2]])


def test_fields_that_were_not_asked_for_are_none(impl):
    hidden, weight = random_head(2, 8, 80)
    result = score_token_logprobs(hidden, weight, ScoreTokens({"A": [1], "B": [2]}), full_vocab=False, impl=impl)
    assert [name for name, field in zip(result._fields, result, strict=True) if field is None] == ["logprob", "log_mass", "expected", "variance"]


def test_a_label_is_the_sum_of_its_forms(impl):
    logits = torch.zeros(1, 10)
    result = score_token_logprobs_from_logits(logits, ScoreTokens({"A": [0, 1, 2], "B": [5]}, values=[1.0, 0.0]), impl=impl)
    torch.testing.assert_close(result.logprob[0], torch.tensor([0.3, 0.1]).log())
    torch.testing.assert_close(result.conditional[0], torch.tensor([0.75, 0.25]).log())
    torch.testing.assert_close(result.log_mass, torch.tensor([math.log(0.4)]))
    torch.testing.assert_close(result.expected, torch.tensor([0.75]))
    torch.testing.assert_close(result.variance, torch.tensor([0.1875]))


def test_mass_near_one_keeps_its_complement(impl):
    logits = torch.zeros(1, 1500)
    logits[0, [3, 70]] = 24.0
    result = score_token_logprobs_from_logits(logits, PAIR, impl=impl)
    others = 1498 * math.exp(-24.0) / 2
    b = math.exp(-24.0) / 2
    for got, exact in ((result.logprob[0, 0], -math.log1p(others)), (result.log_mass[0], -math.log1p((others - b) / (1 + b)))):
        assert math.isclose(float(got), exact, rel_tol=2e-6)
    assert math.isclose(float(result.conditional[0, 0]), -math.log1p(b), rel_tol=2e-6)


def test_a_row_without_a_distribution_is_nan_alone(impl):
    logits = random_logits(4, 1100)
    logits[0, 1000] = torch.nan
    logits[1, 1000] = torch.inf
    logits[2, :] = -torch.inf
    result = score_token_logprobs_from_logits(logits, PAIR, impl=impl)
    for name, field in zip(result._fields, result, strict=True):
        assert field[:3].isnan().all(), name
        assert field[3].isfinite().all(), name


@pytest.mark.parametrize("full_vocab", [True, False])
def test_a_nan_form_beside_an_impossible_one_is_seen(impl, full_vocab):
    logits = random_logits(2, 100)
    logits[0, 3], logits[0, 70] = -torch.inf, torch.nan
    result = score_token_logprobs_from_logits(logits, PAIR, full_vocab=full_vocab, impl=impl)
    assert result.conditional.isnan().tolist() == [[True, True], [False, False]]


def test_labels_without_probability(impl):
    logits = random_logits(3, 100)
    logits[0, 64] = -torch.inf  # B cannot be said
    logits[1, [3, 64, 70]] = -torch.inf  # nor A nor B
    logits[2, 3] = -torch.inf  # one form of A
    result = score_token_logprobs_from_logits(logits, PAIR, impl=impl)
    assert result.logprob[0, 1] == -torch.inf
    assert result.conditional[0].tolist() == [0.0, -torch.inf]
    assert (result.expected[0], result.variance[0], result.entropy[0]) == (1.0, 0.0, 0.0)
    assert result.logprob[1].tolist() == [-torch.inf, -torch.inf]
    assert result.log_mass[1] == -torch.inf
    assert result.conditional[1].isnan().all()
    torch.testing.assert_close(result.logprob[2], logits[2].log_softmax(-1)[[70, 64]])


def test_the_whole_vocabulary_may_be_labels(impl):
    logits = random_logits(3, 4)
    result = score_token_logprobs_from_logits(logits, ScoreTokens({"A": [0, 2], "B": [1], "C": [3]}), impl=impl)
    torch.testing.assert_close(result.log_mass, torch.zeros(3), rtol=0, atol=3e-7)
    torch.testing.assert_close(result.conditional, result.logprob)


@pytest.mark.parametrize("full_vocab", [True, False])
def test_no_rows(impl, full_vocab):
    hidden, weight = (x.requires_grad_() for x in random_head(3, 8, 80))
    result = score_token_logprobs(hidden, weight, PAIR, rows=torch.empty(0, dtype=torch.int64), full_vocab=full_vocab, impl=impl)
    assert result.conditional.shape == (0, 2)
    assert result.entropy.shape == result.expected.shape == (0,)
    (result.conditional.sum() + result.expected.sum()).backward()
    assert not hidden.grad.any()
    assert not weight.grad.any()
    logits = torch.empty(2, 0, 80, requires_grad=True)
    score_token_logprobs_from_logits(logits, PAIR, full_vocab=full_vocab, impl=impl).entropy.sum().backward()
    assert logits.grad.shape == (2, 0, 80)


def test_a_single_row_without_a_batch(impl):
    logits = random_logits(80)
    single, batch = (score_token_logprobs_from_logits(x, PAIR, impl=impl) for x in (logits, logits[None]))
    for a, b in zip(single, batch, strict=True):
        torch.testing.assert_close(a, b[0])


def test_labels_past_a_rows_own_stay_minus_infinity_in_a_nan_row(impl):
    logits = torch.full((2, 100), torch.nan)
    result = score_token_logprobs_from_logits(logits, SETS, row_sets=torch.tensor([0, 1]), impl=impl)
    for field in (result.logprob, result.conditional):
        assert bool((field[0, 2:] == -torch.inf).all())
        assert bool(field[0, :2].isnan().all())
        assert bool(field[1].isnan().all())


def test_values_keep_float64():
    tokens = ScoreTokens({"A": [0], "B": [1]}, values=[0.1, 0.7])
    assert score_token_logprobs_from_logits(torch.zeros(1, 2, dtype=torch.float64), tokens).expected.item() == pytest.approx(0.4, rel=1e-15)


def test_values_of_one_set_are_not_anothers(impl):
    hidden, weight = random_head(3, 8, 80)
    plain = ScoreTokens({"A": [3, 70], "B": [64]})
    swapped = ScoreTokens({"A": [3, 70], "B": [64]}, values=[0.0, 1.0])
    sets = torch.tensor([0, 1, 0])
    assert score_token_logprobs(hidden, weight, PAIR, impl=impl).expected is not None
    assert score_token_logprobs(hidden, weight, plain, impl=impl).expected is None
    assert score_token_logprobs(hidden, weight, [PAIR, plain], row_sets=sets, impl=impl).expected is None
    both = [score_token_logprobs(hidden, weight, s, impl=impl).expected for s in (PAIR, swapped)]
    torch.testing.assert_close(both[0] + both[1], torch.ones(3))


@pytest.mark.parametrize("full_vocab", [True, False])
def test_leading_sizes_of_hidden_are_those_of_the_results(full_vocab, impl):
    hidden, weight = random_head(6, 8, 80)
    options = {"row_sets": torch.tensor([0, 1, 0, 1, 1, 0]), "temperature": torch.rand(6) + 0.5}
    expected = score_token_logprobs(hidden, weight, SETS, **options, full_vocab=full_vocab, impl=impl)
    shaped = {name: x.view(2, 3) for name, x in options.items()}
    found = score_token_logprobs(hidden.view(2, 3, 8), weight, SETS, **shaped, full_vocab=full_vocab, impl=impl)
    for a, b in zip(found, expected, strict=True):
        assert a is b is None or (a.shape[:2] == (2, 3) and same_bits(a.flatten(0, 1), b))


def test_module_shares_the_models_head():
    head = torch.nn.Linear(16, 80, bias=True)
    hidden = torch.randn(2, 5, 16)
    module = ScoreTokenHead(head, SETS, temperature=0.5, softcap=8.0)
    rows, sets = torch.tensor([4, 9]), torch.tensor([0, 1])
    expected = score_token_logprobs(hidden.flatten(0, 1), head.weight, SETS, rows=rows, row_sets=sets, bias=head.bias, temperature=0.5, softcap=8.0)
    for a, b in zip(module(hidden, rows, sets), expected, strict=True):
        assert same_bits(a, b)
    assert ScoreTokenHead(head, PAIR, full_vocab=False)(hidden).logprob is None
    assert module(hidden, row_sets=sets.new_zeros(2, 5)).conditional.shape == (2, 5, 9)
    assert [id(p) for p in module.parameters()] == [id(head.weight), id(head.bias)]


HIDDEN, WEIGHT = random_head(3, 8, 80)


@pytest.mark.parametrize(
    ("tokens", "options", "error", "message"),
    [
        (PAIR, {"vocab_size": 70}, ValueError, "score_tokens: expected token ids below the vocabulary size 70, got 70"),
        ({"A": [1]}, {}, TypeError, "score_tokens: expected ScoreTokens or a list of them, got dict"),
        ([PAIR, [1]], {}, TypeError, "score_tokens: expected ScoreTokens or a list of them, got list"),
        ([], {}, ValueError, "score_tokens: expected at least one ScoreTokens, got none"),
        (SETS, {}, ValueError, "row_sets: expected each row's set, with 2 ScoreTokens, got None"),
        (SETS, {"row_sets": torch.tensor([0, 1])}, ValueError, r"row_sets: expected shape \[3\], got \[2\]"),
        (SETS, {"row_sets": torch.tensor([0, 1, 2])}, ValueError, r"row_sets: expected values in \[0, 2\), got 2"),
        (PAIR, {"rows": torch.tensor([-1])}, ValueError, r"rows: expected values in \[0, 3\), got -1"),
    ],
)
def test_bad_input_is_told_in_one_sentence(tokens, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        score_token_logprobs(HIDDEN, WEIGHT, tokens, **options)


def test_a_set_first_used_in_inference_mode_can_be_trained_with():
    tokens = ScoreTokens({"A": [1], "B": [2]}, values=[0.25, 0.5])
    hidden, weight = random_head(2, 8, 80)
    with torch.inference_mode():
        score_token_logprobs(hidden, weight, tokens)
    hidden.requires_grad_()
    score_token_logprobs(hidden, weight, tokens).expected.sum().backward()
    assert bool((hidden.grad != 0).any())


def test_fake_tensors_see_shapes_only():
    with torch._subclasses.FakeTensorMode():
        hidden, weight = torch.empty(3, 8), torch.empty(80, 8)
        assert score_token_logprobs(hidden, weight, PAIR).logprob.shape == (3, 2)
    assert bool(score_token_logprobs(*random_head(3, 8, 80), PAIR).logprob.isfinite().all())
