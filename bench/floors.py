"""The hardware's own speed, measured in the same run: reading, copying, products. A figure is worth what it is a share of."""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.native import library

PRODUCT_SECONDS = 0.02  # of every round: long enough to see the clock speed of the moment


@dataclass(frozen=True)
class Floor:
    """A loop that does nothing but the unavoidable. ``run`` gets a case's inputs, and says how much it did of what ``needed`` counts
    (bytes or floating-point operations)."""

    name: str
    run: Callable[..., float]
    needed: float | None = None  # None: all that it did
    device_types: tuple[str, ...] = ("cpu", "cuda")


@functools.cache
def _loops() -> ctypes.CDLL:
    loops = library("floors")
    loops.floor_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    loops.floor_read.restype = ctypes.c_uint32
    loops.floor_product.argtypes = [ctypes.c_int64, ctypes.c_int]
    loops.floor_product.restype = ctypes.c_double
    return loops


def words(x: Tensor) -> Tensor:
    """The memory of x as float32, which torch sums fastest."""
    flat = x.detach().flatten()
    return flat if flat.dtype == torch.float32 else flat.view(torch.float32)


def reads(*which: int) -> tuple[Floor, ...]:
    """Inputs number ``which`` read once: by torch.sum, and by a loop of our own that does nothing else."""

    def by_torch(*inputs: Any) -> float:
        for i in which:
            words(inputs[i]).sum()
        return sum(float(inputs[i].nbytes) for i in which)

    def by_loop(*inputs: Any) -> float:
        for i in which:
            _loops().floor_read(inputs[i].data_ptr(), inputs[i].nbytes, torch.get_num_threads())
        return sum(float(inputs[i].nbytes) for i in which)

    return Floor("torch.sum", by_torch), Floor("read loop", by_loop, device_types=("cpu",))


def reads_and_writes(which: int, times_read: int) -> tuple[Floor, ...]:
    """An input read so many times, and as much written: into fresh memory, and into memory that has been written before."""
    reused: dict[tuple[torch.Size, torch.dtype, torch.device], Tensor] = {}

    def read(x: Tensor) -> float:
        for _ in range(times_read - 1):
            words(x).sum()
        return float(x.nbytes * (times_read + 1))

    def fresh(*inputs: Any) -> float:
        words(inputs[which]).clone()
        return read(inputs[which])

    def again(*inputs: Any) -> float:
        x = inputs[which]
        key = x.shape, x.dtype, x.device
        if key not in reused:
            reused.clear()
            reused[key] = torch.empty_like(x)
        words(reused[key]).copy_(words(x))
        return read(x)

    return Floor("copy, fresh", fresh), Floor("copy, reused", again)


def product(flops: float) -> Floor:
    """So many float32 operations at the rate of a register-tiled product loop."""

    @functools.cache
    def repeats(threads: int) -> int:
        started = time.perf_counter()
        _loops().floor_product(1 << 14, threads)
        return max(1, int((1 << 14) * PRODUCT_SECONDS / (time.perf_counter() - started)))

    def run(*inputs: Any) -> float:
        threads = torch.get_num_threads()
        return float(_loops().floor_product(repeats(threads), threads))

    return Floor("products", run, flops, ("cpu",))


def machine_rates(threads: int) -> dict[str, float]:
    """GB/s and GFLOP/s of this machine with so many threads: medians over a buffer of 512 MB."""
    buffer = torch.ones(128 << 20)
    floors = {**{f.name: f for f in reads(0)}, **{f.name: f for f in reads_and_writes(0, 1)}, "products": product(0)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rates: dict[str, list[float]] = {name: [] for name in floors}
    for _ in range(5):
        for name, floor in floors.items():
            started = time.perf_counter()
            amount = floor.run(buffer)
            rates[name].append(amount / (time.perf_counter() - started) / 1e9)
    torch.set_num_threads(before)
    return {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
