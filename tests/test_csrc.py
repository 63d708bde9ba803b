"""tests/csrc: the raw C++ kernels of every instruction set under the address and undefined-behaviour sanitizers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.native
ROOT = Path(__file__).parents[1]


def test_raw_kernels_under_sanitizers(tmp_path):
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}

    def run(*command: str) -> str:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run("cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", "-DRRM_WERROR=ON", "-DRRM_BUILD_TESTS=ON", "-DRRM_SANITIZE=address,undefined")
    run("cmake", "--build", str(tmp_path), "--target", "kernel_test")
    output = run(str(tmp_path / "tests/csrc/kernel_test"))
    assert re.search(r"^default: [1-9]\d* checks$", output, re.MULTILINE)
    assert re.search(r"^[1-9]\d* passed, 0 failed$", output, re.MULTILINE)
