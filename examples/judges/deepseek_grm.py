"""DeepSeek-GRM: all answers of a question scored together, in another order for every sample, and the scores summed."""

from __future__ import annotations

from collections.abc import Sequence

from examples.judges.common import ANSWERS, HeldToFormat, arguments, load, questions, show
from rrm_core.judges import DeepSeekGRM, Judge


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments("deepseek_grm", __doc__ or "", argv)
    asked, answers = questions(options)
    system = DeepSeekGRM(ANSWERS)
    places = ["\n\nScores: " + system.VERDICT_PREFIX, *[", "] * (ANSWERS - 1)]
    generate = HeldToFormat(load(options), system, places, [str(score) for score in range(1, 10)], "}", options.tokens)
    judge = Judge(system, generate, votes=options.votes, budget=options.budget, journal=options.journal, seed=options.seed, progress=True)
    show("DeepSeek-GRM", asked, answers, judge.rank(asked, answers))


if __name__ == "__main__":
    main()
