"""Who is timed takes turns with everyone else: A B C A B C in one process, each call on other memory, after a warm-up."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.machine import last_level_cache
from bench.registry import Inputs, Run, Seconds, fields

WARM_BYTES = 16 << 20  # inputs up to this size are what an op finds in the cache, because something has just made them
COPIES_BYTES = 3 << 30


class Rotation:
    """A case's inputs in several places, so that a call never finds in the cache what the one before left there. Small inputs stay warm."""

    def __init__(self, inputs: Inputs, device: torch.device) -> None:
        size = sum(x.nbytes for x in inputs if isinstance(x, Tensor))
        self.cold = size > WARM_BYTES
        copies = min(2 * last_level_cache(device) // size + 2, max(2, COPIES_BYTES // size)) if self.cold else 1
        others = [tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs) for _ in range(copies - 1)]
        self._turns = itertools.cycle([inputs, *others])

    def next(self) -> Inputs:
        return next(self._turns)


def seconds(run: Run, inputs: Inputs, device: torch.device) -> tuple[float, Any]:
    """One call's time, by the GPU's own clock where there is one, and its result."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        result = run(*inputs)
        end.record()
        torch.cuda.synchronize(device)
        taken = start.elapsed_time(end) / 1e3
    else:
        started = time.perf_counter()
        result = run(*inputs)
        taken = time.perf_counter() - started
    return (float(result) if isinstance(result, Seconds) else taken), result


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def interleaved(
    runs: Mapping[str, Run], rotation: Rotation, device: torch.device, budget: float, least: int, most: int, exactly: int | None = None
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of every run, round by round, and what each returned if that was a number (a floor's amount).

    One round warms up and shows how many fit into ``budget`` seconds; at least ``least`` and at most ``most`` are counted. ``exactly`` so many
    and no other, where that is said.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    amounts: dict[str, list[float]] = {name: [] for name in runs}

    def one_round() -> None:
        for name, run in runs.items():
            duration, result = seconds(run, rotation.next(), device)
            taken[name].append(duration)
            if isinstance(result, float):
                amounts[name].append(result)
            del result

    with _no_collection():
        if exactly is not None:
            for _ in range(exactly):
                one_round()
            return taken, amounts
        one_round()  # compiles, builds caches: not counted
        started = time.perf_counter()
        one_round()
        rounds = max(least, min(most, int(budget / max(time.perf_counter() - started, 1e-9))))
        for _ in range(rounds - 1):
            one_round()
    return {name: times[1:] for name, times in taken.items()}, {name: values[1:] for name, values in amounts.items()}


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) << 10


def extra_memory(run: Run, inputs: Inputs, device: torch.device) -> int | None:
    """Bytes that a call holds at its peak beside its inputs and results; None where the system doesn't tell."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run(*inputs)
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
    else:
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
            before = _status("VmRSS")
        except (OSError, AttributeError):
            return None
        result = run(*inputs)
        peak = _status("VmHWM")
    kept = 0 if isinstance(result, float) else sum(x.nbytes for x in fields(result).values())
    return max(0, peak - before - kept)


@contextlib.contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """torch with so many threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
