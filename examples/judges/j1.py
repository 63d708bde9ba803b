"""J1: pairs shown in both orders, how often position alone decides, and answers scored one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from examples.judges.common import HeldToFormat, arguments, load, questions, show
from rrm_core import RoundRobin
from rrm_core.judges import Call, J1Pairwise, J1Pointwise, Judge, order_metrics


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments("j1", __doc__ or "", argv)
    asked, answers = questions(options)
    model, system = load(options), J1Pairwise()
    generate = HeldToFormat(model, system, ["\n" + system.VERDICT_PREFIX], ["A", "B"], "]]</answer>", options.tokens)
    pairs = RoundRobin(len(asked), len(answers[0])).pairs()
    shown = [(p, a, b) for p, a, b in zip(*(column.tolist() for column in pairs), strict=True)]

    def verdicts(order: int) -> list[str]:
        calls = [
            Call(system.prompt(asked[p], [answers[p][i] for i in ((a, b), (b, a))[order]]), (p, a, b, order), options.seed + 2 * i + order)
            for i, (p, a, b) in enumerate(shown)
        ]
        return [found.text for found in generate(calls)]

    labels = torch.zeros(len(shown), dtype=torch.int64)  # answers are in order of quality
    metrics = order_metrics(system.parse(verdicts(0)), system.parse(verdicts(1)), labels)
    print("both orders: " + ", ".join(f"{name.replace('_', ' ')} {float(value):.2f}" for name, value in metrics._asdict().items()))

    pointwise = J1Pointwise()
    alone = HeldToFormat(model, pointwise, ["\n" + pointwise.VERDICT_PREFIX], [str(score) for score in range(10)], "</score>", options.tokens)
    judge = Judge(pointwise, alone, votes=options.votes, budget=options.budget, journal=options.journal, seed=options.seed, progress=True)
    show("J1, pointwise", asked, answers, judge.rank(asked, answers))


if __name__ == "__main__":
    main()
