"""One binary for every torch >= 2.10 and every Python, and no code for a newer processor than the one it runs on."""

import re
import subprocess
from pathlib import Path

import pytest

import rrm_core

pytestmark = pytest.mark.native
ROOT = Path(__file__).parents[1]
# rrm_<instruction set>.dir -> its objects
OBJECTS = [
    o
    for o in sorted((ROOT / "build/cmake/CMakeFiles").glob("rrm_*.dir/kernels/cpu/*.o"))
    if o.parents[2].name not in ("rrm_cpu.dir", "rrm_dispatch.dir")
]


def symbols(path: str | Path, *options: str) -> str:
    return subprocess.run(["nm", "--demangle", *options, str(path)], capture_output=True, text=True, check=True).stdout


def library() -> str:
    path = rrm_core.backend_info()["library"]
    assert path is not None
    return path


def test_only_the_stable_abi_of_torch_and_nothing_of_python_is_undefined():
    undefined = symbols(library(), "--dynamic", "--undefined-only")
    assert "torch_parallel_for" in undefined
    assert not re.search(r"\b(at|c10|torch|caffe2)::", undefined)
    assert not re.search(r"\b_?Py[A-Z_]", undefined)


def test_only_what_is_meant_is_exported():
    exported = re.findall(r" [TDB] (\S+)", symbols(library(), "--dynamic", "--defined-only"))
    assert [s for s in exported if not s.startswith("_")] == ["rrm_cpu_isa"]


def test_per_isa_objects_have_no_weak_symbol():
    assert "rrm_baseline.dir" in {o.parents[2].name for o in OBJECTS}
    for path in OBJECTS:
        assert not re.findall(r" [WVu] .*", symbols(path)), path


def test_each_object_uses_its_own_vectors():
    found: dict[str, set[str]] = {}
    for path in OBJECTS:
        text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True).stdout
        found.setdefault(path.parents[2].name, set()).update(word for word in ("%ymm", "%zmm", "vdpbf16ps") if word in text)
    wide = {"%ymm", "%zmm"}
    expected = {"rrm_baseline.dir": set(), "rrm_avx2.dir": {"%ymm"}, "rrm_avx512.dir": wide, "rrm_avx512_bf16.dir": {*wide, "vdpbf16ps"}}
    assert found == {name: expected[name] for name in found}


def test_no_path_of_the_build_machine_is_inside():
    assert str(ROOT).encode() not in Path(library()).read_bytes()


@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: f"{p.parents[2].name}/{p.name}")
def test_nothing_of_an_instruction_set_runs_before_it_is_chosen(path):
    """An initialiser of its own would run on processors that the file is not for."""
    assert b".init_array" not in path.read_bytes()
