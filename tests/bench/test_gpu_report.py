"""The reading of machine code: widths, loops and counts of a kernel whose every instruction is known to be there, occupancy, the prediction."""

import json

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from bench import peers
from bench.gpu import report
from bench.gpu.analysis import analyse
from bench.gpu.assembly import Instruction, _gcn_width, _matrix_flops, _sass_width, parse
from bench.gpu.compiler import TARGETS, compiling
from bench.gpu.machines import MACHINES
from bench.gpu.peer_samples import PEER_SAMPLES
from bench.gpu.samples import floats


@triton.jit(do_not_specialize=["size"])
def _exponentials_kernel(x_ptr, y_ptr, size, BLOCK: tl.constexpr):
    offset = tl.arange(0, BLOCK)
    for start in range(0, size, BLOCK):
        x = tl.load(x_ptr + start + offset).to(tl.float32)
        tl.store(y_ptr + start + offset, tl.exp2(x).to(y_ptr.dtype.element_ty))


@triton.jit
def _product_kernel(a_ptr, b_ptr, out_ptr, depth, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    rows, columns, inner = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, depth, K):
        a = tl.load(a_ptr + rows[:, None] * depth + start + inner[None, :])
        b = tl.load(b_ptr + columns[None, :] * depth + start + inner[:, None])
        total = tl.dot(a, b, total)
    tl.store(out_ptr + rows[:, None] * N + columns[None, :], total)


def compiled(target, launch):
    with compiling(target) as launches:
        launch()
    (only,) = launches
    return analyse(only)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_streaming_kernel_is_read_right(target, dtype):
    x, y = floats(1 << 20, dtype=dtype), floats(1 << 20, dtype=dtype)
    found = compiled(target, lambda: _exponentials_kernel[(1,)](x, y, 1 << 20, BLOCK=2048, num_warps=4, enable_fp_fusion=False))
    threads = 4 * MACHINES[target].warp_size
    assert found.load_bits == 128
    assert [body.is_loop for body in found.passes] == [True]
    assert found.elements[0] % (2048 / threads) == 0  # a compiler may unroll
    assert found.per_element("special") == 1.0
    assert found.bytes_per_element == 2 * dtype.itemsize
    assert found.per_iteration("barrier") == found.per_iteration("shuffle") == found.per_iteration("shared") == found.spills == 0
    assert 1 < found.per_element("issue") < 20
    assert 8 <= found.registers <= 128
    assert found.bytes_in_flight == found.resident_warps * MACHINES[target].warp_size * 2048 / threads * dtype.itemsize  # stores lie between
    assert found.seconds["memory"] == pytest.approx(found.bytes_per_element / MACHINES[target].bandwidth)
    assert found.limiter == "memory"
    assert found.margin == pytest.approx(found.seconds["memory"] / max(t for pipe, t in found.seconds.items() if pipe not in ("memory", "latency")))


@pytest.mark.parametrize("target", TARGETS)
def test_a_product_is_read_right(target):
    a, b, out = floats(64, 4096, dtype=torch.bfloat16), floats(128, 4096, dtype=torch.bfloat16), floats(64, 128)
    found = compiled(target, lambda: _product_kernel[(1,)](a, b, out, 4096, M=64, N=128, K=64, num_warps=4, num_stages=2, enable_fp_fusion=False))
    assert found.is_product
    assert found.per_iteration("tensor") > 0
    assert found.elements[0] % (128 * 64 / (4 * MACHINES[target].warp_size)) == 0
    assert found.flops_per_element == 2 * 64  # every element of the larger tile meets each of the 64 rows
    assert found.bytes_per_element == 2
    assert found.bytes_in_flight > 0


def test_a_kernel_that_needs_too_much_memory_does_not_fit():
    a, b, out = floats(128, 4096), floats(128, 4096), floats(128, 128)
    found = compiled("gfx942", lambda: _product_kernel[(1,)](a, b, out, 4096, M=128, N=128, K=128, num_warps=4, num_stages=3, enable_fp_fusion=False))
    assert found.shared > MACHINES["gfx942"].shared
    assert (found.resident_warps, found.limiter, found.margin) == (0, "does not fit", 0.0)


@pytest.mark.skipif(not peers.available(), reason="make bench-peers installs what is read here")
def test_a_known_kernel_has_the_figures_counted_by_hand():
    sample = next(peer for peer in PEER_SAMPLES if peer.who.startswith("TRL") and peer.dtype == "bf16")
    with compiling("sm_90") as launches:
        sample.launch("sm_90")
    found = analyse(next(launch for launch in launches if launch.kernel == "_forward_kernel"))
    assert len(found.passes[0].instructions) == 181  # 22.6 for each of the 8 elements of a 128-bit load
    assert (found.per_iteration("barrier"), found.per_iteration("shuffle"), found.per_iteration("special")) == (6, 21, 9)
    assert found.registers == 39
    assert found.limiter == "issue"
    assert found.margin == pytest.approx(0.78, abs=0.005)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("LDG.E.128", 16),
        ("LDG.E.64.CONSTANT", 8),
        ("LDG.E", 4),
        ("LDG.E.U16", 2),
        ("LDG.E.S8", 1),
        ("LDGSTS.E.BYPASS.128", 16),
        ("LDG.E.ENL2.256", 32),
    ],
)
def test_widths_in_sass(name, size):
    assert _sass_width(name) == size


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *[("global_load_dwordx4", 16), ("buffer_load_dwordx2", 8), ("global_load_dword", 4), ("global_load_ushort", 2), ("buffer_load_ubyte", 1)],
        *[("global_load_b128", 16), ("buffer_load_b64", 8), ("global_load_d16_b16", 2), ("global_load_short_d16_hi", 2), ("global_load_u8", 1)],
    ],
)
def test_widths_in_gcn(name, size):
    assert _gcn_width(name) == size


