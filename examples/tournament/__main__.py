"""Judges every ordered pair of answers from the verdict token's log-probabilities, aggregates the tournament, and compares with plain PyTorch."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch

import rrm_core
from examples.tournament import data, judge, report
from rrm_core.tournaments import bradley_terry, pairwise_wins


def arguments() -> argparse.Namespace:
    def positive(text: str) -> int:
        value = int(text)
        if value < 1:
            raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {value}")
        return value

    parser = argparse.ArgumentParser(prog="python -m examples.tournament", description=__doc__)
    parser.add_argument("--model", default=judge.DEFAULT_MODEL, help="folder or name of a Hugging Face causal language model (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=data.DEFAULT, help="JSONL file of questions with answers, best first")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for tournament.png and results.json (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap over questions (default: %(default)s)")
    parser.add_argument("--limit", type=positive, help="only the first LIMIT questions")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    questions = data.load(options.data, options.limit)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise data.DataError(f"--out: expected a folder that can be written, got {options.out}: {error.strerror}") from error
    info = rrm_core.backend_info()
    print(f"rrm-kernels {rrm_core.__version__} on {info['cpu']} (CPU), torch {info['torch']}, {torch.get_num_threads()} threads")
    print(f"loading {options.model} ...", flush=True)
    tokenizer, model = judge.load_model(options.model)
    tokens = judge.score_tokens(tokenizer)
    pairs = judge.ordered_pairs(questions)

    started = time.perf_counter()
    hidden = judge.verdict_states(tokenizer, model, questions, pairs)
    judged = time.perf_counter() - started
    head = judge.head_of(model)

    verdicts = rrm_core.score_token_logprobs(hidden, **head, score_tokens=tokens)
    n = len(questions[0].answers)
    wins = pairwise_wins(pairs.first, pairs.second, verdicts.expected, problem=pairs.problem, num_problems=len(questions), num_candidates=n)
    ratings = bradley_terry(wins, stderr=True)
    pooled = bradley_terry(wins.sum(0, keepdim=True), stderr=True)

    quality = report.judge_quality(pairs, verdicts, wins, ratings, options.seed)
    comparison = report.compare_with_pytorch(hidden, head, tokens)
    report.print_tables(questions, wins, ratings, quality, comparison, judged)
    picture = options.out / "tournament.png"
    report.draw(questions, wins, ratings, pooled, picture)
    machine = {"processor": report.processor(), "threads": torch.get_num_threads(), "python": platform.python_version()}
    results = {
        "date": time.strftime("%Y-%m-%d"),
        "version": rrm_core.__version__,
        "machine": machine,
        "backend": {"cpu": info["cpu"], "torch": info["torch"]},
    }
    results |= {"model": options.model, "seconds judging": round(judged, 1), "quality": quality, "comparison": comparison}
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"\npicture: {picture}, figures: {options.out / 'results.json'}")


if __name__ == "__main__":
    try:
        main()
    except (data.DataError, judge.ModelError) as error:
        sys.exit(f"error: {error}")
