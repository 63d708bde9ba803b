"""Each instruction set against float64, in a fresh process, because the choice is made once."""

import os
import subprocess
import sys

import pytest
import torch

import rrm_core

pytestmark = pytest.mark.native
ORDER = ["default", "avx2", "avx512"]


def python(*arguments: str, capability: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def runs(capability: str) -> bool:
    best = torch.backends.cpu.get_cpu_capability().lower().split("_")[0]
    return ORDER.index(capability) <= (ORDER.index(best) if best in ORDER else 0)


@pytest.mark.parametrize("capability", ORDER)
def test_every_instruction_set_within_contract(capability):
    if not runs(capability):
        pytest.skip(f"this processor has no {capability}")
    report = python(
        "-c",
        "import torch, rrm_core; print(rrm_core.backend_info()['cpu'], torch.backends.cpu.get_cpu_capability())",
        capability=capability,
    ).stdout.split()
    assert report[0].removeprefix("native/").removesuffix("_bf16") == capability == report[1].lower()
    chosen = ["-p", "no:cacheprovider", "-m", "native", "-k", "contract or complement or invarian or cpp or extremes"]
    tests = python("-m", "pytest", "tests/logprobs", "tests/advantages", "tests/tournaments", *chosen, capability=capability)
    assert tests.returncode == 0, tests.stdout
    assert " passed" in tests.stdout


def test_an_unknown_capability_is_ignored():
    report = python("-c", "import rrm_core; print(rrm_core.backend_info()['cpu'])", capability="abacus").stdout
    if "ATEN_CPU_CAPABILITY" not in os.environ:
        assert report.strip() == rrm_core.backend_info()["cpu"]
