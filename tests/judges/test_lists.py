"""Lists of scores: shuffled, un-permuted, summed; guided by a meta reward model; one answer at a time; budgets."""

import json

import pytest
import torch

from rrm_core.judges import Generated, Judge, Listwise, Template
from rrm_core.judges.system import read_all
from rrm_core.judges.verdicts import Reason, boxed, numbers, score_verdicts


class Scores(Listwise):
    TEMPLATE = Template("{question}\n{answers}")
    VERDICT_PREFIX, VERDICT_VALUES = "\\boxed{", {}

    def parse(self, texts, finished=None):
        def read(text):
            found, reason = boxed(text)
            return reason if found is None else numbers(found, self.num_answers, 1, 10)

        return score_verdicts(read_all(read, texts, finished), self.num_answers)

    def reward(self, verdicts, labels):
        return torch.zeros(len(labels))


def grading(calls):
    """The grade of every answer shown stands in it."""
    found = []
    for call in calls:
        shown = [json.loads(line) for line in call.messages[-1]["content"].splitlines() if line.isdigit()]
        found.append(f"Scores: \\boxed{{{', '.join(map(str, shown))}}}")
    return found


def test_shuffled_scores_come_back_to_their_answers():
    calls = []

    def generate(batch):
        calls.extend(batch)
        return grading(batch)

    judged = Judge(Scores(3), generate, votes=4).rank(["a", "b"], [["3", "9", "5"], ["7", "2", "8"]])
    assert judged.score.tolist() == [[3, 9, 5], [7, 2, 8]]
    assert judged.ranking.tolist() == [[1, 2, 0], [2, 0, 1]]
    assert judged.calls.tolist() == [4, 4]
    assert judged.confidence.tolist() == [1, 1]
    assert len({tuple(call.key[2:]) for call in calls}) > 2  # several orders
    assert [call.key[0] for call in calls] == [0, 0, 1, 1, 2, 2, 3, 3]  # sample by sample
    fixed = Judge(Scores(3), grading, votes=2, both_orders=False).rank(["a"], [["3", "9", "5"]])
    assert fixed.score.tolist() == [[3, 9, 5]]


def test_invalid_samples_are_left_out():
    texts = iter(["\\boxed{1, 5}", "nothing", "\\boxed{3, 4}", "\\boxed{1, 2, 3}", "\\boxed{2, 11}", "\\boxed{9, 1}"])
    judged = Judge(Scores(2), lambda calls: [next(texts) for _ in calls], votes=6, both_orders=False).rank(["a"], [["x", "y"]])
    assert judged.score.tolist() == [[13 / 3, 10 / 3]]
    assert judged.invalid.tolist() == [3]
    assert judged.confidence.tolist() == [pytest.approx(1 / 3)]
    nothing = Judge(Scores(2), lambda calls: ["?"] * len(calls), votes=2).rank(["a"], [["x", "y"]])
    assert nothing.score.isnan().all()
    assert sorted(nothing.ranking[0].tolist()) == [0, 1]


def test_the_meta_reward_model_chooses_samples(tmp_path):
    texts = ["\\boxed{1, 9}", "\\boxed{8, 2}", "\\boxed{2, 9}", "\\boxed{7, 3}"]

    def generate(calls):
        return [Generated(texts[call.key[0]], hidden=torch.tensor([float(call.key[0] % 2), 1.0])) for call in calls]

    def meta(hidden):
        return hidden @ torch.tensor([2.0, 0.0])

    arguments = {"votes": 4, "both_orders": False, "journal": tmp_path / "journal"}
    judged = Judge(Scores(2), generate, meta=meta, **arguments).rank(["a"], [["x", "y"]])
    assert judged.score.tolist() == [[7.5, 2.5]]  # of the two rated highest
    with pytest.raises(ValueError, match="journal: expected this run's"):  # no ratings there
        Judge(Scores(2), generate, **arguments).rank(["a"], [["x", "y"]])
    again = Judge(Scores(2), lambda calls: [], meta=meta, k_meta=1, **arguments).rank(["a"], [["x", "y"]])  # from what was recorded
    assert again.score.tolist() == [[8, 2]]
    with pytest.raises(ValueError, match="generate: expected hidden states for the meta reward model, got texts without"):
        Judge(Scores(2), grading, meta=meta, votes=1).rank(["a"], [["1", "2"]])


def test_answers_one_by_one_may_be_ragged():
    judged = Judge(Scores(1), grading, votes=3).rank(["a", "b"], [["3"], ["7", "2", "8"]])
    assert judged.score.nan_to_num(-1).tolist() == [[3, -1, -1], [7, 2, 8]]
    assert judged.ranking.tolist() == [[0, -1, -1], [2, 0, 1]]
    assert judged.calls.tolist() == [3, 9]
    assert judged.confidence.tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"answers: expected 2 answers to each question, got \[1, 3\]"):
        Judge(Scores(2), grading).rank(["a", "b"], [["3"], ["7", "2", "8"]])


def test_a_budget_leaves_out_the_last_samples():
    judged = Judge(Scores(2), grading, votes=5, budget=5).rank(["a", "b"], [["3", "4"], ["7", "2"]])
    assert judged.calls.tolist() == [3, 2]
    assert judged.score.tolist() == [[3, 4], [7, 2]]
    none = Judge(Scores(2), grading, votes=5, budget=0).rank(["a"], [["3", "4"]])
    assert none.score.isnan().all()


def test_more_samples_go_on_from_those_there_are(tmp_path):
    asked = []

    def generate(calls):
        asked.append(len(calls))
        return grading(calls)

    for votes in (4, 8):
        Judge(Scores(3), generate, votes=votes, journal=tmp_path / "journal").rank(["a", "b"], [["1", "2", "3"]] * 2)
    assert asked == [8, 8]


def test_a_wrong_call_leaves_no_journal(tmp_path):
    with pytest.raises(ValueError, match=r"answers: expected 2 answers to each question, got \[3\]"):
        Judge(Scores(2), grading, journal=tmp_path / "journal").rank(["a"], [["1", "2", "3"]])
    assert not (tmp_path / "journal").exists()


def test_a_meta_model_is_run_where_it_is_and_without_gradient():
    class Meta(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, hidden):
            assert not torch.is_grad_enabled()
            return hidden.double() @ self.weight

    def generate(calls):
        return [Generated("\\boxed{1, 2}", hidden=torch.ones(2)) for _ in calls]

    assert Judge(Scores(2), generate, meta=Meta()).rank(["a"], [["x", "y"]]).score.isfinite().all()


def test_equals_are_drawn():
    judged = Judge(Scores(2), grading).rank([str(i) for i in range(64)], [["5", "5"]] * 64)
    assert 16 < int(judged.ranking[:, 0].sum()) < 48


def test_no_questions():
    assert [len(x) for x in Judge(Scores(2), grading, votes=2).rank([], [])] == [0] * 5


def test_reasons_reach_the_verdicts():
    found = Scores(2).parse(["\\boxed{1, 2}", "\\boxed{1}", "\\boxed{a, 2}", "\\boxed{0, 2}", "\\boxed{1, 2", ""], [True] * 5 + [False])
    expected = [Reason.VALID, Reason.WRONG_COUNT, Reason.NOT_A_NUMBER, Reason.OUT_OF_RANGE, Reason.CUT_OFF, Reason.CUT_OFF]
    assert found.reason.tolist() == expected
