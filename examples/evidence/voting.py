"""More evaluator compute: votes on pairs, tournaments of candidates, sums of grades, and a meta reward model that chooses among them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.nn import functional

import rrm_core
from examples.evidence import task
from examples.evidence.arms import Found, Study
from examples.evidence.model import Judge, Samples, generate
from rrm_core.judges import MetaRM

COUNTS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33)  # of votes
RULES = ("majority", "beta", "sprt")


def until_decided(shares: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Votes [N, k], 1 for the first, 0 for the second, NaN if invalid, as if asked for one by one -> the share of the first in the outcome, votes
    asked for."""
    won, lost = (functional.pad((shares == x).cumsum(1), (1, 0)) for x in (1, 0))  # after 0, 1, .. k votes
    spent = torch.arange(shares.shape[1] + 1).expand_as(won)
    status = rrm_core.vote_status(won, lost, max_votes=shares.shape[1], spent=spent, rule=rule)
    asked = status.decided.int().argmax(1, keepdim=True)
    return (status.leader.gather(1, asked)[:, 0] + 1) / 2, asked[:, 0].double()


def _shares(votes: Tensor) -> Tensor:
    return torch.where(votes < 0, torch.nan, 1.0 - votes).double()


def _right(grades: Tensor, chosen: Tensor) -> Tensor:
    return grades.gather(1, chosen.unsqueeze(1))[:, 0] == task.GRADES - 1


def pair_votes(s: Study, start: Found) -> Found:
    judge, problems = s.judge(start).requires_grad_(False), s.problems("tested")
    samples = generate(judge, task.pair_prompt(problems), problems.thought, s.draws("votes"), s.of.votes)
    votes, better = task.votes(samples.tokens), problems.better()
    soft = rrm_core.score_token_logprobs(samples.hidden[:, :, -1], judge.head.weight, task.VERDICT_TOKENS).conditional
    found = {"mostly wrong": (votes == better.unsqueeze(1)).double().mean(1) < 0.5}
    for k in (k for k in COUNTS if k <= s.of.votes):
        used = s.of.votes // k * k  # votes of as many juries as there are
        sampled = rrm_core.majority_vote(votes[:, :used].reshape(-1, k), num_candidates=2, seed=s.seed)
        summed = rrm_core.sum_vote(soft[:, :used].reshape(-1, k, 2), seed=s.seed)
        for name, jury in (("votes", sampled), ("expected", summed)):
            found[f"{name} {k}"] = (jury.winner.view(len(better), -1) == better.unsqueeze(1)).double().mean(1)
    for rule in RULES:
        outcome, found[f"{rule} calls"] = until_decided(_shares(votes), rule)
        found[rule] = 1 - (outcome - (1 - better)).abs()
    return found


def tournaments(s: Study, start: Found) -> Found:
    """Best of n: every pair is judged ``match_votes`` times, the lower id shown first, and every tournament takes its votes from these."""
    count, n, most = s.of.problems, s.of.candidates, s.of.match_votes
    problems = task.draw_best_of(count, s.length, n, s.draws("best of n"))
    first, second = shown = torch.triu_indices(n, n, 1)
    pairs = problems.take(torch.arange(count).repeat_interleave(len(first)))._replace(candidates=problems.candidates[:, shown.T].flatten(0, 1))
    votes = task.votes(generate(s.judge(start), task.pair_prompt(pairs), pairs.thought, s.draws("matches"), most).tokens)
    pool = torch.zeros(count, n, n, most, dtype=torch.float64)
    pool[:, first, second] = _shares(votes).unflatten(0, (count, -1))
    pool[:, second, first] = 1 - pool[:, first, second]
    truth, found = problems.grades(), dict[str, Tensor]()

    def fixed(pairs: rrm_core.Pairs, votes: int) -> tuple[Tensor, Tensor]:
        outcome = pool[pairs.problem, pairs.first, pairs.second, torch.arange(len(pairs.first)) % votes]
        return outcome, torch.ones_like(outcome)

    def knockout(name: str, votes: int, ask: Callable[[rrm_core.Pairs], tuple[Tensor, Tensor]]) -> None:
        tournament, calls = rrm_core.Knockout(count, n, seed=s.seed, votes=votes, on_tie="random"), torch.zeros(count, dtype=torch.float64)
        while not tournament.done:
            pairs = tournament.pairs()
            outcome, asked = ask(pairs)
            tournament.record(outcome)
            calls.index_add_(0, pairs.problem, asked)
        found[f"knockout {name}"], found[f"knockout {name} calls"] = _right(truth, tournament.champion), calls

    for k in (k for k in COUNTS if k <= most):
        knockout(str(k), k, lambda pairs, k=k: fixed(pairs, k))
        everyone = rrm_core.RoundRobin(count, n, votes=k)
        pairs = everyone.pairs()
        outcome, asked = fixed(pairs, k)
        everyone.record(outcome)
        rated = rrm_core.elo(pairs.first, pairs.second, outcome, problem=pairs.problem, num_problems=count, num_candidates=n).rating
        found[f"points {k}"], found[f"elo {k}"] = _right(truth, everyone.champion), _right(truth, rated.argmax(1))
        found[f"bradley-terry {k}"] = _right(truth, rrm_core.bradley_terry(everyone.wins()).rating.argmax(1))
        found[f"points {k} calls"] = asked.view(count, -1).sum(1)
    for rule in RULES:
        knockout(rule, 1, lambda pairs, rule=rule: until_decided(pool[pairs.problem, pairs.first, pairs.second], rule))
    return found


