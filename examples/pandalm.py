"""Rates the five models of PandaLM's test set by what people, GPT-3.5 and PandaLM-7B said of 999 pairs of answers, and the judges by the people."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rrm_core import bootstrap, bradley_terry, davidson, pairwise_counts, pairwise_wins
from rrm_core.tournaments import matches_from_frame, plot_tournament

FILES = "testset-v1.json", "gpt-3.5-turbo-testset-v1.json", "pandalm-7b-testset-v1.json"
VERDICTS = {"people": ("annotator1", "annotator2", "annotator3"), "GPT-3.5": ("gpt_result",), "PandaLM-7B": ("pandalm_result",)}
OUTCOMES = {"1": 1.0, "2": 0.0, "0": 0.5, "Tie": 0.5, "garbage": None}


def load(folder: Path) -> list[dict[str, Any]]:
    """A record per pair of answers, with the verdicts of everybody."""
    people, *judges = (json.loads((folder / name).read_text()) for name in FILES)
    return [{key: value for part in parts for key, value in part.items()} for parts in zip(people, *judges, strict=True)]


def frame(records: list[dict[str, Any]], mean: bool) -> dict[str, list[Any]]:
    """A row per pair of answers and judge with the mean of the judge's verdicts, or a row for every single verdict."""
    columns: dict[str, list[Any]] = {"model_a": [], "model_b": [], "judge": [], "winner": []}
    for record in records:
        for judge, keys in VERDICTS.items():
            shares = [OUTCOMES[str(record[key])] for key in keys]
            for share in [sum(shares) / len(shares)] if mean and None not in shares else shares:
                for column, value in zip(columns.values(), (*record["cmp_key"].split("_"), judge, share), strict=True):
                    column.append(value)
    return columns


def agreement(records: list[dict[str, Any]], key: str) -> tuple[int, float, float]:
    """Pairs on which two of three people agree, the share of them on which the judge does too, and Cohen's kappa.

    An invalid verdict is a kind of its own, which people never give."""
    both = Counter()
    for record in records:
        majority, count = Counter(OUTCOMES[str(record[k])] for k in VERDICTS["people"]).most_common(1)[0]
        if count > 1:
            both[majority, OUTCOMES[str(record[key])]] += 1
    total = both.total()
    people, judge = Counter(), Counter()
    for (a, b), count in both.items():
        people[a] += count
        judge[b] += count
    observed = sum(both[kind, kind] for kind in people) / total
    chance = sum(people[kind] * judge[kind] for kind in people) / total**2
    return total, observed, (observed - chance) / (1 - chance)


def kendall(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two ratings without ties: how many more pairs are in the same order than not."""
    same = (a[:, None] - a).sign() * (b[:, None] - b).sign()
    return float(same.sum()) / (len(a) * (len(a) - 1))


def spearman(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x.argsort().argsort().double() for x in (a, b)]))[0, 1])


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Prints everything; returns figures by judge."""
    parser = argparse.ArgumentParser(prog="python -m examples.pandalm", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {', '.join(FILES)}")
    parser.add_argument("--picture", type=Path, help="file for a picture of the ratings by people")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)")
    options = parser.parse_args(arguments)
    missing = [name for name in FILES if not (options.data / name).is_file()]
    if missing:
        parser.error(f"--data: expected a folder of {', '.join(FILES)}, got {options.data} without {', '.join(missing)}")

    records = load(options.data)
    pairs = matches_from_frame(frame(records, mean=True), problem="judge")  # verdicts on one pair of answers are not independent: one match
    sure = bootstrap(**pairs.arguments, seed=options.seed)
    wins = pairwise_wins(**pairs.arguments)
    place = {judge: pairs.problems.index(judge) for judge in VERDICTS}
    for judge, problem in place.items():
        print(f"{judge}: Bradley-Terry in Elo points, 95 % bootstrap intervals\n{sure.table(pairs.names, problem=problem, elo=1000, wins=wins)}\n")

    verdicts = matches_from_frame(frame(records, mean=False), problem="judge")
    counts = pairwise_counts(**verdicts.arguments)
    halved, apart = bradley_terry(counts), davidson(counts)
    print("people: log-strengths where a tie is half a win (Bradley-Terry), and where it is an outcome of its own (Davidson)")
    tables = [found.table(verdicts.names, problem=place["people"]).splitlines() for found in (halved, apart)]
    width = max(map(len, tables[0]))
    for left, right in zip(tables[0] + [""] * (len(tables[1]) - len(tables[0])), tables[1], strict=True):
        print(f"{left:<{width}}      {right}")

    people = sure.rating[place["people"]]
    figures: dict[str, dict[str, Any]] = {}
    print(f"\n{'with the people':<16}{'pairs':>7}{'agreement':>11}{'kappa':>8}{'Kendall':>9}{'Spearman':>10}")
    for judge, problem in place.items():
        rating = sure.rating[problem]
        figures[judge] = {"rating": dict(zip(pairs.names, rating.tolist(), strict=True)), "tie strength": float(apart.tie_strength[problem])}
        if judge != "people":
            total, share, kappa = agreement(records, VERDICTS[judge][0])
            figures[judge] |= {"pairs": total, "agreement": share, "kappa": kappa}
            figures[judge] |= {"kendall": kendall(rating, people), "spearman": spearman(rating, people)}
            print(f"{judge:<16}{total:>7}{share:>11.3f}{kappa:>8.3f}{figures[judge]['kendall']:>9.2f}{figures[judge]['spearman']:>10.2f}")
    print("(pairs: two of three people agree; agreement: the judge says what they say, an invalid verdict does not)")
    if options.picture:
        plot_tournament(wins, sure, pairs.names, problem=place["people"], elo=1000).savefig(options.picture, dpi=110)
        print(f"picture: {options.picture}")
    return figures


if __name__ == "__main__":
    main()
