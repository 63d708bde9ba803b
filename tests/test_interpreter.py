"""The Triton bodies' values: the native tests of modules marked ``triton`` once more, under Triton's interpreter and on a GPU, in a fresh process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.triton_bodies",
        "-m",
        "triton and native and not cpu",
        *arguments,
    ]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("family", ["advantages", "logprobs", "losses", "tournaments"])
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"TRITON_INTERPRET": "1"}, id="interpreter"),
        pytest.param({}, id="gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")),
    ],
)
def test_triton_bodies(environment, family):
    result = run(environment, f"tests/{family}")
    assert result.returncode == 0, result.stdout[-20_000:]
    assert " passed" in result.stdout
