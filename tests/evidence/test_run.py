"""The study itself: a short run, what it shows, and a run that was stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.evidence.__main__ import main
from bench.evidence.figures import all_figures, questions
from bench.evidence.report import _agreement, write
from bench.evidence.runner import file_of, kept_in, load, run_all
from examples.evidence.phases import phases
from examples.evidence.settings import QUICK, Settings

ROOT = Path(__file__).parents[2]
TINY = Settings(
    length=3, shape=(8, 2, 1), traces=60, labels=60, batch=8, sft_steps=3, direct_steps=3, extra_steps=2, prompts=4, group=4, pairs=10,
    problems=6, meta_problems=30,
)  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One run of the short form, as a user starts it; one worker, as others are at work in a test run."""
    folder = tmp_path_factory.mktemp("evidence")
    arguments = ["--seeds", "1", "--quick", "--out", str(folder / "report"), "--workers", "1"]
    command = [sys.executable, "-m", "bench.evidence", *arguments]
    run = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder / "report", run


def test_a_short_run_shows_what_is_plain_to_see(quick):
    folder, run = quick
    found = json.loads((folder / "evidence.json").read_text())
    mean = {name: figure["mean"] for name, figure in found["figures"].items()}
    assert mean["think / greedy"] > 0.9 > 0.65 > mean["direct / greedy"]
    assert mean["think, 1 operations / greedy"] > 0.95
    assert mean["rlvr / sampled"] > mean["think / sampled"]
    assert mean["rlvr alone / greedy"] < 0.65
    assert mean["votes of think / votes 9"] > mean["votes of think / votes 1"] + 0.03
    assert mean["votes of think / sprt calls"] < mean["votes of think / beta calls"] < mean["votes of think / majority calls"] < 9
    assert mean["alone / meta 8"] > mean["alone / sum 1"]
    assert 0.7 < mean["alone / auc of meta"] <= 1
    assert found["seeds"] == [0]
    assert found["settings"] == json.loads(json.dumps(QUICK._asdict()))
    assert found["figures"]["think / greedy"]["seeds"] is None  # of one seed
    for name in ("34", "32768"):
        assert found["timing"][name]["rrm_core"]["head differs by"] < 1e-3
        assert all(ms > 0 for loop in found["timing"][name].values() for ms in loop["ms"].values())
    assert "phase" in run.stderr  # the progress bar


def test_the_report_answers_every_question(quick):
    folder, _ = quick
    text = (folder / "evidence.md").read_text()
    answers = [line.split(" | ")[-1] for line in text.splitlines() if line.endswith((" yes |", " not shown |", " no, the opposite |"))]
    found = json.loads((folder / "evidence.json").read_text())
    means = {name: SimpleNamespace(mean=figure["mean"]) for name, figure in found["figures"].items()}
    asked = questions(QUICK._asdict(), means)
    assert len(answers) == sum(map(len, asked.values())) > 60
    assert all(f"## {topic}" in text for topic in asked)
    assert "nan" not in text
    assert (folder / "evidence.png").read_bytes()[:4] == b"\x89PNG"


def same(a, b):
    return a.keys() == b.keys() and all(same_value(name, a[name], b[name]) for name in a)


def same_value(name, a, b):
    return name == "seconds" or (same(a, b) if isinstance(a, dict) else torch.equal(a.double().nan_to_num(-1), b.double().nan_to_num(-1)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two seeds of a study that learns nothing, with every count of votes that the real one has."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        run_all(TINY, [0, 1], folder, 2)
    return folder


def test_a_run_that_was_stopped_goes_on_and_every_seed_has_its_own_bits(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names = list(phases(TINY))
    assert sorted(p.name for p in tiny.iterdir()) == sorted(file_of(tiny, seed, name).name for seed in (0, 1) for name in names)
    for name in ("think", "direct"):
        file_of(tmp_path, 0, name).write_bytes(file_of(tiny, 0, name).read_bytes())
    file_of(tmp_path, 0, "rlvr").with_suffix(".1").write_bytes(b"cut short")
    before = file_of(tmp_path, 0, "think").stat().st_mtime_ns
    run_all(TINY, [0], tmp_path, 1)
    assert file_of(tmp_path, 0, "think").stat().st_mtime_ns == before
    for name in names:
        assert same(load(tiny, 0, name), load(tmp_path, 0, name)), name
    assert not same(load(tiny, 0, "think"), load(tiny, 1, "think"))


def test_a_report_of_the_real_counts_holds_nothing_that_json_does_not(tiny, tmp_path, capsys):
    found = [{name: load(tiny, seed, name) for name in phases(TINY)} for seed in (0, 1)]
    timing = {"34": {"rrm_core": {"ms": {"step": 1.0}, "head differs by": 0.0}}}
    for _ in range(2):
        write(tmp_path, TINY._asdict(), [0, 1], 1.0, found, timing)
    figures = all_figures(found)
    assert f"{len(figures)} of {len(figures)} figures agree with the run before within intervals, {len(figures)} of them" in capsys.readouterr().out
    read = json.loads((tmp_path / "evidence.json").read_text(), parse_constant=pytest.fail)
    assert len(read["figures"]) == len(figures)
    others = {**read, "figures": {name: {**figure, "mean": figure["mean"] + 1000} for name, figure in read["figures"].items()}}
    assert f"0 of {len(figures)} figures agree" in _agreement(figures, others, TINY._asdict())
    assert "other settings" in _agreement(figures, read, TINY._replace(pairs=1)._asdict())
    asked = questions(TINY._asdict(), figures)
    assert {name for topic in asked.values() for q in topic for name in (q.first, q.second)} <= set(figures)


def test_results_are_kept_apart_by_settings_and_code(tmp_path, monkeypatch):
    assert kept_in(tmp_path, TINY) == kept_in(tmp_path, TINY)
    assert kept_in(tmp_path, TINY) != kept_in(tmp_path, QUICK)
    before = kept_in(tmp_path, TINY)
    monkeypatch.setattr(torch, "__version__", "0")
    assert kept_in(tmp_path, TINY) != before


def test_a_phase_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    torch.save({"model": {"head.weight": torch.zeros(1, 1)}}, file_of(tmp_path, 0, "think"))
    with pytest.raises(RuntimeError, match="Missing key"):
        run_all(TINY, [0], tmp_path, 1)


@pytest.mark.parametrize(("arguments", "message"), [(["--seeds", "0"], "at least 1, got 0"), (["--workers", "x"], "invalid positive value: 'x'")])
def test_bad_arguments_are_told(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.evidence", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err
