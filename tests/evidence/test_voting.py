"""Votes, tournaments and sums of the study against loops and judges whose answers are known."""

import math

import pytest
import torch

from examples.evidence import task, voting
from examples.evidence.arms import Study
from examples.evidence.model import Samples
from examples.evidence.settings import RULES, Settings
from rrm_core import vote_status

SETTINGS = Settings(
    length=2, shape=(8, 2, 1), traces=50, sft_steps=2, pairs=60, votes=9, problems=40, match_votes=8, point_samples=4, meta_problems=30
)
STUDY = Study(SETTINGS, 0, 2)


@pytest.mark.parametrize("rule", RULES)
def test_votes_are_asked_for_one_by_one(rule):
    seed = torch.Generator().manual_seed(0)
    shares = torch.rand(300, 7, generator=seed).round().double()
    shares[torch.rand(300, 7, generator=seed) < 0.2] = torch.nan
    outcome, asked = voting.until_decided(shares, rule)
    for row, found, calls in zip(shares.tolist(), outcome.tolist(), asked.tolist(), strict=True):
        won = lost = spent = 0
        while not vote_status(won, lost, max_votes=7, spent=spent, rule=rule).decided:
            won, lost, spent = won + (row[spent] == 1), lost + (row[spent] == 0), spent + 1
        assert spent == calls
        assert found == (0.5 if won == lost else float(won > lost))


def test_majority_stops_at_the_verdict_of_all_votes():
    shares = torch.rand(500, 9, generator=torch.Generator().manual_seed(1)).round().double()
    outcome, asked = voting.until_decided(shares, "majority")
    assert outcome.tolist() == (shares.mean(1) > 0.5).double().tolist()
    assert (asked < 9).any()


def says(monkeypatch, tokens_of):
    """A judge that writes tokens_of(prompt, samples, generator) [N, k] last."""

    def generate(judge, prompt, steps, seed, samples=1, greedy=False):
        tokens = torch.zeros(len(prompt), samples, steps, dtype=torch.int64)
        tokens[:, :, -2:] = tokens_of(prompt, samples, seed).unsqueeze(2)  # a grade is followed by a token that is not read
        return Samples(tokens, torch.zeros(len(prompt), samples, steps, 8))

    monkeypatch.setattr(voting, "generate", generate)


def right_verdict(prompt):
    problems = task.Problems(prompt[:, 1], prompt[:, 2:4] - task._OPERATION, prompt[:, 4:6])
    return task.verdict(problems)


def start():
    return {"model": STUDY.judge().state_dict()}


def test_a_judge_that_is_always_right_wins_everywhere(monkeypatch):
    says(monkeypatch, lambda prompt, k, seed: right_verdict(prompt).expand(-1, k))
    found = voting.pair_votes(STUDY, start())
    assert all(found[f"votes {k}"].eq(1).all() for k in (1, 2, 3, 4, 5, 8, 9))
    assert found["majority calls"].eq(5).all()
    assert found["majority"].eq(1).all()
    found = voting.tournaments(STUDY, start())
    for k in (1, 2, 3, 4, 5, 8):
        for method in ("matches", "borda", "bradley-terry", "elo", "knockout"):
            assert found[f"{method} {k}"].eq(1).all(), (method, k)
        assert found[f"round robin {k} calls"].eq(28 * k).all()
        assert found[f"knockout {k} calls"].eq(7 * k).all()
    assert found["knockout majority"].eq(1).all()
    calls = found["knockout majority calls"]  # 5 of 8 decide, 8 where both candidates have the same grade
    assert calls.min() == 7 * 5
    assert ((calls - 7 * 5) % 3 == 0).all()


def test_a_judge_that_is_always_wrong_loses_everywhere(monkeypatch):
    says(monkeypatch, lambda prompt, k, seed: (57 - right_verdict(prompt)).expand(-1, k))
    found = voting.pair_votes(STUDY, start())
    assert found["votes 3"].eq(0).all()
    assert found["sprt"].eq(0).all()
    found = voting.tournaments(STUDY, start())
    assert not any(found[f"{method} 4"].any() for method in ("matches", "borda", "bradley-terry", "elo", "knockout"))


