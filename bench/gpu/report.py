"""The GPU report: every Triton kernel, ours and other people's for the same work, compiled for five GPUs and read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import machine, peers
from bench.gpu.analysis import Analysis, analyse
from bench.gpu.compiler import Launch, compiling
from bench.gpu.machines import LATENCY, MACHINES
from bench.gpu.peer_samples import PEER_SAMPLES
from bench.gpu.samples import SAMPLES

OURS = "rrm_core"
HEADER = (
    "kernel",
    "operand",
    "GPU",
    "registers",
    "spills",
    "shared",
    "occupancy",
    "loads",
    "instructions",
    "special",
    "barriers, shuffles, shared",
    "bytes",
    "in flight / needed",
    "predicted limiter",
    "predicted margin",
)
OTHER_HEADER = ("kernel", "operand", "GPU", "registers", "spills", "shared", "occupancy")
MOST_INSTRUCTIONS = {"sm_80": 10.0, "sm_90": 10.0, "sm_100": 8.5}  # of a row kernel, per bf16 element
LEAST_MARGIN = 1.3  # of a product with few rows

INTRODUCTION = f"""Compiled for GPUs that aren't here, and read from their machine code; **nothing was run, every figure of speed is predicted**.

* A kernel's streaming loop is looked at, or two where it passes over its data twice. Instructions, special functions (MUFU and its like) and
  bytes are per element of the operand that is streamed; barriers, shuffles and shared memory accesses are per iteration. Of kernels that multiply
  tiles it is the loop along the depth, per element of the larger tile; what they do with a finished tile is not counted.
* Predicted margin: an element's time on HBM over its longest time on any pipe (instruction issue, float, integer and logic, special functions,
  shuffles, tensor), by the datasheets below. Above 1 the kernel is predicted memory-bound; below 1 that share of the bandwidth is predicted.
* In flight / needed: bytes that the resident warps ask for at once, against bandwidth x {LATENCY * 1e9:.0f} ns (Little's law), per multiprocessor.
* Kernels that stream nothing large (they merge a row's blocks, or work on small problems) stand at the end, with what they occupy.
"""


@dataclass(frozen=True)
class Entry:
    """One kernel of one contender, compiled for one target. ``streaming``: it is the one whose time is the reading of the large operand."""

    op: str
    who: str
    label: str
    streaming: bool
    analysis: Analysis

    def misses(self) -> list[str]:
        """Targets of our streaming kernels that this one doesn't meet."""
        found, a = [], self.analysis
        if not a.resident_warps:
            return [f"does not fit: {a.shared} bytes of shared memory, {a.registers} registers"]
        if a.spills:
            found.append(f"{a.spills} spills")
        if a.is_product:
            if a.flops_per_element and a.margin < LEAST_MARGIN:  # without matrix instructions arithmetic is the bound from some 30 rows on
                found.append(f"margin {a.margin:.2f}")
            return found
        if a.load_bits < 128:
            found.append(f"loads of {a.load_bits} bits")
        found += [f"{a.per_iteration(kind)} {kind} an iteration" for kind in ("barrier", "shuffle", "shared") if a.per_iteration(kind)]
        most = MOST_INSTRUCTIONS.get(a.target)
        if most is not None and a.dtype == "bf16" and a.per_element("issue") > most:
            found.append(f"{a.per_element('issue'):.1f} instructions per element")
        if a.occupancy < 0.5 and a.bytes_in_flight < a.machine.bytes_in_flight:
            found.append(f"occupancy {a.occupancy:.0%} and too little in flight")
        return found


def entries(targets: Sequence[str], with_peers: bool) -> Iterator[Entry]:
    for target in targets:
        for sample in SAMPLES:
            if sample.label.startswith("fp16"):  # costs what bfloat16 costs
                continue
            print(f"{target}: {sample}", file=sys.stderr)
            with compiling(target) as launches:
                sample.launch()
            for launch in _distinct(launches):
                if (found := analyse(launch)) is not None:
                    yield Entry(sample.op, OURS, sample.label, launch.kernel in sample.streaming, found)
        for peer in PEER_SAMPLES if with_peers else ():
            print(f"{target}: {peer.who} {peer.dtype}", file=sys.stderr)
            with compiling(target) as launches:
                peer.launch(target)
            for launch in _distinct(launches):
                if launch.kernel in peer.ops and (found := analyse(launch)) is not None:
                    yield Entry(peer.ops[launch.kernel], peer.who, peer.dtype, True, found)


def _distinct(launches: Sequence[Launch]) -> list[Launch]:
    """A kernel that is launched several times as one and the same binary counts once."""
    return list({(launch.kernel, launch.compiled.hash): launch for launch in launches}.values())


def _row(entry: Entry) -> tuple[str, ...]:
    a = entry.analysis
    return (
        f"{entry.who} `{a.kernel.strip('_')}`",
        f"{a.dtype} ({entry.label})" if entry.label != a.dtype else a.dtype,
        a.machine.name,
        str(a.registers),
        str(a.spills),
        f"{a.shared}",
        f"{a.occupancy:.0%}",
        f"{a.load_bits} bit",
        f"{a.per_element('issue'):.1f}",
        f"{a.per_element('special'):.2f}",
        ", ".join(str(a.per_iteration(kind)) for kind in ("barrier", "shuffle", "shared")),
        f"{a.bytes_per_element:.1f}",
        f"{a.bytes_in_flight / 1024:.0f} / {a.machine.bytes_in_flight / 1024:.0f} kB",
        a.limiter,
        f"{a.margin:.2f}",
    )


def _other_row(entry: Entry) -> tuple[str, ...]:
    a = entry.analysis
    return f"`{a.kernel.strip('_')}`", a.dtype, a.machine.name, str(a.registers), str(a.spills), str(a.shared), f"{a.occupancy:.0%}"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ("---",) * len(rows[0]), *rows[1:]])


