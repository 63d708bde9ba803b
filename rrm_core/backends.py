"""Finds and loads the compiled bodies, and says which ones answer."""

from __future__ import annotations

import ctypes
import importlib.metadata
import warnings
from pathlib import Path

import torch

from rrm_core._library import HAS_TRITON, OPS

LIBRARY_PATH = Path(__file__).with_name("librrm_cpu.so")

_cpu_isa: str | None = None


class NativeLibraryWarning(UserWarning):
    """The compiled CPU library is missing or cannot be loaded; plain PyTorch answers instead."""


def load() -> None:
    """Loads the CPU library, once, at import. Never raises: without it every op keeps its reference body."""
    global _cpu_isa
    try:
        if not LIBRARY_PATH.exists():
            raise OSError(f"{LIBRARY_PATH.name} has not been built")
        torch.ops.load_library(str(LIBRARY_PATH))
        isa = ctypes.CDLL(str(LIBRARY_PATH)).rrm_cpu_isa
        isa.restype = ctypes.c_char_p
        _cpu_isa = isa().decode()
    except (OSError, AttributeError) as error:
        message = f"rrm_core runs its plain PyTorch bodies on CPU: {error}. Reinstall with a C++20 compiler at hand to build the kernels."
        warnings.warn(message, NativeLibraryWarning, stacklevel=3)
    for op in OPS.values():
        op.find_native()


def _triton_version() -> str:
    """Of the installed distribution, which ROCm builds call otherwise; asked without importing Triton."""
    for name in ("triton", "pytorch-triton-rocm", "triton-rocm"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def backend_info() -> dict[str, str | None]:
    """Which bodies answer when ``impl`` is None.

    Returns:
        ``cpu``: "native/<instruction set>" or "reference"; ``cuda``: "triton <version>" or "reference" (also for ROCm); ``library``: path of the
        loaded CPU library or None; ``torch``: torch's version. float64 inputs of ops that compute in float32 always go to the reference bodies.
    """
    return {
        "cpu": f"native/{_cpu_isa}" if _cpu_isa else "reference",
        "cuda": f"triton {_triton_version()}" if HAS_TRITON else "reference",
        "library": str(LIBRARY_PATH) if _cpu_isa else None,
        "torch": torch.__version__,
    }
