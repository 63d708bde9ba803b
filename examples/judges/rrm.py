"""RRM: the better of two answers in a round robin, as many votes as it takes; Elo beside Bradley-Terry."""

from __future__ import annotations

from collections.abc import Sequence

from examples.judges.common import HeldToFormat, arguments, load, questions, show
from rrm_core.judges import RRM, Judge


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments("rrm", __doc__ or "", argv)
    asked, answers = questions(options)
    system = RRM()
    generate = HeldToFormat(load(options), system, ["\n\n" + system.VERDICT_PREFIX], ["1", "2"], "}", options.tokens)
    judge = Judge(
        system, generate, votes=options.votes, budget=options.budget, journal=options.journal, seed=options.seed, progress=True
    )  # fmt: skip
    show("RRM", asked, answers, judge.rank(asked, answers))


if __name__ == "__main__":
    main()
