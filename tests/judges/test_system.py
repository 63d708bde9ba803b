"""What systems share: templates, their fields and files, arguments, and the tokens of verdicts."""

from __future__ import annotations

import json
import re

import pytest
import torch

from rrm_core.judges import RRM, Listwise, PairVerdicts, Pairwise, Reason, ScoreVerdicts, Template
from rrm_core.judges.system import read_all
from rrm_core.judges.verdicts import numbers, pair_verdicts, score_verdicts
from rrm_core.logprobs import ScoreTokens
from rrm_core.tournaments import Pairs, bradley_terry, pairwise_wins, sum_vote

PAIR = Template("{question}|{answer_1}|{answer_2}", "Judge {question}.")
NAN = float("nan")


class Sides(Pairwise):
    """The first character is the verdict."""

    TEMPLATE = PAIR
    VERDICT_PREFIX = "<"
    VERDICT_VALUES = {"L": 1.0, "R": 0.0}  # noqa: RUF012

    def parse(self, texts, finished=None):
        return pair_verdicts(read_all(lambda text: {"L": 1.0, "R": 0.0}.get(text[:1], Reason.NO_VERDICT), texts, finished))

    def reward(self, verdicts, labels):
        return self.correct(verdicts, labels).float()


class Marks(Listwise):
    TEMPLATE = Template("{question}#{answers}#{count}")
    VERDICT_PREFIX = "<"
    VERDICT_VALUES = {"1": 1.0, "2": 2.0}  # noqa: RUF012

    def parse(self, texts, finished=None):
        return score_verdicts(read_all(lambda text: numbers(text, self.num_answers, 0, 10), texts, finished), self.num_answers)

    def reward(self, verdicts, labels):
        return labels.float()


