"""``make evidence``: trains and tests the judges, phase by phase on every core, then writes report, figures and picture."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path

import torch

from bench.evidence import report, timing
from examples.evidence.arms import Study
from examples.evidence.phases import file_of, phases, run_all
from examples.evidence.settings import QUICK, Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.evidence", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="seeds 1000 and 1001 are those of development (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="minutes: little training, few items, figures that mean nothing; into out/evidence")
    parser.add_argument("--out", type=Path, help="folder of report, figures and picture, instead")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="phases that run at once (default: one a core)")
    options = parser.parse_args()
    settings, began = QUICK if options.quick else Settings(), time.perf_counter()
    code = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))) + repr(settings)
    kept = Path("out") / "evidence" / hashlib.sha256(code.encode()).hexdigest()[:12]  # results of other code are other results
    kept.mkdir(parents=True, exist_ok=True)
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    run_all(settings, seeds, kept, options.workers)
    found = [{name: torch.load(file_of(kept, seed, name)) for name in phases(settings)} for seed in seeds]
    timed = timing.measure(Study(settings, seeds[0], settings.length), found[0]["think"])
    facts = {"settings": settings._asdict(), "seeds": seeds, "seconds of this run": time.perf_counter() - began}
    report.write(options.out or (kept.parent if options.quick else Path("bench") / "results" / "evidence"), facts, found, timed)


if __name__ == "__main__":
    main()
