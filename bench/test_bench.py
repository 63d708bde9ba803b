"""``pytest bench --benchmark-only``: every case of the registry, timed by bench.measure; pytest-benchmark keeps the books."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure import OURS, Measurement, measure, prepared
from bench.registry import Case, Scale


class Replay:
    """A clock for pytest-benchmark that advances by the seconds already measured, since the turns were taken with others."""

    def __init__(self) -> None:
        self.now = 0.0
        self.samples: Iterator[float] = iter(())

    def __call__(self) -> float:
        return self.now

    def play(self) -> None:
        self.now += next(self.samples)


CLOCK = Replay()


@pytest.mark.benchmark(timer=CLOCK)
def test_case(
    case: Case, threads: int, device: torch.device, scale: Scale, record: Callable[[Measurement], None], benchmark: BenchmarkFixture
) -> None:
    measured = measure(prepared(case, device), threads, scale)
    record(measured)
    if measured.fault is not None:
        pytest.fail(f"{case} is not timed: {measured.fault}", pytrace=False)
    samples = measured.samples[OURS]
    CLOCK.samples = itertools.cycle(samples)
    benchmark.extra_info.update(measured.as_json())
    benchmark.pedantic(CLOCK.play, rounds=len(samples))
