"""What is used today without any thoughts: judges that are asked for one token, of which the probabilities are read. They generate nothing.

``prompt`` asks, ``score_tokens`` says which tokens may answer, ``score_token_logprobs`` (or ``..._from_logits``) reads them at the place right
after the prompt, and ``score`` says what they mean.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar

import torch
from torch import Tensor

from rrm_core._validate import require
from rrm_core.judges.system import Messages, Template, chosen_template
from rrm_core.logprobs import ScoreTokenLogprobs, ScoreTokens


class TokenJudge(ABC):
    """A judge of one token.

    Args:
        template: instead of the one written for this package, a ``Template`` or the path of its file.
        min_mass: the least total probability of the labels, over the vocabulary, that counts as an answer: with less a score is NaN. 0 reads no
            mass, and does with ``full_vocab=False``.

    Raises:
        TypeError, ValueError, OSError: the template is none, or lacks a field; min_mass is not in [0, 1].
    """

    TEMPLATE: ClassVar[Template]
    FIELDS: ClassVar[tuple[str, ...]]  # that a template must have: the question's, then the answers'
    VALUES: Mapping[str, float]  # the labels, each one token, and what they are worth

    def __init__(self, template: Template | str | PathLike[str] | None = None, *, min_mass: float = 0.0) -> None:
        if isinstance(min_mass, bool) or not isinstance(min_mass, int | float):
            raise TypeError(f"min_mass: expected a number, got {type(min_mass).__name__}")
        require(0 <= min_mass <= 1, "min_mass", "a number in [0, 1]", min_mass)
        self.template = chosen_template(template, self.TEMPLATE, self.FIELDS)
        self.min_mass = float(min_mass)
        self.told: dict[str, str] = {}  # what else the prompt tells

    def prompt(self, question: str, answers: Sequence[str]) -> Messages:
        """The messages after which the token is read: as many answers as the judge compares, 1 or 2, in the order in which they are shown."""
        _, *fields = self.FIELDS
        require(not isinstance(answers, str), "answers", "a sequence of texts", "str", TypeError)
        require(len(answers) == len(fields), "answers", f"{len(fields)} text(s)", len(answers))
        return self.template.fill({**self.told, "question": question, **dict(zip(fields, answers, strict=True))})

    def score_tokens(self, tokenizer: Any, context: str = "") -> ScoreTokens:
        """The labels' tokens as they are written right after ``context``: how the chat template's last line ends.

        Raises:
            ValueError: this tokenizer has no token of its own for each.
        """
        return ScoreTokens.from_tokenizer(tokenizer, {label: [label] for label in self.VALUES}, context, self.VALUES)

    @abstractmethod
    def score(self, result: ScoreTokenLogprobs) -> Tensor:
        """What the labels' probabilities say, per row of the result: [N] or [...]; NaN where they are too few. Differentiable."""

    def _require(self, name: str, result: ScoreTokenLogprobs) -> None:
        require(isinstance(result, ScoreTokenLogprobs), name, "a ScoreTokenLogprobs", type(result).__name__, TypeError)
        count = result.conditional.shape[-1]
        require(count >= len(self.VALUES), name, f"the {len(self.VALUES)} labels of score_tokens", count)
        require(self.min_mass == 0 or result.log_mass is not None, name, "log_mass, which full_vocab=True gives", None)

    def _kept(self, result: ScoreTokenLogprobs, values: Tensor) -> Tensor:
        if self.min_mass == 0 or result.log_mass is None:
            return values
        return torch.where(result.log_mass >= math.log(self.min_mass), values, float("nan"))


