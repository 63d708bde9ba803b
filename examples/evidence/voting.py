"""More evaluator compute: votes on pairs, tournaments of candidates, sums of grades, and a meta reward model that chooses among them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.nn import functional

import rrm_core
from examples.evidence import task
from examples.evidence.arms import Found, Study
from examples.evidence.model import Judge, Samples, generate
from examples.evidence.settings import COUNTS, RULES, Rule
from rrm_core.judges import MetaRM


def until_decided(shares: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Votes [N, k] (1: the first, 0: the second, NaN: invalid), asked for one by one -> what they decide, how many were asked for."""
    won, lost = (functional.pad((shares == x).cumsum(1), (1, 0)) for x in (1, 0))  # after 0, 1, .. k votes
    spent = torch.arange(shares.shape[1] + 1).expand_as(won)
    status = rrm_core.vote_status(won, lost, max_votes=shares.shape[1], spent=spent, rule=rule)
    asked = status.decided.int().argmax(1, keepdim=True)
    return (status.leader.gather(1, asked)[:, 0] + 1) / 2, asked[:, 0].double()


def shares_of(votes: Tensor) -> Tensor:
    return torch.where(votes < 0, torch.nan, 1.0 - votes).double()


def pair_votes(s: Study, start: Found) -> Found:
    judge, problems = s.judge(start).requires_grad_(False), s.problems("tested")
    samples = generate(judge, task.pair_prompt(problems), problems.thought, s.draws("votes"), s.settings.votes)
    votes, better = task.votes(samples.tokens), problems.better()
    soft = rrm_core.score_token_logprobs(samples.hidden[:, :, -1], judge.head.weight, task.VERDICT_TOKENS).conditional
    found = {"invalid": (votes < 0).double().mean(1)}
    for k in (k for k in COUNTS if k <= s.settings.votes):
        used = s.settings.votes // k * k  # votes of as many juries as there are
        sampled = rrm_core.majority_vote(votes[:, :used].reshape(-1, k), num_candidates=2, seed=s.seed)
        summed = rrm_core.sum_vote(soft[:, :used].reshape(-1, k, 2), seed=s.seed)
        for name, jury in (("votes", sampled), ("expected", summed)):
            found[f"{name} {k}"] = (jury.winner.view(len(better), -1) == better.unsqueeze(1)).double().mean(1)
    for rule in RULES:
        outcome, found[f"{rule} calls"] = until_decided(shares_of(votes), rule)
        found[rule] = 1 - (outcome - (1 - better)).abs()
    return found


