"""The field's kinds of reward models as interchangeable objects: ``score(questions, answers)`` -> float64 [B, n], NaN for answers that aren't there.

A scalar reward model reads its head at the last token of one answer; a generative one writes a judgement, of one answer, of pairs or of lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from rrm_core._validate import require
from rrm_core.judges.runner import Judge


class RewardModel(Protocol):
    """What can score answers."""

    def score(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> Tensor:
        """Higher is better, float64 [B, n]."""


class GenerativeRM:
    """A judge, seen as a reward model."""

    def __init__(self, judge: Judge) -> None:
        if not isinstance(judge, Judge):
            raise TypeError(f"judge: expected a Judge, got {type(judge).__name__}")
        self.judge = judge

    def score(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> Tensor:
        """Ratings or summed scores, see ``Judge.rank``: comparable within a question."""
        return self.judge.rank(questions, answers).score


class OutcomeRM:
    """A scalar outcome reward model: ``states(questions, answers)`` gives the last token's hidden states [K, H] of K pairs, ``head`` their scores."""

    def __init__(self, states: Callable[[list[str], list[str]], Tensor], head: Callable[[Tensor], Tensor]) -> None:
        self.states, self.head = states, head

    @torch.inference_mode()
    def score(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> Tensor:
        """The head's numbers: comparable everywhere."""
        require(len(questions) == len(answers), "answers", f"{len(questions)} lists", len(answers))
        sizes = torch.tensor([len(some) for some in answers], dtype=torch.int64)
        flat = [(question, answer) for question, some in zip(questions, answers, strict=True) for answer in some]
        out = torch.full((len(sizes), int(sizes.max()) if len(sizes) else 0), float("nan"), dtype=torch.float64)
        if flat:
            found = self.head(self.states([question for question, _ in flat], [answer for _, answer in flat])).flatten()
            require(len(found) == len(flat), "head", f"{len(flat)} scores", len(found))
            out[torch.arange(out.shape[1]) < sizes.unsqueeze(1)] = found.double().cpu()
        return out