def test_votes_of_a_judge_of_known_accuracy(monkeypatch):
    def tokens_of(prompt, k, seed):
        wrong = torch.rand(len(prompt), k, generator=seed) > 0.7
        return torch.where(wrong, 57 - right_verdict(prompt), right_verdict(prompt))

    says(monkeypatch, tokens_of)
    study = Study(SETTINGS._replace(pairs=4000), 0, 2)
    found = voting.pair_votes(study, start())
    for k in (1, 3, 9):
        exact = sum(math.comb(k, i) * 0.7**i * 0.3 ** (k - i) for i in range(k // 2 + 1, k + 1))
        assert abs(found[f"votes {k}"].mean() - exact) < 0.03  # 4 standard errors, of single juries
    assert abs(found["votes 2"].mean() - 0.7) < 0.03  # ties are drawn


def test_votes_of_a_pair_are_in_both_orders_in_turns(monkeypatch):
    says(monkeypatch, lambda prompt, k, seed: torch.full((len(prompt), k), task._VERDICT))  # whoever is shown first
    problems = task.draw_best_of(200, 2, 5, STUDY.draws("any"))
    pool = voting.match_votes(STUDY, start(), problems)
    off = ~torch.eye(5, dtype=torch.bool)
    assert pool.shape == (200, 5, 5, 8)
    assert (pool + pool.transpose(1, 2))[:, off].eq(1).all()
    assert (pool[..., 1:] != pool[..., :-1])[:, off].all()  # in turns
    assert abs(pool[..., 0][:, off.triu()].mean() - 0.5) < 0.05  # the first by lot
    found = voting.tournaments(STUDY, start())
    assert abs(found["matches 1"].mean() - 1 / 8) < 0.1  # it knows nothing


def test_tournaments_take_every_vote_of_the_pool_once(monkeypatch):
    count, n, most = SETTINGS.problems, SETTINGS.candidates, SETTINGS.match_votes
    pool = torch.rand(count, n, n, most, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round()
    upper = torch.ones(n, n, dtype=torch.bool).triu(1)
    pool = torch.where(upper.unsqueeze(-1), pool, (1 - pool).transpose(1, 2))
    monkeypatch.setattr(voting, "match_votes", lambda s, start, problems: pool)
    found = voting.tournaments(STUDY, start())
    truth = task.draw_best_of(count, 2, n, STUDY.draws("best of n")).grades().argmax(1)
    for k in (1, 3, 8):
        for b in range(count):
            right, certain = [], True
            for games in pool[b, ..., : most // k * k].split(k, 2):  # a tournament of its own for every k votes
                score = (games.sum(2) * ~torch.eye(n, dtype=torch.bool)).sum(1)
                certain &= int((score == score.max()).sum()) == 1
                right.append(float(score.argmax() == truth[b]))
            if certain:
                assert found[f"borda {k}"][b] == pytest.approx(sum(right) / len(right)), (k, b)


def test_grades_are_summed_of_as_many_rounds_as_there_are_samples_for(monkeypatch):
    written = {}

    def tokens_of(prompt, k, seed):
        written[k] = torch.randint(task._GRADE, task._GRADE + 6, (len(prompt), k), generator=seed)
        return written[k]

    says(monkeypatch, tokens_of)
    found, n = voting.alone(STUDY), SETTINGS.candidates
    truth = task.draw_best_of(SETTINGS.problems, 2, n, STUDY.draws("best of n")).grades().argmax(1)
    grades, compared = written[4].view(SETTINGS.problems, n, 4) - task._GRADE, 0
    for b in range(SETTINGS.problems):
        for k in (1, 2, 4):
            sums = [some.sum(1) for some in grades[b].split(k, 1)]
            if all((x == x.max()).sum() == 1 for x in sums):  # else by lot
                compared += 1
                assert found[f"sum {k}"][b] == pytest.approx(sum(float(x.argmax() == truth[b]) for x in sums) / len(sums)), (k, b)
    assert compared > 20


def test_test_pairs_are_not_among_those_trained_on():
    for length in (1, 2):
        study = Study(Settings(length=length), 0, length)
        tested = set(study.problems("tested").number().tolist())
        for what, least in (("taught", 2000), ("labelled", 15000)):
            trained = study.problems(what).number().tolist()
            assert not tested & set(trained)
            assert len(trained) > least
        told = {(int(a), *b.tolist(), *c.tolist()) for a, b, c in zip(*study.problems("tested"), strict=True)}
        assert len(told) == len(tested)  # a number names one problem


@pytest.mark.filterwarnings("ignore:One or more sample arguments is too small")  # no wrong grade to tell apart
def test_a_judge_that_grades_rightly_is_always_right_and_invalid_grades_do_not_count(monkeypatch):
    def tokens_of(prompt, k, seed):
        problems = task.Problems(prompt[:, 1], prompt[:, 2:4] - task._OPERATION, prompt[:, 4:5])
        grades = (problems.grades() + task._GRADE).expand(-1, k).clone()
        grades[torch.rand(grades.shape, generator=seed) < 0.1] = 0
        return grades

    says(monkeypatch, tokens_of)
    found = voting.alone(STUDY)
    for name in ("sum 4", "meta 4", "log-prob 4", "grade 4", "oracle 4"):
        assert found[name].double().mean() > 0.9, name  # a candidate with an invalid grade lacks no points
    assert 0.85 < found["grade is right"].mean() < 0.95
    assert found["sum 1"].shape == (SETTINGS.problems,)
