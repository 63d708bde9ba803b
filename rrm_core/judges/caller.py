"""Calls of one run: looked up in its journal, made in batches where they are not there, counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rrm_core._validate import require
from rrm_core.judges.generation import Call, Generated, Generator, Key
from rrm_core.judges.journal import Entry, Journal
from rrm_core.judges.system import System

Progress = Callable[[int], None]


class GenerationError(RuntimeError):
    """The generator failed more often than it may. What it had brought before is kept."""


class Asked(NamedTuple):
    """A call to be made: its key, and the answers of its question in the order in which they are shown."""

    key: Key
    problem: int
    shown: tuple[int, ...]


class Caller:
    """Makes calls of one run: looks them up in the journal, asks for the others in batches, and counts.

    meta: from hidden states [K, H] to ratings [K], of a meta reward model.
    """

    def __init__(
        self,
        system: System[Any],
        generate: Generator,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        journal: Journal,
        *,
        seed: int,
        batch_size: int,
        retries: int,
        budget: int | None,
        meta: Callable[[Tensor], Tensor] | None,
        progress: Progress,
    ) -> None:
        self._system, self._generate, self._questions, self._answers, self._journal = system, generate, questions, answers, journal
        self._seed, self._batch_size, self._retries, self._meta, self._progress = seed, batch_size, retries, meta, progress
        self.left = budget  # None: no end
        self.calls = torch.zeros(len(questions), dtype=torch.int64)

    def __call__(self, asked: Sequence[Asked]) -> list[Entry]:
        """The entries of all calls, which are no more than what is left of the budget."""
        missing = [call for call in asked if call.key not in self._journal.entries]
        self._progress(len(asked) - len(missing))
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            self._journal.add([call.key for call in batch], self._entries(batch))
            self._progress(len(batch))
        self.calls += torch.tensor([call.problem for call in asked], dtype=torch.int64).bincount(minlength=len(self.calls))
        if self.left is not None:
            self.left -= len(asked)
        return [self._journal.entries[call.key] for call in asked]

    def _entries(self, batch: Sequence[Asked]) -> list[Entry]:
        calls = [
            Call(self._system.prompt(self._questions[x.problem], [self._answers[x.problem][i] for i in x.shown]), x.key, self._seed_of(x.key))
            for x in batch
        ]
        for attempt in range(self._retries + 1):
            try:
                found = self._generate(calls)
                break
            except Exception as error:
                if attempt == self._retries:
                    times = f"{type(error).__name__} {attempt + 1} times, the last time: {error}"
                    raise GenerationError(f"generate: expected {len(calls)} texts, got {times}") from error
        require(
            isinstance(found, Sequence) and not isinstance(found, str) and len(found) == len(calls),
            "generate",
            f"{len(calls)} texts",
            type(found).__name__,
            TypeError,
        )
        texts = [x if isinstance(x, Generated) else Generated(x) for x in found]
        require(all(isinstance(x.text, str) for x in texts), "generate", "texts", [type(x.text).__name__ for x in texts], TypeError)
        return [Entry(x.text, bool(x.finished), rating) for x, rating in zip(texts, self._ratings(texts), strict=True)]

    def _ratings(self, texts: Sequence[Generated]) -> list[float | None]:
        if self._meta is None:
            return [None] * len(texts)
        hidden = [x.hidden for x in texts if x.hidden is not None]
        require(len(hidden) == len(texts), "generate", "hidden states for the meta reward model", "texts without")
        ratings: list[float | None] = self._meta(torch.stack(hidden)).flatten().tolist()
        return ratings

    def _seed_of(self, key: Key) -> int:
        digest = hashlib.blake2b(f"{self._seed}:{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1
