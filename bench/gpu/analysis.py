"""From a compiled kernel to a prediction: what an element costs on each pipe of a GPU, and which of them it waits for.

Everything is predicted: no GPU is involved. The time of an element on a pipe is its instructions over the pipe's rate, on memory its bytes over the
bandwidth, or the latency where too few bytes are under way; the longest is the limiter, since pipes work at the same time.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.gpu.assembly import Body, parse
from bench.gpu.compiler import Launch
from bench.gpu.machines import MACHINES, Machine

FLOAT_SIZES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}
_REGISTER_COUNT = 0x2F  # EIATTR_REGCOUNT of a cubin's .nv.info


@dataclass(frozen=True)
class Analysis:
    """Figures of one compiled kernel. Counts are per element of the operand that is streamed, unless said otherwise."""

    kernel: str
    target: str
    machine: Machine
    dtype: str
    registers: int
    spills: int
    shared: int
    warps: int
    resident_warps: int
    load_bits: int
    passes: Sequence[Body]
    elements: Sequence[float]  # of a thread, in an iteration of each pass
    bytes_per_element: float
    bytes_in_flight: float  # a unit's, if every thread waits for the loads of one iteration
    is_product: bool
    flops_per_element: float  # of matrix instructions

    @property
    def occupancy(self) -> float:
        return self.resident_warps / self.machine.warps

    def per_element(self, kind: str) -> float:
        """Instructions of all passes."""
        return sum((body.slots if kind == "issue" else body.count(kind)) / n for body, n in zip(self.passes, self.elements, strict=True))

    def per_iteration(self, kind: str) -> int:
        """Instructions of the pass that has the most."""
        return max(body.count(kind) for body in self.passes)

    @property
    def seconds(self) -> dict[str, float]:
        """An element's time on every pipe of the whole GPU."""
        machine = self.machine
        times = {pipe: self.per_element(pipe) / machine.lanes(pipe) for pipe in machine.pipes}
        times["tensor"] = self.flops_per_element / machine.tensor
        times["memory"] = self.bytes_per_element / machine.bandwidth
        fits = self.bytes_in_flight > 0
        times["latency"] = times["memory"] * machine.bytes_in_flight / self.bytes_in_flight if fits else math.inf
        return times

    @property
    def limiter(self) -> str:
        times = self.seconds
        return max(times, key=lambda pipe: times[pipe]) if self.resident_warps else "does not fit"

    @property
    def margin(self) -> float:
        """Memory's time over the longest other: above 1 the kernel is predicted memory-bound, below 1 that share of the bandwidth is predicted."""
        times = self.seconds
        memory = times.pop("memory")
        if times["latency"] <= memory:
            del times["latency"]  # the same loads, asked for in time
        return memory / max(times.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "target": self.target,
            "machine": self.machine.name,
            "dtype": self.dtype,
            "registers": self.registers,
            "spills": self.spills,
            "shared bytes": self.shared,
            "warps a block": self.warps,
            "occupancy": self.occupancy,
            "load bits": self.load_bits,
            "passes": [
                {"loop": body.is_loop, "instructions": len(body.instructions), "elements a thread": n}
                for body, n in zip(self.passes, self.elements, strict=True)
            ],
            "instructions per element": self.per_element("issue"),
            "special functions per element": self.per_element("special"),
            "barriers an iteration": self.per_iteration("barrier"),
            "shuffles an iteration": self.per_iteration("shuffle"),
            "shared memory instructions an iteration": self.per_iteration("shared"),
            "matrix instructions an iteration": self.per_iteration("tensor"),
            "asynchronous loads": any(body.asynchronous for body in self.passes),
            "bytes per element": self.bytes_per_element,
            "bytes in flight a unit": self.bytes_in_flight,
            "bytes in flight needed": self.machine.bytes_in_flight,
            "predicted seconds per element": self.seconds,
            "predicted limiter": self.limiter,
            "predicted margin": self.margin,
        }


@dataclass(frozen=True)
class _Work:
    """What a kernel does with an element, in the terms of ``Analysis``."""

    passes: Sequence[Body]
    elements: Sequence[float]
    bytes_per_element: float
    bytes_in_flight: Callable[[int], float]  # from the warps resident on a unit
    flops_per_element: float = 0.0


