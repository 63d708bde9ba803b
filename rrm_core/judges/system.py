"""What all judge systems share: a template for prompts, readings of texts, rewards and aggregation, tensors in and out.

A system knows one published format and nothing of models: whoever generates the texts is handed messages and hands back strings.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

from torch import Tensor

from rrm_core._validate import require
from rrm_core.judges.orders import require_divisor, require_labels
from rrm_core.judges.verdicts import PairVerdicts, Reason, ScoreVerdicts, finish
from rrm_core.logprobs import ScoreTokens
from rrm_core.tournaments import Pairs, Ratings, Votes, bradley_terry, pairwise_wins, sum_vote
from rrm_core.tournaments.inputs import whole

Messages: TypeAlias = list[dict[str, str]]  # [{"role": "system" or "user", "content": ...}], as chat templates take them
V = TypeVar("V", PairVerdicts, ScoreVerdicts)

_FIELD = re.compile(r"\{(\w+)\}")


class Template(NamedTuple):
    """A prompt's texts, with fields such as ``{question}``; other braces stay what they are. No system message when None.

    Fields of pairs are ``question``, ``answer_1`` and ``answer_2``; of lists ``question``, ``answers`` (numbered) and ``count``; of single answers
    ``question`` and ``answer``.
    """

    user: str
    system: str | None = None

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Template:
        """From a JSON object with "user" and, if wanted, "system".

        Raises:
            OSError: the file cannot be read. ValueError: it holds something else.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"template: expected a JSON object in {path}, got text that is none ({error})") from error
        fits = (
            isinstance(record, dict) and "user" in record and set(record) <= {"user", "system"} and all(isinstance(v, str) for v in record.values())
        )
        require(fits, "template", f'texts "user" and, if wanted, "system" in {path}', sorted(record) if isinstance(record, dict) else type(record))
        return cls(**record)

    @property
    def fields(self) -> set[str]:
        return {name for text in self if text is not None for name in _FIELD.findall(text)}

    def fill(self, values: Mapping[str, str]) -> Messages:
        """The messages. What is filled in is not read again: an answer may hold braces."""

        def filled(text: str) -> str:
            return _FIELD.sub(lambda found: values.get(found[1], found[0]), text)

        system = [] if self.system is None else [{"role": "system", "content": filled(self.system)}]
        return [*system, {"role": "user", "content": filled(self.user)}]


def chosen_template(template: Template | str | PathLike[str] | None, default: Template, fields: Collection[str]) -> Template:
    """The given one, from its file if need be, or the default; it has the fields."""
    if template is not None and not isinstance(template, (Template, str, PathLike)):
        raise TypeError(f"template: expected a Template or a path, got {type(template).__name__}")
    chosen = default if template is None else template if isinstance(template, Template) else Template.load(template)
    missing = set(fields) - chosen.fields
    require(not missing, "template", f"the fields {sorted(fields)}", f"none of the name {', '.join(sorted(missing))}")
    return chosen


class System(ABC, Generic[V]):
    """One published judge: its prompt, how its texts are read, its reward.

    Args:
        template: instead of the one written for this package, a ``Template`` or the path of its file: a checkpoint's own.

    Raises:
        TypeError, ValueError, OSError: the template is none, or lacks a field.
    """

    TEMPLATE: ClassVar[Template]
    FIELDS: ClassVar[frozenset[str]]  # that a template must have
    VERDICT_PREFIX: ClassVar[str]  # what stands right before the token that decides
    VERDICT_VALUES: ClassVar[Mapping[str, float]]  # what may stand there, and what it is worth: to the answer shown first, or as its score

    def __init__(self, template: Template | str | PathLike[str] | None = None) -> None:
        self.template = chosen_template(template, self.TEMPLATE, self.FIELDS)

    @abstractmethod
    def prompt(self, question: str, answers: Sequence[str]) -> Messages:
        """The messages that ask for a verdict on the answers, in the order in which they are shown."""

    @abstractmethod
    def parse(self, texts: Sequence[str], finished: Sequence[bool] | None = None) -> V:
        """Each text's verdict, or the reason why it has none. Linear in the texts; whatever they hold, nothing raises.

        finished: whether each text came to its own end; one that did not is CUT_OFF where its verdict is missing.
        """

    @abstractmethod
    def reward(self, verdicts: V, labels: Tensor) -> Tensor:
        """The reward of the published training, float32 [K]."""

    def score_tokens(self, tokenizer: Any) -> ScoreTokens:
        """The tokens that tell the verdicts apart: what ``score_token_logprobs`` reads right after a text that ends in ``VERDICT_PREFIX``.

        Raises:
            ValueError: this tokenizer has no token of its own for each.
        """
        forms = {label: [label] for label in self.VERDICT_VALUES}
        return ScoreTokens.from_tokenizer(tokenizer, forms, self.VERDICT_PREFIX, self.VERDICT_VALUES)


