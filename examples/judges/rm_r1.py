"""RM-R1: the kind of task read from the token behind its tag before anything is written, then chains of rubrics, a knockout of pairs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from examples.judges.common import HeldToFormat, arguments, load, questions, show, state_behind
from examples.tournament.judge import head_of
from rrm_core import Knockout, score_token_logprobs
from rrm_core.judges import RMR1, Judge


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments("rm_r1", __doc__ or "", argv)
    asked, answers = questions(options)
    system, model = RMR1(), load(options)
    states = torch.cat([state_behind(model, system.prompt(q, some[:2]), "<type>") for q, some in zip(asked, answers, strict=True)])
    tasks = score_token_logprobs(states, **head_of(model.model), score_tokens=system.task_tokens(model.tokenizer), full_vocab=False)
    assert tasks.expected is not None  # the labels have values
    for question, reasoning in zip(asked, tasks.expected.tolist(), strict=True):
        print(f"P(reasoning) {reasoning:.2f}, P(chat) {1 - reasoning:.2f}   {question}")

    generate = HeldToFormat(model, system, ["\n<answer>[["], ["A", "B"], "]]</answer>", options.tokens)
    tournament = functools.partial(Knockout, seed=options.seed)
    judge = Judge(
        system, generate, votes=options.votes, tournament=tournament, budget=options.budget, journal=options.journal, seed=options.seed, progress=True
    )
    show("RM-R1", asked, answers, judge.rank(asked, answers))


if __name__ == "__main__":
    main()