class Characters:
    """A token each, but for the pieces it is given."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def encode(self, text, add_special_tokens=True):
        ids = [0] if add_special_tokens else []
        for piece in re.findall("|".join([*map(re.escape, self.pieces), "(?s:.)"]), text):
            ids.append(1000 + self.pieces.index(piece) if piece in self.pieces else ord(piece))
        return ids


def test_a_template_is_filled_and_what_is_filled_in_is_not_read_again():
    messages = Sides().prompt("{answer_1} \\boxed{x}", ["{answer_2}", "{question} {} }{ {0}"])
    assert messages == [
        {"role": "system", "content": "Judge {answer_1} \\boxed{x}."},
        {"role": "user", "content": "{answer_1} \\boxed{x}|{answer_2}|{question} {} }{ {0}"},
    ]


def test_other_braces_stay_what_they_are():
    template = Template("\\boxed{Assistant 1} {other} {{question}} { question } {question}")
    assert template.fields == {"other", "question"}
    assert template.fill({"question": "Q"}) == [{"role": "user", "content": "\\boxed{Assistant 1} {other} {Q} { question } Q"}]


def test_without_a_system_message_there_is_none():
    assert [m["role"] for m in Sides(Template(PAIR.user)).prompt("q", ["a", "b"])] == ["user"]
    assert [m["role"] for m in Sides(Template(PAIR.user, "")).prompt("q", ["a", "b"])] == ["system", "user"]


def test_a_template_from_a_file(tmp_path):
    path = tmp_path / "template.json"
    path.write_text(json.dumps({"user": "ü {question} {answer_1} {answer_2}"}), encoding="utf-8")
    assert Template.load(path) == Template("ü {question} {answer_1} {answer_2}")
    assert Sides(path).template == Sides(str(path)).template == Template.load(str(path))
    path.write_text(json.dumps(PAIR._asdict()))
    assert Sides(path).template == PAIR
    assert Sides().template is Sides.TEMPLATE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "template: expected a JSON object in "),
        ("{", "template: expected a JSON object in "),
        ("[" * 100_000, "template: expected a JSON object in "),
        ("\xff", "template: expected a JSON object in "),
        ("[]", 'template: expected texts "user" and, if wanted, "system" in .*, got <class \'list\'>'),
        ("{}", 'template: expected texts "user" and, if wanted, "system" in .*, got \\[\\]'),
        ('{"system": "s"}', 'template: expected texts "user" and, if wanted, "system" in .*, got \\[\'system\'\\]'),
        ('{"user": 1}', "template: expected texts"),
        ('{"user": "u", "system": null}', "template: expected texts"),
        ('{"user": "u", "assistant": "a"}', "template: expected texts"),
        ('{"user": "{question}"}', "template: expected the fields .*, got none of the name answer_1, answer_2"),
    ],
)
def test_files_that_hold_no_template(tmp_path, text, message):
    path = tmp_path / "template.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="^" + message):
        Sides(path)


def test_bad_templates(tmp_path):
    with pytest.raises(OSError, match="missing"):
        Sides(tmp_path / "missing.json")
    with pytest.raises(TypeError, match=r"^template: expected a Template or a path, got tuple$"):
        Sides(("user", "system"))
    with pytest.raises(ValueError, match=r"^template: expected the fields \['answers', 'question'\], got none of the name answers$"):
        Marks(2, Template("{question}"))


def test_a_field_may_stand_in_the_system_message():
    assert Sides(Template("{answer_1}{answer_2}", "{question}")).prompt("q", ["a", "b"])[0]["content"] == "q"


def test_lists_are_numbered():
    shown = Marks(2).prompt("q", ["one", "{count}"])[0]["content"]
    assert shown == "q#[Response 1 begins]\none\n[Response 1 ends]\n\n[Response 2 begins]\n{count}\n[Response 2 ends]#2"
    assert Marks(1, Template("{question}{answers}{answer}")).prompt("q", ["one"])[0]["content"].endswith("]one")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Sides().prompt("q", ["a"]), ValueError, "answers: expected 2 texts, got 1"),
        (lambda: Marks(3).prompt("q", ["a"]), ValueError, "answers: expected 3 texts, got 1"),
        (lambda: Marks(0), ValueError, "num_answers: expected an integer of at least 1, got 0"),
        (lambda: Marks(True), TypeError, "num_answers: expected an integer, got bool"),
        (lambda: Marks(2.0), TypeError, "num_answers: expected an integer, got float"),
        (lambda: Sides().parse("L"), TypeError, "texts: expected a sequence of texts, got str"),
        (lambda: Sides().parse(["L", 1]), TypeError, "texts: expected a sequence of texts, got list"),
        (lambda: Sides().parse(["L"], [True, True]), ValueError, "finished: expected 1 bools, got 2"),
        (lambda: labelled([1.0, 0.0]), TypeError, "labels: expected int64, got torch.float32"),
        (lambda: labelled([0]), ValueError, r"labels: expected shape \[2\], got \[1\]"),
        (lambda: labelled([0, 2]), ValueError, r"labels: expected 0 or 1, got \[0, 2\]"),
        (lambda: labelled([0, -1]), ValueError, r"labels: expected 0 or 1, got \[0, -1\]"),
        (lambda: Marks(1).aggregate(Marks(1).parse(["1"] * 3), samples=2), ValueError, "samples: expected a divisor of 3 verdicts, got 2"),
        (lambda: Marks(1).aggregate(Marks(1).parse(["1"] * 3), samples=0), ValueError, "samples: expected an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        call()


def labelled(labels):
    return Sides().correct(Sides().parse(["L", "R"]), torch.tensor(labels))


def test_correct_verdicts():
    shares = torch.tensor([1, 0, 0.75, 0.25, 0.5, NAN]).repeat_interleave(2)
    verdicts = PairVerdicts(shares, shares.isnan().long())
    first, second, neither = [True, False], [False, True], [False, False]
    assert Sides().correct(verdicts, torch.tensor([0, 1] * 6)).tolist() == first + second + first + second + neither + neither


def test_texts_that_were_cut_off():
    assert Sides().parse(["L", "x", "x", ""], [False, False, True, False]).reason.tolist() == [0, 6, 1, 6]
    assert Marks(2).parse(["1,2", "1", "1,99"], [False] * 3).reason.tolist() == [0, 3, 5]  # these have said what is wrong with them
    assert Sides().parse([]).outcome.shape == (0,)


def test_pairs_are_rated_by_their_valid_verdicts():
    pairs = Pairs(*(torch.tensor(x) for x in ([0, 0, 0, 1, 1], [0, 0, 1, 0, 1], [1, 2, 2, 1, 2])))
    verdicts = Sides().parse(["L", "L", "R", "R", "?"])
    got = Sides().aggregate(verdicts, pairs, num_problems=2, num_candidates=3)
    wins = torch.zeros(2, 3, 3, dtype=torch.float64)
    wins[0, 0, 1] = wins[0, 0, 2] = wins[0, 2, 1] = wins[1, 1, 0] = 1
    assert torch.equal(got.rating, bradley_terry(wins).rating)
    assert torch.equal(wins, pairwise_wins(pairs.first, pairs.second, verdicts.outcome, problem=pairs.problem, num_problems=2, num_candidates=3))


def test_scores_of_samples_are_summed_over_the_valid_ones():
    verdicts = Marks(2).parse(["1,3", "?", "2,4", "9,1"])
    got = Marks(2).aggregate(verdicts, samples=2)
    assert got.score.tolist() == [[1, 3], [11, 5]]
    assert (got.winner.tolist(), got.used.tolist()) == ([1, 0], [1, 2])
    swapped = torch.tensor([[[0, 1], [0, 1]], [[1, 0], [0, 1]]])
    assert Marks(2).aggregate(verdicts, samples=2, permutation=swapped).score.tolist() == [[1, 3], [13, 3]]
    best = Marks(2).aggregate(verdicts, samples=2, meta=torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert best.score.tolist() == [[1, 3], [2, 4]]
    doubted = ScoreVerdicts(torch.tensor([[1.0, 3.0], [9.0, 1.0]]), torch.tensor([0, Reason.CUT_OFF]))  # scores that were read all the same
    assert Marks(2).aggregate(doubted, samples=2).score.tolist() == [[1, 3]]
    tied = Marks(2).parse(["5,5"] * 9)
    for seed in (0, 1):
        expected = sum_vote(tied.scores.view(9, 1, 2), seed=seed).winner
        assert torch.equal(Marks(2).aggregate(tied, samples=1, seed=seed).winner, expected)
    assert Marks(2).aggregate(ScoreVerdicts(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)), samples=3).winner.shape == (0,)


def test_tokens_of_the_verdicts():
    assert Sides().score_tokens(Characters()) == ScoreTokens({"L": [ord("L")], "R": [ord("R")]}, {"L": 1.0, "R": 0.0})
    assert RRM().score_tokens(Characters("\\boxed", "Assistant")) == ScoreTokens({"1": [ord("1")], "2": [ord("2")]}, {"1": 1.0, "2": 0.0})
    with pytest.raises(ValueError, match=r"^forms\['R'\]: expected 'R' to be tokenised on its own after the context '<'"):
        Sides().score_tokens(Characters("<R"))
