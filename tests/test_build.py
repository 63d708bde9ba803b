"""Installs: with tools, a wheel with the library for every Python; without a compiler, one without; with an error in the sources, none."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ["setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "rrm_core", "kernels"]


@pytest.fixture
def copy(tmp_path):
    """The sources of a release, in a folder whose name has a space, with a stale library where the build would put one."""
    target = tmp_path / "a clone"
    target.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, target)
    (target / "rrm_core/librrm_cpu.so").write_bytes(b"stale")
    return target


def build(copy: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", str(copy / "dist"), str(copy)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def contents(copy: Path) -> tuple[str, set[str]]:
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel.name, set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.native
def test_the_wheel_carries_the_library_and_fits_every_python(copy):
    assert build(copy).returncode == 0
    name, files = contents(copy)
    assert name.startswith("rrm_kernels-0.1.0-py3-none-linux_")
    assert {"rrm_core/librrm_cpu.so", "rrm_core/py.typed", "rrm_core/logprobs/ops.py", "rrm_core/tournaments/ops.py"} <= files
    assert not [f for f in files if f.startswith(("kernels", "tests", "examples", "bench"))]


def test_without_a_compiler_the_wheel_has_no_library(copy):
    assert build(copy, CXX="/nonexistent/c++").returncode == 0
    _, files = contents(copy)
    assert "rrm_core/logprobs/ops.py" in files
    assert not [f for f in files if f.endswith(".so")]


@pytest.mark.native
def test_an_error_in_the_sources_is_no_fallback(copy):
    (copy / "kernels/cpu/dispatch.cpp").write_text("this is no C++")
    result = build(copy)
    assert result.returncode != 0
    assert not (copy / "dist").exists() or not list((copy / "dist").iterdir())
