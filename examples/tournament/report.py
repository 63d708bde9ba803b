"""What the demo prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from examples.tournament.comparison import TOLERANCE
from examples.tournament.data import Question
from examples.tournament.methods import DRAWS
from examples.tournament.quality import Interval, rank_correlation
from rrm_core import Ratings, RatingStatus, ScoreTokenLogprobs

Z95 = 1.96


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _spread(value: Interval) -> str:
    return f"{value.mean:6.2f}  [{value.low:5.2f}, {value.high:5.2f}]"


def print_judge(quality: dict[str, Any]) -> None:
    print(f"\n{'the judge against the known ranking':<40}  {'mean':>6}  {'95 % interval':<14}")
    for name, value in quality.items():
        print(f"  {name:<38}  {_spread(value) if isinstance(value, Interval) else f'{value:6.2f}'}")
    print("  (intervals: bootstrap over questions; chance is 0.50 for the accuracies)")


def print_methods(methods: Sequence[dict[str, Any]], n: int) -> None:
    print(f"\n{'ways to rank ' + str(n) + ' answers':<28}{'judge calls':>12}{'accuracy':>10}{'best picked':>13}   rank correlation, 95 % interval")
    for row in methods:
        accuracy, best, rho = row["accuracy"].mean, row["best picked"].mean, row["rank correlation"]
        print(f"  {row['method']:<26}{row['calls']:>12}{accuracy:>10.2f}{best:>13.2f}   {_spread(rho)}")
    print(f"  (calls: per question; accuracy: pairs in the right order, ties half; chance is 0.50, {1 / n:.2f} and 0;")
    print(f"  brackets and some pairs: drawn {DRAWS} times, a question's figure is the mean)")


def print_advantages(advantages: dict[str, Any], question: Question) -> None:
    last = list(advantages)[-1]
    print(f"\n{'GRPO advantages out of':<28}{'kept':>6}{'correlation':>13}   of the first question's answers, best first")
    for name, row in advantages.items():
        print(f"  {name:<26}{row['kept']:>6.0%}{row['correlation']:>13.2f}   " + " ".join(f"{a:+.2f}" for a in row["first question"]))
    print(f"  (a group per question; kept: groups whose rewards differ; correlation: with {last}; first question: {_short(question.text, 60)})")


def print_questions(questions: Sequence[Question], scores: ScoreTokenLogprobs, ratings: Ratings) -> None:
    assert scores.expected is not None
    assert scores.variance is not None
    assert ratings.stderr is not None
    expected, deviation = (x.view(len(questions), -1) for x in (scores.expected, scores.variance.sqrt()))
    rho = rank_correlation(expected), rank_correlation(ratings.rating)
    print(f"\n{'question':<46}{'score rho':>10}{'best: score':>14}{'BT rho':>9}{'picked':>8}   best: rating, status")
    for b, question in enumerate(questions):
        score = f"{float(expected[b, 0]):.2f} +- {float(deviation[b, 0]):.2f}"
        rating = f"{float(ratings.rating[b, 0]):+.2f} +- {Z95 * float(ratings.stderr[b, 0]):.2f}"
        status = RatingStatus(int(ratings.status[b])).name.lower()
        picked = int(ratings.rating[b].argmax()) + 1
        print(f"{_short(question.text, 45):<46}{float(rho[0][b]):>10.2f}{score:>14}{float(rho[1][b]):>9.2f}{picked:>8}   {rating}, {status}")
    print("  (rho: rank correlation of expected scores and of Bradley-Terry; picked: known rank of the answer rated highest; 1 is right)")
    print("  (score: expected value and standard deviation of the judge's distribution over 1 to 9; rating: with a 95 % interval)")


def print_comparison(comparison: dict[str, Any], of_advantages: dict[str, Any], judged: float) -> None:
    rows, vocabulary = comparison["rows"], comparison["vocabulary"]
    print(f"\nverdict log-probabilities from the same {rows} hidden states, vocabulary {vocabulary} (the model took {judged:.0f} s to make them all)")
    for key in ("rrm_core", "plain PyTorch", "labels only"):
        print(f"  largest error of {key} against float64: {comparison[f'error of {key} against float64']:.1e}")
    print(f"  largest difference of rrm_core and plain PyTorch: {comparison['difference of rrm_core and plain PyTorch']:.1e}")
    if "seconds" not in comparison:
        print(f"  not timed: the error is above {TOLERANCE}")
    else:
        _print_times(comparison["seconds"])
    print("\nGRPO advantages of the Bradley-Terry ratings, a group per question")
    for name, taken in of_advantages["seconds"].items():
        print(f"  {name}: {taken * 1e6:.0f} us, largest error against float64: {of_advantages[f'error of {name} against float64']:.1e}")


def _print_times(by_rows: dict[int, dict[str, float]]) -> None:
    print(f"  {'rows':>6}{'plain PyTorch':>16}{'rrm_core':>12}{'ratio':>8}{'labels only':>14}{'against rrm_core':>19}")
    for n, seconds in by_rows.items():
        plain, full, only = (seconds[key] * 1e3 for key in ("plain PyTorch", "rrm_core", "labels only"))
        print(f"  {n:>6}{plain:>13.2f} ms{full:>9.2f} ms{plain / full:>7.2f}x{only:>11.3f} ms{full / only:>18.0f}x")