def _machines() -> str:
    rows = [("target", "GPU", "units", "clock", "HBM", "issue / float / alu / special lanes", "tensor bf16", "instructions per 2 bytes at HBM speed")]
    for target, m in MACHINES.items():
        lanes = " / ".join(str(m.pipes.get(pipe, "-")) for pipe in ("issue", "float", "alu", "special"))
        budget = 2 / m.bandwidth * m.lanes("issue")
        sizes = (str(m.units), f"{m.clock / 1e9:.2f} GHz", f"{m.bandwidth / 1e12:.2f} TB/s", lanes, f"{m.tensor / 1e12:.0f} TFLOP/s", f"{budget:.1f}")
        rows.append((target, m.name, *sizes))
    return _table(rows)


def markdown(found: Sequence[Entry], facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    parts = [f"# GPU report (predicted), {facts['date']}, commit {facts['commit']}", versions, INTRODUCTION, _machines()]
    for op in dict.fromkeys(entry.op for entry in found if entry.streaming):
        of_op = [entry for entry in found if entry.op == op and entry.streaming]
        order = sorted(of_op, key=lambda e: (e.analysis.dtype, list(MACHINES).index(e.analysis.target), e.who != OURS, e.who))
        parts += [f"## {op}", _table([HEADER, *(_row(entry) for entry in order)])]
    parts += ["## Kernels that stream nothing large", _table([OTHER_HEADER, *dict.fromkeys(_other_row(e) for e in found if not e.streaming)])]
    ours = [entry for entry in found if entry.who == OURS and entry.streaming]
    missed = [(entry, entry.misses()) for entry in ours]
    lines = [f"* `{e.analysis.kernel}` {e.label}, {e.analysis.target}: {', '.join(reasons)}" for e, reasons in missed if reasons]
    parts += ["## Targets missed by our streaming kernels", "\n".join(dict.fromkeys(lines)) or f"None of {len(ours)}."]
    return "\n\n".join(parts) + "\n"


def write(targets: Sequence[str], with_peers: bool) -> list[Path]:
    """Compiles, reads, and writes bench/results/<date>-gpu-report-<commit>.md and .json."""
    if with_peers and not peers.available():
        raise SystemExit("other people's kernels are missing: make bench-peers, or --no-peers")
    found = list(entries(targets, with_peers))
    facts = machine.describe(torch.device("cpu"))
    stem = machine.ROOT / "bench" / "results" / f"{facts['date']}-gpu-report-{facts['commit']}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    text, contents = stem.with_name(stem.name + ".md"), stem.with_name(stem.name + ".json")
    text.write_text(markdown(found, facts))
    kernels = [{"op": e.op, "who": e.who, "label": e.label, "streaming": e.streaming, **e.analysis.as_json()} for e in found]
    contents.write_text(json.dumps({**facts, "latency assumed": LATENCY, "kernels": kernels}, indent=1) + "\n")
    return [text, contents]
