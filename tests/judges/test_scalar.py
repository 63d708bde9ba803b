"""The scalar reward model and its loss against plain formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from rrm_core.judges.scalar import ScalarRM, pair_loss

H = 48


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (0,), (2, 1, 3)])
def test_scores_of_last_states(leading):
    model, hidden = ScalarRM(H), torch.randn(*leading, H)
    got = model.score(hidden)
    assert (got.shape, got.dtype) == (leading, torch.float32)
    torch.testing.assert_close(got.double(), (hidden.double() * model.head.weight.double()[0]).sum(-1), rtol=1e-5, atol=1e-5)
    assert torch.equal(model(hidden), got)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_product_is_computed_in_float32_or_wider(dtype):
    model, hidden = ScalarRM(H).to(dtype), torch.randn(40, H).to(dtype)
    got = model.score(hidden)
    wide = torch.promote_types(dtype, torch.float32)
    assert got.dtype == wide
    expected = (hidden.double() * model.head.weight.double()[0]).sum(-1)
    tolerance = 1e-5 if wide == torch.float32 else 1e-12
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    assert ScalarRM(H).score(hidden).dtype == wide


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_the_last_token_is_the_masks_last(leading):
    model, hidden = ScalarRM(H), torch.randn(*leading, 7, H)
    for start in range(7):
        for end in range(start + 1, 8):  # padded on either side, or both
            mask = torch.zeros(*leading, 7, dtype=torch.bool)
            mask[..., start:end] = True
            assert torch.equal(model.score(hidden, mask), model.score(hidden[..., end - 1, :]))


def test_texts_of_different_lengths():
    model, hidden = ScalarRM(H), torch.randn(3, 4, H)
    mask = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]]).bool()
    assert torch.equal(model.score(hidden, mask), model.score(hidden[torch.arange(3), torch.tensor([0, 2, 3])]))


def test_only_last_tokens_get_a_gradient():
    model, hidden = ScalarRM(H), torch.randn(2, 3, H, requires_grad=True)
    model.score(hidden, torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()).sum().backward()
    for text, last in ((0, 1), (1, 2)):
        for token in range(3):
            expected = model.head.weight[0] if token == last else torch.zeros(H)
            assert torch.equal(hidden.grad[text, token], expected)
    torch.testing.assert_close(model.head.weight.grad[0], (hidden[0, 1] + hidden[1, 2]).detach())


def test_a_compiled_text_without_a_token_scores_nan():
    model, hidden = ScalarRM(H), torch.randn(2, 3, H)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    got = torch.compile(model.score, backend="eager", fullgraph=True)(hidden, mask)
    assert got.isnan().tolist() == [False, True]


def test_the_head_has_no_bias_and_a_weight_of_the_published_variance():
    model = ScalarRM(40_000)
    assert [name for name, _ in model.named_parameters()] == ["head.weight"]
    assert model.head.weight.std().item() == pytest.approx(40_001**-0.5, rel=0.02)  # 5 standard errors: 0.018
    assert ScalarRM(4, dtype=torch.bfloat16).head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_loss(dtype, shape):
    chosen, rejected, margin = (torch.randn(3, *shape) * 3).to(dtype)
    for m in (0.0, 0.5, margin, margin.mean()):
        expected = -torch.log(1 / (1 + torch.exp(-(chosen.double() - rejected.double() - m))))
        got = pair_loss(chosen, rejected, margin=m, reduction="none")
        assert (got.shape, got.dtype) == (shape, torch.promote_types(dtype, torch.float32))
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(pair_loss(chosen, rejected, margin=m).double(), expected.mean(), rtol=1e-5, atol=1e-6)


def test_loss_by_hand():
    zero, one = torch.zeros(1), torch.ones(1)
    assert pair_loss(zero, zero).item() == pytest.approx(math.log(2))
    assert pair_loss(one, zero).item() == pytest.approx(math.log1p(math.exp(-1)))
    assert pair_loss(zero, one).item() == pytest.approx(math.log1p(math.e))
    assert pair_loss(one, zero, margin=1).item() == pytest.approx(math.log(2))
    assert pair_loss(one * 1e4, -one * 1e4).item() == 0
    assert pair_loss(-one * 1e4, one * 1e4).item() == 2e4


def test_gradient_of_the_loss():
    chosen, rejected = torch.randn(2, 4, dtype=torch.float64).unbind()
    chosen.requires_grad_()
    rejected.requires_grad_()
    pair_loss(chosen, rejected, margin=0.3).backward()
    expected = -torch.sigmoid(-(chosen - rejected - 0.3)).detach() / 4
    torch.testing.assert_close(chosen.grad, expected)
    torch.testing.assert_close(rejected.grad, -expected)


def test_pairs_are_learnt():
    truth, model = torch.randn(H), ScalarRM(H)
    hidden = torch.randn(200, 2, H)
    better = (hidden @ truth).argmax(1)
    rows = torch.arange(200)
    chosen, rejected = hidden[rows, better], hidden[rows, 1 - better]
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        pair_loss(model.score(chosen), model.score(rejected)).backward()
        optimizer.step()
    assert (model.score(chosen) > model.score(rejected)).all()


def test_errors():
    def fails(error, message, function, *arguments, **options):
        with pytest.raises(error, match=message):
            function(*arguments, **options)

    fails(TypeError, r"^hidden_size: expected an integer, got float$", ScalarRM, 4.0)
    fails(ValueError, r"^hidden_size: expected at least 1, got 0$", ScalarRM, 0)
    model, hidden = ScalarRM(4), torch.randn(2, 3, 4)
    fails(TypeError, r"^hidden: expected a tensor, got list$", model.score, [1.0])
    fails(TypeError, r"^hidden: expected .*, got torch.int64$", model.score, torch.zeros(2, 4, dtype=torch.int64))
    fails(ValueError, r"^hidden: expected shape \[..., 4\], got \[2, 5\]$", model.score, torch.randn(2, 5))
    fails(ValueError, r"^hidden: expected shape \[..., T, 4\], got \[4\]$", model.score, torch.randn(4), torch.ones(4, dtype=torch.bool))
    fails(TypeError, r"^mask: expected bool, got torch.int64$", model.score, hidden, torch.ones(2, 3, dtype=torch.int64))
    fails(ValueError, r"^mask: expected shape \[2, 3\], got \[3\]$", model.score, hidden, torch.ones(3, dtype=torch.bool))
    fails(ValueError, r"^mask: expected a token in every text, got a text without$", model.score, hidden, torch.zeros(2, 3, dtype=torch.bool))
    fails(ValueError, r"^mask: expected at least one token, got \[2, 0\]$", model.score, hidden[:, :0], torch.zeros(2, 0, dtype=torch.bool))
    two, three = torch.zeros(2), torch.zeros(3)
    fails(ValueError, r"^rejected: expected shape \[2\], got \[3\]$", pair_loss, two, three)
    fails(TypeError, r"^chosen: expected .*, got torch.int64$", pair_loss, two.long(), two)
    fails(ValueError, r"^margin: expected shape \[\] or \[2\], got \[3\]$", pair_loss, two, two, margin=three)
    fails(TypeError, r"^margin: expected a number or a tensor, got str$", pair_loss, two, two, margin="1")
    fails(ValueError, r"^margin: expected a finite number, got nan$", pair_loss, two, two, margin=math.nan)
    fails(ValueError, r"^reduction: expected 'mean' or 'none', got 'sum'$", pair_loss, two, two, reduction="sum")
    fails(ValueError, r"^chosen: expected at least one pair, got \[0\]$", pair_loss, two[:0], two[:0])
    assert pair_loss(two[:0], two[:0], reduction="none").shape == (0,)


def test_autocast_changes_nothing():
    model, hidden = ScalarRM(64), torch.randn(5, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.score(hidden)
    assert torch.equal(found, model.score(hidden))
