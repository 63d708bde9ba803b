"""Builds librrm_cpu.so with CMake and Ninja. Metadata is in pyproject.toml."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """The extension is a plain shared library, loaded by torch: no Python symbol, so no Python version in its name."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        target, build = Path(self.get_ext_fullpath(ext.name)).resolve().parent, ROOT / "build" / "cmake"
        (target / "librrm_cpu.so").unlink(missing_ok=True)
        environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
        torch = importlib.util.find_spec("torch")
        try:
            if torch is None or not torch.submodule_search_locations:
                raise OSError("torch is not installed here (install it first, then this package with --no-build-isolation)")
            command = ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", f"-DTORCH_DIR={torch.submodule_search_locations[0]}"]
            subprocess.run([*command, *shlex.split(os.environ.get("CMAKE_ARGS", ""))], check=True, env=environment)
        except (OSError, subprocess.CalledProcessError) as error:  # no tools for it: the extension is optional
            raise CompileError(f"{error}; the package works without its kernels, in plain PyTorch") from error
        subprocess.run(["cmake", "--build", str(build)], check=True, env=environment)  # tools, but an error: that is no option
        subprocess.run(["cmake", "--install", str(build), "--prefix", str(target)], check=True, env=environment)


class PlatformWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=[*find_packages(include=["rrm_core*"]), "rrm_core._triton"],
    package_dir={"rrm_core._triton": "kernels/triton"},
    ext_modules=[Extension("rrm_core.librrm_cpu", sources=[], optional=True)] if sys.platform == "linux" else [],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
)
