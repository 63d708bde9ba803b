"""RRM: a reward reasoning model, which thinks and then names the better of two assistants (arXiv:2505.14674)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rrm_core.judges.system import Pairwise, Template, read_all
from rrm_core.judges.verdicts import PairVerdicts, Reason, after_thinking, boxed, pair_verdicts
from rrm_core.tournaments import Pairs, Ratings, elo

_OUTCOMES = {"Assistant 1": 1.0, "Assistant 2": 0.0}


class RRM(Pairwise):
    r"""Verdicts ``\boxed{Assistant 1}`` and ``\boxed{Assistant 2}``: the last box counts, once the thoughts have ended.

    Many answers are ranked by a ``RoundRobin`` and ``aggregate``, or by a ``Knockout``; several verdicts a match by the tournament's ``votes``.
    """

    TEMPLATE = Template(
        system=(
            "You compare two assistants that answered the same query. Judge how well each answer does what the query asks: whether it is right,"
            " complete, clear and safe. Length, style and the order in which the answers appear must not sway you. There is always a better one:"
            " never say that both or neither are. Give your decision as \\boxed{Assistant 1} or \\boxed{Assistant 2}."
        ),
        user=(
            "## Query\n\n{question}\n\n## Assistant responses\n\n### Assistant 1\n\n{answer_1}\n\n### Assistant 2\n\n{answer_2}\n\n## Analysis\n\n"
            "Think through both answers step by step, then say which assistant did better: \\boxed{Assistant 1} or \\boxed{Assistant 2}."
        ),
    )
    VERDICT_PREFIX = "\\boxed{Assistant "
    VERDICT_VALUES = {"1": 1.0, "2": 0.0}  # noqa: RUF012 - read only

    def parse(self, texts: Sequence[str], finished: Sequence[bool] | None = None) -> PairVerdicts:
        return pair_verdicts(read_all(_read, texts, finished))

    def reward(self, verdicts: PairVerdicts, labels: Tensor) -> Tensor:
        """+1 where the verdict names the better answer, -1 otherwise, an invalid one included: float32 [K]. labels: int64 [K], 0 or 1."""
        return torch.where(self.correct(verdicts, labels), 1.0, -1.0)

    def aggregate(
        self, verdicts: PairVerdicts, pairs: Pairs, *, num_problems: int = 1, num_candidates: int, orders: int | None = None, seed: int = 0
    ) -> Ratings:
        """Elo ratings (k = 4, as evalica's defaults, which the published evaluation uses), the verdicts in the order given, or averaged over so many
        shuffled ``orders``: an order decides close ratings. The model's own ratings are ``bradley_terry``'s."""
        return elo(
            pairs.first, pairs.second, verdicts.outcome, problem=pairs.problem, num_problems=num_problems, num_candidates=num_candidates,
            orders=orders, seed=seed,
        )  # fmt: skip


def _read(text: str) -> float | Reason:
    answer = after_thinking(text)
    if answer is None:
        return Reason.CUT_OFF
    named, reason = boxed(answer)
    return reason if named is None else _OUTCOMES.get(named, Reason.NO_VERDICT)
