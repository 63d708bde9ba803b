"""Installs: with tools, a wheel with the library for every Python; without a compiler, one without; with an error in the sources, none."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from rrm_core._library import OPS

ROOT = Path(__file__).parents[1]
SOURCES = ["setup.py", "pyproject.toml", "MANIFEST.in", "CMakeLists.txt", "README.md", "LICENSE", "rrm_core", "kernels"]


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


def run(*command: str | Path, path: str | Path = os.environ["PATH"], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], env={**os.environ, "PATH": str(path), **environment}, capture_output=True, text=True, check=False, cwd="/"
    )


def build(copy: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", copy / "dist"]
    return run(sys.executable, "-m", "pip", "wheel", *options, copy, **environment)


def contents(copy: Path) -> set[str]:
    (wheel,) = (copy / "dist").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def release(copy: Path) -> tuple[Path, Path]:
    """Source archive, and wheel made from it, as by ``make wheel``."""
    path, dist = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), copy / "dist"
    result = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, copy)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = dist.glob("*.whl")
    result = run(sys.executable, "-m", "auditwheel", "repair", "--exclude", "libtorch_cpu.so", "--wheel-dir", dist, built, path=path)
    assert result.returncode == 0, result.stderr
    built.unlink()
    (archive,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return archive, wheel


def smoke_test(folder: Path, *packages: str | Path, program: str = "runpy.run_path(sys.argv[1])") -> str:
    """Installs into a new environment and runs smoke.py there, where no tool is on PATH; what it prints."""
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    if torch_is_there := len(packages) == 1:
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "torch.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    installed = run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *(["--no-deps"] if torch_is_there else []), *packages)
    assert installed.returncode == 0, installed.stderr
    result = run(python, "-c", f"import runpy, sys; {program}", ROOT / "tests/smoke.py", path=folder / "bin")
    assert result.returncode == 0, result.stderr
    assert str(folder) in result.stdout
    return result.stdout


@pytest.mark.native
def test_a_release_is_complete_and_runs_without_tools(copy, tmp_path):
    archive, wheel = release(copy)
    assert wheel.name.startswith(f"rrm_kernels-{version('rrm-kernels')}-py3-none-manylinux_")
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "rrm_core").rglob("*.py")}
    bodies = {p.name for p in (ROOT / "kernels/triton").glob("*.py")}
    files = {f for f in contents(copy) if not f.endswith("/") and ".dist-info/" not in f}
    assert files == modules | {f"rrm_core/_triton/{name}" for name in bodies} | {"rrm_core/py.typed", "rrm_core/librrm_cpu.so"}
    with tarfile.open(archive) as opened:
        kept = {name.partition("/")[2] for name in opened.getnames()}
    assert {"CMakeLists.txt", *(str(p.relative_to(ROOT)) for p in (ROOT / "kernels/cpu").iterdir())} <= kept
    assert not [f for f in kept if f.startswith(("tests", "examples", "bench")) or f.endswith(".so")]

    native = " ".join(sorted(name for name, op in OPS.items() if "cpu" in op.native_devices))
    assert f"native: {native}\n" in smoke_test(tmp_path / "with triton", wheel)
    without = smoke_test(tmp_path / "without", wheel, program="sys.modules['triton'] = None; runpy.run_path(sys.argv[1])")
    assert "'cuda': 'reference'" in without


@pytest.mark.native
@pytest.mark.slow
def test_a_release_installs_with_its_dependencies_into_an_empty_environment(copy, tmp_path):
    _, wheel = release(copy)
    smoke_test(tmp_path / "empty", wheel, f"torch=={version('torch').partition('+')[0]}")


def test_without_a_compiler_the_wheel_has_no_library(copy):
    assert build(copy, CXX="/nonexistent/c++").returncode == 0
    files = contents(copy)
    assert "rrm_core/logprobs/ops.py" in files
    assert not [f for f in files if f.endswith(".so")]


@pytest.mark.native
def test_an_error_in_the_sources_is_no_fallback(copy):
    (copy / "kernels/cpu/dispatch.cpp").write_text("this is no C++")
    result = build(copy)
    assert result.returncode != 0
    assert not (copy / "dist").exists() or not list((copy / "dist").iterdir())
