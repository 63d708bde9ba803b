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
    """The generator failed, or brought None, more often than it may. What it had brought before is kept."""


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
        batch_size: int,
        retries: int,
        budget: int | None,
        meta: Callable[[Tensor], Tensor] | None,
        progress: Progress,
    ) -> None:
        self._system, self._generate, self._questions, self._answers, self._journal = system, generate, questions, answers, journal
        self._batch_size, self._retries, self._meta, self._progress = batch_size, retries, meta, progress
        self.left = budget  # None: no end
        self.calls = torch.zeros(len(questions), dtype=torch.int64)

    def __call__(self, asked: Sequence[Asked]) -> list[Entry]:
        """The entries of all calls, which are no more than what is left of the budget."""
        missing = [call for call in asked if call.key not in self._journal.entries]
        self._progress(len(asked) - len(missing))
        for start in range(0, len(missing), self._batch_size):
            self._ask(missing[start : start + self._batch_size])
        self.calls += torch.tensor([call.problem for call in asked], dtype=torch.int64).bincount(minlength=len(self.calls))
        if self.left is not None:
            self.left -= len(asked)
        return [self._journal.entries[call.key] for call in asked]

    def seed_of(self, key: Key) -> int:
        """63 bits that follow from the run, its questions and its seed included, and the key."""
        return int.from_bytes(hashlib.blake2b(f"{self._journal.run}:{key}".encode(), digest_size=8).digest(), "big") >> 1

    def _ask(self, batch: Sequence[Asked]) -> None:
        """Until every call has its text, which is kept as soon as it is there."""
        fault: Exception | str = ""
        for _ in range(self._retries + 1):
            try:
                found = self._generate([self._call(asked) for asked in batch])
            except Exception as error:
                fault = error
                continue
            require(isinstance(found, Sequence) and not isinstance(found, str), "generate", "a list of texts", type(found).__name__, TypeError)
            require(len(found) == len(batch), "generate", f"{len(batch)} texts", len(found))
            there = [(asked.key, x if isinstance(x, Generated) else Generated(x)) for asked, x in zip(batch, found, strict=True) if x is not None]
            wrong = {type(x.text).__name__ for _, x in there if not isinstance(x.text, str)}
            require(not wrong, "generate", "texts", wrong, TypeError)
            self._keep([key for key, _ in there], [x for _, x in there])
            batch = [asked for asked, x in zip(batch, found, strict=True) if x is None]
            if not batch:
                return
            fault = "None"
        told = fault if isinstance(fault, str) else f"{type(fault).__name__}: {fault}"
        raise GenerationError(f"generate: expected {len(batch)} texts, got {told}, {self._retries + 1} times") from (
            fault if isinstance(fault, Exception) else None
        )

    def _call(self, asked: Asked) -> Call:
        shown = [self._answers[asked.problem][i] for i in asked.shown]
        return Call(self._system.prompt(self._questions[asked.problem], shown), asked.key, self.seed_of(asked.key))

    def _keep(self, keys: Sequence[Key], texts: Sequence[Generated]) -> None:
        if keys:
            self._journal.add(keys, [Entry(x.text, bool(x.finished), rating) for x, rating in zip(texts, self._ratings(texts), strict=True)])
            self._progress(len(keys))

    @torch.no_grad()
    def _ratings(self, texts: Sequence[Generated]) -> list[float | None]:
        if self._meta is None:
            return [None] * len(texts)
        hidden = [x.hidden for x in texts if x.hidden is not None]
        require(len(hidden) == len(texts), "generate", "hidden states for the meta reward model", "texts without")
        where = next(self._meta.parameters(), None) if isinstance(self._meta, torch.nn.Module) else None
        states = torch.stack(hidden)
        ratings: list[float | None] = self._meta(states if where is None else states.to(where.device)).flatten().tolist()
        require(len(ratings) == len(texts), "meta", f"{len(texts)} ratings", len(ratings))
        return ratings
