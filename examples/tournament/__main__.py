"""Judges every ordered pair of answers, and every answer alone, from the verdict token's log-probabilities; ranks the answers in several ways, and
compares with plain PyTorch."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import rrm_core
from bench import machine
from examples.arguments import positive
from examples.tournament import comparison, data, judge, methods, picture, quality, report
from rrm_core import bradley_terry, pairwise_wins, score_token_logprobs


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    more = "python -m examples --judge rrm (or rm-r1, deepseek-grm, j1) runs a published judge system instead."
    parser = argparse.ArgumentParser(prog="python -m examples.tournament", description=__doc__, epilog=more)
    parser.add_argument("--model", default=judge.DEFAULT_MODEL, help="folder or name of a Hugging Face causal language model (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=data.DEFAULT, help="JSONL file of questions with answers, best first")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for tournament.png and results.json (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap over questions (default: %(default)s)")
    parser.add_argument("--limit", type=positive, help="only the first LIMIT questions")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    questions = data.load(options.data, options.limit)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise data.DataError(f"--out: expected a folder that can be written, got {options.out}: {error.strerror}") from error
    info = rrm_core.backend_info()
    print(f"rrm-kernels {rrm_core.__version__} on {info['cpu']} (CPU), torch {info['torch']}, {torch.get_num_threads()} threads")
    print(f"loading {options.model} ...", flush=True)
    tokenizer, model = judge.load_model(options.model)
    verdict_tokens, score_tokens, head = judge.verdict_tokens(tokenizer), judge.score_tokens(tokenizer), judge.head_of(model)
    pairs = judge.ordered_pairs(questions)

    started = time.perf_counter()
    of_answers = judge.answer_states(tokenizer, model, questions)
    of_pairs = judge.pair_states(tokenizer, model, questions, pairs)
    judged = time.perf_counter() - started

    scores = score_token_logprobs(of_answers, **head, score_tokens=score_tokens)
    verdicts = score_token_logprobs(of_pairs, **head, score_tokens=verdict_tokens)
    b, n = len(questions), len(questions[0].answers)
    wins = pairwise_wins(pairs.first, pairs.second, verdicts.expected, problem=pairs.problem, num_problems=b, num_candidates=n)
    ratings = bradley_terry(wins, stderr=True)
    pooled = bradley_terry(wins.sum(0, keepdim=True), stderr=True)
    ranked = methods.rank(pairs, verdicts, scores, wins, options.seed)
    advantages = methods.advantages(ranked)

    results = {
        "date": time.strftime("%Y-%m-%d"),
        "version": rrm_core.__version__,
        "machine": {"processor": machine.processor(), "threads": torch.get_num_threads(), "python": platform.python_version()},
        "backend": {"cpu": info["cpu"], "torch": info["torch"]},
        "model": options.model,
        "seconds judging": round(judged, 1),
        "quality": quality.of_judge(pairs, verdicts, wins, scores, options.seed),
        "methods": quality.of_methods(ranked, options.seed),
        "advantages": quality.of_advantages(advantages, n),
        "comparison": comparison.of_logprobs(of_pairs, head, verdict_tokens),
        "comparison of advantages": comparison.of_advantages(ratings.rating),
    }
    report.print_judge(results["quality"])
    report.print_methods(results["methods"], n)
    report.print_advantages(results["advantages"], questions[0])
    report.print_questions(questions, scores, ratings)
    report.print_comparison(results["comparison"], results["comparison of advantages"], judged)
    path = options.out / "tournament.png"
    picture.draw(questions, wins, ratings, pooled, results["methods"], path)
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"\npicture: {path}, figures: {options.out / 'results.json'}")


if __name__ == "__main__":
    try:
        main()
    except (data.DataError, judge.ModelError) as error:
        sys.exit(f"error: {error}")
