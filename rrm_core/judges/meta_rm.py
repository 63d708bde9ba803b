"""The meta reward model of DeepSeek-GRM: which of a judge's samples deserve a vote (arXiv:2504.02495)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rrm_core._validate import FLOATS, require, require_shape, require_tensor


class MetaRM(nn.Module):
    """A scalar head over a model's hidden states. The model reads the query, the responses, and what the judge wrote about them.

    It learns whether the judge was right; a model whose ``hidden`` has gradients learns along::

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
        require_tensor("hidden", hidden, FLOATS, self.score.weight)
        require_shape("hidden", hidden, ("...", self.score.in_features))
        require_tensor("correct", correct, (torch.bool,), hidden)
        require_shape("correct", correct, hidden.shape[:-1])
        if mask is None:
            mask = torch.ones_like(correct)
        require_tensor("mask", mask, (torch.bool,), hidden)
        require_shape("mask", mask, hidden.shape[:-1])
        score = self(hidden.masked_fill(~mask.unsqueeze(-1), 0.0))
        # not binary_cross_entropy_with_logits, whose (1 - y) x - log sigmoid(x) cancels where a wrong sample is scored low
        losses = -functional.logsigmoid(torch.where(correct, score, -score))
        return losses.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


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
