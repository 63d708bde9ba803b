"""J1: readings of every variant, rewards and aggregation on cases worked out by hand; no text makes it raise or slow."""

from __future__ import annotations

import re
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.judges import Reason, ScoreVerdicts, Template
from rrm_core.judges.j1 import J1Pairwise, J1Pointwise

NAN = float("nan")
A, B = "<answer>[[A]]</answer>", "<answer>[[B]]</answer>"
VARIANTS = ("verdict", "scores", "verdict_and_scores")


def scored(a, b):
    return f"<score_A>{a}</score_A> <score_B>{b}</score_B>"


VERDICTS = [
    (A, 1.0, Reason.VALID),
    (B, 0.0, Reason.VALID),
    ("<think>[[B]], I guess: " + B + "</think> Well. <answer> [[A]] </answer> That is it.", 1.0, Reason.VALID),
    (A + "\nNo, rather: " + B, 0.0, Reason.VALID),
    ("<answer>[[A]]</answer> I could write [[B]] here.", 1.0, Reason.VALID),
    ("", NAN, Reason.NO_VERDICT),
    ("[[A]]", NAN, Reason.NO_VERDICT),
    ("<answer>A</answer>", NAN, Reason.NO_VERDICT),
    ("<answer>[[C]]</answer>", NAN, Reason.NO_VERDICT),
    ("<answer>[[a]]</answer>", NAN, Reason.NO_VERDICT),
    ("<answer></answer>", NAN, Reason.NO_VERDICT),
    (A + "<answer>tie</answer>", NAN, Reason.NO_VERDICT),
    ("<think>" + A + "</think> Done.", NAN, Reason.NO_VERDICT),
    ("<answer>[[A]] or [[B]]</answer>", NAN, Reason.CONTRADICTORY),
    ("<answer>[[A]]", NAN, Reason.CUT_OFF),
    (A + "<answer>[[B]", NAN, Reason.CUT_OFF),
    ("<think>It must be " + A, NAN, Reason.CUT_OFF),
]

SCORES = [
    (scored(7, 3), (7.0, 3.0), Reason.VALID),
    (scored("2.5", " 9.9\n"), (2.5, 9.9), Reason.VALID),
    (scored(0, 10), (0.0, 10.0), Reason.VALID),
    (scored("7.0", 7), (7.0, 7.0), Reason.VALID),
    (scored(1, 2) + scored(4, 3), (4.0, 3.0), Reason.VALID),
    ("<score_B>8</score_B><score_A>6</score_A>", (6.0, 8.0), Reason.VALID),
    (f"<think>{scored(1, 2)}</think>{scored(5, 4)}", (5.0, 4.0), Reason.VALID),
    (scored(7, 3) + "<score_A>2</score_A>", (2.0, 3.0), Reason.VALID),
    ("", None, Reason.NO_VERDICT),
    ("A: 7, B: 3", None, Reason.NO_VERDICT),
    ("<score>7</score>", None, Reason.NO_VERDICT),
    ("<score_A>7</score_A>", None, Reason.NO_VERDICT),
    ("<score_B>7</score_B>", None, Reason.NO_VERDICT),
    ("<score_A>12</score_A>", None, Reason.NO_VERDICT),
    (f"<think>{scored(1, 2)}</think>", None, Reason.NO_VERDICT),
    (scored("7.25", 3), None, Reason.NOT_A_NUMBER),
    (scored(7, "3.00"), None, Reason.NOT_A_NUMBER),
    (scored("", 3), None, Reason.NOT_A_NUMBER),
    (scored("8/10", 3), None, Reason.NOT_A_NUMBER),
    (scored("seven", 11), None, Reason.NOT_A_NUMBER),
    (scored("nan", "inf"), None, Reason.NOT_A_NUMBER),
    (scored("1e1", 3), None, Reason.NOT_A_NUMBER),
    (scored("7, 8", 3), None, Reason.NOT_A_NUMBER),
    ("<score_A>7 <score_B>8</score_B></score_A>", None, Reason.NOT_A_NUMBER),
    (scored("10.1", 3), None, Reason.OUT_OF_RANGE),
    (scored(7, "-0.1"), None, Reason.OUT_OF_RANGE),
    ("<score_A>7</score_A><score_B>8", None, Reason.CUT_OFF),
    ("<score_A>7", None, Reason.CUT_OFF),
    ("<score_B>7", None, Reason.CUT_OFF),
    (scored(7, 3) + "<score_B>4", None, Reason.CUT_OFF),
    ("<think>" + scored(7, 3), None, Reason.CUT_OFF),
]


