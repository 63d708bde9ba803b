"""DeepSeek-GRM: a judge that writes its own principles, criticises every answer by them, then scores all of them (SPCT, arXiv:2504.02495)."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar

import torch
from torch import Tensor

from rrm_core._validate import require, require_in_range, require_shape, require_tensor
from rrm_core.judges.orders import require_divisor
from rrm_core.judges.system import Listwise, Messages, Template, read_all
from rrm_core.judges.verdicts import Reason, ScoreVerdicts, after_thinking, boxed, numbers, score_verdicts
from rrm_core.logprobs import ScoreTokens
from rrm_core.tournaments.inputs import whole

_SYSTEM = (
    "You are an experienced grader of responses to a conversation. What matters differs from one conversation to the next, so you settle your"
    " principles before you grade: what a good response must do here, and how much each principle weighs. You then hold every response against"
    " them, quoting what decides. The order of the responses, their length and their tone must not sway you."
)
_CONVERSATION = "## Conversation\n\n{question}\n\n"
_CRITERIA = (
    "## Your grading\n\nWrite three parts, each under its own heading.\n\n"
    "Specific Criteria: the principles that fit this conversation, each with its weight in percent; the weights add up to 100.\n\n"
)


class DeepSeekGRM(Listwise):
    r"""Scores ``\boxed{s1, s2, ...}``, whole numbers from 1 to 10 in the order shown; of a single response, ``\boxed{0}`` or ``\boxed{1}``.

    The last box counts, once the thoughts have ended. Each sample shows the answers in an order of its own::

        order = shuffles(len(questions), k, judge.num_answers, seed=0)
        prompts = [judge.prompt(q, shown) for q, a, p in zip(questions, answers, order) for shown in shuffled(a, p)]
        verdicts = judge.parse(generate(prompts))
        votes = judge.aggregate(verdicts, samples=k, permutation=order)  # the sum of all; with meta=, of those that a MetaRM rates highest
        reward = judge.reward(verdicts, labels_shown(best, order))

    Args:
        num_answers: n. With n = 1 prompts ask for a grade, 0 or 1.
        template: as of every ``System``.
    """

    TEMPLATE = Template(
        system=_SYSTEM,
        user=_CONVERSATION + "## Responses ({count})\n\n{answers}\n\n" + _CRITERIA + "Analysis: how each response fares by each principle, and how"
        " the responses compare.\n\nScores: for every response, in the order in which they appear above, one whole number from 1 (useless) to 10"
        " (could not be better), with commas between them inside one box. Two responses would be scored as \\boxed{x, x}.",
    )
    SINGLE: ClassVar[Template] = Template(
        system=_SYSTEM,
        user=_CONVERSATION + "## Response\n\n{answers}\n\n" + _CRITERIA + "Analysis: how the response fares by each principle.\n\n"
        "Scores: 1 if the response does correctly what the conversation asks for, 0 if it does not, in a box: \\boxed{x}.",
    )
    VERDICT_PREFIX = "\\boxed{"
    VERDICT_VALUES = {str(i): float(i) for i in range(1, 11)}  # noqa: RUF012 - read only

    def __init__(self, num_answers: int, template: Template | str | PathLike[str] | None = None) -> None:
        super().__init__(num_answers, self.SINGLE if template is None and num_answers == 1 else template)
        self._range = (0, 1) if num_answers == 1 else (1, 10)

    def hinted_prompt(self, question: str, answers: Sequence[str], best: int) -> Messages:
        """The prompt of hinted sampling, which gives away that ``answers[best]`` is the best one: a sentence at the end says so.

        Raises:
            TypeError, ValueError: ``best`` is no place among the answers, or there is one answer only, which needs no telling apart.
        """
        messages = self.prompt(question, answers)
        require(self.num_answers > 1, "num_answers", "at least 2 for a hint", self.num_answers)
        require(whole("best", best, 0) < self.num_answers, "best", f"less than {self.num_answers}", best)
        messages[-1]["content"] += f"\n\nIt is known that the best of them is Response {best + 1}."
        return messages

    def parse(self, texts: Sequence[str], finished: Sequence[bool] | None = None) -> ScoreVerdicts:
        return score_verdicts(read_all(self._read, texts, finished), self.num_answers)

    def _read(self, text: str) -> list[float] | Reason:
        answer = after_thinking(text)
        if answer is None:
            return Reason.CUT_OFF
        scores, reason = boxed(answer)
        return reason if scores is None else numbers(scores, self.num_answers, *self._range, integer=True)

    def correct(self, verdicts: ScoreVerdicts, labels: Tensor) -> Tensor:
        """Whether each verdict is right (Eq. 10), bool [K]: ``S[best] > S[i]`` for every other i, ``S == label`` with n = 1; an invalid one is not.

        labels: int64 [K], the place at which the best answer is shown; with n = 1, the grade, 0 or 1.

        Raises:
            TypeError, ValueError: labels are no such places or grades, or the verdicts are about another number of answers.
        """
        scores, n = verdicts.scores, self.num_answers
        require_shape("verdicts", scores, ("K", n))
        require_tensor("labels", labels, (torch.int64,), scores)
        require_shape("labels", labels, scores.shape[:1])
        require_in_range("labels", labels, max(n, 2))
        valid, at = verdicts.reason == 0, labels.unsqueeze(1)
        if n == 1:
            return valid & (scores == at).squeeze(1)
        return valid & (scores.gather(1, at) > scores.scatter(1, at, -torch.inf)).all(1)

    def reward(self, verdicts: ScoreVerdicts, labels: Tensor) -> Tensor:
        """+1 where the verdict is ``correct``, -1 otherwise (Eq. 11), a tie with the best and an invalid one included: float32 [K]."""
        return self.correct(verdicts, labels).to(torch.float32) * 2 - 1

    def rejection(self, verdicts: ScoreVerdicts, labels: Tensor, *, samples: int, hinted: bool = False) -> Tensor:
        """Which verdicts rejective fine-tuning learns from, bool [K], ``samples`` of them a problem, problem by problem: those that are
        ``correct``, unless all of their problem's are, which is then too easy. ``hinted`` ones are kept whenever they are correct.

        Raises:
            TypeError, ValueError: as of ``correct``; samples doesn't divide K.
        """
        require_divisor("samples", samples, len(verdicts.scores))
        right = self.correct(verdicts, labels)
        if hinted:
            return right
        per_problem = right.view(-1, samples)
        return (per_problem & ~per_problem.all(1, keepdim=True)).flatten()

    def score_tokens(self, tokenizer: Any) -> ScoreTokens:
        """As of every ``System``, for the score of the answer shown first. A tokenizer that splits 10 into digits has no tokens for 1 to 10."""
        if self.num_answers > 1:
            return super().score_tokens(tokenizer)
        return ScoreTokens.from_tokenizer(tokenizer, {"0": ["0"], "1": ["1"]}, self.VERDICT_PREFIX, (0.0, 1.0))
