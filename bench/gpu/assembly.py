"""Reads the machine code of a compiled kernel, NVIDIA SASS or AMD GCN: its loops, and what an iteration of the hot ones does.

A kernel passes over its data in a loop that loads from global memory and computes or stores, or in two, one that only reads and one that writes as
well. Of each kind the one with the widest and the most loads counts; what loops inside it do (they look for a row's few ids) is left out. Of a
kernel without such a loop everything outside of loops is read. Counts are per thread: every instruction of a warp is one slot for each of its lanes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

SASS_BYTES = 16  # of an instruction, on every target here


@dataclass(frozen=True)
class Instruction:
    name: str  # "LDG.E.128", "v_exp_f32_e32"
    operands: str


@dataclass(frozen=True)
class Listing:
    """A kernel's instructions, and where each backward branch leads: (target, branch), both as indices."""

    instructions: Sequence[Instruction]
    backward: Sequence[tuple[int, int]]
    nvidia: bool

    @cached_property
    def loops(self) -> list[tuple[range, Body]]:
        """Each loop's place, and what it does itself: not what loops inside it do."""
        places = [range(first, last + 1) for first, last in self.backward]
        return [(place, self._without(place, [p for p in places if p != place and _within(p, place)], True)) for place in places]

    def _without(self, place: range, others: Sequence[range], is_loop: bool) -> Body:
        own = [self.instructions[i] for i in place if not any(i in other for other in others)]
        return Body(own, self.nvidia, is_loop)

    @property
    def product(self) -> Body | None:
        """The loop of a matrix product: the tightest one with matrix instructions, or the one with the most instructions where there are none."""
        tensor = [(len(place), body) for place, body in self.loops if body.count("tensor")]
        if tensor:
            return min(tensor, key=lambda found: found[0])[1]
        return max((body for _, body in self.loops), key=lambda body: body.slots, default=None)

    @property
    def passes(self) -> list[Body]:
        streams = [(place, body) for place, body in self.loops if body.loaded and (body.stores or body.computes)]
        widest = max((body.loads[0] for _, body in streams), default=0)
        streams = [(place, body) for place, body in streams if body.loads[0] == widest]
        inner = [body for place, body in streams if not any(p != place and _within(p, place) for p, _ in streams)]
        found = []
        for stores in (False, True):
            # of two that load as much, the one that does less: the other handles the ragged end
            alike = [body for body in inner if bool(body.stores) == stores]
            found += sorted(alike, key=lambda body: (-body.loaded, len(body.instructions)))[:1]
        whole = range(len(self.instructions))
        return found or [self._without(whole, [place for place, _ in self.loops], False)]


