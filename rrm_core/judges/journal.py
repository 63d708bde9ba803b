"""What a judge was asked and what it said, call by call: in memory, and on disk where a run should outlive its process."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from rrm_core._validate import require
from rrm_core.judges.generation import Key

_VERSION = 1


class Entry(NamedTuple):
    """``meta``: what the meta reward model makes of the text, None without one."""

    text: str
    finished: bool
    meta: float | None


class Journal:
    """Entries by key. On disk: JSON Lines, first a line about the run, then one an entry, appended as texts come in. A last line that a kill
    cut short is dropped when the file is opened again; while it is open nobody else can open it.

    Args:
        path: None keeps everything in memory.
        run: what the entries belong to; a file of another run is refused.

    Raises:
        ValueError: the file is of another run, or no journal. BlockingIOError: another process has it open. OSError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, run: str) -> None:
        self.run = run
        self.entries: dict[Key, Entry] = {}
        self._path, self._file = None if path is None else Path(path), None
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+", encoding="utf-8")
            try:
                self._open(self._file)
            except BaseException:
                self._file.close()
                raise

    def _open(self, file: TextIO) -> None:
        _lock(file)
        file.seek(0)
        lines = file.read().split("\n")
        whole = len("\n".join(lines[:-1]).encode()) + (len(lines) > 1)
        head = {"version": _VERSION, "run": self.run}
        records = [self._record(line, i) for i, line in enumerate(lines[:-1], 1)]
        if records:
            require(records[0].get("version") == _VERSION and "run" in records[0], "journal", f"a journal in {self._path}", "another file")
            require(records[0]["run"] == self.run, "journal", f"this run's in {self._path}", "that of other questions, another judge or another seed")
        else:  # empty, or cut off in its first line
            require(json.dumps(head).startswith(lines[-1]), "journal", f"a journal in {self._path}", "another file")
        file.truncate(whole)
        for record in records[1:]:
            self.entries[tuple(record["key"])] = Entry(record["text"], record["finished"], record["meta"])
        if not records:
            self._write(head)

    def _record(self, line: str, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"journal: expected JSON in {self._path}, line {number}, got text that is none ({error})") from error
        fits = isinstance(record, dict) and (number == 1 or set(record) == {"key", "text", "finished", "meta"})
        require(fits, "journal", f"an entry in {self._path}, line {number}", "something else")
        return dict(record)

    def add(self, keys: Sequence[Key], entries: Sequence[Entry]) -> None:
        """Takes what a batch has brought; on disk when it returns."""
        for key, entry in zip(keys, entries, strict=True):
            self.entries[key] = entry
            self._write({"key": list(key), **entry._asdict()})
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _lock(file: TextIO) -> None:
    try:
        import fcntl
    except ImportError:  # no such thing on Windows
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
