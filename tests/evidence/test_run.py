"""The study itself: a short run, what it shows, and a run that was stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples.evidence.phases import file_of, phases, run_all
from examples.evidence.settings import QUICK, Settings

ROOT = Path(__file__).parents[2]
TINY = Settings(
    length=2, shorter=(1,), shape=(8, 2, 1), traces=40, labels=60, batch=8, sft_steps=3, direct_steps=3, extra_steps=2, prompts=4, group=4, pairs=20,
    votes=3, problems=6, candidates=3, match_votes=2, point_samples=2, meta_problems=30,
)  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One run of the short form, as a user starts it; one worker, as others are at work in a test run."""
    folder = tmp_path_factory.mktemp("evidence")
    arguments = ["--seeds", "1", "--quick", "--out", str(folder / "report"), "--workers", "1"]
    command = [sys.executable, "-m", "examples.evidence", *arguments]
    run = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder / "report", run


def test_a_short_run_shows_what_is_plain_to_see(quick):
    folder, run = quick
    found = json.loads((folder / "evidence.json").read_text())
    mean = {name: figure["mean"] for name, figure in found["figures"].items()}
    assert mean["think / greedy"] > 0.8 > 0.65 > mean["direct / greedy"]
    assert mean["think, 1 operations / greedy"] > 0.95
    assert mean["rlvr / sampled"] > mean["think / sampled"]
    assert mean["rlvr alone / greedy"] < 0.65
    assert mean["votes of think / votes 9"] > mean["votes of think / votes 1"] + 0.03
    assert mean["votes of think / sprt calls"] < mean["votes of think / beta calls"] < mean["votes of think / majority calls"] < 9
    assert mean["points / meta 8"] > mean["points / sum 1"]
    assert 0.7 < mean["points / auc of meta"] <= 1
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
    for topic in ("Thinking before the verdict", "More votes", "Stopping early", "Distillation, then RLVR", "Expectation instead of a sample"):
        assert f"## {topic}" in text
    assert text.count("| not shown |") + text.count("| yes |") + text.count("| no, the opposite |") == 61
    assert "nan" not in text
    assert (folder / "evidence.png").read_bytes()[:4] == b"\x89PNG"


def same(a, b):
    return a.keys() == b.keys() and all(
        same(x, b[name]) if isinstance(x, dict) else name == "seconds" or torch.equal(x, b[name]) for name, x in a.items()
    )


def test_a_run_that_was_stopped_goes_on_and_every_seed_has_its_own_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    run_all(TINY, [0, 1], whole, 2)
    names = list(phases(TINY))
    assert sorted(p.name for p in whole.iterdir()) == sorted(file_of(whole, seed, name).name for seed in (0, 1) for name in names)
    for name in ("think", "direct"):
        file_of(stopped, 0, name).write_bytes(file_of(whole, 0, name).read_bytes())
    file_of(stopped, 0, "rlvr").with_suffix(".part").write_bytes(b"cut short")
    before = file_of(stopped, 0, "think").stat().st_mtime_ns
    run_all(TINY, [0], stopped, 1)
    assert file_of(stopped, 0, "think").stat().st_mtime_ns == before
    for name in names:
        assert same(torch.load(file_of(whole, 0, name)), torch.load(file_of(stopped, 0, name))), name
    assert not same(torch.load(file_of(whole, 0, "think")), torch.load(file_of(whole, 1, "think")))


def test_a_phase_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(RuntimeError, match="size mismatch"):
        torch.save({"model": {"head.weight": torch.zeros(1, 1)}}, file_of(tmp_path, 0, "think"))
        run_all(TINY, [0], tmp_path, 1)