def _within(inner: range, outer: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop


def parse(assembly: str, nvidia: bool) -> Listing:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    branches: list[tuple[str, int]] = []
    for found in (_sass_lines if nvidia else _gcn_lines)(assembly):
        if isinstance(found, str):
            labels[found] = len(instructions)
            continue
        if found.name.startswith(("BRA", "s_cbranch", "s_branch")):
            branches.append((found.operands.split(",")[-1].strip(), len(instructions)))
        instructions.append(found)
    targets = [(labels[to] if to in labels else int(to, 16) // SASS_BYTES, at) for to, at in branches if to in labels or to.startswith("0x")]
    backward = [(to, at) for to, at in targets if to < at]
    return Listing(instructions, backward, nvidia)


def _sass_lines(assembly: str) -> Iterator[Instruction | str]:
    """Lines "<control>\t<predicate> <name> <operands>;" and labels "LBB0:", as Triton prints them."""
    for line in assembly.splitlines():
        if line.endswith(":") and "\t" not in line:
            yield line[:-1]
        elif "\t" in line:
            name, _, operands = re.sub(r"^@!?U?P\w+\s+", "", line.partition("\t")[2].rstrip("; ")).partition(" ")
            yield Instruction(name, operands)


def _gcn_lines(assembly: str) -> Iterator[Instruction | str]:
    for line in assembly.splitlines():
        code = line.partition(";")[0].rstrip()
        if label := re.match(r"(\.LBB\w+):", code):
            yield label[1]
        elif found := re.match(r"\t([a-z]\w+)(?:\s+(.*))?$", code):
            yield Instruction(found[1], found[2] or "")


def _is(*prefixes: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefixes)


# What an instruction occupies. Uniform SASS instructions (U...) and scalar GCN ones take an issue slot, or none, but no vector pipe.
_SASS: dict[str, Callable[[str], bool]] = {
    "special": _is("MUFU"),
    "float": _is("FADD", "FMUL", "FFMA", "IMAD", "HFMA2", "HADD2", "HMUL2"),
    "alu": _is(
        "FMNMX", "FSEL", "FSET", "FCHK", "IADD", "VIADD", "ISETP", "IMNMX", "VIMNMX", "LOP", "PLOP", "PRMT", "SEL", "SHF", "LEA", "MOV", "IABS"
    ),
    "shuffle": _is("SHFL", "REDUX", "VOTE"),
    "barrier": _is("BAR", "WARPSYNC"),
    "shared": _is("LDS", "STS", "ATOMS"),
    "tensor": _is("HMMA", "HGMMA", "UTCHMMA", "UTCOMMA"),
}
_PAIRED = re.compile(r"F(ADD|MUL|FMA)2\b")  # two float32 operations a lane, in one slot but two turns of the pipe
_GCN: dict[str, Callable[[str], bool]] = {
    "special": _is("v_exp_", "v_log_", "v_rcp_", "v_rsq_", "v_sqrt_"),
    "shuffle": lambda name: "_dpp" in name or name.startswith(("ds_bpermute", "ds_permute", "ds_swizzle", "v_permlane")),
    "float": lambda name: False,  # one vector pipe for everything: its slots say it all
    "alu": lambda name: False,
    "barrier": _is("s_barrier"),
    "shared": _is("ds_read", "ds_write", "ds_load", "ds_store"),
    "tensor": _is("v_mfma", "v_wmma"),
}


@dataclass(frozen=True)
class Body:
    """Instructions of one iteration, or of a whole kernel without a loop."""

    instructions: Sequence[Instruction]
    nvidia: bool
    is_loop: bool

    def count(self, kind: str) -> int:
        matches = (_SASS if self.nvidia else _GCN)[kind]
        return sum(2 if _PAIRED.match(i.name) else 1 for i in self.instructions if matches(i.name))

    @property
    def slots(self) -> int:
        """Issue slots: all instructions on NVIDIA, vector instructions on AMD, where scalar ones issue beside them."""
        dull = {"NOP", "EXIT"}
        return sum(1 for i in self.instructions if (i.name not in dull if self.nvidia else i.name.startswith("v_")))

    def _load(self, name: str) -> bool:
        return bool(re.match(r"(LDG|LDGSTS)\." if self.nvidia else r"(global|buffer|flat)_load_", name))

    def _store(self, name: str) -> bool:
        return bool(re.match(r"STG\." if self.nvidia else r"(global|buffer|flat)_store_", name))

    @cached_property
    def loads(self) -> list[int]:
        """Bytes of each load from global memory, of the widest: narrower ones fetch a row's scalars and ids."""
        return self._widest(self._load)

    @cached_property
    def stores(self) -> list[int]:
        return self._widest(self._store)

    def _widest(self, counts: Callable[[str], bool]) -> list[int]:
        found = [self._width(i.name) for i in self.instructions if counts(i.name)]
        return [size for size in found if size == max(found)]

    def _width(self, name: str) -> int:
        return _sass_width(name) if self.nvidia else _gcn_width(name)

    @property
    def computes(self) -> bool:
        """Whether there is floating-point arithmetic: a loop without it compares or counts."""
        return any(re.match(r"F(ADD|MUL|FMA)|MUFU|HFMA2|HADD2" if self.nvidia else r"v_\w*f(16|32|64)", i.name) for i in self.instructions)

    @property
    def loaded(self) -> int:
        return sum(self.loads)

    @property
    def waiting(self) -> int:
        """Bytes of the loads that may be under way at once: those between two stores or barriers."""
        most = now = 0
        for i in self.instructions:
            if self._load(i.name):
                now += self._width(i.name) * (self._width(i.name) == self.loads[0])
            elif self._store(i.name) or i.name.startswith(("BAR", "s_barrier")):
                now = 0
            most = max(most, now)
        return most

    @property
    def asynchronous(self) -> bool:
        """Whether loads go to shared memory behind the instructions' back: cp.async, bulk copies, or AMD's loads to LDS."""
        return any(re.match(r"LDGSTS|UTMALDG|UBLKCP", i.name) or i.operands.endswith(" lds") for i in self.instructions)

    @property
    def matrix_flops(self) -> float:
        """Floating-point operations of a warp's matrix instructions."""
        return sum(_matrix_flops(i.name) for i in self.instructions)


def _sass_width(name: str) -> int:
    found = re.search(r"\.(?:U|S)?(256|128|64|16|8)(?=\.|$)", name)
    return int(found[1]) // 8 if found else 4


def _gcn_width(name: str) -> int:
    found = re.search(r"_(?:dword(x[234])?|b(32|64|96|128)|(?:short_|d16_)?([us]?(?:short|16|byte|8|b16|b8)))", name)
    if not found:
        return 4
    if found[3]:
        return 1 if "8" in found[3] or "byte" in found[3] else 2
    return int(found[2]) // 8 if found[2] else 4 * int((found[1] or "x1")[1:])


def _matrix_flops(name: str) -> float:
    if found := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", name):  # four warps together
        m, n, k = map(int, found.groups())
        return 2.0 * m * n * k / 4
    if found := re.match(r"HMMA\.16(8)(16|8)", name):
        return 2.0 * 16 * int(found[1]) * int(found[2])
    if found := re.match(r"v_(?:mfma|wmma)_\w*?_(\d+)x(\d+)x(\d+)", name):
        m, n, k = map(int, found.groups())
        return 2.0 * m * n * k
    return 0.0
