"""The Triton bodies' values: the native tests of modules marked ``triton`` once more, on CPU under Triton's interpreter, in a fresh process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
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
    return subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("family", ["advantages", "logprobs", "losses", "tournaments"])
def test_triton_bodies_under_the_interpreter(family):
    result = run(f"tests/{family}")
    assert result.returncode == 0, result.stdout[-20_000:]
    assert " passed" in result.stdout
