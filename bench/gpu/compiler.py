"""Compiles whatever a Triton launcher launches, for a GPU that isn't there.

Inside ``with compiling("sm_90") as launches:`` launchers run on CPU tensors. Every kernel is compiled with the specialisation a real launch would
have (dtypes, alignments, sizes divisible by 16) and nothing is executed: outputs stay as they were allocated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}


_disassembled: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: what was compiled for it, and the grid."""

    kernel: str
    target: str
    grid: tuple[int, ...]
    compiled: Any

    @cached_property
    def assembly(self) -> str:
        """The machine's own instructions: SASS or AMD GCN."""
        key = (self.target, self.compiled.hash)  # several launches share one kernel, and disassembling takes longer than compiling
        if key not in _disassembled:
            _disassembled[key] = str(self.compiled.asm["sass" if self.target.startswith("sm_") else "amdgcn"])
        return _disassembled[key]

    @property
    def spills(self) -> int:
        """Bytes of registers kept in memory (AMD; scalars kept in lanes of a vector register are not), or instructions that move them (NVIDIA)."""
        if self.target.startswith("sm_"):
            return len(re.findall(r"\b(?:LDL|STL)\b", self.assembly))
        return sum(int(n) for n in re.findall(r"\.(?:vgpr_spill_count|private_segment_fixed_size):\s+(\d+)", self.assembly))

    @property
    def load_bits(self) -> set[int]:
        """Widths of the loads from global memory."""
        if self.target.startswith("sm_"):
            loads = re.findall(r"\b(?:LDG|LDGSTS)\.E([.\w]*)", self.assembly)
            return {next((bits for bits in (256, 128, 64) if f".{bits}" in load), 32) for load in loads}
        widths = re.findall(r"\b(?:global|buffer)_load_(?:(?:dword|b)(x?\d*)|\w+)", self.assembly)
        return {{"x2": 64, "64": 64, "x3": 96, "96": 96, "x4": 128, "128": 128}.get(width, 32) for width in widths}

    @property
    def float64_instructions(self) -> set[str]:
        """Instructions that compute in float64."""
        if self.target.startswith("sm_"):
            return set(re.findall(r"\b(?:DADD|DMUL|DFMA|DSETP|DMNMX|MUFU\.\w*64H|[FI]2[FI][.\w]*F64[.\w]*)\b", self.assembly))
        return set(re.findall(r"\bv_\w*f64\w*", self.assembly))


class _Driver:
    """What Triton asks a driver before it compiles."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_device(self) -> str:
        return str(self._target)

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


@contextmanager
def compiling(target: str) -> Iterator[list[Launch]]:
    """Launches inside the block are compiled for one of TARGETS and listed instead of run."""
    launches: list[Launch] = []
    run, active = JITFunction.run, driver._active

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:
        compiled = run(self, *args, grid=grid, warmup=True, **options)
        size = grid(dict(zip(self.arg_names, args, strict=False)) | options) if callable(grid) else grid
        launches.append(Launch(self.fn.__name__, target, tuple(size), compiled))
        return compiled

    driver.set_active(_Driver(TARGETS[target]))
    JITFunction.run = compile_only
    try:
        yield launches
    finally:
        JITFunction.run, driver._active = run, active


__all__ = ["TARGETS", "Launch", "compiling"]
