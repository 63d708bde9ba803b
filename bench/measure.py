"""One case measured: gate first, then every contender and the floor in turn, for each number of threads."""

from __future__ import annotations

import functools
import gc
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench import timing
from bench.registry import Case, Inputs, Scale
from bench.timing import Rotation
from rrm_core._library import OPS

OURS = "rrm_core"
BUDGET = {"tiny": 0.0, "quick": 0.5, "full": 2.5}  # seconds of rounds for a case and number of threads
ROUNDS = {"tiny": (2, 2), "quick": (3, 200), "full": (3, 1000)}  # at least, at most


@dataclass
class Measurement:
    """Seconds of everyone, round by round (``samples``); floors as the time each would take for what the case needs (``at_floor``).
    A red gate leaves its message in ``fault`` and nothing else."""

    case: Case
    threads: int
    body: str
    fault: str | None = None
    cold: bool = False
    samples: dict[str, list[float]] = field(default_factory=dict)
    at_floor: dict[str, list[float]] = field(default_factory=dict)
    extra_memory: int | None = None

    def median(self, who: str = OURS) -> float:
        return statistics.median(self.samples[who])

    def ratio(self, who: str) -> float:
        """How many times as long ``who`` takes: the median over rounds, pair by pair."""
        return statistics.median(theirs / ours for theirs, ours in zip(self.samples[who], self.samples[OURS], strict=True))

    def share(self, floor: str) -> float:
        """The floor's time over ours, the median over rounds."""
        return statistics.median(least / ours for least, ours in zip(self.at_floor[floor], self.samples[OURS], strict=True))

    def as_json(self) -> dict[str, Any]:
        about = {"case": str(self.case), "ops": self.case.ops, "threads": self.threads, "body": self.body}
        if self.fault is not None:
            return {**about, "fault": self.fault}
        return {
            **about,
            "cache": "cold" if self.cold else "warm",
            "rounds": len(self.samples[OURS]),
            "median seconds": {who: self.median(who) for who in self.samples},
            "least seconds": {who: min(times) for who, times in self.samples.items()},
            "ratio to rrm_core": {who: self.ratio(who) for who in self.samples if who != OURS},
            "share of floor": {floor: self.share(floor) for floor in self.at_floor},
            "bytes that must move": self.case.moves,
            "operations that must be done": self.case.flops,
            "extra bytes at the peak": self.extra_memory,
        }


@dataclass
class Prepared:
    """A case's inputs on a device, in as many places as it takes, and what the gate said of them."""

    case: Case
    device: torch.device
    inputs: Inputs
    rotation: Rotation
    fault: str | None


def check(case: Case, inputs: Inputs) -> str | None:
    """What is wrong with our results; None where nothing is."""
    try:
        case.gate(case.ours, inputs)
    except AssertionError as error:
        return str(error) or "wrong result"
    return None


def prepare(case: Case, device: torch.device) -> Prepared:
    gc.collect()
    inputs = case.make(device)
    fault = check(case, inputs)
    return Prepared(case, device, inputs, Rotation(inputs if fault is None else (), device), fault)


@functools.lru_cache(maxsize=1)
def prepared(case: Case, device: torch.device) -> Prepared:
    """``prepare``, kept until another case comes: the numbers of threads share inputs and gate."""
    return prepare(case, device)


def bodies(case: Case, device: torch.device) -> str:
    """Which bodies answer, in the order of the case's ops."""
    native = [device.type in OPS[op].native_devices for op in case.ops]
    return " + ".join(dict.fromkeys("native" if n else "reference" for n in native)) or "-"


def measure(ready: Prepared, threads: int, scale: Scale) -> Measurement:
    case, device = ready.case, ready.device
    measured = Measurement(case, threads, bodies(case, device), fault=ready.fault, cold=ready.rotation.cold)
    if ready.fault is not None:
        return measured
    floors = {floor.name: floor for floor in case.floors if device.type in floor.device_types}
    runs = {OURS: case.ours, **case.others, **{name: floor.run for name, floor in floors.items()}}
    with timing.on_threads(threads):
        taken, amounts = timing.interleaved(runs, ready.rotation, device, BUDGET[scale], *ROUNDS[scale], case.rounds)
        measured.extra_memory = timing.extra_memory(case.ours, ready.inputs, device)
    measured.samples = {name: taken[name] for name in (OURS, *case.others)}
    for name, floor in floors.items():
        did = amounts[name]
        needed: Sequence[float] = did if floor.needed is None else [floor.needed] * len(did)
        measured.at_floor[name] = [t * n / d for t, n, d in zip(taken[name], needed, did, strict=True)]
    return measured
