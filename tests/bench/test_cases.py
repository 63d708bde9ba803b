"""The benchmark's registry at tiny sizes: gates, who does the same work, formulas, and that nothing wrong is ever timed."""

import dataclasses
import math

import pytest
import torch

from bench import report
from bench.measure import check, measure, prepare
from bench.registry import all_cases, fields
from rrm_core._library import OPS

CPU = torch.device("cpu")
CASES = [case for case in all_cases("tiny") if case.ops]  # without the import's time
ids = pytest.mark.parametrize("case", CASES, ids=str)


@ids
def test_gate_is_green_and_others_do_the_same_work(case):
    inputs = case.make(CPU)
    assert check(case, inputs) is None
    assert set(case.ops) <= set(OPS)
    ours = fields(case.ours(*inputs))
    for who, run in case.others.items():
        found = run(*inputs)
        shared = {} if isinstance(found, float) else fields(found)
        for name in (shared.keys() & ours.keys()) - {"iterations"}:  # of different methods
            # 0.2: others round logits and log-probabilities of about 10 to bfloat16
            torch.testing.assert_close(shared[name].double(), ours[name].double(), rtol=0.05, atol=0.2, msg=f"{who}: {name}")


@ids
def test_what_must_move_is_of_the_order_of_inputs_and_results(case):
    inputs = case.make(CPU)
    tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
    if case.moves:
        results = sum(x.nbytes for x in fields(case.ours(*inputs)).values())
        assert min(x.nbytes for x in tensors) <= case.moves <= 2 * sum(x.nbytes for x in tensors) + results
    for floor in case.floors:
        did = floor.run(*inputs)
        assert did > 0
        assert floor.needed in (None, case.flops)
        if floor.needed is None:
            assert did == case.moves, floor.name


def test_names_are_unique():
    names = [str(case) for case in all_cases("full")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", [CASES[0], CASES[1], next(case for case in CASES if case.ops == ("bradley_terry",))], ids=str)
def test_wrong_results_are_never_timed(case):
    def wrong(*inputs):
        found = case.ours(*inputs)
        named = found if isinstance(found, dict) else found._asdict()
        name = next(iter(named))
        changed = {**named, name: named[name] * 1.001 + 0.001}
        return changed if isinstance(found, dict) else type(found)(**changed)

    ready = prepare(dataclasses.replace(case, ours=wrong), CPU)
    measured = measure(ready, 1, "tiny")
    assert ready.fault
    assert measured.samples == {}
    assert "not timed" in report.table([measured])
    assert "seconds" not in str(measured.as_json())


def test_a_measurement_has_everything_the_table_shows():
    case = next(case for case in CASES if case.floors and "token_logprobs" in case.ops)
    ready = prepare(case, CPU)
    both = [measure(ready, threads, "tiny") for threads in (1, 2)]
    found = both[0].as_json()
    assert found["ratio to rrm_core"].keys() == case.others.keys()
    assert all(math.isfinite(x) and x > 0 for x in [*found["median seconds"].values(), *found["share of floor"].values()])
    rows = report.table(both).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert str(case) in rows[-1]


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.2e-5, "42 us"), (3e-9, "3 ns")])
def test_durations_are_readable(seconds, text):
    assert report.duration(seconds) == text