def _texts(texts: Sequence[str], finished: Sequence[bool] | None) -> list[bool]:
    require(
        not isinstance(texts, str) and all(isinstance(text, str) for text in texts), "texts", "a sequence of texts", type(texts).__name__, TypeError
    )
    require(finished is None or len(finished) == len(texts), "finished", f"{len(texts)} bools", None if finished is None else len(finished))
    return [True] * len(texts) if finished is None else [bool(x) for x in finished]


def read_all(read: Callable[[str], Any], texts: Sequence[str], finished: Sequence[bool] | None) -> list[Any]:
    """``read`` of every text; of one that was cut off, a missing verdict is told as that."""
    ends = _texts(texts, finished)
    found = [read(text) for text in texts]
    return [finish(x, end) if isinstance(x, Reason) else x for x, end in zip(found, ends, strict=True)]


def require_answers(answers: Sequence[str], count: int) -> None:
    require(not isinstance(answers, str), "answers", f"{count} texts", "one", TypeError)
    require(len(answers) == count, "answers", f"{count} texts", len(answers))


class Pairwise(System[PairVerdicts]):
    """A judge of two answers."""

    FIELDS = frozenset({"question", "answer_1", "answer_2"})

    def prompt(self, question: str, answers: Sequence[str]) -> Messages:
        require_answers(answers, 2)
        return self.template.fill({"question": question, "answer_1": answers[0], "answer_2": answers[1]})

    def correct(self, verdicts: PairVerdicts, labels: Tensor) -> Tensor:
        """Whether each verdict names the better answer, bool [K]; an invalid one does not. labels: int64 [K], 0 where the one shown first is better,
        1 where the second is."""
        require_labels(labels, verdicts.outcome.shape, verdicts.outcome)
        return verdicts.winner == labels

    def aggregate(self, verdicts: PairVerdicts, pairs: Pairs, *, num_problems: int = 1, num_candidates: int) -> Ratings:
        """Ratings of each problem's candidates from verdicts on pairs of them, aligned: Bradley-Terry's, each valid verdict a match."""
        wins = pairwise_wins(
            pairs.first, pairs.second, verdicts.outcome, problem=pairs.problem, num_problems=num_problems, num_candidates=num_candidates
        )
        return bradley_terry(wins)


class Listwise(System[ScoreVerdicts]):
    """A judge that gives each of the answers a score."""

    FIELDS = frozenset({"question", "answers"})
    MEANS: ClassVar[bool] = False  # whether scores are averaged over samples instead of summed

    def __init__(self, num_answers: int, template: Template | str | PathLike[str] | None = None) -> None:
        self.num_answers = whole("num_answers", num_answers, 1)
        super().__init__(template)

    def prompt(self, question: str, answers: Sequence[str]) -> Messages:
        require_answers(answers, self.num_answers)
        shown = "\n\n".join(f"[Response {i} begins]\n{answer}\n[Response {i} ends]" for i, answer in enumerate(answers, 1))
        return self.template.fill({"question": question, "answers": shown, "answer": answers[0], "count": str(len(answers))})

    def aggregate(
        self,
        verdicts: ScoreVerdicts,
        *,
        samples: int,
        permutation: Tensor | None = None,
        meta: Tensor | None = None,
        k_meta: int | None = None,
        seed: int = 0,
    ) -> Votes:
        """Sums the scores of ``samples`` verdicts a problem, problem by problem, over the valid ones, or takes their mean (NaN where none is valid);
        the rest as in ``sum_vote``."""
        require_divisor("samples", samples, len(verdicts.scores))
        scores = verdicts.scores.view(-1, samples, self.num_answers)
        votes = sum_vote(scores, permutation=permutation, valid=(verdicts.reason == 0).view(-1, samples), meta=meta, k_meta=k_meta, seed=seed)
        return votes._replace(score=votes.score / votes.used.unsqueeze(-1)) if self.MEANS else votes
