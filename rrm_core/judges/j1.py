"""J1: a judge trained by rewards that its thoughts lead to the better answer in either order (arXiv:2505.10320), pairwise and pointwise."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor

from rrm_core._validate import require, require_choice, require_shape
from rrm_core.judges.orders import require_divisor, require_labels
from rrm_core.judges.system import Listwise, Pairwise, Template, read_all
from rrm_core.judges.verdicts import PairVerdicts, Reason, ScoreVerdicts, after_thinking, between, number, one_of, pair_verdicts, score_verdicts
from rrm_core.logprobs import ScoreTokens
from rrm_core.tournaments import Votes, majority_vote

Variant = Literal["verdict", "scores", "verdict_and_scores"]

_TASK = (
    "You compare two assistants that answered the same question. Reason inside <think> and </think> first: work out what a good answer must hold,"
    " check each answer against it, and pay no heed to length or to which answer comes first."
)
_SCORES = (
    " Then grade both from 0 to 10, with at most one decimal, higher for the better one: <score_A> grade of A </score_A>"
    " <score_B> grade of B </score_B>."
)
_VERDICT = " Then name the better assistant: <answer>[[A]]</answer> or <answer>[[B]]</answer>."
_PAIR = "Question:\n{question}\n\n[Assistant A begins]\n{answer_1}\n[Assistant A ends]\n\n[Assistant B begins]\n{answer_2}\n[Assistant B ends]"
_TEMPLATES = {
    "verdict": Template(_PAIR, _TASK + _VERDICT),
    "scores": Template(_PAIR, _TASK + _SCORES),
    "verdict_and_scores": Template(_PAIR, _TASK + _SCORES + _VERDICT),
}


class J1Pairwise(Pairwise):
    """Verdicts on two answers, by ``variant``; the last tag counts, once the thoughts have ended.

    * "verdict" (PaV): ``<answer>[[A]]</answer>`` or ``[[B]]``.
    * "scores" (PaS): ``<score_A>`` and ``<score_B>`` from 0 to 10 with at most one decimal; the higher wins, equal ones are a tie (0.5).
    * "verdict_and_scores" (PaVS): both are asked for. The verdict alone decides outcome and reward; ``scores`` reads the rest.

    ``consistency_reward`` and ``order_metrics`` take the verdicts of both orders.

    Args:
        variant: what is asked for and read.
        template: instead of the variant's own, as in ``System``.

    Raises:
        TypeError, ValueError, OSError: no such variant; the template is none, or lacks a field.
    """

    TEMPLATE = _TEMPLATES["verdict"]
    VERDICT_PREFIX = "<answer>[["
    VERDICT_VALUES = {"A": 1.0, "B": 0.0}  # noqa: RUF012 - read only

    def __init__(self, variant: Variant = "verdict", template: Template | str | PathLike[str] | None = None) -> None:
        require_choice("variant", variant, tuple(_TEMPLATES))
        super().__init__(_TEMPLATES[variant] if template is None else template)
        self.variant = variant

    def parse(self, texts: Sequence[str], finished: Sequence[bool] | None = None) -> PairVerdicts:
        return pair_verdicts(read_all(_outcome if self.variant == "scores" else _verdict, texts, finished))

    def scores(self, texts: Sequence[str], finished: Sequence[bool] | None = None) -> ScoreVerdicts:
        """Both answers' scores [K, 2], in the order in which they were shown; both are NaN where either is missing or no score.

        Raises:
            ValueError: the variant has no scores.
        """
        require(self.variant != "verdict", "variant", "one with scores", repr(self.variant))
        return score_verdicts(read_all(_pair_scores, texts, finished), 2)

    def score_tokens(self, tokenizer: Any) -> ScoreTokens:
        """As in ``System``: A and B after ``<answer>[[``.

        Raises:
            ValueError: the variant has no verdict, or this tokenizer no token of its own for each.
        """
        require(self.variant != "scores", "variant", "one with a verdict", repr(self.variant))
        return super().score_tokens(tokenizer)

    def reward(self, verdicts: PairVerdicts, labels: Tensor) -> Tensor:
        """1 where the verdict, or the scores of "scores", agree with the label, 0 otherwise, ties and invalid ones included: float32 [K].
        labels: int64 [K], 0 or 1."""
        return self.correct(verdicts, labels).to(torch.float32)

    def self_consistency(
        self, verdicts: PairVerdicts, *, samples: int, on_tie: Literal["random", "first", "none"] = "random", seed: int = 0
    ) -> Votes:
        """The majority of ``samples`` consecutive verdicts a question, 0 for the answer shown first: the paper's SC@32. Ties and invalid verdicts
        are no votes; the rest as in ``majority_vote``."""
        require_divisor("samples", samples, len(verdicts.outcome))
        return majority_vote(verdicts.winner.reshape(-1, samples), num_candidates=2, on_tie=on_tie, seed=seed)


class J1Pointwise(Listwise):
    """A score of one answer (PoS): ``<score>`` from 0 to 10 with at most one decimal; the last tag counts, once the thoughts have ended.

    Trained on pairs all the same: two answers are scored apart, and the reward asks which one has more, as ``compare_scores`` does.
    ``score_tokens`` are the whole parts of scores, and refused to a tokenizer that splits 10 into digits, where it begins as 1 does.
    """

    FIELDS = frozenset({"question", "answer"})
    MEANS = True
    TEMPLATE = Template(
        system=(
            "You grade an assistant's answer to a question. Reason inside <think> and </think> first: work out what a good answer must hold, then"
            " check the answer against it. Then grade it from 0, useless, to 10, without fault, with at most one decimal:"
            " <score> grade </score>."
        ),
        user="Question:\n{question}\n\n[Answer begins]\n{answer}\n[Answer ends]",
    )
    VERDICT_PREFIX = "<score>"
    VERDICT_VALUES = {str(i): float(i) for i in range(11)}  # noqa: RUF012 - read only

    def __init__(self, template: Template | str | PathLike[str] | None = None) -> None:
        super().__init__(1, template)

    def parse(self, texts: Sequence[str], finished: Sequence[bool] | None = None) -> ScoreVerdicts:
        return score_verdicts(read_all(_single_score, texts, finished), 1)

    def reward(self, verdicts: ScoreVerdicts, labels: Tensor, *, rollouts: int = 1) -> Tensor:
        """1 for both samples of a pair if the better answer's score is strictly the higher, 0 for both otherwise: on a tie, or if either is invalid.

        Args:
            verdicts: of K = 2 P rollouts texts, [P, 2, rollouts] flattened: of each pair the first answer's rollouts, then the second's; the
                i-th of one is matched with the i-th of the other.
            labels: int64 [P], 0 where the pair's first answer is better, 1 where the second is.

        Returns:
            float32 [K].

        Source: arXiv:2505.10320. That a tie is wrong is our reading of "consistent with the gold".

        Raises:
            TypeError, ValueError: a dtype, shape or value doesn't fit.
        """
        require_divisor("rollouts", rollouts, len(verdicts.scores))
        require_labels(labels, ("P",), verdicts.scores)
        require_shape("scores", verdicts.scores, (2 * len(labels) * rollouts, 1))
        first, second = verdicts.scores.reshape(-1, 2, rollouts).unbind(1)
        right = torch.where((labels == 0).unsqueeze(1), first > second, second > first)
        return right.unsqueeze(1).expand(-1, 2, -1).reshape(-1).to(torch.float32)


def _verdict(text: str) -> float | Reason:
    answer = after_thinking(text)
    if answer is None:
        return Reason.CUT_OFF
    named, reason = between(answer, "<answer>", "</answer>")
    if named is None:
        return reason
    which = one_of(named, ("[[A]]", "[[B]]"))
    return which if isinstance(which, Reason) else 1.0 - which


def _outcome(text: str) -> float | Reason:
    found = _pair_scores(text)
    if isinstance(found, Reason):
        return found
    first, second = found
    return 0.5 if first == second else float(first > second)


def _pair_scores(text: str) -> list[float] | Reason:
    return _scores(text, "score_A", "score_B")


def _single_score(text: str) -> list[float] | Reason:
    return _scores(text, "score")


def _scores(text: str, *tags: str) -> list[float] | Reason:
    """The tags' scores. Of several faults the one told is a tag that is cut off, one that is missing, what is no number, what is out of range."""
    answer = after_thinking(text)
    if answer is None:
        return Reason.CUT_OFF
    inner = [between(answer, f"<{tag}>", f"</{tag}>") for tag in tags]
    missing = [reason for held, reason in inner if held is None]
    if missing:
        return max(missing)
    found = [_score(held) for held, _ in inner if held is not None]
    faults = [x for x in found if isinstance(x, Reason)]
    return min(faults) if faults else [x for x in found if not isinstance(x, Reason)]


def _score(text: str) -> float | Reason:
    value = number(text, 0.0, 10.0)
    finer = len(text.partition(".")[2]) > 1
    return Reason.NOT_A_NUMBER if finer else value
