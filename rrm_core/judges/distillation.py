"""What a judge is distilled from before it learns by reward (RM-R1, stage 1): JSON Lines of prompts, traces and the targets trained on."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from io import BufferedRandom
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from rrm_core._validate import require
from rrm_core.judges.rm_r1 import RMR1, VERDICTS
from rrm_core.judges.system import Messages
from rrm_core.judges.verdicts import Reason, after_thinking

_BEGIN = b'{"messages": '  # of every line
_PUBLISHED, _STRICT = RMR1(reading="published"), RMR1(reading="strict")


class DistillationRecord(NamedTuple):
    """``messages`` ask for a verdict, ``trace`` judges, ``label`` is the better answer, 0 or 1; ``target`` is the trace with its verdict."""

    messages: Messages
    trace: str
    label: int
    target: str


class Written(NamedTuple):
    """How many records were written, and how many traces were not, by reason: "wrong", "contradictory", "no_verdict", "cut_off", "empty"."""

    written: int
    rejected: dict[str, int]


def write_distillation(path: str | PathLike[str], messages: Sequence[Messages], traces: Sequence[str], labels: Sequence[int] | Tensor) -> Written:
    """Appends to a file the records of all traces whose verdict, if they have one, is the label.

    The target is the trace, followed by the right verdict unless the published reward finds that at its end already. A trace is left out if it names
    the other answer ("wrong"), both ("contradictory"; thoughts count where the published reward would see them) or something else in its last
    ``<answer>`` ("no_verdict"), if its thoughts or its answer never end ("cut_off"), and if it is blank ("empty").

    Args:
        path: of a file, which need not exist. One writer at a time.
        messages: K prompts.
        traces: K texts.
        labels: K numbers, 0 or 1: which answer is the better.

    Returns:
        How many were written and rejected.

    A line is handed to the system whole. If a writer was killed within one all the same, what remains of it is removed before anything is appended.

    Raises:
        TypeError, ValueError: an argument doesn't fit, or the file ends in something else; nothing is written then. OSError: it cannot be written.
    """
    require(not isinstance(traces, str) and all(isinstance(t, str) for t in traces), "traces", "texts", type(traces).__name__, TypeError)
    require(isinstance(labels, (Tensor, Sequence)), "labels", "a tensor or a sequence", type(labels).__name__, TypeError)
    answers = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    require(isinstance(answers, list) and len(answers) == len(traces), "labels", f"{len(traces)} numbers, one a trace", answers)
    for label in answers:
        require(_is_label(label), "labels", "0 or 1", label)
    require(len(messages) == len(traces), "messages", f"{len(traces)} prompts, one a trace", len(messages))
    for asked in messages:
        require(_are_messages(asked), "messages", "lists of messages with the texts role and content", _shown(asked))
    found = [_target(trace, label) for trace, label in zip(traces, answers, strict=True)]
    with open(path, "a+b") as file:
        _mend(file)
        for asked, trace, label, (target, _) in zip(messages, traces, answers, found, strict=True):
            if target is not None:
                file.write(json.dumps(DistillationRecord(asked, trace, label, target)._asdict()).encode() + b"\n")
                file.flush()
        os.fsync(file.fileno())
    rejected = Counter(reason for target, reason in found if target is None)
    return Written(len(found) - rejected.total(), dict(rejected))


def read_distillation(path: str | PathLike[str]) -> list[DistillationRecord]:
    """The records of a file, in its order.

    Raises:
        ValueError: a line is no record, or its target does not end in its label's verdict. The message names file and line. OSError: the file
            cannot be read.
    """
    lines = Path(path).read_bytes().split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return [_record(line, f"{os.fspath(path)}, line {number}") for number, line in enumerate(lines, 1)]


def _target(trace: str, label: int) -> tuple[str | None, str]:
    """What to train on, or None and why."""
    if not trace.strip():
        return None, "empty"
    said = _STRICT.parse([trace])
    reason = Reason(int(said.reason[0]))
    undecided = reason is Reason.NO_VERDICT and "<answer>" not in (after_thinking(trace) or "")
    if reason and not undecided:
        return None, reason.name.lower()
    if int(said.winner[0]) not in (label, -1):
        return None, "wrong"
    if _ends_in(trace, label):
        return trace, ""
    target = f"{trace.rstrip()}\n\n{VERDICTS[label]}"
    return (target, "") if _ends_in(target, label) else (None, "contradictory")


def _ends_in(text: str, label: int) -> bool:
    """By both readings: the published one knows no thoughts."""
    return all(int(judge.parse([text]).winner[0]) == label for judge in (_PUBLISHED, _STRICT))


def _mend(file: BufferedRandom) -> None:
    """Ends the last line, or removes it if it is only the beginning of one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read() in (b"", b"\n"):
        return
    file.seek(0)
    begin = file.read().rfind(b"\n") + 1
    file.seek(begin)
    line = file.read()
    try:
        _record(line, "the last line")
    except ValueError:
        require(line.startswith(_BEGIN) or _BEGIN.startswith(line), "path", "a file of distillation records", f"one that ends in {_shown(line)}")
        file.truncate(begin)
    else:
        file.write(b"\n")


def _is_label(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in (0, 1)


def _are_messages(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(m, dict) and set(m) == {"role", "content"} and all(isinstance(text, str) for text in m.values()) for m in value)


def _record(line: bytes, place: str) -> DistillationRecord:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: expected a JSON object, got text that is none ({error})") from error
    fields = DistillationRecord._fields
    require(isinstance(record, dict) and set(record) == set(fields), place, f"an object with {', '.join(fields)}", _shown(record))
    require(_are_messages(record["messages"]), f"{place}, messages", "messages with the texts role and content", _shown(record["messages"]))
    for name in ("trace", "target"):
        require(isinstance(record[name], str), f"{place}, {name}", "a text", _shown(record[name]))
    require(_is_label(record["label"]), f"{place}, label", "0 or 1", _shown(record["label"]))
    found = DistillationRecord(**record)
    require(found.target.startswith(found.trace.rstrip()), f"{place}, target", "the trace and its verdict", _shown(found.target))
    require(_ends_in(found.target, found.label), f"{place}, target", f"{VERDICTS[found.label]} at its end", _shown(found.target))
    return found


def _shown(value: object) -> str:
    """The end of a long text."""
    text = repr(value)
    return text if len(text) <= 100 else "..." + text[-100:]
