"""What the tournament says: agreement with the known ranking, the same numbers from plain PyTorch, tables and the picture."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor

from examples.tournament.data import Question
from examples.tournament.judge import Pairs
from rrm_core import ScoreTokenLogprobs, ScoreTokens, score_token_logprobs
from rrm_core.tournaments import Ratings, RatingStatus, borda

mpl.use("Agg")
import matplotlib.pyplot as plt

Z95 = 1.96
TOLERANCE = 2e-5  # nats; above it nothing is timed


def _rank_correlation(score: Tensor) -> Tensor:
    """Spearman's rho [B] of scores [B, n] with the known order, best first; tied scores share their mean rank."""
    n = score.shape[1]
    ranks = (score[:, :, None] < score[:, None, :]).double().sum(2) + (score[:, :, None] == score[:, None, :]).double().sum(2) / 2
    known = torch.arange(n, dtype=torch.float64) + 0.5
    a, b = ranks - ranks.mean(1, keepdim=True), known - known.mean()
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm()).clamp(min=1e-300)).nan_to_num(0.0)


def _interval(per_question: Tensor, seed: int) -> tuple[float, float, float]:
    """Mean over questions with a 95 % bootstrap interval over questions."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, len(per_question), (2000, len(per_question)), generator=generator)
    low, high = per_question.double()[draws].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(per_question.double().mean()), low, high


def judge_quality(pairs: Pairs, verdicts: ScoreTokenLogprobs, wins: Tensor, ratings: Ratings, seed: int) -> dict[str, Any]:
    """Shares of right verdicts (mean, low, high over questions), of flips with the order, and rank correlations. Answers are known best first."""
    assert verdicts.expected is not None
    assert verdicts.log_mass is not None
    b, n = wins.shape[:2]
    says_first = verdicts.expected > 0.5
    right = says_first == (pairs.first < pairs.second)
    table = torch.zeros(b, n, n, dtype=torch.bool)
    table[pairs.problem, pairs.first, pairs.second] = says_first
    upper = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
    flipped = table == table.mT  # the same position wins in both orders
    combined = (wins > wins.mT)[:, upper].double() + (wins == wins.mT)[:, upper].double() / 2
    per_question = right.view(b, -1).double().mean(1)
    top = ratings.rating == ratings.rating.amax(1, keepdim=True)  # a tie for the top counts in part
    return {
        "verdict accuracy": _interval(per_question, seed),
        "verdicts for the answer shown first": float(says_first.double().mean()),
        "verdicts that flip with the order": _interval(flipped[:, upper].double().mean(1), seed),
        "accuracy, both orders combined": _interval(combined.mean(1), seed),
        "best answer picked": _interval(top[:, 0].double() / top.sum(1), seed),
        "rank correlation, Borda": _interval(_rank_correlation(borda(wins)), seed),
        "rank correlation, Bradley-Terry": _interval(_rank_correlation(ratings.rating), seed),
        "probability on the verdict tokens": float(verdicts.log_mass.exp().mean()),
    }


def _plain_pytorch(hidden: Tensor, weight: Tensor, tokens: ScoreTokens, bias: Tensor | None, softcap: float | None) -> list[Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    log_p = (logits if softcap is None else softcap * (logits / softcap).tanh()).log_softmax(-1)
    logprob = torch.stack([log_p[:, list(ids)].logsumexp(-1) for ids in tokens.forms], -1)
    conditional = logprob.log_softmax(-1)
    q, values = conditional.exp(), torch.tensor(tokens.values, dtype=logprob.dtype)
    expected = (q * values).sum(-1)
    return [logprob, conditional, logprob.logsumexp(-1), expected, (q * (values - expected[:, None]) ** 2).sum(-1), -(q * conditional).sum(-1)]


def processor() -> str:
    """The processor's name, for figures that are quoted."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _median_seconds(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Run in turn, after a warm-up round."""
    times: list[list[float]] = [[] for _ in functions]
    for round_ in range(repeats + 1):
        for function, taken in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            if round_:
                taken.append(time.perf_counter() - started)
    return [sorted(taken)[len(taken) // 2] for taken in times]


@torch.inference_mode()
def compare_with_pytorch(hidden: Tensor, head: dict[str, Any], tokens: ScoreTokens) -> dict[str, Any]:
    """The same quantities by plain PyTorch on the same hidden states: largest differences and times. Nothing is timed unless the values agree."""
    wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in head.items()}
    fused, plain = score_token_logprobs(hidden, **head, score_tokens=tokens), _plain_pytorch(hidden, **head, tokens=tokens)
    exact = _plain_pytorch(hidden.double(), **wide, tokens=tokens)
    labels = score_token_logprobs(hidden, **head, score_tokens=tokens, full_vocab=False)

    def largest(results: Sequence[Tensor | None], others: Sequence[Tensor]) -> float:
        return max(float((a.double() - b.double()).abs().max()) for a, b in zip(results, others, strict=True) if a is not None)

    found: dict[str, Any] = {
        "rows": len(hidden),
        "vocabulary": len(head["weight"]),
        "error of rrm_core against float64": largest(fused, exact),
        "error of plain PyTorch against float64": largest(plain, exact),
        "difference of rrm_core and plain PyTorch": largest(fused, plain),
        "error of labels only against float64": largest(labels, exact),
    }
    if not all(found[f"error of {body} against float64"] <= TOLERANCE for body in ("rrm_core", "labels only")):
        return found
    found["seconds"] = {}
    for rows in sorted({n for n in (1, 8, 64) if n < len(hidden)} | {len(hidden)}):
        some = hidden[:rows]
        bodies = {
            "plain PyTorch": lambda some=some: _plain_pytorch(some, **head, tokens=tokens),
            "rrm_core": lambda some=some: score_token_logprobs(some, **head, score_tokens=tokens),
            "labels only": lambda some=some: score_token_logprobs(some, **head, score_tokens=tokens, full_vocab=False),
        }
        found["seconds"][rows] = dict(zip(bodies, _median_seconds(list(bodies.values()), repeats=7), strict=True))
    return found


def print_tables(
    questions: Sequence[Question], wins: Tensor, ratings: Ratings, quality: dict[str, Any], comparison: dict[str, Any], judged: float
) -> None:
    chance = {"verdict accuracy": 0.5, "accuracy, both orders combined": 0.5, "best answer picked": 1 / wins.shape[1]}
    print(f"\n{'the judge against the known ranking':<42}{'value':>8}{'95 % interval':>18}{'chance':>9}")
    for name, value in quality.items():
        mean, *bounds = value if isinstance(value, tuple) else (value,)
        spread = "  [{:5.2f}, {:5.2f}]".format(*bounds) if bounds else ""
        print(f"  {name:<40}{mean:8.2f}{spread:>18}{chance.get(name, ''):>9.2}" if name in chance else f"  {name:<40}{mean:8.2f}{spread:>18}")
    print("  (intervals: bootstrap over questions)")

    print(f"\n{'question':<46}{'picked':>7}{'Borda rho':>11}{'BT rho':>8}  rating of the best answer, status")
    rho = _rank_correlation(borda(wins)), _rank_correlation(ratings.rating)
    assert ratings.stderr is not None
    for b, question in enumerate(questions):
        text = question.text if len(question.text) < 45 else question.text[:42] + "..."
        best = f"{float(ratings.rating[b, 0]):+.2f} +- {Z95 * float(ratings.stderr[b, 0]):.2f}"
        status = RatingStatus(int(ratings.status[b])).name.lower()
        print(f"{text:<46}{int(ratings.rating[b].argmax()) + 1:>7}{float(rho[0][b]):>11.2f}{float(rho[1][b]):>8.2f}  {best}, {status}")
    print("  (picked: known rank of the answer rated highest; 1 is right)")

    rows, vocabulary = comparison["rows"], comparison["vocabulary"]
    print(f"\nverdict log-probabilities from the same {rows} hidden states, vocabulary {vocabulary} (the model took {judged:.0f} s to make them)")
    for key in ("rrm_core", "plain PyTorch", "labels only"):
        print(f"  largest error of {key} against float64: {comparison[f'error of {key} against float64']:.1e}")
    print(f"  largest difference of rrm_core and plain PyTorch: {comparison['difference of rrm_core and plain PyTorch']:.1e}")
    if "seconds" not in comparison:
        print(f"  not timed: the error is above {TOLERANCE}")
        return
    print(f"  {'rows':>6}{'plain PyTorch':>16}{'rrm_core':>12}{'ratio':>8}{'labels only':>14}{'against rrm_core':>19}")
    for n, seconds in comparison["seconds"].items():
        plain, full, only = (seconds[key] * 1e3 for key in ("plain PyTorch", "rrm_core", "labels only"))
        print(f"  {n:>6}{plain:>13.2f} ms{full:>9.2f} ms{plain / full:>7.2f}x{only:>11.3f} ms{full / only:>18.0f}x")


def draw(questions: Sequence[Question], wins: Tensor, ratings: Ratings, pooled: Ratings, path: Path) -> None:
    """Win matrix and ratings over all questions, and every question's ratings with 95 % intervals."""
    b, n = wins.shape[:2]
    columns = 5
    rows = -(-b // columns)
    figure = plt.figure(figsize=(13, 4.8 + 1.9 * rows), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[4.8, 1.9 * rows])
    matrix, overall = top.subplots(1, 2)

    games = (wins + wins.mT).sum(0)
    share = (wins.sum(0) / games.clamp(min=1e-300)).masked_fill(games == 0, float("nan"))
    image = matrix.imshow(share, cmap="RdBu", vmin=0.3, vmax=0.7)
    for i in range(n):
        for j in range(n):
            if i != j:
                matrix.text(
                    j, i, f"{float(share[i, j]):.2f}", ha="center", va="center", color="white" if abs(float(share[i, j]) - 0.5) > 0.13 else "black"
                )
    ticks = [str(i + 1) for i in range(n)]
    matrix.set(title="mean probability that the row beats the column", xticks=range(n), yticks=range(n), xticklabels=ticks, yticklabels=ticks)
    matrix.set(xlabel="known rank (1 = best)", ylabel="known rank (1 = best)")
    top.colorbar(image, ax=matrix, shrink=0.85, extend="both")

    def bars(axis: Any, rating: Tensor, stderr: Tensor) -> None:
        axis.axhline(0, color="0.8", linewidth=1, zorder=0)
        axis.errorbar(range(1, n + 1), rating, yerr=Z95 * stderr, fmt="o", color="tab:blue", ecolor="0.5", capsize=3, markersize=4)

    assert pooled.stderr is not None
    assert ratings.stderr is not None
    bars(overall, pooled.rating[0], pooled.stderr[0])
    overall.set(title=f"Bradley-Terry over all {b} questions, 95 % intervals", xlabel="known rank (1 = best)", ylabel="rating (log-strength)")
    overall.set_xticks(range(1, n + 1))

    axes = bottom.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for q, axis in enumerate(axes.flat):
        if q >= b:
            axis.set_visible(False)
            continue
        bars(axis, ratings.rating[q], ratings.stderr[q])
        text = questions[q].text
        axis.set_title(text if len(text) < 34 else text[:31] + "...", fontsize=8)
        axis.set_xticks(range(1, n + 1))
    bottom.supxlabel("known rank of the answer (1 = best)", fontsize=9)
    bottom.supylabel("rating, 95 % interval", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
