"""The meta reward model of DeepSeek-GRM: which of a judge's samples deserve a vote (arXiv:2504.02495)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rrm_core._validate import FLOATS, require, require_positive, require_shape, require_tensor


class MetaRM(nn.Module):
    """A scalar head over a model's hidden states. The model reads the query, the responses, and what the judge wrote about them.

    It learns whether the judge was right: at once from hidden states (or any other features) that stay as they are, ``meta_rm.fit(hidden, correct)``,
    or step by step, where a model whose ``hidden`` has gradients learns along::

        optimizer.zero_grad()
        meta_rm.loss(hidden, judge.correct(verdicts, labels)).backward()
        optimizer.step()

    The vote then counts the better half of each problem's k samples::

        judge.aggregate(verdicts, samples=k, permutation=order, meta=meta_rm(hidden).view(-1, k))

    The weights are float32, ``score.weight`` [1, H] as in Hugging Face's sequence classifiers, and start at 0: logistic regression is convex, and
    an untrained head prefers no sample.

    Args:
        hidden_size: H.
        bias: whether the head has one: it meets the share of samples that are right, and changes no vote.

    Raises:
        TypeError, ValueError: hidden_size is no integer of at least 1.
    """

    def __init__(self, hidden_size: int, *, bias: bool = True) -> None:
        if isinstance(hidden_size, bool) or not isinstance(hidden_size, int):
            raise TypeError(f"hidden_size: expected an integer, got {type(hidden_size).__name__}")
        require(hidden_size >= 1, "hidden_size", "at least 1", hidden_size)
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=bias, dtype=torch.float32)
        for parameter in self.score.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores [...], float32, the logits of "the judge was right".

        Args:
            hidden: [..., H], floating; computed in float32, autocast or not. A row with a value that is not finite scores NaN, and a vote does
                not count its sample.

        Raises:
            TypeError, ValueError: a dtype, shape or device doesn't fit.
        """
        require_tensor("hidden", hidden, FLOATS, self.score.weight)
        require_shape("hidden", hidden, ("...", self.score.in_features))
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if self.score.bias is None else self.score.bias.float()
            score = functional.linear(hidden.float(), self.score.weight.float(), bias).squeeze(-1)
        return torch.where(score.isfinite(), score, torch.nan)

    def loss(self, hidden: Tensor, correct: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean of ``-log sigmoid(score)`` where the judge was right and ``-log sigmoid(-score)`` where it was not, a float32 scalar.

        Args:
            hidden: [..., H], as in ``forward``. A row that scores NaN makes the loss NaN, unless masked.
            correct: bool [...], whether the judge was right (Eq. 10: ``DeepSeekGRM.correct``, which an invalid verdict is not).
            mask: bool [...], samples to learn from; all when None. The others' rows are not read. The loss of none is 0.

        Raises:
            TypeError, ValueError: a dtype, shape or device doesn't fit.
        """
        hidden, correct, mask = self._samples(hidden, correct, mask)
        score = self(hidden.masked_fill(~mask.unsqueeze(-1), 0.0))
        # not binary_cross_entropy_with_logits, whose (1 - y) x - log sigmoid(x) cancels where a wrong sample is scored low
        losses = -functional.logsigmoid(torch.where(correct, score, -score))
        return losses.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)

    @torch.no_grad()
    def fit(self, hidden: Tensor, correct: Tensor, mask: Tensor | None = None, *, penalty: float = 1e-4, max_iter: int = 200) -> MetaRM:
        """Finds the weights that make ``loss`` least, plus ``penalty / 2`` times the squares of those of standardised columns; returns itself.

        Equivalent to, but for the intercept that a head without bias lacks::

            z = (hidden - hidden.mean(0)) / hidden.std(0)
            weight, bias = argmin(binary_cross_entropy_with_logits(z @ weight + bias, correct.double()) + penalty / 2 * (weight**2).sum())

        Args:
            hidden: [..., H], floating, taken as it is (no gradient). Rows with a value that is not finite are not learned from.
            correct, mask: as in ``loss``.
            penalty: above 0: where the samples can be told apart without error there is no least loss.
            max_iter: of L-BFGS, which stops where no gradient is above 1e-7.

        Numerics: float64, on the head's device. A column without spread gets weight 0.

        Raises:
            TypeError, ValueError: an argument doesn't fit, or there are not samples of both kinds.
        """
        hidden, correct, mask = self._samples(hidden, correct, mask)
        require_positive("penalty", penalty)
        if isinstance(max_iter, bool) or not isinstance(max_iter, int):
            raise TypeError(f"max_iter: expected an integer, got {type(max_iter).__name__}")
        require(max_iter >= 1, "max_iter", "at least 1", max_iter)
        learned = mask & hidden.isfinite().all(-1)
        x, y = hidden[learned].double(), correct[learned]
        require(bool(y.any() and not y.all()), "correct", "samples of both kinds to learn from", f"{int(y.sum())} correct ones of {len(y)}")
        centred = self.score.bias is not None
        mean = x.mean(0) if centred else torch.zeros_like(x[0])
        scale = x.std(0)
        # below that, a column's spread is that of its rounding
        scale = torch.where(scale > 1e-12 * x.abs().amax(0), scale, torch.inf)
        z = (x - mean) / scale
        weight, bias = torch.zeros_like(mean, requires_grad=True), torch.zeros_like(mean[0], requires_grad=True)
        steps = torch.optim.LBFGS([weight, bias] if centred else [weight], max_iter=max_iter, tolerance_change=0.0, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            steps.zero_grad()
            score = z @ weight + bias
            loss = -functional.logsigmoid(torch.where(y, score, -score)).mean() + penalty / 2 * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            steps.step(closure)
        self.score.weight.copy_((weight / scale).unsqueeze(0))
        if centred:
            self.score.bias.copy_(bias - (weight / scale) @ mean)
        return self

    def _samples(self, hidden: Tensor, correct: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        require_tensor("hidden", hidden, FLOATS, self.score.weight)
        require_shape("hidden", hidden, ("...", self.score.in_features))
        require_tensor("correct", correct, (torch.bool,), hidden)
        require_shape("correct", correct, hidden.shape[:-1])
        if mask is None:
            mask = torch.ones_like(correct)
        require_tensor("mask", mask, (torch.bool,), hidden)
        require_shape("mask", mask, hidden.shape[:-1])
        return hidden, correct, mask


def last_hidden(hidden: Tensor, mask: Tensor) -> Tensor:
    """The hidden state of each row's last token [K, H], padded on the right or on the left.

    Args:
        hidden: [K, T, H], floating.
        mask: bool [K, T], True for tokens. A row without one gives NaN, which ``MetaRM`` scores NaN.

    Raises:
        TypeError, ValueError: a dtype, shape or device doesn't fit, or T is 0.
    """
    require_tensor("hidden", hidden, FLOATS)
    require_shape("hidden", hidden, ("K", "T", "H"))
    require(hidden.shape[1] > 0, "hidden", "shape [K, T, H] with T > 0", list(hidden.shape))
    require_tensor("mask", mask, (torch.bool,), hidden)
    require_shape("mask", mask, hidden.shape[:2])
    rows, places = torch.arange(len(hidden), device=hidden.device), torch.arange(hidden.shape[1], device=hidden.device)
    last = torch.where(mask, places, -1).amax(1)
    return hidden[rows, last.clamp(min=0)].masked_fill((last < 0).unsqueeze(-1), torch.nan)