def outcome_of(scores):
    return NAN if scores is None else 0.5 if scores[0] == scores[1] else float(scores[0] > scores[1])


def same(got, expected):
    torch.testing.assert_close(got, torch.tensor(expected, dtype=got.dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("variant", ["verdict", "verdict_and_scores"])
def test_verdicts(variant):
    texts, outcomes, reasons = zip(*VERDICTS, strict=True)
    got = J1Pairwise(variant).parse(texts)
    same(got.outcome, outcomes)
    same(got.reason, [int(x) for x in reasons])


@pytest.mark.parametrize("variant", ["scores", "verdict_and_scores"])
def test_scores_of_two(variant):
    texts, scores, reasons = zip(*SCORES, strict=True)
    got = J1Pairwise(variant).scores(texts)
    same(got.scores, [(NAN, NAN) if x is None else x for x in scores])
    same(got.reason, [int(x) for x in reasons])


def test_the_higher_score_wins_and_equal_ones_tie():
    texts, scores, reasons = zip(*SCORES, strict=True)
    got = J1Pairwise("scores").parse(texts)
    same(got.outcome, [outcome_of(x) for x in scores])
    same(got.reason, [int(x) for x in reasons])
    assert {0.0, 0.5, 1.0} <= set(got.outcome.tolist())


def test_the_verdict_decides_over_the_scores():
    judge = J1Pairwise("verdict_and_scores")
    texts = [scored(9, 1) + B, scored(5, 5) + A, A, scored(9, 1)]
    got = judge.parse(texts)
    same(got.outcome, [0.0, 1.0, 1.0, NAN])
    same(judge.reward(got, torch.tensor([1, 0, 0, 0])), [1.0, 1.0, 1.0, 0.0])
    same(judge.scores(texts).scores, [[9.0, 1.0], [5.0, 5.0], [NAN, NAN], [9.0, 1.0]])


def test_a_single_score():
    cases = [
        ("<score>7.5</score>", 7.5, 0),
        ("<think><score>3</score></think><score> 10 </score>", 10.0, 0),
        ("<score>1</score><score>0</score>", 0.0, 0),
        ("<score_A>7</score_A>", NAN, Reason.NO_VERDICT),
        ("7", NAN, Reason.NO_VERDICT),
        ("<score>7.55</score>", NAN, Reason.NOT_A_NUMBER),
        ("<score>high</score>", NAN, Reason.NOT_A_NUMBER),
        ("<score>11</score>", NAN, Reason.OUT_OF_RANGE),
        ("<score>-1</score>", NAN, Reason.OUT_OF_RANGE),
        ("<score>7", NAN, Reason.CUT_OFF),
        ("<think><score>7</score>", NAN, Reason.CUT_OFF),
    ]
    texts, scores, reasons = zip(*cases, strict=True)
    got = J1Pointwise().parse(texts)
    same(got.scores, [[x] for x in scores])
    same(got.reason, [int(x) for x in reasons])


@pytest.mark.parametrize("judge", [*map(J1Pairwise, VARIANTS), J1Pointwise()], ids=[*VARIANTS, "pointwise"])
def test_a_missing_verdict_of_a_text_that_ran_out_is_cut_off(judge):
    got = judge.parse(["I think", "I think", "<answer>[[A]][[B]]</answer>" + scored("x", 1) + "<score>x</score>"], finished=[False, True, False])
    assert got.reason[:2].tolist() == [Reason.CUT_OFF, Reason.NO_VERDICT]
    assert got.reason[2] in (Reason.CONTRADICTORY, Reason.NOT_A_NUMBER)


def test_no_texts():
    assert J1Pairwise().parse([]).outcome.shape == (0,)
    assert J1Pairwise("scores").scores([]).scores.shape == (0, 2)
    assert J1Pointwise().parse([]).scores.shape == (0, 1)
    assert J1Pointwise().reward(J1Pointwise().parse([]), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_reward_is_1_where_right_and_0_otherwise():
    judge = J1Pairwise()
    got = judge.reward(judge.parse([A, A, B, B, "", "<think>"]), torch.tensor([0, 1, 0, 1, 0, 1]))
    assert got.dtype == torch.float32
    same(got, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    judge = J1Pairwise("scores")
    texts = [scored(7, 3), scored(7, 3), scored(3, 7), scored(5, 5), scored(5, 5), scored(11, 3)]
    same(judge.reward(judge.parse(texts), torch.tensor([0, 1, 1, 0, 1, 0])), [1.0, 0.0, 1.0, 0.0, 0.0, 0.0])


def test_pointwise_reward_is_joint_and_strict():
    judge = J1Pointwise()
    pairs = [(8.0, 3.0), (8.0, 3.0), (3.0, 8.0), (5.0, 5.0), (5.0, 5.0), (NAN, 3.0), (8.0, NAN), (NAN, NAN)]
    verdicts = ScoreVerdicts(torch.tensor(pairs, dtype=torch.float64).view(-1, 1), torch.zeros(16, dtype=torch.int64))
    got = judge.reward(verdicts, torch.tensor([0, 1, 1, 0, 1, 1, 0, 0]))
    assert got.dtype == torch.float32
    same(got, [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, *[0.0] * 10])


def test_pointwise_reward_matches_rollouts_by_index():
    judge = J1Pointwise()
    # two pairs, three rollouts of each answer: [pair, answer, rollout]
    scores = torch.tensor([[[5.0, 6.0, 7.0], [6.0, 6.0, 6.0]], [[1.0, NAN, 9.0], [2.0, 2.0, 2.0]]], dtype=torch.float64)
    verdicts = ScoreVerdicts(scores.reshape(-1, 1), torch.zeros(12, dtype=torch.int64))
    got = judge.reward(verdicts, torch.tensor([0, 1]), rollouts=3)
    same(got.view(2, 2, 3), [[[0.0, 0.0, 1.0]] * 2, [[1.0, 0.0, 0.0]] * 2])


def test_aggregates():
    judge = J1Pointwise()
    texts = [f"<score>{x}</score>" for x in (1, 2, 6, 4, "x", 5, "x", "y", 11)]
    votes = judge.aggregate(judge.parse(texts), samples=3)
    same(votes.score, [[3.0], [4.5], [NAN]])
    same(votes.used, [3, 2, 0])
    judge = J1Pairwise()
    votes = judge.self_consistency(judge.parse([A, B, A, B, "", B, "", "", ""]), samples=3)
    same(votes.winner, [0, 1, -1])
    same(votes.score, [[2.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    votes = judge.self_consistency(judge.parse([A, B]), samples=2, on_tie="none")
    same(votes.winner, [-1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompts_ask_for_what_is_read(variant):
    judge = J1Pairwise(variant)
    system, user = judge.prompt("Why {this}?", ["one {answer_2}", "two"])
    assert (system["role"], user["role"]) == ("system", "user")
    assert ("[[A]]" in system["content"], "<score_A>" in system["content"]) == (variant != "scores", variant != "verdict")
    assert user["content"].index("Why {this}?") < user["content"].index("one {answer_2}") < user["content"].index("two")
    with pytest.raises(ValueError, match=r"^answers: expected 2 texts, got 1$"):
        judge.prompt("?", ["one"])


def test_pointwise_prompt():
    system, user = J1Pointwise().prompt("Why?", ["because {question}"])
    assert "<score>" in system["content"]
    assert "because {question}" in user["content"]
    assert user["content"].count("Why?") == 1
    assert J1Pointwise(Template("{question}/{answer}")).prompt("q", ["a"]) == [{"role": "user", "content": "q/a"}]


class Characters:
    """A token for every character; 10 is one token if told so."""

    def __init__(self, ten=False):
        self.ten = ten

    def encode(self, text, add_special_tokens=True):
        return [10_000 if x == "10" else ord(x) for x in re.findall("10|." if self.ten else ".", text)]


def test_score_tokens():
    tokens = J1Pairwise().score_tokens(Characters())
    assert (tokens.labels, tokens.forms, tokens.values) == (("A", "B"), ((ord("A"),), (ord("B"),)), (1.0, 0.0))
    with pytest.raises(ValueError, match=r"^variant: expected one with a verdict, got 'scores'$"):
        J1Pairwise("scores").score_tokens(Characters())
    assert J1Pointwise().score_tokens(Characters(ten=True)).values == tuple(map(float, range(11)))
    with pytest.raises(ValueError, match="'10'"):
        J1Pointwise().score_tokens(Characters())


def test_errors():
    with pytest.raises(ValueError, match=r"^variant: expected 'verdict' or 'scores' or 'verdict_and_scores', got 'both'$"):
        J1Pairwise("both")
    with pytest.raises(ValueError, match=r"^variant: expected one with scores, got 'verdict'$"):
        J1Pairwise().scores([A])
    with pytest.raises(ValueError, match=r"^template: expected the fields"):
        J1Pointwise(Template("{question}"))
    verdicts = J1Pairwise().parse([A, B, A])
    with pytest.raises(ValueError, match=r"^samples: expected a divisor of 3 verdicts, got 2$"):
        J1Pairwise().self_consistency(verdicts, samples=2)
    with pytest.raises(TypeError, match=r"^samples: expected an integer, got float$"):
        J1Pairwise().self_consistency(verdicts, samples=1.0)
    scores = J1Pointwise().parse(["", "", ""])
    with pytest.raises(ValueError, match=r"^scores: expected shape \[2, 1\], got \[3, 1\]$"):
        J1Pointwise().reward(scores, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"^labels: expected 0 or 1, got \[2\]$"):
        J1Pointwise().reward(J1Pointwise().parse(["", ""]), torch.tensor([2]))
    with pytest.raises(TypeError, match=r"^labels: expected int64, got torch.float32$"):
        J1Pointwise().reward(J1Pointwise().parse(["", ""]), torch.tensor([0.0]))
    with pytest.raises(ValueError, match=r"^rollouts: expected an integer of at least 1, got 0$"):
        J1Pointwise().reward(scores, torch.tensor([0]), rollouts=0)


TAGS = [f"<{slash}{tag}>" for tag in ("answer", "score_A", "score_B", "score", "think") for slash in ("", "/")]
PIECES = [*TAGS, "[[A]]", "[[B]]", "7", "10", ".", "5", "-", " ", "\n", "٣", "\x1f", "\ud800", "{", "}", "word"]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=25).map("".join))
def test_whatever_a_text_holds_it_has_a_verdict_or_a_reason(text):
    for variant in VARIANTS:
        got = J1Pairwise(variant).parse([text])
        assert got.outcome.isnan().item() == (got.reason != 0).item()
        assert got.outcome.item() in (0.0, 0.5, 1.0) or got.outcome.isnan()
        if variant != "verdict":
            both = J1Pairwise(variant).scores([text])
            assert both.scores.isnan().tolist() == [[both.reason.item() != 0] * 2]
    got = J1Pointwise().parse([text])
    assert got.scores.isnan().item() == (got.reason != 0).item()
    assert 0 <= got.scores.item() <= 10 or got.scores.isnan()


HOSTILE = {
    "openings": "<answer><score_A><score_B><score>",
    "verdicts": A + scored(7, 3) + "<score>7</score>",
    "both": "[[A]][[B]]",
    "cut openings": "<answer" + "<score_" + "<score",
    "thoughts": "<think></think>",
    "unended thoughts": "<think>",
    "digits": "7",
    "points": "7.",
    "braces": "{[",
    "brackets": "[[[[A",
    "angles": "<",
    "blanks": " ",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_takes_under_50_ms(name):
    piece = HOSTILE[name]
    body = piece * (1_000_000 // len(piece))
    texts = [body, f"<answer>{body}</answer><score_A>{body}</score_A><score_B>{body}</score_B><score>{body}</score>"[:1_000_000], "<score_A>" + body]
    for judge in (*map(J1Pairwise, VARIANTS), J1Pointwise()):
        for text in texts:
            assert min(timed(judge.parse, [text]) for _ in range(5)) < 0.05


def timed(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
