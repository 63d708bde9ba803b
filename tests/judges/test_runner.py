"""The runner: votes until a match is decided and no longer, at the accuracy and the cost that closed forms predict; budgets, retries, kills."""

import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.judges import RRM, GenerationError, Judge, RecordedTexts
from rrm_core.judges.generation import Call
from rrm_core.judges.pairs import Tally, Voting, confidence
from rrm_core.tournaments import Anchored, Knockout, RoundRobin, Swiss, bradley_terry, vote_status
from tests.judges.simulated import Simulated, questions, same

ROOT = Path(__file__).parents[2]
KNOCKOUT = partial(Knockout, seed=0)


def expected(p, votes, rule):
    """Calls and accuracy of one match by dynamic programming over (for, against)."""
    chances, calls, right = {(0, 0): 1.0}, 0.0, 0.0
    for spent in range(votes + 1):
        following = {}
        for (a, b), chance in chances.items():
            status = vote_status(a, b, max_votes=votes, rule=rule)
            if bool(status.decided):
                calls, right = calls + chance * spent, right + chance * (a > b)
                continue
            for step, q in (((a + 1, b), p), ((a, b + 1), 1 - p)):
                following[step] = following.get(step, 0.0) + chance * q
        chances = following
    return calls, right


@pytest.mark.parametrize(("rule", "p"), [("majority", 0.8), ("majority", 0.6), ("beta", 0.8), ("sprt", 0.8)])
def test_stopping_saves_what_the_closed_forms_predict_at_the_accuracy_they_predict(rule, p):
    matches = 6000
    judged = Judge(RRM(), Simulated(p), votes=15, rule=rule, batch_size=5000).rank(*questions(matches, 2))
    calls, right = expected(p, 15, rule)
    assert calls < 14
    assert float(judged.calls.double().mean()) == pytest.approx(calls, rel=0.02)
    spread = math.sqrt(right * (1 - right) / matches)
    assert abs(float((judged.ranking[:, 0] == 0).double().mean()) - right) <= 4 * spread


def test_the_published_figures_of_fifteen_votes():
    assert [round(expected(p, 15, "majority")[0], 2) for p in (0.8, 0.9)] == [9.99, 8.89]
    assert expected(0.8, 15, "majority")[1] == pytest.approx(0.9958, abs=5e-5)


