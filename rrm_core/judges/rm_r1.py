"""RM-R1: chains of rubrics, which sort the task, set the standard or solve the problem, and then judge two answers (arXiv:2505.02387)."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from rrm_core._validate import require, require_choice
from rrm_core.judges.system import Pairwise, Template, read_all
from rrm_core.judges.verdicts import PairVerdicts, Reason, after_thinking, between, one_of, pair_verdicts
from rrm_core.logprobs import ScoreTokens

Reading = Literal["published", "strict"]

VERDICTS = ("<answer>[[A]]</answer>", "<answer>[[B]]</answer>")  # by label
_OUTCOMES = (1.0, 0.0)
_WINDOW = 80  # characters that the published reward looks at
_TASKS = {"Chat": 0, "Reasoning": 1}

_ANSWERS = (
    "[Client Question]\n{question}\n\n[The Start of Chatbot A's Response]\n{answer_1}\n[The End of Chatbot A's Response]\n\n"
    "[The Start of Chatbot B's Response]\n{answer_2}\n[The End of Chatbot B's Response]"
)


class Sections(NamedTuple):
    """The parts of one text, None for those it lacks. ``rubric`` is without its ``justification``; ``answer`` is what the tag encloses."""

    task: str | None
    rubric: str | None
    justification: str | None
    solution: str | None
    evaluation: str | None
    answer: str | None


class RMR1(Pairwise):
    """Verdicts ``<answer>[[A]]</answer>`` and ``<answer>[[B]]</answer>``.

    Args:
        template: as for every system. ``DISTILLED_TEMPLATE`` is for models distilled from R1, which are asked for the verdict alone.
        reading: "published", the rule of the published reward: one of the tags is among the last 80 characters, and the other is not. "strict":
            once the thoughts have ended, the last ``<answer>`` holds a verdict and nothing else, and the other verdict's tag is nowhere.

    Raises:
        TypeError, ValueError, OSError: the template is none or lacks a field, or there is no such reading.
    """

    TEMPLATE = Template(
        system=(
            "You judge which of two chatbots answered a client better. Go by what they wrote: neither the order in which the responses appear nor"
            " their length nor the chatbots' names may sway you.\n\n"
            "Begin by naming the kind of task.\n"
            "- <type>Reasoning</type>: mathematics, code, and whatever takes special knowledge or several steps of inference.\n"
            "- <type>Chat</type>: conversation, open or factual, rewriting, safety, and help that takes no deep reasoning.\n\n"
            "For Reasoning, first solve the client's problem on your own, inside <solution>...</solution>, then compare both responses with your"
            " solution: are they correct, complete, soundly argued?\n"
            "For Chat, first set the standard, inside <rubric>...</rubric>: criteria made for this question, a weight for each of them, and inside"
            " the rubric <justify>...</justify>, why these criteria and these weights. Then compare both responses criterion by criterion.\n\n"
            "The comparison goes inside <eval>...</eval>. Support it with the responses' own text: <quote_A>...</quote_A> and <quote_B>...</quote_B>"
            " around what you quote, <summary_A>...</summary_A> and <summary_B>...</summary_B> around what you sum up. End with the verdict,"
            " <answer>[[A]]</answer> or <answer>[[B]]</answer>.\n\n"
            "So you write either\n\n<type>Reasoning</type>\n<solution>your solution</solution>\n<eval>your comparison</eval>\n"
            "<answer>[[A/B]]</answer>\n\nor\n\n<type>Chat</type>\n<rubric>criteria with weights <justify>reasons for them</justify></rubric>\n"
            "<eval>your comparison</eval>\n<answer>[[A/B]]</answer>"
        ),
        user=_ANSWERS,
    )
    DISTILLED_TEMPLATE: ClassVar[Template] = Template(
        "Judge, without favour, which of two chatbots answered the client's question below better.\n\n"
        + _ANSWERS
        + "\n\nClose with the verdict in exactly this form: <answer>[[A]]</answer> if Chatbot A did better, <answer>[[B]]</answer> if Chatbot B did."
    )
    VERDICT_PREFIX = "<answer>[["
    VERDICT_VALUES = {"A": 1.0, "B": 0.0}  # noqa: RUF012 - read only

    def __init__(self, template: Template | str | PathLike[str] | None = None, *, reading: Reading = "published") -> None:
        require_choice("reading", reading, ("published", "strict"))
        super().__init__(template)
        self.reading = reading

    def parse(self, texts: Sequence[str], finished: Sequence[bool] | None = None) -> PairVerdicts:
        return pair_verdicts(read_all(_at_the_end if self.reading == "published" else _strictly, texts, finished))

    def reward(self, verdicts: PairVerdicts, labels: Tensor) -> Tensor:
        """+1 where the verdict names the better answer, -1 otherwise, an invalid one included (Eq. 8): float32 [K]. labels: int64 [K], 0 or 1."""
        return torch.where(self.correct(verdicts, labels), 1.0, -1.0)

    def sections(self, texts: Sequence[str]) -> list[Sections]:
        """The parts of each text: of what follows its thoughts the last of each kind, if it was closed. Linear; nothing raises."""
        return list(read_all(_sections, texts, None))

    def task_types(self, texts: Sequence[str]) -> Tensor:
        """What each text takes its task for: 0 chat, 1 reasoning, -1 if it doesn't say. int64 [K]."""
        return torch.tensor([-1 if s.task is None else _TASKS[s.task] for s in self.sections(texts)], dtype=torch.int64)

    def task_tokens(self, tokenizer: Any) -> ScoreTokens:
        """The tokens that tell the task types apart, right after a text that ends in ``<type>``: the first of each name; values 0 and 1.

        Args:
            tokenizer: has ``encode(text, add_special_tokens=False) -> list[int]``, as Hugging Face's do.

        Raises:
            ValueError: a name merges with ``<type>``, or both begin with the same token.
        """

        def encode(text: str) -> list[int]:
            return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]

        before = encode("<type>")
        first: dict[str, list[int]] = {}
        for name in _TASKS:
            ids = encode("<type>" + name)
            apart = ids[: len(before)] == before and len(ids) > len(before)
            require(apart, "tokenizer", f"one that begins a token with {name!r} after '<type>'", "tokens that merge with it")
            first[name] = [ids[len(before)]]
        require(first["Chat"] != first["Reasoning"], "tokenizer", "task types that begin with different tokens", first["Chat"])
        return ScoreTokens(first, _TASKS)