@pytest.mark.parametrize(
    ("name", "flops"),
    [("HMMA.16816.F32.BF16", 4096), ("HMMA.1688.F32.TF32", 2048), ("HGMMA.64x128x16.F32.BF16", 65536), ("v_mfma_f32_32x32x8_bf16", 16384)],
)
def test_operations_of_matrix_instructions(name, flops):
    assert _matrix_flops(name) == flops


def sass(*lines):
    return "\n".join(line if line.endswith(":") else f"--:-:-:-:1\t{line};" for line in lines)


LOAD, WIDE = "LDG.E R4, desc[UR6][R2.64]", "LDG.E.128 R4, desc[UR6][R2.64]"


def test_loops_are_found_by_label_and_by_address():
    by_label = sass("LBB0:", WIDE, "FADD R1, R1, R4", "@!P0 BRA LBB0", "EXIT")
    by_address = sass("MOV R1, R2", WIDE, "FADD R1, R1, R4", "BRA.U !UP0, 0x10")
    for text in (by_label, by_address):
        (only,) = parse(text, True).passes
        assert [i.name for i in only.instructions][:2] == ["LDG.E.128", "FADD"]
        assert (only.is_loop, only.loads) == (True, [16])
    gcn = parse(".LBB0_1:\n\tglobal_load_dwordx4 v[0:3], v4\n\tv_exp_f32_e32 v1, v2 ; comment\n\ts_cbranch_scc1 .LBB0_1", False)
    assert gcn.instructions[1] == Instruction("v_exp_f32_e32", "v1, v2")
    assert gcn.passes[0].loads == [16]


def test_a_search_inside_the_stream_is_left_out():
    text = sass("LBB0:", WIDE, "LBB1:", LOAD, "ISETP.NE P0, R1, R4", "@P0 BRA LBB1", "MUFU.EX2 R4, R4", "STG.E.128 [R2], R4", "@P1 BRA LBB0", "EXIT")
    (only,) = parse(text, True).passes
    assert [i.name for i in only.instructions] == ["LDG.E.128", "MUFU.EX2", "STG.E.128", "BRA"]


def test_a_kernel_without_a_stream_is_read_outside_of_its_loops():
    text = sass("LBB1:", LOAD, "ISETP.NE P0, R1, R4", "@P0 BRA LBB1", WIDE, "FADD R1, R1, R4", "STG.E.128 [R2], R4", LOAD, "EXIT")
    (only,) = parse(text, True).passes
    assert not only.is_loop
    assert (only.loads, only.stores, only.slots) == ([16], [16], 4)


def test_reading_and_writing_are_two_passes():
    ragged = ("LBB2:", WIDE, "FADD R1, R1, R4", "FADD R1, R1, R4", "@P0 BRA LBB2")
    text = sass("LBB0:", WIDE, "FADD R1, R1, R4", "@P0 BRA LBB0", *ragged, "LBB1:", WIDE, "STG.E.128 [R2], R4", "@P0 BRA LBB1", "EXIT")
    reading, writing = parse(text, True).passes
    assert (len(reading.instructions), reading.stores) == (3, [])
    assert writing.stores == [16]


def test_occupancy():
    h100, mi300 = MACHINES["sm_90"], MACHINES["gfx942"]
    assert h100.resident_warps(registers=64, shared=0, warps_per_block=4) == 32
    assert h100.resident_warps(registers=32, shared=100 << 10, warps_per_block=8) == 16
    assert h100.resident_warps(registers=16, shared=0, warps_per_block=1) == 32  # blocks run out first
    assert mi300.resident_warps(registers=128, shared=0, warps_per_block=4) == 16


def test_the_report_says_predicted_and_what_is_missed(tmp_path, monkeypatch):
    x = floats(1 << 20)
    found = compiled("sm_80", lambda: _exponentials_kernel[(1,)](x, x, 1 << 20, BLOCK=256, num_warps=4, enable_fp_fusion=False))
    entries = [report.Entry("some_op", report.OURS, "a label", True, found)]
    assert entries[0].misses() == ["loads of 64 bits"]
    monkeypatch.setattr(report, "entries", lambda targets, with_peers: iter(entries))
    monkeypatch.setattr(report.machine, "ROOT", tmp_path)
    markdown, contents = report.write(["sm_80"], False)
    text = markdown.read_text()
    assert "predicted limiter" in text
    assert "loads of 64 bits" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("| rrm_core")} == {len(report.HEADER) + 1}
    assert json.loads(contents.read_text())["kernels"][0]["kernel"] == "_exponentials_kernel"
