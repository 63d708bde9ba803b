"""MetaRM: its scores and loss against formulas, the last token of padded rows, and a guided vote that beats the sum of all."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from rrm_core.judges import DeepSeekGRM, labels_shown, shuffles
from rrm_core.judges.meta_rm import MetaRM, last_hidden

NAN, INF = float("nan"), float("inf")


def head(weight, bias=None):
    meta_rm = MetaRM(len(weight), bias=bias is not None)
    with torch.no_grad():
        meta_rm.score.weight.copy_(torch.tensor([weight]))
        if bias is not None:
            meta_rm.score.bias.fill_(bias)
    return meta_rm


def test_a_score_is_the_products_sum_over_any_leading_sizes():
    meta_rm = head([1.0, -2.0, 0.5], bias=0.25)
    hidden = torch.tensor([[[1.0, 1.0, 2.0], [0.0, 0.5, 0.0]]])
    assert meta_rm(hidden).tolist() == [[0.25, -0.75]]
    assert meta_rm(hidden[0, 0]).shape == ()
    assert meta_rm(hidden[0, 0]).item() == 0.25
    assert meta_rm(torch.empty(2, 0, 3)).shape == (2, 0)
    assert head([1.0, -2.0, 0.5])(hidden).tolist() == [[0.0, -1.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_are_computed_in_float32_whatever_comes_in(dtype):
    meta_rm = head([1.0, 2.0**-12])
    hidden = torch.tensor([[1.0, 1.0]], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = meta_rm(hidden)
        loss = meta_rm.loss(hidden, torch.tensor([True]))
    for score in (meta_rm(hidden), under):
        assert score.dtype == torch.float32
        assert score.item() == 1 + 2.0**-12  # no bfloat16 or float16
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-(1 + 2.0**-12))), rel=1e-6)  # a few roundings of float32


def test_an_untrained_head_rates_every_sample_alike():
    meta_rm = MetaRM(4)
    assert meta_rm(torch.randn(3, 5, 4)).eq(0).all()
    assert {name: list(p.shape) for name, p in meta_rm.named_parameters()} == {"score.weight": [1, 4], "score.bias": [1]}
    assert [name for name, _ in MetaRM(4, bias=False).named_parameters()] == ["score.weight"]


def test_rows_that_are_not_finite_score_nan_and_their_samples_are_not_counted():
    meta_rm = head([1.0, 1.0])
    hidden = torch.tensor([[[INF, 1.0], [3.0, 0.0], [NAN, 0.0], [-INF, 0.0]]])
    scores = meta_rm(hidden)
    assert scores.isnan().tolist() == [[True, False, True, True]]
    judge = DeepSeekGRM(2)
    votes = judge.aggregate(judge.parse(["\\boxed{9, 1}", "\\boxed{1, 2}", "\\boxed{9, 1}", "\\boxed{9, 1}"]), samples=4, meta=scores)
    assert votes.score.tolist() == [[1, 2]]


@given(st.lists(st.tuples(st.floats(-30, 30, width=32), st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_the_loss_is_the_mean_of_minus_log_likelihoods(rows):
    hidden = torch.tensor([[x] for x, _, _ in rows])
    correct, mask = torch.tensor([c for _, c, _ in rows]), torch.tensor([m for _, _, m in rows])

    def expected(used):
        terms = [math.log1p(math.exp(-x if c else x)) for x, c in used]
        return math.fsum(terms) / max(1, len(terms))

    meta_rm = head([1.0])
    tolerance = {"rel": 2e-6, "abs": 0}  # some roundings of float32, none of them magnified
    assert meta_rm.loss(hidden, correct).item() == pytest.approx(expected([(x, c) for x, c, _ in rows]), **tolerance)
    assert meta_rm.loss(hidden, correct, mask).item() == pytest.approx(expected([(x, c) for x, c, m in rows if m]), **tolerance)


def test_the_gradient_is_that_of_logistic_regression():
    meta_rm = head([0.5, -1.0], bias=0.25)
    hidden = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    correct = torch.tensor([True, False])
    meta_rm.loss(hidden, correct).backward()
    miss = (torch.sigmoid(torch.tensor([0.5 - 2 + 0.25, 1.5 + 0.25])) - torch.tensor([1.0, 0.0])) / 2
    torch.testing.assert_close(meta_rm.score.weight.grad, (miss @ hidden.detach()).unsqueeze(0))
    torch.testing.assert_close(meta_rm.score.bias.grad, miss.sum().view(1))
    torch.testing.assert_close(hidden.grad, miss.unsqueeze(1) * torch.tensor([[0.5, -1.0]]))


def test_masked_rows_are_not_read_and_others_are():
    meta_rm = head([1.0, 1.0], bias=0.0)
    clean, dirty = torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([[1.0, 2.0], [NAN, INF]])
    correct, mask = torch.tensor([False, True]), torch.tensor([True, False])
    dirty.requires_grad_()
    loss = meta_rm.loss(dirty, correct, mask)
    assert loss.item() == meta_rm.loss(clean[:1], correct[:1]).item()
    loss.backward()
    assert meta_rm.score.weight.grad.isfinite().all()
    assert dirty.grad[1].tolist() == [0, 0]
    assert meta_rm.loss(dirty, correct).isnan()


def test_the_loss_of_no_samples_is_0():
    meta_rm = head([1.0, 1.0])
    for hidden in (torch.full((3, 2), NAN), torch.empty(0, 2)):
        loss = meta_rm.loss(hidden, torch.ones(len(hidden), dtype=torch.bool), torch.zeros(len(hidden), dtype=torch.bool))
        loss.backward()
        assert loss.item() == 0
        assert meta_rm.score.weight.grad.eq(0).all()


def drawn(rows, size, seed=0, dtype=torch.float32):
    """Samples whose correctness depends on the columns, in scales and offsets far apart."""
    seed = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, size, generator=seed, dtype=torch.float64)
    correct = torch.rand(rows, generator=seed) < (x @ torch.linspace(-2, 2, size, dtype=torch.float64) + 0.5).sigmoid()
    return (x * torch.logspace(-2, 2, size) + torch.linspace(-5, 5, size)).to(dtype), correct


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("penalty", [1e-4, 0.1])
def test_a_fitted_head_has_the_least_loss(bias, penalty):
    hidden, correct = drawn(400, 5)
    meta_rm = MetaRM(5, bias=bias).fit(hidden.view(20, 20, 5), correct.view(20, 20), penalty=penalty)
    x, y = hidden.double(), correct.double()
    scale = x.std(0)

    def loss(parameters):
        t = torch.from_numpy(parameters).requires_grad_()
        score = x @ (t[:5] / scale) + (t[5] if bias else 0.0)
        value = torch.nn.functional.binary_cross_entropy_with_logits(score, y) + penalty / 2 * t[:5].square().sum()
        return value.item(), torch.autograd.grad(value, t)[0].numpy()

    found = minimize(loss, np.zeros(6 if bias else 5), jac=True, method="BFGS", options={"gtol": 1e-9})
    weight = torch.from_numpy(found.x[:5]) / scale
    assert meta_rm.score.weight[0].tolist() == pytest.approx(weight.tolist(), rel=1e-4)  # both stop at small gradients
    if bias:
        assert meta_rm.score.bias.item() == pytest.approx(found.x[5], rel=1e-4)
    assert meta_rm.score.weight.requires_grad  # training may go on from there
    assert meta_rm.score.weight.dtype == torch.float32


def test_fit_reads_what_counts_and_is_finite():
    hidden, correct = drawn(300, 3)
    clean = MetaRM(3).fit(hidden[:200], correct[:200])
    hidden[200:250] = NAN
    hidden[250:260, 1] = -INF
    mask = torch.arange(300) < 260
    hidden[260:] *= 1e6
    masked = MetaRM(3).fit(hidden, correct, mask)
    for a, b in zip(masked.parameters(), clean.parameters(), strict=True):
        assert a.tolist() == b.tolist()


def test_samples_that_can_be_told_apart_and_columns_without_spread_leave_finite_weights():
    correct = torch.arange(20) < 10
    hidden = torch.stack((torch.where(correct, 1.0, -1.0), torch.full((20,), 0.1), torch.zeros(20)), 1)
    meta_rm = MetaRM(3).fit(hidden, correct)
    assert meta_rm.score.weight[0, 0] > 1
    assert meta_rm.score.weight[0, 1:].tolist() == [0.0, 0.0]
    assert ((meta_rm(hidden) > 0) == correct).all()


def test_the_last_token_of_rows_padded_on_either_side():
    hidden = torch.arange(24.0).view(4, 3, 2)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    assert last_hidden(hidden, mask).tolist() == [[2, 3], [10, 11], [12, 13], [22, 23]]


def test_a_row_without_tokens_gives_nan_and_what_is_padding_is_not_read():
    hidden = torch.tensor([[[1.0], [NAN]], [[2.0], [3.0]]], dtype=torch.bfloat16, requires_grad=True)
    found = last_hidden(hidden, torch.tensor([[True, False], [False, False]]))
    assert found.dtype == torch.bfloat16
    assert found[0].item() == 1
    assert found[1].isnan().all()
    assert MetaRM(1)(found).isnan().tolist() == [False, True]
    found[0].sum().backward()
    assert hidden.grad.flatten().tolist() == [1, 0, 0, 0]


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_the_last_token_is_that_of_a_plain_loop(rows, length, seed):
    source = torch.Generator().manual_seed(seed)
    hidden, mask = torch.randn(rows, length, 3, generator=source), torch.rand(rows, length, generator=source) < 0.5
    for found, states, tokens in zip(last_hidden(hidden, mask), hidden, mask, strict=True):
        places = tokens.nonzero().flatten().tolist()
        assert torch.equal(found, states[places[-1]]) if places else found.isnan().all()


def samples(problems, k, n, seed):
    """A judge that is right in 45 of 100 samples, where the best gets 9; in the others one and the same wrong answer gets 10, so that sums mislead.
    Hidden states tell the two apart along one direction, by 2 deviations each way. -> best [B], order [B, k, n], B * k texts, hidden [B * k, 16]"""
    source = torch.Generator().manual_seed(seed)
    best = torch.randint(n, (problems,), generator=source)
    right = torch.rand(problems, k, generator=source) < 0.45
    high = torch.where(right, best.unsqueeze(1), (best.unsqueeze(1) + 1) % n)
    worth = torch.full((problems, k, n), 2).scatter(2, high.unsqueeze(2), torch.where(right, 9, 10).unsqueeze(2))
    order = shuffles(problems, k, n, seed)
    shown = worth.gather(2, order).view(-1, n).tolist()
    texts = [f"Scores: \\boxed{{{', '.join(map(str, row))}}}" for row in shown]
    hidden = torch.randn(problems * k, 16, generator=source)
    hidden[:, :2] += torch.where(right.view(-1, 1), 1.5, -1.5)
    return best, order, texts, hidden.to(torch.bfloat16)


def test_a_trained_meta_rm_guides_the_vote_to_the_best_answer():
    judge, k = DeepSeekGRM(3), 8
    best, order, texts, hidden = samples(200, k, 3, seed=0)
    correct = judge.correct(judge.parse(texts), labels_shown(best, order))
    meta_rm = MetaRM(16)
    optimizer = torch.optim.SGD(meta_rm.parameters(), lr=1.0)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = meta_rm.loss(hidden, correct)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(2))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.1

    best, order, texts, hidden = samples(300, k, 3, seed=1)  # others
    verdicts = judge.parse(texts)
    correct = judge.correct(verdicts, labels_shown(best, order))
    meta = meta_rm(hidden).view(-1, k)
    assert ((meta > 0).flatten() == correct).float().mean() > 0.95

    def accuracy(**options):
        return (judge.aggregate(verdicts, samples=k, permutation=order, **options).winner == best).float().mean().item()

    plain, guided, worst = accuracy(), accuracy(meta=meta), accuracy(meta=-meta)
    assert guided > plain + 0.3
    assert guided > 0.7
    assert worst < plain
    assert accuracy(meta=meta, k_meta=k) == plain  # all of them: no choice


def test_weights_of_a_sequence_classifier_load():
    meta_rm = MetaRM(2, bias=False)
    meta_rm.load_state_dict({"score.weight": torch.tensor([[1.0, 3.0]])})
    assert meta_rm(torch.tensor([1.0, 2.0])).item() == 7
    assert copy.deepcopy(meta_rm).to(torch.bfloat16)(torch.tensor([1.0, 2.0])).dtype == torch.float32


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "hidden_size: expected an integer, got float", lambda: MetaRM(2.0)),
        (TypeError, "hidden_size: expected an integer, got bool", lambda: MetaRM(True)),
        (ValueError, "hidden_size: expected at least 1, got 0", lambda: MetaRM(0)),
        (TypeError, "hidden: expected a tensor, got list", lambda: MetaRM(2)([1.0, 2.0])),
        (TypeError, "hidden: expected .*, got torch.int64", lambda: MetaRM(2)(torch.ones(2, dtype=torch.int64))),
        (ValueError, r"hidden: expected shape \[..., 2\], got \[3\]", lambda: MetaRM(2)(torch.ones(3))),
        (ValueError, r"hidden: expected shape \[..., 2\], got \[3\]", lambda: MetaRM(2).loss(torch.ones(3), torch.tensor(True))),
        (TypeError, "correct: expected bool, got torch.float32", lambda: MetaRM(2).loss(torch.ones(3, 2), torch.ones(3))),
        (ValueError, r"correct: expected shape \[3\], got \[2\]", lambda: MetaRM(2).loss(torch.ones(3, 2), torch.tensor([True, True]))),
        (TypeError, "mask: expected bool", lambda: MetaRM(2).loss(torch.ones(1, 2), torch.tensor([True]), torch.ones(1))),
        (ValueError, r"mask: expected shape \[1\]", lambda: MetaRM(2).loss(torch.ones(1, 2), torch.tensor([True]), torch.tensor(True))),
        (TypeError, "max_iter: expected an integer, got float", lambda: MetaRM(2).fit(torch.eye(2), torch.tensor([True, False]), max_iter=2.0)),
        (ValueError, "penalty: expected a finite number above 0, got 0", lambda: MetaRM(2).fit(torch.eye(2), torch.tensor([True, False]), penalty=0)),
        (
            ValueError,
            "correct: expected samples of both kinds to learn from, got 2 correct ones of 2",
            lambda: MetaRM(2).fit(torch.eye(2), torch.ones(2) > 0),
        ),
        (
            ValueError,
            "correct: expected samples of both kinds to learn from, got 0 correct ones of 0",
            lambda: MetaRM(2).fit(torch.eye(2)[:0], torch.ones(0) > 0),
        ),
        (ValueError, r"hidden: expected shape \[K, T, H\]", lambda: last_hidden(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool))),
        (ValueError, "hidden: expected .* T > 0", lambda: last_hidden(torch.ones(2, 0, 2), torch.ones(2, 0, dtype=torch.bool))),
        (TypeError, "mask: expected bool, got torch.int64", lambda: last_hidden(torch.ones(1, 2, 2), torch.ones(1, 2, dtype=torch.int64))),
        (ValueError, r"mask: expected shape \[1, 2\]", lambda: last_hidden(torch.ones(1, 2, 2), torch.ones(2, 1, dtype=torch.bool))),
    ],
)
def test_bad_input_is_told(error, message, call):
    with pytest.raises(error, match=message):
        call()