def by_loop(asked, n, votes, rule, both_orders):
    """One round robin vote by vote, on the texts of the run that ``asked`` them: calls of each match, and wins of majorities."""
    calls, wins = {}, torch.zeros(1, n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(i + 1, n):
            a = b = spent = 0
            turn = int((0, 0, j, i, 0) in asked.seeds)
            while not bool(vote_status(a, b, max_votes=votes, spent=spent, rule=rule).decided):
                shown = (j, i) if both_orders and (spent + turn) % 2 else (i, j)
                key = (0, 0, *shown, spent)
                verdict = asked.verdict(Call([], key, asked.seeds[key]))  # a KeyError: the run has not asked for it
                spent += 1
                if verdict is not None:
                    first_won = verdict if shown == (i, j) else 1 - verdict
                    a, b = a + first_won, b + 1 - first_won
            calls[i, j] = spent
            if a + b:
                wins[0, i, j] = 0.5 + 0.5 * ((a > b) - (a < b))
                wins[0, j, i] = 1 - wins[0, i, j]
    return calls, wins


@given(st.integers(2, 5), st.integers(1, 7), st.sampled_from(["majority", "beta", "sprt"]), st.booleans(), st.floats(0, 0.6), st.integers(0, 10**6))
def test_waves_ask_for_no_vote_that_a_loop_would_not(n, votes, rule, both_orders, invalid, seed):
    generate = Simulated(0.7, invalid)
    judged = Judge(RRM(), generate, votes=votes, rule=rule, both_orders=both_orders, seed=seed).rank(["q"], [["a"] * n])
    calls, wins = by_loop(generate, n, votes, rule, both_orders)
    asked = {}
    for _, _, first, second, _ in generate.keys:
        pair = min(first, second), max(first, second)
        asked[pair] = asked.get(pair, 0) + 1
    assert asked == calls
    assert int(judged.calls) == sum(calls.values())
    if wins.any():
        torch.testing.assert_close(judged.score, bradley_terry(wins).rating, rtol=1e-9, atol=1e-9)
    else:
        assert judged.score.isnan().all()


def test_both_orders_take_turns_and_a_lot_begins():
    generate = Simulated(1.0)
    Judge(RRM(), generate, votes=7).rank(*questions(40, 2))
    for problem in range(40):
        shown = [key[2:] for key in generate.keys if key[1] == problem]
        assert [vote for _, _, vote in shown] == [0, 1, 2, 3]
        assert [first for first, _, _ in shown] in ([0, 1, 0, 1], [1, 0, 1, 0])
    assert 8 < sum(key[2] == 0 for key in generate.keys if key[4] == 0) < 32
    generate = Simulated()
    Judge(RRM(), generate, votes=3, both_orders=False).rank(*questions(9, 2))
    assert {key[2:4] for key in generate.keys} == {(0, 1)}


def test_when_votes_are_stopped_does_not_change_the_score():
    def judge(verdicts):  # for candidate 0
        def generate(calls):
            return [f"\\boxed{{Assistant {1 if verdicts[call.key[4]] == (call.key[2] == 0) else 2}}}" for call in calls]

        return Judge(RRM(), generate, votes=5).rank(["q"], [["x", "y"]])

    early, late = judge([True, True, True, False, False]), judge([False, False, True, True, True])
    assert early.calls.tolist() == [3]
    assert late.calls.tolist() == [5]
    assert torch.equal(early.score, late.score)


def test_the_ranking_is_that_of_the_scores():
    for seed in range(40):
        judged = Judge(RRM(), Simulated(0.6, 0.2), votes=3, budget=9, seed=seed).rank(*questions(2, 4))
        ordered = judged.score.gather(1, judged.ranking)
        assert (ordered.diff() <= 1e-9).all()


def test_asked_again_a_generator_may_say_something_else():
    said = ["1"]
    judge = Judge(RRM(), lambda calls: [f"\\boxed{{Assistant {said[0]}}}"] * len(calls), both_orders=False)
    assert judge.rank(["q"], [["x", "y"]]).ranking.tolist() == [[0, 1]]
    said[0] = "2"
    assert judge.rank(["q"], [["x", "y"]]).ranking.tolist() == [[1, 0]]


def test_other_questions_have_other_seeds():
    first, second = Simulated(), Simulated()
    Judge(RRM(), first).rank(["q"], [["a", "b", "c"]])
    Judge(RRM(), second).rank(["another"], [["a", "b", "c"]])
    assert set(first.seeds.values()).isdisjoint(second.seeds.values())


def test_texts_that_are_missing_are_asked_for_again_and_others_kept():
    inner, sizes = Simulated(), []

    def flaky(calls):
        sizes.append(len(calls))
        return [None if len(sizes) < 3 and i % 2 else text for i, text in enumerate(inner(calls))]

    judged = Judge(RRM(), flaky, batch_size=6).rank(*questions(2, 3))
    assert sizes == [6, 3, 1]
    assert same(judged, Judge(RRM(), Simulated()).rank(*questions(2, 3)))
    with pytest.raises(GenerationError, match="generate: expected 3 texts, got None, 2 times"):
        Judge(RRM(), lambda calls: [None] * len(calls), retries=1).rank(["q"], [["a", "b", "c"]])


def test_a_judge_that_looks_at_the_place_alone_decides_nothing():
    def always_first(calls):
        return ["\\boxed{Assistant 1}"] * len(calls)

    judged = Judge(RRM(), always_first, votes=4).rank(*questions(2, 3))
    assert judged.score.abs().max() < 1e-9
    assert judged.calls.tolist() == [12, 12]


@pytest.mark.parametrize(
    "tournament",
    [RoundRobin, KNOCKOUT, partial(Swiss, rounds=3, seed=0), partial(Anchored, anchors=2)],
    ids=["round robin", "knockout", "swiss", "anchored"],
)
def test_a_perfect_judge_ranks_ragged_questions_in_every_tournament(tournament):
    asked, answers = questions(3, 5)
    answers[1] = answers[1][:2]
    answers[2] = answers[2][:1]
    judged = Judge(RRM(), Simulated(1.0), tournament=tournament).rank(asked, answers)
    assert judged.ranking[:, 0].tolist() == [0, 0, 0]
    assert judged.ranking[1].tolist() == [0, 1, -1, -1, -1]
    assert judged.score[1, 0] > judged.score[1, 1]
    assert judged.score[0].argmax() == 0
    assert judged.score.isnan().tolist() == [[False] * 5, [False] * 2 + [True] * 3, [False] + [True] * 4]
    assert judged.calls[2] == 0
    assert judged.invalid.tolist() == [0, 0, 0]
    assert judged.confidence[0] == 0.75  # P(Bin(2, 1/2) <= 1), of one vote
    assert judged.confidence[2].isnan()


def test_knockouts_score_who_is_behind():
    judged = Judge(RRM(), Simulated(1.0), tournament=KNOCKOUT).rank(*questions(4, 6))
    assert judged.score.sort(-1, descending=True).values.tolist() == [[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]] * 4
    assert torch.equal(judged.score.argsort(-1, descending=True), judged.ranking)


def test_invalid_texts_are_paid_for_and_count_for_nobody():
    judged = Judge(RRM(), Simulated(invalid=1.0), votes=3).rank(*questions(2, 3))
    assert judged.calls.tolist() == judged.invalid.tolist() == [9, 9]
    assert judged.score.isnan().all()


@given(st.integers(0, 40), st.integers(0, 1000))
def test_a_budget_is_never_passed_and_closest_matches_come_first(budget, seed):
    generate = Simulated(0.7)
    judged = Judge(RRM(), generate, votes=5, budget=budget, seed=seed).rank(*questions(2, 4))
    assert len(generate.keys) == int(judged.calls.sum()) <= budget
    free = Simulated(0.7)
    whole = Judge(RRM(), free, votes=5, seed=seed).rank(*questions(2, 4))
    if len(free.keys) <= budget:
        assert same(judged, whole)
    else:
        assert len(generate.keys) == budget


def test_the_rest_of_a_budget_goes_to_the_closest():
    from rrm_core.judges.pairs import _affordable

    for_, against = torch.tensor([3, 1, 2]), torch.tensor([0, 1, 1])
    tally = Tally(for_, against, for_ + against, for_ + against)
    for left, expected in ((0, [0, 0, 0]), (1, [0, 1, 0]), (2, [0, 2, 0]), (3, [0, 2, 1]), (5, [1, 2, 2]), (6, [2, 2, 2])):
        assert _affordable(torch.tensor([2, 2, 2]), tally, left).tolist() == expected
    judged = Judge(RRM(), Simulated(), votes=5, budget=6).rank(*questions(6, 2))
    assert judged.calls.tolist() == [1] * 6


@given(st.integers(0, 30), st.integers(0, 30))
def test_confidence_is_the_binomial_sum(a, b):
    total = a + b + 1
    exact = sum(math.comb(total, k) for k in range(max(a, b) + 1)) / 2**total
    assert float(confidence(torch.tensor([a]), torch.tensor([b]))) == pytest.approx(exact, rel=1e-12)


def test_wanted_is_the_fewest_votes_that_could_decide():
    voting = Voting(15, True, "majority", {})
    nothing = torch.tensor([0, 7, 3, 8, 0])
    against = torch.tensor([0, 7, 3, 0, 0])
    tally = Tally(nothing, against, nothing + against, torch.tensor([0, 14, 6, 8, 14]))
    assert voting.wanted(tally).tolist() == [8, 1, 5, 0, 1]


@pytest.mark.parametrize("retries", [0, 2])
def test_a_batch_may_fail_and_nothing_is_lost(retries):
    inner, fails = Simulated(), iter([False, True, False, True, True, False] + [False] * 100)

    def flaky(calls):
        if next(fails):
            raise ConnectionError("try again")
        return inner(calls)

    judge = Judge(RRM(), flaky, votes=3, batch_size=2, retries=retries)
    if retries:
        judged = judge.rank(*questions(2, 3))
    else:
        for _ in range(3):
            with pytest.raises(GenerationError, match="ConnectionError: try again, 1 times"):
                judge.rank(*questions(2, 3))
        judged = judge.rank(*questions(2, 3))
    assert same(judged, Judge(RRM(), Simulated(), votes=3).rank(*questions(2, 3)))
    assert len(inner.keys) == len(set(inner.keys)) == int(judged.calls.sum())


@pytest.mark.parametrize("dies_after", [0, 3, 8, 17, 30])
@pytest.mark.parametrize("tournament", [RoundRobin, KNOCKOUT], ids=["round robin", "knockout"])
def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path, dies_after, tournament):
    def judge(generate, path):
        return Judge(RRM(), generate, votes=5, batch_size=4, journal=path, seed=3, tournament=tournament)

    unbroken = Simulated(0.65, 0.1)
    expected = judge(unbroken, None).rank(*questions(3, 4))
    first, second, path = Simulated(0.65, 0.1, dies_after), Simulated(0.65, 0.1), tmp_path / "run" / "journal.jsonl"
    with pytest.raises(KeyboardInterrupt):
        judge(first, path).rank(*questions(3, 4))
    resumed = judge(second, path).rank(*questions(3, 4))
    assert same(resumed, expected)
    assert sorted(first.keys + second.keys) == sorted(unbroken.keys)  # none twice
    assert same(judge(Simulated(dies_after=0), path).rank(*questions(3, 4)), expected)  # all on record
    assert same(judge(RecordedTexts.load(path), None).rank(*questions(3, 4)), expected)


