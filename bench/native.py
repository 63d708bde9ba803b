"""The C++ of the benchmarks (csrc), compiled for this very processor when it is missing or older than its source."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess

from bench.machine import ROOT

FLAGS = ["-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", "-pthread"]


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """csrc/<name>.cpp as a loaded library."""
    source, built = ROOT / "bench" / "csrc" / f"{name}.cpp", ROOT / "build" / "bench" / f"lib{name}.so"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([os.environ.get("CXX", "c++"), *FLAGS, str(source), "-o", str(built)], check=True)
    return ctypes.CDLL(str(built))
