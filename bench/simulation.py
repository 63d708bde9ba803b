"""How much better the pick gets for each judge call, by scheduler, rating and vote rule: ``python -m bench.simulation`` writes tables, a picture and
their figures, from judges that are simulated."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import machine, simulation_report
from bench.report import PARTIAL_RESULTS, RESULTS
from bench.simulation_judge import ACCURACIES
from bench.simulation_tournaments import IN_FULL, elo_orders, position_bias, repeating, tournaments
from bench.simulation_votes import adaptive_votes, confidence, coverage, sampled_scores, ties

SEED = 0


class Scale(NamedTuple):
    """How many problems of each n, and judges of which accuracies."""

    problems: dict[int, int]
    accuracies: tuple[float, ...]
    tried: int  # problems of the smaller experiments
    n: int
    pairs: int
    replicates: int


FULL = Scale({4: 4000, 8: 4000, 16: 4000, 32: 2000, 64: 1000}, ACCURACIES, 4000, 16, 20000, 200)
QUICK = Scale({4: 200, 8: 200}, (IN_FULL,), 200, 8, 500, 50)


def simulate(scale: Scale, seed: int = SEED) -> dict[str, list[dict[str, Any]]]:
    n, few = scale.n, max(1, scale.tried // 2)
    return {
        "tournaments": tournaments(scale.problems, scale.accuracies, seed),
        "position bias": position_bias(n, few, IN_FULL, seed),
        "repeating judges": repeating(n, few, IN_FULL, seed),
        "elo orders": [row for size, problems in scale.problems.items() for row in elo_orders(size, problems, IN_FULL, seed)],
        "sampled scores": sampled_scores(n, scale.tried, IN_FULL, seed),
        "adaptive votes": adaptive_votes(scale.pairs, seed),
        "ties": ties(n, scale.tried, IN_FULL, seed),
        "coverage": coverage(8, few, IN_FULL, scale.replicates, seed),
        "confidence": confidence(8, scale.tried, IN_FULL, scale.replicates, seed),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds: few problems of few candidates; into out/bench")
    parser.add_argument("--out", type=Path, help="where to write, instead")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="fewer where others are at work: threads wait for each other")
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else FULL
    folder = options.out or (PARTIAL_RESULTS if options.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        facts, began = machine.describe(torch.device("cpu")), time.perf_counter()
        found = simulate(scale)
        facts |= {"scale": scale._asdict(), "seed": SEED, "seconds": time.perf_counter() - began}
    finally:
        torch.set_num_threads(threads)
    stem = folder / f"{facts['date']}-simulation-{facts['commit']}"
    stem.with_suffix(".json").write_text(json.dumps({**facts, "simulation": found}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(simulation_report.as_text(facts, found))
    simulation_report.draw(found, f"commit {facts['commit']}, {facts['date']}", stem.with_suffix(".png"))
    print(f"written to {stem}.json, .md and .png in {facts['seconds']:.0f} s")


if __name__ == "__main__":
    main()
