"""What was measured, as a table to read and as JSON to compute with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import floors, machine
from bench.measure import Measurement
from bench.registry import Scale

RESULTS, PARTIAL_RESULTS = machine.ROOT / "bench" / "results", machine.ROOT / "out" / "bench"
PLAIN = "PyTorch"
BUSY = 0.5  # load average before a run, above which the report says so
HEADER = ("case", "threads", "body", "median", "rate", "share of floor", f"{PLAIN} takes", "others take", "threads gain", "extra memory")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Its lines, and an empty one."""
    return ["| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows)] + [""]


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _rate(m: Measurement) -> str:
    amount, unit = (m.case.flops, "GFLOP/s") if any(name == "products" for name in m.at_floor) else (m.case.moves, "GB/s")
    return f"{amount / m.median() / 1e9:.3g} {unit}" if amount else ""


def _memory(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.1f} MB"


def _row(m: Measurement, single: Measurement | None) -> tuple[str, ...]:
    if m.fault is not None:
        return str(m.case), str(m.threads), m.body, f"not timed: {m.fault}", *[""] * 6
    shares = "; ".join(f"{m.share(name):.2f} of {name}" for name in m.at_floor)
    others = "; ".join(f"{who} {m.ratio(who):.3g}x" for who in m.samples if who in m.case.others and who != PLAIN)
    plain = f"{m.ratio(PLAIN):.3g}x" if PLAIN in m.samples else ""
    faster = f"{single.median() / m.median():.2f}x" if single and single.samples and single is not m else ""
    return str(m.case), str(m.threads), m.body, duration(m.median()), _rate(m), shares, plain, others, faster, _memory(m.extra_memory)


def table(measured: Sequence[Measurement]) -> str:
    """Markdown; "threads gain": how many times as fast a case is with its threads as with one."""
    single = {str(m.case): m for m in measured if m.threads == 1}
    rows = [HEADER, tuple("---" for _ in HEADER), *(_row(m, single.get(str(m.case))) for m in measured)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _about(facts: dict[str, Any], rates: dict[int, dict[str, float]], scale: Scale) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    load = facts["load before"]
    busy = [f"The machine was busy (load average {load:.1f} before the run): figures of several threads suffer most.", ""] if load > BUSY else []
    lines = [
        f"# Benchmarks, {facts['date']}, commit {facts['commit']}, scale {scale}",
        "",
        f"{facts['device']}, {facts['cores']} cores, last level cache {facts['last level cache'] >> 20} MB; {facts['backends']['cpu']};"
        f" Python {facts['python']}; {versions}.",
        "",
        *busy,
        "Everyone takes turns in one process (A B C A B C); medians, and medians of the ratios round by round. Inputs above 16 MB lie in several"
        " places, so that no call finds them in the cache. A share of 1 is the floor's own speed, measured in the same rounds. Nothing is timed"
        " before its results are within the numeric contract of float64.",
        "",
    ]
    if rates:
        names = list(next(iter(rates.values())))
        lines += ["| floors on 512 MB | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for threads, values in rates.items():
            cells = [f"{values[name]:.1f} {'GFLOP/s' if name == 'products' else 'GB/s'}" for name in names]
            lines.append(f"| {threads} thread{'s' * (threads > 1)} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def write(measured: Sequence[Measurement], device: torch.device, scale: Scale, partial: bool, load: float) -> tuple[str, list[Path]]:
    """The table, and where it and the JSON were written: bench/results, or out/bench for a part of the cases or a quick run."""
    facts = {**machine.describe(device), "load before": load}
    rates = {n: floors.machine_rates(n) for n in sorted({m.threads for m in measured})} if device.type == "cpu" else {}
    folder = PARTIAL_RESULTS if partial else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{facts['date']}-bench-{facts['commit']}"
    text = table(measured)
    contents = {**facts, "scale": scale, "floors": rates, "cases": [m.as_json() for m in measured]}
    paths = [stem.with_name(stem.name + suffix) for suffix in (".json", ".md")]
    paths[0].write_text(json.dumps(contents, indent=1) + "\n")
    paths[1].write_text(_about(facts, rates, scale) + "\n" + text + "\n")
    return text, paths
