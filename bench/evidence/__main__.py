"""``make evidence``: trains and tests the judges, phase by phase on every core, then writes report, figures and picture."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from bench.evidence import report, timing
from bench.evidence.runner import kept_in, load, run_all
from bench.report import RESULTS
from examples.arguments import positive
from examples.evidence.arms import Study
from examples.evidence.phases import phases
from examples.evidence.settings import QUICK, REPORTED, Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.evidence", description=__doc__)
    parser.add_argument("--seeds", type=positive, default=len(REPORTED), help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=REPORTED[0], help="1000 is the seed of development (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="minutes: shorter problems, little training, few items")
    where = "folder of report, figures and picture (default: bench/results/evidence for the reported seeds in full, out/evidence for all else)"
    parser.add_argument("--out", type=Path, help=where)
    parser.add_argument("--workers", type=positive, default=len(os.sched_getaffinity(0)), help="phases that run at once (default: one a core)")
    options = parser.parse_args()
    settings, began = QUICK if options.quick else Settings(), time.perf_counter()
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    kept = kept_in(Path("out") / "evidence", settings)
    run_all(settings, seeds, kept, options.workers)
    found = [{name: load(kept, seed, name) for name in phases(settings)} for seed in seeds]
    timed = timing.measure(Study(settings, seeds[0], settings.length), found[0]["think"])
    reported = seeds == REPORTED and not options.quick
    out = options.out or (RESULTS / "evidence" if reported else kept / "report")
    report.write(out, settings._asdict(), seeds, time.perf_counter() - began, found, timed)


if __name__ == "__main__":
    main()
