"""Every Triton kernel compiled for five GPUs with the specialisation of a real launch: no spill, 128-bit loads where it streams, no stray float64."""

import pytest

pytest.importorskip("triton")

from bench.gpu.compiler import TARGETS, compiling
from bench.gpu.samples import SAMPLES
from rrm_core._library import OPS

SHARED_MEMORY = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10, "gfx1100": 64 << 10}  # bytes a block may have


def test_every_triton_body_has_a_sample():
    assert {sample.op for sample in SAMPLES} == {name for name, op in OPS.items() if op.triton is not None}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_compiles_without_spills_and_with_wide_loads(sample, target):
    with compiling(target) as launches:
        sample.launch()
    assert launches
    assert sample.streaming | sample.float64 <= {launch.kernel for launch in launches}
    for launch in launches:
        assert launch.spills == 0, launch.kernel
        assert launch.compiled.metadata.shared <= SHARED_MEMORY[target], launch.kernel
        if launch.kernel in sample.streaming:
            assert max(launch.load_bits) == 128, (launch.kernel, launch.load_bits)
        if launch.kernel not in sample.float64:
            assert launch.float64_instructions == set(), launch.kernel
