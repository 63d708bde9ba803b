"""Without the compiled library the package imports, says so once, and the reference bodies answer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def without_library(tmp_path_factory):
    """A copy of the package and its tests, without the library."""
    copy = tmp_path_factory.mktemp("hidden")
    for folder in ("rrm_core", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def python(copy, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, cwd=copy)


def test_import_warns_once_and_the_reference_answers(without_library):
    program = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import rrm_core, rrm_core.logprobs, importlib
    importlib.import_module("rrm_core")
import torch
print([type(w.message).__name__ for w in caught], rrm_core.__file__)
print(caught[0].message, caught[0].filename)
print(rrm_core.backend_info())
x, ids = torch.randn(2, 9), torch.tensor([1, 2])
print(torch.equal(rrm_core.token_logprobs(x, ids).logprob, rrm_core.token_logprobs(x, ids, impl="reference").logprob))
try:
    rrm_core.token_logprobs(x, ids, impl="native")
except rrm_core.NativeKernelError as error:
    print(error)
"""
    result = python(without_library, "-c", program)
    assert result.returncode == 0, result.stderr
    first, warning, info, equal, error = result.stdout.splitlines()
    assert first == f"['NativeLibraryWarning'] {without_library / 'rrm_core/__init__.py'}"
    assert warning.startswith("rrm_core runs its plain PyTorch bodies on CPU: librrm_cpu.so has not been built.")
    assert "'cpu': 'reference'" in info
    assert "'library': None" in info
    assert equal == "True"
    assert error == "impl: no native kernel of token_logprobs for torch.float32 on cpu; see rrm_core.backend_info()"


def test_a_broken_library_is_told_and_survived(without_library):
    broken = without_library / "rrm_core/librrm_cpu.so"
    broken.write_bytes(b"not a library")
    try:
        result = python(without_library, "-W", "always", "-c", "import rrm_core; print(rrm_core.backend_info()['cpu'])")
    finally:
        broken.unlink()
    assert result.stdout.strip() == "reference"
    assert result.stderr.count("NativeLibraryWarning: rrm_core runs its plain PyTorch bodies on CPU:") == 1


def test_the_suite_passes_on_the_reference_bodies(without_library):
    families = [f"tests/{family}" for family in ("logprobs", "losses", "tournaments")]
    chosen = ["-m", "not native and not slow", "-k", "not reference"]  # impl="reference" is the same with and without the library
    result = python(without_library, "-m", "pytest", *chosen, *families, "tests/test_registration.py")
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout
    assert "failed" not in result.stdout
