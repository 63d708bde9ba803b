"""Agreement with the known order, best answer first: means over questions with 95 % bootstrap intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from examples.tournament.methods import Method
from rrm_core import GroupAdvantages, Pairs, ScoreTokenLogprobs


class Interval(NamedTuple):
    """Mean over questions, with the bounds of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def interval(per_question: Tensor, seed: int) -> Interval:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, len(per_question), (2000, len(per_question)), generator=generator)
    low, high = per_question.double()[draws].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(per_question.double().mean()), low, high)


def pair_accuracy(score: Tensor) -> Tensor:
    """Share of a question's pairs that scores [..., n] order rightly, ties half."""
    better, worse = torch.triu_indices(score.shape[-1], score.shape[-1], 1)
    lead = score[..., better] - score[..., worse]
    return ((lead > 0).double() + (lead == 0).double() / 2).mean(-1)


def best_picked(score: Tensor) -> Tensor:
    """1 where scores [..., n] put the best answer alone on top, in part where it shares the top."""
    top = score == score.amax(-1, keepdim=True)
    return top[..., 0].double() / top.sum(-1)


def rank_correlation(score: Tensor) -> Tensor:
    """Spearman's rho of scores [..., n] with the known order; tied scores share their mean rank, and nothing but ties counts 0."""
    n = score.shape[-1]
    lead = score.unsqueeze(-1) - score.unsqueeze(-2)
    ranks = (lead < 0).double().sum(-1) + (lead == 0).double().sum(-1) / 2
    known = torch.arange(n, dtype=torch.float64) + 0.5
    a, b = ranks - ranks.mean(-1, keepdim=True), known - known.mean()
    return ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm()).clamp(min=1e-300)).nan_to_num(0.0)


def of_judge(pairs: Pairs, verdicts: ScoreTokenLogprobs, wins: Tensor, scores: ScoreTokenLogprobs, seed: int) -> dict[str, Any]:
    """What single verdicts and scores are worth, before anything is aggregated."""
    assert verdicts.expected is not None
    assert verdicts.log_mass is not None
    assert scores.log_mass is not None
    assert scores.variance is not None
    b, n = wins.shape[:2]
    says_first = verdicts.expected > 0.5
    right = says_first == (pairs.first < pairs.second)
    table = torch.zeros(b, n, n, dtype=torch.bool)
    table[pairs.problem, pairs.first, pairs.second] = says_first
    upper = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
    flipped = table == table.mT  # the same position wins in both orders
    combined = (wins > wins.mT)[:, upper].double() + (wins == wins.mT)[:, upper].double() / 2
    return {
        "verdict accuracy": interval(right.view(b, -1).double().mean(1), seed),
        "verdicts for the answer shown first": float(says_first.double().mean()),
        "verdicts that flip with the order": interval(flipped[:, upper].double().mean(1), seed),
        "accuracy, both orders combined": interval(combined.mean(1), seed),
        "probability on the verdict tokens": float(verdicts.log_mass.exp().mean()),
        "probability on the score tokens": float(scores.log_mass.exp().mean()),
        "standard deviation of a score": float(scores.variance.sqrt().mean()),
    }


def of_methods(methods: list[Method], seed: int) -> list[dict[str, Any]]:
    """One row per method. Where lots were drawn, a question's figure is the mean over the draws."""
    figures = {"accuracy": pair_accuracy, "best picked": best_picked, "rank correlation": rank_correlation}
    return [
        {"method": method.name, "calls": method.calls, **{name: interval(of(method.scores).mean(0), seed) for name, of in figures.items()}}
        for method in methods
    ]


def of_advantages(advantages: dict[str, GroupAdvantages], n: int) -> dict[str, Any]:
    """Per method: the share of groups with a signal, and the mean correlation over questions with the last method's advantages."""
    last = list(advantages.values())[-1].advantage.view(-1, n).double()

    def correlation(advantage: Tensor) -> float:
        mine = advantage.view(-1, n).double()
        return float(((mine * last).sum(1) / (mine.norm(dim=1) * last.norm(dim=1)).clamp(min=1e-300)).mean())

    return {
        name: {
            "kept": float(groups.keep.double().mean()),
            "correlation": correlation(groups.advantage),
            "first question": groups.advantage[:n].tolist(),
        }
        for name, groups in advantages.items()
    }
