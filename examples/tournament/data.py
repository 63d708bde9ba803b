"""Questions with candidate answers in known order of quality, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

DEFAULT = Path(__file__).with_name("answers.jsonl")


class Question(NamedTuple):
    text: str
    answers: list[str]  # best first


class DataError(ValueError):
    """The data file cannot be used; the message is one sentence that names the line."""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def parse(line: str, where: str) -> Question:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # no JSON, an integer of thousands of digits, or thousands of brackets
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{where}: expected a JSON object, got text that is no JSON ({reason})") from error
    if not isinstance(record, dict) or not {"question", "answers"} <= set(record):
        got = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise DataError(f'{where}: expected an object with "question" and "answers", got {got}')
    if not _is_text(record["question"]):
        raise DataError(f'{where}: expected "question" to be a text, got {record["question"]!r}')
    answers = record["answers"]
    if not isinstance(answers, list) or len(answers) < 2 or not all(map(_is_text, answers)):
        raise DataError(f'{where}: expected "answers" to be a list of at least 2 texts, best first, got {answers!r}')
    return Question(record["question"], answers)


def load(path: Path, limit: int | None = None) -> list[Question]:
    """The first ``limit`` questions of the file, blank lines skipped; all with the same number of answers."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise DataError(f"{path}: expected a readable JSONL file, got: {reason}") from error
    questions: list[Question] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        question = parse(line, f"{path}, line {number}")
        if questions and len(question.answers) != len(questions[0].answers):
            raise DataError(
                f"{path}, line {number}: expected {len(questions[0].answers)} answers as in the lines before, got {len(question.answers)}"
            )
        questions.append(question)
    if not questions:
        raise DataError(f"{path}: expected at least one question, got an empty file")
    return questions[:limit]