@pytest.mark.parametrize("dies_after", [4, 12])
def test_what_is_on_record_is_part_of_the_budget(tmp_path, dies_after):
    def judge(generate, path):
        return Judge(RRM(), generate, votes=5, batch_size=4, journal=path, seed=3, budget=18)

    unbroken, rest, path = Simulated(0.65), Simulated(0.65), tmp_path / "journal"
    expected = judge(unbroken, None).rank(*questions(3, 4))
    with pytest.raises(KeyboardInterrupt):
        judge(Simulated(0.65, dies_after=dies_after), path).rank(*questions(3, 4))
    assert same(judge(rest, path).rank(*questions(3, 4)), expected)
    assert len(rest.keys) == len(unbroken.keys) - dies_after == 18 - dies_after


PROGRAM = """
import os, signal, sys
from rrm_core.judges import Judge, RRM
from tests.judges.simulated import Simulated, questions

class Dying(Simulated):
    def __call__(self, calls):
        if len(self.keys) >= 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(calls)

Judge(RRM(), Dying(0.65), votes=5, batch_size=4, journal=sys.argv[1], seed=3).rank(*questions(3, 4))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_killed_process_goes_on_to_the_same_result(tmp_path):
    path = tmp_path / "journal.jsonl"
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, path], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    with path.open("a") as file:
        file.write('{"key": [0, 0, 1')  # what a kill in the middle of a line leaves
    rest = Simulated(0.65)
    resumed = Judge(RRM(), rest, votes=5, batch_size=4, journal=path, seed=3).rank(*questions(3, 4))
    unbroken = Simulated(0.65)
    assert same(resumed, Judge(RRM(), unbroken, votes=5, batch_size=4, seed=3).rank(*questions(3, 4)))
    assert len(rest.keys) == len(unbroken.keys) - 20


def test_texts_do_not_depend_on_batches_or_on_other_questions():
    one = Judge(RRM(), Simulated(), votes=5, batch_size=1, seed=1).rank(*questions(3, 3))
    assert same(one, Judge(RRM(), Simulated(), votes=5, batch_size=1000, seed=1).rank(*questions(3, 3)))
    other = Judge(RRM(), Simulated(), votes=5, seed=2).rank(*questions(3, 3))
    assert not same(one, other)


def test_no_questions():
    judged = Judge(RRM(), Simulated()).rank([], [])
    assert [x.shape[0] for x in judged] == [0] * 5


def test_the_bar_counts_every_call(capsys):
    Judge(RRM(), Simulated(), votes=1, progress=True).rank(*questions(2, 3))
    assert "6call" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"system": "RRM"}, TypeError, "system: expected a Pairwise or Listwise system, got str"),
        ({"generate": 3}, TypeError, "generate: expected a callable, got int"),
        ({"votes": 0}, ValueError, "votes: expected an integer of at least 1, got 0"),
        ({"budget": -1}, ValueError, "budget: expected an integer of at least 0, got -1"),
        ({"rule": "all"}, ValueError, "rule: expected 'majority' or 'beta' or 'sprt', got 'all'"),
        ({"rule_options": {"nonsense": 1}}, TypeError, "rule_options: expected options of vote_status, got {'nonsense': 1}"),
        ({"tournament": 3}, TypeError, "tournament: expected a callable, got int"),
        ({"k_meta": 3}, ValueError, "k_meta: expected None without meta, got 3"),
        ({"meta": lambda hidden: hidden}, ValueError, "meta: expected None with a pairwise system, got function"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Judge(**{"system": RRM(), "generate": Simulated(), **arguments})


@pytest.mark.parametrize(
    ("asked", "answers", "error", "message"),
    [
        (["q"], [], ValueError, "answers: expected 1 lists, got 0"),
        (["q"], [[]], ValueError, "answers: expected at least one answer to each question, got none"),
        (["q"], ["abc"], TypeError, "questions, answers: expected a list of texts, and a list of texts for each, got one text"),
        ("q", [["a"]], TypeError, "questions, answers: expected a list of texts, and a list of texts for each, got one text"),
        ([3], [["a"]], TypeError, "questions, answers: expected texts, got something else"),
    ],
)
def test_bad_questions(asked, answers, error, message):
    with pytest.raises(error, match=message):
        Judge(RRM(), Simulated()).rank(asked, answers)


@pytest.mark.parametrize(("found", "error"), [("text", TypeError), (["a", "b"], ValueError), ([3], TypeError), (None, TypeError)])
def test_a_generator_that_returns_something_else_is_told(found, error):
    with pytest.raises(error, match="generate: expected"):
        Judge(RRM(), lambda calls: found).rank(["q"], [["a", "b"]])


def test_votes_are_the_judges_own():
    with pytest.raises(ValueError, match="tournament: expected one vote a match"):
        Judge(RRM(), Simulated(), tournament=partial(RoundRobin, votes=3)).rank(["q"], [["a", "b"]])