def analyse(launch: Launch) -> Analysis | None:
    """None for a kernel that streams nothing."""
    machine, nvidia = MACHINES[launch.target], launch.target.startswith("sm_")
    metadata, listing = launch.compiled.metadata, parse(launch.assembly, nvidia)
    pointers = [kind[1:] for kind in launch.compiled.src.signature.values() if kind.startswith("*")]
    dtype = min((kind for kind in pointers if kind in FLOAT_SIZES), key=lambda kind: FLOAT_SIZES[kind])  # statistics beside it are wider
    product = _product_shape(launch.compiled.asm["ttgir"])
    if product is not None and listing.product is not None:
        work = _product(listing.product, product, FLOAT_SIZES[dtype], metadata, machine)
    elif all(body.loads for body in listing.passes):
        work = _stream(listing.passes, FLOAT_SIZES[dtype], machine)
    else:
        return None
    registers = _cubin_registers(launch.compiled.asm["cubin"]) if nvidia else _gcn_registers(launch.assembly)
    resident = machine.resident_warps(registers, metadata.shared, metadata.num_warps)
    return Analysis(
        launch.kernel,
        launch.target,
        machine,
        dtype,
        registers,
        launch.spills,
        metadata.shared,
        metadata.num_warps,
        resident,
        max(launch.load_bits, default=0),
        work.passes,
        work.elements,
        work.bytes_per_element,
        work.bytes_in_flight(resident),
        product is not None,
        work.flops_per_element,
    )


def _stream(passes: Sequence[Body], size: int, machine: Machine) -> _Work:
    """Every operand of a row kernel is read or written once a pass; an element is one of the operand that is read."""
    elements = [body.loaded / size for body in passes]
    moved = sum((body.loaded + sum(body.stores)) / n for body, n in zip(passes, elements, strict=True))
    least = min(body.waiting for body in passes)
    return _Work(passes, elements, moved, lambda warps: warps * machine.warp_size * least)


def _product_shape(ttgir: str) -> tuple[int, int, int] | None:
    """Rows, depth and columns of the tiles that a kernel multiplies, None if it doesn't."""
    found = re.search(r"(?:tt\.dot|warp_group_dot|tc_gen5_mma) .*?<(\d+)x(\d+)x\w+.*?<(\d+)x(\d+)x\w+", ttgir)
    return (int(found[1]), int(found[2]), int(found[4])) if found else None


def _product(loop: Body, shape: tuple[int, int, int], size: int, metadata: Any, machine: Machine) -> _Work:
    """Of a tile product the larger operand comes from memory, once, an element being one of its; the smaller one stays in the cache."""
    rows, depth, columns = shape
    threads = metadata.num_warps * machine.warp_size
    flops = 2.0 * rows * depth * columns
    unrolled = loop.matrix_flops * metadata.num_warps / flops if loop.matrix_flops else 1.0
    streamed, kept = max(rows, columns) * depth * unrolled, min(rows, columns) * depth * unrolled
    waiting = metadata.shared if loop.asynchronous else (streamed + kept) * size  # asynchronous loads fill the whole buffer
    return _Work(
        [loop],
        [streamed / threads],
        size,
        lambda warps: warps / metadata.num_warps * waiting * streamed / (streamed + kept),
        flops * unrolled / streamed if loop.count("tensor") else 0.0,
    )


def _gcn_registers(assembly: str) -> int:
    found = re.search(r"\.vgpr_count:\s+(\d+)", assembly)
    assert found is not None
    return int(found[1])


def _cubin_registers(cubin: bytes) -> int:
    return next(registers for attribute, (_, registers) in _information(cubin) if attribute == _REGISTER_COUNT)


def _information(cubin: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Attributes and words of the ELF section .nv.info, which says of each kernel what a driver must know."""
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    for name, _, _, _, offset, length in sections:
        start = sections[names][4] + name
        if cubin[start : cubin.index(b"\0", start)] != b".nv.info":
            continue
        at = offset
        while at < offset + length:
            form, attribute, value = struct.unpack_from("<BBH", cubin, at)
            words = value // 4 if form == 4 else 0  # of form 4 the value is the length of what follows
            yield attribute, struct.unpack_from(f"<{words}I", cubin, at + 4)
            at += 4 + 4 * words