def match_votes(s: Study, start: Found, problems: task.Problems) -> Tensor:
    """Votes on every pair of candidates [P, n, n, k], the row's share: in either order in turns, the first by lot."""
    count, n = problems.candidates.shape
    first, second = shown = torch.triu_indices(n, n, 1)
    each, judge = problems.take(torch.arange(count).repeat_interleave(len(first))), s.judge(start)
    candidates = problems.candidates[:, shown.T].flatten(0, 1)
    said = []
    for order in ("as they are", "swapped"):
        pairs = each._replace(candidates=candidates if order == "as they are" else candidates.flip(1))
        tokens = generate(judge, task.pair_prompt(pairs), pairs.thought, s.draws(f"matches {order}"), s.settings.match_votes // 2).tokens
        said.append(shares_of(task.votes(tokens)))
    votes = torch.stack((said[0], 1 - said[1]), 2).flatten(1)
    by_lot = torch.rand(len(votes), 1, generator=s.draws("orders")) < 0.5
    votes = torch.where(by_lot, votes, votes.roll(1, 1)).unflatten(0, (count, -1))
    pool = torch.zeros(count, n, n, s.settings.match_votes, dtype=torch.float64)
    pool[:, first, second], pool[:, second, first] = votes, 1 - votes
    return pool


def tournaments(s: Study, start: Found) -> Found:
    """Best of n: every tournament takes its votes from the same pool, as many of them as it has votes for."""
    count, n, most = s.settings.problems, s.settings.candidates, s.settings.match_votes
    problems = task.draw_best_of(count, s.length, n, s.draws("best of n"))
    pool, found = match_votes(s, start, problems), dict[str, Tensor]()

    def right(chosen: Tensor) -> Tensor:
        """Of the tournaments of each problem, the share in which the truth was chosen [P]."""
        return problems.grades().gather(1, chosen.view(count, -1)).eq(task.GRADES - 1).double().mean(1)

    def best(scores: Tensor) -> Tensor:
        """The highest; those that share it, but for rounding, by lot."""
        return rrm_core.sum_vote(scores.round(decimals=6).unsqueeze(1), seed=s.seed).winner

    def knockout(name: str, votes: int, rounds: int, ask: Callable[[rrm_core.Pairs], tuple[Tensor, Tensor]]) -> None:
        tournament, calls = rrm_core.Knockout(count * rounds, n, seed=s.seed, votes=votes, on_tie="random"), torch.zeros(count, dtype=torch.float64)
        while not tournament.done:
            pairs = tournament.pairs()
            outcome, asked = ask(pairs)
            tournament.record(outcome)
            calls.index_add_(0, pairs.problem // rounds, asked)
        found[f"knockout {name}"], found[f"knockout {name} calls"] = right(tournament.champion), calls / rounds

    for k in (k for k in COUNTS if k <= most):
        rounds = most // k  # tournaments of each problem
        votes = pool[..., : rounds * k].unflatten(3, (rounds, k)).movedim(3, 1).flatten(0, 1)  # [P rounds, n, n, k]

        def ask(pairs: rrm_core.Pairs, votes: Tensor = votes, k: int = k) -> tuple[Tensor, Tensor]:
            outcome = votes[pairs.problem, pairs.first, pairs.second, torch.arange(len(pairs.first)) % k]  # a match's votes come one after the other
            return outcome, torch.ones_like(outcome)

        knockout(str(k), k, rounds, ask)
        everyone = rrm_core.RoundRobin(count * rounds, n, votes=k)
        pairs = everyone.pairs()
        outcome, asked = ask(pairs)
        everyone.record(outcome)
        games: dict[str, Any] = {"problem": pairs.problem, "num_problems": count * rounds, "num_candidates": n}
        scores = {
            "matches": everyone.points(),
            "borda": rrm_core.borda(everyone.wins()),
            "bradley-terry": rrm_core.bradley_terry(everyone.wins()).rating,
            "elo": rrm_core.elo(pairs.first, pairs.second, outcome, **games, orders=8, seed=s.seed).rating,
        }
        found |= {f"{name} {k}": right(best(x)) for name, x in scores.items()}
        found[f"round robin {k} calls"] = asked.view(count, -1).sum(1) / rounds
    for rule in RULES:
        knockout(rule, 1, 1, partial(lambda rule, pairs: until_decided(pool[pairs.problem, pairs.first, pairs.second], rule), rule))
    return found


def _written(judge: Judge, samples: Samples) -> Tensor:
    """What the judge wrote, as features [N, k, F]: log-probability and entropy of every token, and the grade (or that it is none)."""
    found = rrm_core.linear_token_logprobs(samples.hidden, judge.head.weight, samples.tokens)
    grade = task.written_grades(samples.tokens).nan_to_num(nan=task.GRADES).long()
    return torch.cat((found.logprob, found.entropy, functional.one_hot(grade, task.GRADES + 1)), -1)


def alone(s: Study) -> Found:
    """Every candidate judged alone, k times; the one with the highest sum of grades is picked."""
    n, most = s.settings.candidates, s.settings.point_samples
    taught = task.draw(s.settings.traces, s.length, 1, s.draws("taught alone"))
    traces = task.point_trace(taught, taught.states(s.settings.slips, s.draws("slips alone")))
    kept = task.written_grades(traces) == taught.grades()[:, 0]
    judge = s.distil(task.point_prompt(taught)[kept], traces[kept]).requires_grad_(False)

    def judged(what: str, count: int, k: int) -> tuple[Tensor, Samples, Tensor]:
        """Grades by the truth [P, n], samples, and the state after each."""
        problems = task.draw_best_of(count, s.length, n, s.draws(what))
        more = generate(judge, task.point_prompt(problems), traces.shape[1] + 1, s.draws(f"{what} alone"), k)  # the token after is not read
        return problems.grades(), Samples(more.tokens[..., :-1], more.hidden[..., :-1, :]), more.hidden[..., -1, :]

    truth, samples, last = judged("meta problems", s.settings.meta_problems, 1)
    correct, written = task.written_grades(samples.tokens) == truth.view(-1, 1), _written(judge, samples)
    by_written, by_hidden = (MetaRM(x.shape[-1]).fit(x, correct).requires_grad_(False) for x in (written, last))
    truth, samples, last = judged("best of n", s.settings.problems, most)
    grades, written = task.written_grades(samples.tokens), _written(judge, samples)
    correct = grades == truth.view(-1, 1)
    expected = rrm_core.score_token_logprobs(samples.hidden[..., -1, :], judge.head.weight, task.GRADE_TOKENS).expected
    assert expected is not None
    metas = {"meta": by_written(written), "meta of hidden": by_hidden(last), "log-prob": written[..., : traces.shape[1]].sum(-1), "grade": grades}
    found = {"invalid": grades.isnan().double().mean(1), "grade is right": correct.double().mean(1)}
    for name, grade in (("grade", grades), ("expectation", expected)):
        found[f"{name} is off by"] = (grade - truth.view(-1, 1)).abs().nanmean(1)
    wrong = ~correct & ~grades.isnan()
    for name, meta in metas.items():  # the probability that a right sample is rated above a wrong one
        found[f"auc of {name}"] = torch.tensor([mannwhitneyu(meta[correct], meta[wrong]).statistic / correct.sum() / wrong.sum()])

    def picked(scores: Tensor, k: int, meta: Tensor | None = None) -> Tensor:
        """Each candidate's own k samples are summed, as a problem of one candidate; then the candidates compete. Of most // k such rounds [P]."""
        rounds = most // k
        rated = None if meta is None else meta[:, : rounds * k].reshape(-1, k)
        each = rrm_core.sum_vote(scores[:, : rounds * k].reshape(-1, k, 1), meta=rated)
        means = (each.score[:, 0] / each.used.clamp(min=1)).view(-1, n, rounds)  # not all samples end in a grade
        winner = rrm_core.sum_vote(means.mT.reshape(-1, 1, n), seed=s.seed).winner
        return truth.gather(1, winner.view(-1, rounds)).eq(task.GRADES - 1).double().mean(1)

    for k in (2**i for i in range(most.bit_length())):
        found |= {f"sum {k}": picked(grades, k), f"expected {k}": picked(expected, k)}
        found |= {f"{name} {k}": picked(grades, k, meta) for name, meta in (metas | {"oracle": correct}).items()}
    return found
