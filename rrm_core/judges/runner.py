"""A judge at work: a system, whatever generates its texts, a tournament, votes until they are enough, a budget, a journal to go on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rrm_core._validate import require, require_choice
from rrm_core.judges.caller import Caller
from rrm_core.judges.generation import Generator
from rrm_core.judges.journal import Journal
from rrm_core.judges.lists import sample
from rrm_core.judges.pairs import Rule, Voting, confidence, play
from rrm_core.judges.system import Listwise, Pairwise
from rrm_core.tournaments import RoundRobin, bradley_terry, vote_status
from rrm_core.tournaments.inputs import whole

Tournament = Callable[..., Any]  # (problems, candidates, mask=[B, n]) -> a scheduler of one vote a match


class Judged(NamedTuple):
    """``ranking``: candidates of each question, best first, int64 [B, n], -1 at the end where there are fewer. ``score``: higher is better, a reward
    for RL, float64 [B, n], NaN for who is not there and
    where no verdict was valid. ``calls``, ``invalid``: of each question, int64 [B].

    ``confidence``: float64 [B]. Of pairs, the mean over the question's matches of the probability that their majority is right (NaN without a match);
    of lists, the share of valid samples that score nobody higher than the winner."""

    ranking: Tensor
    score: Tensor
    calls: Tensor
    invalid: Tensor
    confidence: Tensor


class Judge:
    """Ranks the answers to questions by what a judge says of them.

    Args:
        system: a ``Pairwise`` system, whose matches a tournament schedules, or a ``Listwise`` one, sampled ``votes`` times a question (one that takes
            one answer: ``votes`` times an answer).
        generate: from a batch of ``Call`` to as many texts, or ``Generated``. It may raise; what it brought before is kept.
        votes: the most calls of a match, or the samples of a list.
        rule, rule_options: when a match is decided before that, see ``vote_status``; "majority" loses nothing.
        both_orders: whether votes on a match show its answers in both orders in turns, the first by lot; whether a list is shuffled for every sample.
        tournament: (problems, candidates, mask=[B, n]) -> a scheduler of one vote a match: ``RoundRobin``, ``functools.partial(Knockout, seed=0)``.
        budget: the most calls of a run, for all questions; matches that nobody judged count as invalid.
        meta: rates samples of a list by their hidden states [K, H] -> [K]: the ``k_meta`` rated highest are summed (half of them when None).
            Ratings are kept with the texts: another model wants another journal.
        batch_size: calls handed to ``generate`` at once. retries: how often a batch may fail before the run does.
        journal: a file that keeps every text: a run killed in the middle goes on from there, with the same result and no call made twice.
        seed: of everything that is drawn.
        progress: whether to show a bar (needs tqdm).
    """

    def __init__(
        self,
        system: Pairwise | Listwise,
        generate: Generator,
        *,
        votes: int = 1,
        rule: Rule = "majority",
        rule_options: dict[str, float] | None = None,
        both_orders: bool = True,
        tournament: Tournament = RoundRobin,
        budget: int | None = None,
        meta: Callable[[Tensor], Tensor] | None = None,
        k_meta: int | None = None,
        batch_size: int = 16,
        retries: int = 2,
        journal: str | PathLike[str] | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        if not isinstance(system, (Pairwise, Listwise)):
            raise TypeError(f"system: expected a Pairwise or Listwise system, got {type(system).__name__}")
        for name, value, least in (("votes", votes, 1), ("batch_size", batch_size, 1), ("retries", retries, 0), ("seed", seed, 0)):
            whole(name, value, least)
        if budget is not None:
            whole("budget", budget, 0)
        for name, given in (("generate", generate), ("tournament", tournament), *([] if meta is None else [("meta", meta)])):
            require(callable(given), name, "a callable", type(given).__name__, TypeError)
        require(meta is None or isinstance(system, Listwise), "meta", "None with a pairwise system", type(meta).__name__)
        if k_meta is not None:
            require(meta is not None, "k_meta", "None without meta", k_meta)
            whole("k_meta", k_meta, 1)
        require_choice("rule", rule, ("majority", "beta", "sprt"))
        try:
            vote_status(0, 0, max_votes=votes, rule=rule, **(rule_options or {}))
        except TypeError as error:
            raise TypeError(f"rule_options: expected options of vote_status, got {rule_options!r} ({error})") from error
        self.system, self.votes, self.budget, self.k_meta, self.seed = system, votes, budget, k_meta, seed
        self.voting = Voting(votes, bool(both_orders), rule, dict(rule_options or {}))
        self.tournament = tournament
        self._generate, self._meta, self._path, self._progress = generate, meta, journal, progress
        self._batch_size, self._retries = batch_size, retries
        self._kept: Journal | None = None  # in memory, of a run that failed

    @property
    def has_journal(self) -> bool:
        return self._path is not None

    def rank(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> Judged:
        """questions: B texts. answers: as many lists of at least one text; a system of lists asks for ``num_answers`` each.

        Raises:
            TypeError, ValueError: texts don't fit, or the journal is of another run. GenerationError: the generator failed too often; ``rank`` with
            the same questions goes on where it stood.
        """
        texts = not isinstance(questions, str) and not isinstance(answers, str) and not any(isinstance(some, str) for some in answers)
        require(texts, "questions, answers", "a list of texts, and a list of texts for each", "one text", TypeError)
        listed = [list(some) for some in answers]
        require(len(questions) == len(listed), "answers", f"{len(questions)} lists", len(listed))
        are_texts = all(isinstance(text, str) for text in (*questions, *(text for some in listed for text in some)))
        require(are_texts, "questions, answers", "texts", "something else", TypeError)
        require(all(listed), "answers", "at least one answer to each question", "none")
        count = self.system.num_answers if isinstance(self.system, Listwise) else 1
        require(count == 1 or all(len(some) == count for some in listed), "answers", f"{count} answers to each question", list(map(len, listed)))
        with self._bar() as bar, self._journal(questions, listed) as journal:
            caller = Caller(
                self.system, self._generate, questions, listed, journal, batch_size=self._batch_size, retries=self._retries, budget=self.budget,
                meta=self._meta, progress=(lambda n: None) if bar is None else bar.update,
            )  # fmt: skip
            judged = self._pairs(caller, listed) if isinstance(self.system, Pairwise) else self._lists(caller, listed, self.system)
        self._kept = None  # asked again, a generator may say something else
        return judged

    def _pairs(self, caller: Caller, answers: list[list[str]]) -> Judged:
        assert isinstance(self.system, Pairwise)
        problems, n = len(answers), max(map(len, answers), default=1)
        mask = torch.arange(n) < torch.tensor([len(some) for some in answers], dtype=torch.int64).unsqueeze(1)
        tournament, round_ = self.tournament(problems, n, mask=mask), 0
        single = tournament.votes == 1 and not tournament.both_orders
        require(single, "tournament", "one vote a match, in one order: the judge's own votes and orders are", "more")
        sums = torch.zeros(4, problems, dtype=torch.float64)  # confidence, matches judged, valid verdicts, calls
        while not tournament.done:
            pairs = tournament.pairs()
            tally = play(caller, self.system, pairs, round_, self.voting)
            tournament.record(tally.outcome)
            asked = tally.spent > 0
            sure = torch.where(asked, confidence(tally.for_, tally.against), 0.0)
            sums.index_add_(1, pairs.problem, torch.stack((sure, asked.double(), tally.valid.double(), tally.spent.double())))
            round_ += 1
        ranking, nobody = tournament.ranking, (sums[2] == 0) & (mask.sum(1) > 1)
        if hasattr(tournament, "wins"):
            score = bradley_terry(tournament.wins(), mask=mask).rating
            found = score.gather(1, ranking.clamp(min=0)).round(decimals=9).masked_fill(ranking < 0, -torch.inf)
            ranking = ranking.gather(1, found.argsort(dim=1, descending=True, stable=True))  # equals as the tournament has them
        else:  # a ranking alone: how many are behind
            behind = mask.sum(1, keepdim=True) - 1 - torch.arange(n, dtype=torch.float64)
            score = torch.zeros(problems, n + 1, dtype=torch.float64).scatter_(1, ranking.where(ranking >= 0, n), behind)[:, :n]
        score = score.masked_fill(~mask | nobody.unsqueeze(1), float("nan"))
        return Judged(ranking, score, caller.calls, (sums[3] - sums[2]).to(torch.int64), sums[0] / sums[1])

    def _lists(self, caller: Caller, answers: list[list[str]], system: Listwise) -> Judged:
        ranking, score, invalid, agreement = sample(
            caller, system, list(map(len, answers)), self.votes, shuffle=self.voting.both_orders, guided=self._meta is not None, k_meta=self.k_meta
        )  # fmt: skip
        return Judged(ranking, score, caller.calls, invalid, agreement)

    def _journal(self, questions: Sequence[str], answers: list[list[str]]) -> Any:
        count = self.system.num_answers if isinstance(self.system, Listwise) else 2
        about = [type(self.system).__name__, self.system.template, count, list(questions), answers, self.seed, self._meta is None]
        run = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        if self._path is not None:
            return Journal(self._path, run)
        if self._kept is None or self._kept.run != run:
            self._kept = Journal(None, run)
        return self._kept

    def _bar(self) -> Any:
        if not self._progress:
            return nullcontext()
        from tqdm import tqdm

        return tqdm(total=self.budget, desc="judge calls", unit="call")