def _written(judge: Judge, samples: Samples) -> Tensor:
    """What the judge wrote, as features [N, k, F]: log-probability and entropy of every token, and the grade."""
    found = rrm_core.linear_token_logprobs(samples.hidden, judge.head.weight, samples.tokens)
    grade = task.written_grades(samples.tokens).nan_to_num(nan=task.GRADES).long()
    return torch.cat((found.logprob, found.entropy, functional.one_hot(grade, task.GRADES + 1)), -1)


def points(s: Study) -> Found:
    """Every candidate judged alone, k times; the one with the highest sum of grades is picked."""
    n = s.of.candidates
    taught = task.draw(s.of.traces, s.length, 1, s.draws("taught alone"))
    traces = task.point_trace(taught, taught.states(s.of.slips, s.draws("slips alone")))
    right = task.written_grades(traces) == taught.grades()[:, 0]
    judge = s.distil(task.point_prompt(taught)[right], traces[right]).requires_grad_(False)

    def judged(what: str, count: int, k: int) -> tuple[Tensor, Samples]:
        problems = task.draw_best_of(count, s.length, n, s.draws(what))
        return problems.grades(), generate(judge, task.point_prompt(problems), traces.shape[1], s.draws(f"{what} alone"), k)

    truth, samples = judged("meta problems", s.of.meta_problems, 1)
    correct = task.written_grades(samples.tokens) == truth.view(-1, 1)
    written, last = _written(judge, samples), samples.hidden[:, :, -1]
    by_written, by_hidden = (MetaRM(x.shape[-1]).fit(x, correct).requires_grad_(False) for x in (written, last))
    truth, samples = judged("best of n", s.of.problems, s.of.point_samples)
    grades, written, last = task.written_grades(samples.tokens), _written(judge, samples), samples.hidden[:, :, -1]
    correct = grades == truth.view(-1, 1)
    expected = rrm_core.score_token_logprobs(last, judge.head.weight, task.GRADE_TOKENS).expected.double()
    metas = {"meta": by_written(written), "meta of hidden": by_hidden(last), "log-prob": written[..., : traces.shape[1]].sum(-1), "grade": grades}

    def picked(scores: Tensor, meta: Tensor | None = None) -> Tensor:
        """Each candidate's own samples are added up, as a problem of one candidate; then the candidates compete."""
        alone = rrm_core.sum_vote(scores.unsqueeze(-1), meta=meta).score.view(-1, 1, n)
        return _right(truth, rrm_core.sum_vote(alone, seed=s.seed).winner)

    found = {"grade is right": correct.double().mean(1)}
    for name, meta in metas.items():  # the probability that a right sample is rated above a wrong one
        found[f"auc of {name}"] = torch.tensor([mannwhitneyu(meta[correct], meta[~correct]).statistic / correct.sum() / (~correct).sum()])
    for name, grade in (("grade", grades), ("expectation", expected)):
        found[f"{name} is off by"] = (grade.nan_to_num() - truth.view(-1, 1)).abs().mean(1)
    for k in (2**i for i in range(s.of.point_samples.bit_length())):
        found |= {f"sum {k}": picked(grades[:, :k]), f"expected {k}": picked(expected[:, :k])}
        found |= {f"{name} {k}": picked(grades[:, :k], meta[:, :k]) for name, meta in (metas | {"oracle": correct}).items()}
    return found
