"""A judge's tournaments as a reward function of TRL's trainers: the G completions of a prompt compete, their ratings are the rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rrm_core._validate import require
from rrm_core.judges.runner import Judge
from rrm_core.judges.system import Listwise
from rrm_core.tournaments.inputs import whole

Text = Callable[[Any], str]


def text_of(value: Any) -> str:
    """A text as it is; of a conversation, its messages' contents."""
    return value if isinstance(value, str) else "\n\n".join(message["content"] or "" for message in value)


class JudgeReward:
    """``reward_funcs=JudgeReward(judge, num_generations)`` of trl's GRPOTrainer or RLOOTrainer: scores relative to the group, with which group
    advantages are centred anyway.

    Args:
        judge: who ranks; its journal must be None, as every step is a run of its own.
        num_generations: G, completions of a prompt, which stand next to each other; trl doesn't tell its reward functions.
        question, answer: from a prompt and a completion to the texts that are judged.

    Called with ``prompts`` and ``completions`` (texts, or conversations), returns a score for each: what ``Judge.rank`` gives, None without one.

    Raises:
        ValueError: completions are not in groups of G with one prompt each.
    """

    def __init__(self, judge: Judge, num_generations: int, *, question: Text = text_of, answer: Text = text_of) -> None:
        if not isinstance(judge, Judge):
            raise TypeError(f"judge: expected a Judge, got {type(judge).__name__}")
        require(not judge.has_journal, "judge", "one without a journal", "one with")
        self.judge, self.num_generations = judge, whole("num_generations", num_generations, 2)
        count = judge.system.num_answers if isinstance(judge.system, Listwise) else 1
        require(count in (1, num_generations), "judge", f"one of 1 or {num_generations} answers", f"one of {count}")
        self._question, self._answer = question, answer
        self.__name__ = f"judge_{type(judge.system).__name__}"  # trl's name for the metric
        self.calls = 0  # of the judge, in all

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        size = self.num_generations
        require(len(prompts) == len(completions), "completions", f"{len(prompts)} completions", len(completions))
        require(len(prompts) % size == 0, "prompts", f"groups of {size}", f"{len(prompts)} prompts")
        questions, answers = [self._question(prompt) for prompt in prompts], [self._answer(completion) for completion in completions]
        for start in range(0, len(questions), size):
            require(len(set(questions[start : start + size])) == 1, "prompts", f"one prompt in a group of {size}", "several")
        judged = self.judge.rank(questions[::size], [answers[start : start + size] for start in range(0, len(answers), size)])
        self.calls += int(judged.calls.sum())
        scores = judged.score.flatten().tolist()
        return [None if score != score else score for score in scores]