def _at_the_end(text: str) -> float | Reason:
    which = one_of(text[-_WINDOW:], VERDICTS)
    return which if isinstance(which, Reason) else _OUTCOMES[which]


def _strictly(text: str) -> float | Reason:
    answer = after_thinking(text)
    if answer is None:
        return Reason.CUT_OFF
    which = one_of(answer, VERDICTS)
    if which is Reason.CONTRADICTORY:
        return which
    named, reason = between(answer, "<answer>", "</answer>")
    if named is None:
        return reason
    return Reason.NO_VERDICT if isinstance(which, Reason) or f"<answer>{named}</answer>" != VERDICTS[which] else _OUTCOMES[which]


def _sections(text: str) -> Sections:
    shown = after_thinking(text) or ""

    def part(tag: str) -> str | None:
        return between(shown, f"<{tag}>", f"</{tag}>")[0]

    task, rubric, justification = part("type"), part("rubric"), None
    if rubric is not None:
        before, _, rest = rubric.partition("<justify>")
        inside, closed, after = rest.partition("</justify>")
        if closed:
            rubric, justification = f"{before.rstrip()}\n{after.lstrip()}".strip(), inside.strip()
    return Sections(task if task in _TASKS else None, rubric, justification, part("solution"), part("eval"), part("answer"))
