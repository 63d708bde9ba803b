"""What figures are quoted with: the machine, the versions, the commit."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import rrm_core

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "peers"  # packages of other people, see requirements/bench.txt
DEFAULT_CACHE = 32 << 20  # bytes, where the system doesn't tell


def processor() -> str:
    """The processor's name; virtual machines often hide the model behind a bare brand, so its numbers stand beside it."""
    cpuinfo = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name", platform.processor() or platform.machine())
    return f"{name} (family {found['cpu family']}, model {found['model']})" if {"cpu family", "model"} <= found.keys() else name


def last_level_cache(device: torch.device) -> int:
    """Bytes of the largest cache that ``device`` reads through."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.rstrip("K")) << 10 for size in sizes if size.endswith("K")), default=DEFAULT_CACHE)


def load() -> float:
    """Processes that wanted a core during the last minute, on average; 0 where the system doesn't tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def commit() -> str:
    """Short hash of the checkout, with "-dirty" where tracked files differ from it."""
    found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "triton", "numpy", "evalica", "transformers", "trl"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | {x.metadata["Name"]: x.version for x in metadata.distributions(path=[str(PEERS)])}


def describe(device: torch.device) -> dict[str, Any]:
    """Everything that belongs beside a figure."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "last level cache": last_level_cache(device),
        "python": platform.python_version(),
        "versions": {"rrm-kernels": rrm_core.__version__, **_versions()},
        "backends": {name: Path(value).name if name == "library" and value else value for name, value in rrm_core.backend_info().items()},
    }
