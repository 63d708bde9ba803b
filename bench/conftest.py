"""Options of ``pytest bench``, and the report at its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench import machine, report
from bench.measure import Measurement
from bench.registry import Scale, all_cases

MEASURED, LOAD = pytest.StashKey[list[Measurement]](), pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--quick", action="store_true", help="smaller inputs and fewer rounds")
    group.addoption("--inductor", action="store_true", help="torch.compile as a further contender")
    group.addoption("--threads", default="1,2", help="numbers of threads, with commas (default: %(default)s)")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to measure (default: %(default)s)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED], config.stash[LOAD] = [], machine.load()


def _scale(config: pytest.Config) -> Scale:
    return "quick" if config.getoption("--quick") else "full"


@pytest.fixture
def scale(pytestconfig: pytest.Config) -> Scale:
    return _scale(pytestconfig)


@pytest.fixture
def device(pytestconfig: pytest.Config) -> torch.device:
    return torch.device(pytestconfig.getoption("--device"))


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Callable[[Measurement], None]:
    """Takes what the report at the end is made of."""
    return pytestconfig.stash[MEASURED].append


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    config = metafunc.config
    device = torch.device(config.getoption("--device"))
    threads = [int(n) for n in config.getoption("--threads").split(",")] if device.type == "cpu" else [torch.get_num_threads()]
    cases = [case for case in all_cases(_scale(config), inductor=config.getoption("--inductor")) if device.type in case.device_types]
    pairs = [(case, n) for case in cases for n in (threads[-1:] if case.slow else threads)]
    metafunc.parametrize(("case", "threads"), pairs, ids=[f"{case}, {n} threads" for case, n in pairs])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    measured = config.stash[MEASURED]
    if not measured:
        return
    partial = bool(config.getoption("--quick") or config.getoption("keyword") or config.getoption("markexpr"))
    device = torch.device(config.getoption("--device"))
    table, paths = report.write(measured, device, _scale(config), partial, config.stash[LOAD])
    terminalreporter.write_line(f"\n{table}\n\nwritten to {', '.join(str(path) for path in paths)}")