class GEval(TokenJudge):
    """G-Eval: the expected grade ``sum_s p(s) s`` of one answer over the tokens 1 to ``scale``.

    p is normalised over the grades, ``p(s) / sum_s p(s)``, so that a grade does not sink with what the model might have said instead; how much
    that is, ``min_mass`` bounds.

    Args:
        scale: the best grade, from 2 to 9: each must be one token.
        criteria: what is graded, and the steps to go by, as the prompt tells it.
        template, min_mass: as in ``TokenJudge``. The template may have the fields ``criteria`` and ``scale`` too.

    Source: Liu et al. (arXiv:2303.16634), Eq. 1.

    Raises:
        TypeError, ValueError, OSError: as ``TokenJudge``; scale is no integer from 2 to 9, criteria no text.
    """

    FIELDS = ("question", "answer")
    TEMPLATE = Template(
        "Grade the answer to the question by these criteria.\n\nCriteria:\n{criteria}\n\nQuestion:\n{question}\n\nAnswer:\n{answer}\n\n"
        "Give a grade from 1 (worst) to {scale} (best). Write the number and nothing else."
    )
    CRITERIA = "Overall quality: whether the answer is right, complete, clear and to the point."

    def __init__(
        self, scale: int = 5, criteria: str = CRITERIA, template: Template | str | PathLike[str] | None = None, *, min_mass: float = 0.5
    ) -> None:
        require(isinstance(scale, int) and not isinstance(scale, bool), "scale", "an integer", type(scale).__name__, TypeError)
        require(2 <= scale <= 9, "scale", "an integer from 2 to 9", scale)
        require(isinstance(criteria, str), "criteria", "a text", type(criteria).__name__, TypeError)
        super().__init__(template, min_mass=min_mass)
        self.told = {"criteria": criteria, "scale": str(scale)}
        self.VALUES = {str(i): float(i) for i in range(1, scale + 1)}

    def score(self, result: ScoreTokenLogprobs) -> Tensor:
        """The expected grade, in [1, scale]; NaN where the grades have less than ``min_mass``.

        Raises:
            TypeError, ValueError: the result is none, of other labels, or without the mass or the expectation.
        """
        self._require("result", result)
        if result.expected is None:
            raise ValueError("result: expected an expectation, which score_tokens with values give, got None")
        return self._kept(result, result.expected)


class TwoTokenJudge(TokenJudge):
    """A judge that chooses between two tokens."""

    def log_odds(self, result: ScoreTokenLogprobs) -> Tensor:
        """``log p(first label) - log p(second)``, which are the logits' difference, over the temperature if there is one; NaN as in ``score``."""
        self._require("result", result)
        return self._kept(result, result.conditional[..., 0] - result.conditional[..., 1])


class AlpacaEval(TwoTokenJudge):
    """AlpacaEval 2: the probability that the answer shown first is better, ``p(m) / (p(m) + p(M))``; the answers are called m and M.

    The leaderboard's preference, from 1 (the first) to 2 (the second), is ``2 - score``. Source: AlpacaEval 2, its ``logprob_parser``, here
    without a cut to the likeliest five tokens.
    """

    FIELDS = ("question", "answer_1", "answer_2")
    TEMPLATE = Template(
        system="You rank the answers of two models, m and M, as most people would: the better one first.",
        user=(
            "Instruction:\n{question}\n\n[Model m begins]\n{answer_1}\n[Model m ends]\n\n[Model M begins]\n{answer_2}\n[Model M ends]\n\n"
            "Which model gave the better answer? Write its name, m or M, and nothing else."
        ),
    )
    VALUES = {"m": 1.0, "M": 0.0}  # noqa: RUF012 - read only

    def score(self, result: ScoreTokenLogprobs, swapped: ScoreTokenLogprobs | None = None) -> Tensor:
        """The share of the win of the answer shown first in ``result``; NaN where neither label has any probability, or less than ``min_mass``.

        swapped: of the same pairs shown the other way round: the mean of both orders, or what one of them says where the other is NaN. Where a
        constant bias for a place must go, and exactly, use ``combine_orders`` on the ``log_odds`` of each.

        Raises:
            TypeError, ValueError: a result is none, of other labels or shape, or without the mass.
        """
        self._require("result", result)
        forward = self._kept(result, result.conditional[..., 0].exp())
        if swapped is None:
            return forward
        self._require("swapped", swapped)
        backward = self._kept(swapped, swapped.conditional[..., 1].exp())
        require(backward.shape == forward.shape, "swapped", f"shape {list(forward.shape)}", list(backward.shape))
        return torch.stack((forward, backward)).nanmean(0)


class YesNoReranker(TwoTokenJudge):
    """A reranker that answers yes or no: ``sigmoid(logit(yes) - logit(no))``, as Qwen3-Reranker's. Not thresholded, and fine with
    ``full_vocab=False``, which reads two rows of the head."""

    FIELDS = ("question", "answer")
    TEMPLATE = Template(
        system='Say whether the answer does what the question asks. Write "yes" or "no" and nothing else.',
        user="Question:\n{question}\n\nAnswer:\n{answer}",
    )
    VALUES = {"yes": 1.0, "no": 0.0}  # noqa: RUF012 - read only

    def score(self, result: ScoreTokenLogprobs) -> Tensor:
        """The probability of yes among the two, in [0, 1]; NaN where they have none, or less than ``min_mass``.

        Raises:
            TypeError, ValueError: the result is none, of other labels, or without the mass.
        """
        return self.log_odds(result).sigmoid()
