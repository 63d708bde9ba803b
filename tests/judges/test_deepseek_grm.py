"""DeepSeekGRM: prompts, boxes of scores, the rules of Eq. 10 and 11 and rejection, worked out by hand."""

from __future__ import annotations

import itertools
import re
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core.judges import DeepSeekGRM, Reason, ScoreVerdicts, Template
from rrm_core.judges.verdicts import score_verdicts

TWO, THREE, SINGLE = DeepSeekGRM(2), DeepSeekGRM(3), DeepSeekGRM(1)


def labels(*values):
    return torch.tensor(values, dtype=torch.int64)


def read(judge, text, finished=True):
    """The scores, or the reason; what is invalid has no score."""
    verdicts = judge.parse([text], [finished])
    assert verdicts.scores.shape == (1, judge.num_answers)
    assert verdicts.scores.dtype == torch.float64
    assert verdicts.reason.dtype == torch.int64
    reason = Reason(int(verdicts.reason[0]))
    assert bool(verdicts.scores.isnan().all()) == (reason is not Reason.VALID)
    return verdicts.scores[0].tolist() if reason is Reason.VALID else reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Specific Criteria: ...\n\nAnalysis: ...\n\nScores: \\boxed{7, 4}", [7, 4]),
        ("Scores: \\boxed{10,1}", [10, 1]),
        ("\\boxed{ 3 ,\n 9 }.", [3, 9]),
        ("first \\boxed{1, 2}, on reflection \\boxed{2, 1}", [2, 1]),
        ("<think>\\boxed{1, 2}</think>Scores: \\boxed{5, 6}", [5, 6]),
        ("a prompt that opened them: \\boxed{1, 2}</think>Scores: \\boxed{5, 6}", [5, 6]),
        ("<think>a</think>\\boxed{1, 2}<think>b</think>\\boxed{4, 3}", [4, 3]),
        ("", Reason.NO_VERDICT),
        ("Scores: 7, 4", Reason.NO_VERDICT),
        ("<think>\\boxed{7, 4}</think> nothing after", Reason.NO_VERDICT),
        ("<think>\\boxed{7, 4} and no end", Reason.CUT_OFF),
        ("Scores: \\boxed{7, ", Reason.CUT_OFF),
        ("\\boxed{7, 4} no, rather \\boxed{4, 7", Reason.CUT_OFF),
        ("\\boxed{7}", Reason.WRONG_COUNT),
        ("\\boxed{}", Reason.WRONG_COUNT),
        ("\\boxed{7, 4, 5}", Reason.WRONG_COUNT),
        ("\\boxed{7 4}", Reason.WRONG_COUNT),
        ("\\boxed{7, 4,}", Reason.WRONG_COUNT),
        ("\\boxed{7, 4, x}", Reason.WRONG_COUNT),
        ("\\boxed{7, }", Reason.NOT_A_NUMBER),
        ("\\boxed{x, x}", Reason.NOT_A_NUMBER),
        ("\\boxed{7.5, 4}", Reason.NOT_A_NUMBER),
        ("\\boxed{7/10, 4/10}", Reason.NOT_A_NUMBER),
        ("\\boxed{7, nan}", Reason.NOT_A_NUMBER),
        ("\\boxed{inf, 4}", Reason.NOT_A_NUMBER),
        ("\\boxed{\\text{7, 4}}", Reason.NOT_A_NUMBER),
        ("\\boxed{11, 4.5}", Reason.NOT_A_NUMBER),
        ("\\boxed{0, 4}", Reason.OUT_OF_RANGE),
        ("\\boxed{7, 11}", Reason.OUT_OF_RANGE),
        ("\\boxed{-7, 4}", Reason.OUT_OF_RANGE),
        ("\\boxed{999999999, 4}", Reason.OUT_OF_RANGE),
    ],
)
def test_the_last_box_after_the_thoughts_holds_the_scores(text, expected):
    assert read(TWO, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Scores: \\boxed{1}", [1]),
        ("Scores: \\boxed{0}", [0]),
        ("\\boxed{2}", Reason.OUT_OF_RANGE),
        ("\\boxed{-1}", Reason.OUT_OF_RANGE),
        ("\\boxed{0.5}", Reason.NOT_A_NUMBER),
        ("\\boxed{}", Reason.NOT_A_NUMBER),
        ("\\boxed{x}", Reason.NOT_A_NUMBER),
        ("\\boxed{1, 0}", Reason.WRONG_COUNT),
        ("1", Reason.NO_VERDICT),
    ],
)
def test_a_single_response_is_graded_0_or_1(text, expected):
    assert read(SINGLE, text) == expected


def test_a_text_that_hit_its_limit_is_cut_off_only_if_its_verdict_is_missing():
    assert read(TWO, "Analysis: the first", finished=False) is Reason.CUT_OFF
    assert read(TWO, "Analysis: the first", finished=True) is Reason.NO_VERDICT
    assert read(TWO, "\\boxed{3, 4} and", finished=False) == [3, 4]
    assert read(TWO, "\\boxed{3}", finished=False) is Reason.WRONG_COUNT


@pytest.mark.parametrize("judge", [SINGLE, TWO, THREE])
def test_every_list_of_scores_that_may_be_given_is_read_back(judge):
    low, high = (0, 1) if judge is SINGLE else (1, 10)
    lists = list(itertools.product(range(low, high + 1), repeat=judge.num_answers))
    verdicts = judge.parse([f"Scores: \\boxed{{{', '.join(map(str, scores))}}}" for scores in lists])
    assert verdicts.reason.eq(0).all()
    assert verdicts.scores.tolist() == [list(scores) for scores in lists]


PIECES = st.sampled_from([
    "\\boxed{", "\\boxed", "{", "}", "<think>", "</think>", ",", " ", "\n", "Scores:", "1", "7", "10", "0", "-", "+", ".", "٣", "½", "e5", "x", "\0",
])  # fmt: skip


def by_hand(text, n):
    """The rule again, in regular expressions: whole numbers in the last box of what follows the thoughts."""
    text = text.rpartition("</think>")[2] if "</think>" in text else "" if "<think>" in text else text
    boxes = re.findall(r"\\boxed\{(?:(?!\\boxed\{)[^}])*(?:\}|\Z|(?=\\boxed\{))", text, re.DOTALL)
    found = re.fullmatch(r"\\boxed\{(.*)\}", boxes[-1], re.DOTALL) if boxes else None
    parts = [part.strip() for part in found[1].split(",")] if found else []
    if len(parts) != n or not all(re.fullmatch(r"[+-]?\d{1,9}(\.0{1,9})?", part) for part in parts):
        return None
    scores = [float(part) for part in parts]
    low, high = (0, 1) if n == 1 else (1, 10)
    return scores if all(low <= s <= high for s in scores) else None


@given(st.lists(PIECES, max_size=14).map("".join) | st.text(), st.sampled_from([SINGLE, TWO, THREE]), st.booleans())
def test_no_text_raises_and_valid_ones_are_those_the_rule_allows(text, judge, finished):
    found = read(judge, text, finished)
    expected = by_hand(text, judge.num_answers)
    assert found == expected if expected is not None else isinstance(found, Reason)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["1", "7", "10", "0", "11", "2.0", "2.5", " 3 ", "+4", "-1", "", "x"]), min_size=1, max_size=4),
    st.sampled_from([SINGLE, TWO, THREE]),
)
def test_boxes_of_any_parts_are_valid_as_the_rule_says(parts, judge):
    text = f"Scores: \\boxed{{{','.join(parts)}}}"
    found, expected = read(judge, text), by_hand(text, judge.num_answers)
    assert found == expected if expected is not None else isinstance(found, Reason)
    assert (found is Reason.WRONG_COUNT) == (len(parts) != judge.num_answers)


MARKS = [
    "\\boxed{", "\\boxed{1, 2}", "\\boxed{1, ", "\\boxed{\\boxed{}}", "\\", "{", "}", "1, ", "1", "9" * 50 + ",", "<think>", "</think>",
    "<think>\\boxed{", " ", ",",
]  # fmt: skip


@pytest.mark.parametrize("piece", MARKS)
@pytest.mark.parametrize("start", ["", "\\boxed{", "</think>\\boxed{"])
def test_a_megabyte_of_marks_is_read_in_no_time(piece, start):
    text = start + piece * (1_000_000 // len(piece))
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        read(TWO, text)
        best = min(best, time.perf_counter() - begin)
    assert best < 0.05


def test_of_no_texts_there_are_no_verdicts():
    verdicts = THREE.parse([])
    assert verdicts.scores.shape == (0, 3)
    assert THREE.reward(verdicts, labels()).shape == (0,)
    assert THREE.rejection(verdicts, labels(), samples=3).shape == (0,)


def test_the_reward_wants_the_best_strictly_above_all_others():
    """Eq. 11 with n = 3; the best is shown at place 0, 1, 2."""
    cases = [
        ("\\boxed{9, 4, 8}", 0, 1),
        ("\\boxed{9, 4, 8}", 1, -1),
        ("\\boxed{9, 4, 8}", 2, -1),
        ("\\boxed{9, 9, 1}", 0, -1),  # ties with the best
        ("\\boxed{9, 9, 1}", 1, -1),
        ("\\boxed{1, 1, 2}", 2, 1),  # a tie elsewhere does not matter
        ("\\boxed{5, 5, 5}", 1, -1),
        ("\\boxed{9, 4}", 0, -1),  # invalid ones
        ("\\boxed{11, 4, 8}", 0, -1),
        ("\\boxed{9, four, 8}", 0, -1),
        ("\\boxed{9, 4, 8", 0, -1),
        ("9, 4, 8", 0, -1),
    ]
    verdicts, best = THREE.parse([text for text, _, _ in cases]), labels(*(place for _, place, _ in cases))
    reward = THREE.reward(verdicts, best)
    assert reward.dtype == torch.float32
    assert reward.tolist() == [expected for _, _, expected in cases]
    assert THREE.correct(verdicts, best).tolist() == [expected == 1 for _, _, expected in cases]


def test_the_reward_of_a_single_response_wants_its_grade():
    verdicts = SINGLE.parse(["\\boxed{1}", "\\boxed{1}", "\\boxed{0}", "\\boxed{0}", "\\boxed{2}", "0", "\\boxed{0"])
    assert SINGLE.reward(verdicts, labels(1, 0, 0, 1, 1, 0, 0)).tolist() == [1, -1, 1, -1, -1, -1, -1]


@pytest.mark.parametrize("judge", [SINGLE, THREE])
def test_what_is_marked_invalid_is_wrong_whatever_its_scores(judge):
    scores = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)[:, : judge.num_answers]
    label = labels(1 if judge is SINGLE else 0)
    assert judge.reward(ScoreVerdicts(scores, labels(0)), label).tolist() == [1]
    assert judge.reward(ScoreVerdicts(scores, labels(int(Reason.CUT_OFF))), label).tolist() == [-1]


@given(
    st.integers(2, 5).flatmap(lambda n: st.lists(st.tuples(st.lists(st.integers(1, 4), min_size=n, max_size=n), st.integers(0, n - 1)), min_size=1))
)
def test_rewards_are_those_of_a_plain_loop(rows):
    judge = DeepSeekGRM(len(rows[0][0]))
    verdicts = judge.parse([f"\\boxed{{{', '.join(map(str, scores))}}}" for scores, _ in rows])
    expected = [1.0 if all(s[j] > s[i] for i in range(len(s)) if i != j) else -1.0 for s, j in rows]
    assert judge.reward(verdicts, labels(*(j for _, j in rows))).tolist() == expected


def test_rejection_keeps_what_is_right_unless_the_problem_is_too_easy():
    """Three problems of three samples with the best at place 0: some right, all right, none right. Then one with an invalid sample."""
    right, wrong, tie, invalid = "\\boxed{8, 3}", "\\boxed{3, 8}", "\\boxed{8, 8}", "\\boxed{8}"
    verdicts = TWO.parse([right, wrong, right, right, right, right, wrong, tie, invalid, right, right, invalid])
    kept = TWO.rejection(verdicts, labels(*[0] * 12), samples=3)
    assert kept.dtype == torch.bool
    assert kept.tolist() == [True, False, True, False, False, False, False, False, False, True, True, False]
    hinted = TWO.rejection(verdicts, labels(*[0] * 12), samples=3, hinted=True)
    assert hinted.tolist() == [True, False, True, True, True, True, False, False, False, True, True, False]


def test_rejection_of_grades_and_of_problems_sampled_once():
    verdicts = SINGLE.parse(["\\boxed{1}", "\\boxed{0}", "\\boxed{0}", "\\boxed{0}"])
    assert SINGLE.rejection(verdicts, labels(1, 1, 0, 0), samples=2).tolist() == [True, False, False, False]
    assert SINGLE.rejection(verdicts, labels(1, 1, 0, 0), samples=1).tolist() == [False] * 4
    assert SINGLE.rejection(verdicts, labels(1, 1, 0, 0), samples=1, hinted=True).tolist() == [True, False, True, True]


def test_prompts_show_the_answers_in_order_and_say_the_format():
    messages = THREE.prompt("Why?", ["red", "{question}", "\\boxed{10, 1, 1}"])
    assert [m["role"] for m in messages] == ["system", "user"]
    text = messages[1]["content"]
    assert text.index("Why?") < text.index("red") < text.index("{question}") < text.index("\\boxed{10, 1, 1}") < text.index("Specific Criteria:")
    assert text.index("Specific Criteria:") < text.index("Analysis:") < text.index("Scores:") < text.index("\\boxed{x, x}")
    assert text.count("Why?") == 1
    assert "weight" in text
    assert "(3)" in text
    with pytest.raises(ValueError, match="answers: expected 3 texts, got 2"):
        THREE.prompt("Why?", ["a", "b"])


def test_a_single_response_has_a_prompt_of_its_own_that_a_template_replaces():
    single = SINGLE.prompt("Why?", ["red"])[1]["content"]
    assert "red" in single
    assert single.rstrip(".").endswith("\\boxed{x}")
    assert "from 1" not in single
    own = Template("{question}|{answers}|{count}")
    assert DeepSeekGRM(1, own).prompt("Why?", ["red"]) == [{"role": "user", "content": "Why?|[Response 1 begins]\nred\n[Response 1 ends]|1"}]
    assert DeepSeekGRM(2, own).template is own
    assert TWO.template is DeepSeekGRM.TEMPLATE


def test_the_texts_of_the_prompts_are_no_verdicts():
    """A judge that repeats its instructions has given no score."""
    for judge in (SINGLE, TWO):
        assert read(judge, judge.prompt("Why?", ["a"] * judge.num_answers)[1]["content"]) is Reason.NOT_A_NUMBER


def test_a_hint_names_the_best_response_in_a_sentence_at_the_end():
    answers = ["red", "green", "blue"]
    plain = THREE.prompt("Why?", answers)
    for best in range(3):
        hinted = THREE.hinted_prompt("Why?", answers, best)
        assert hinted[0] == plain[0]
        added = hinted[1]["content"].removeprefix(plain[1]["content"])
        assert re.findall(r"Response (\d)", added) == [str(best + 1)]
        assert "best" in added
    assert THREE.prompt("Why?", answers) == plain
    for best in (-1, 3):
        with pytest.raises(ValueError, match="best: expected"):
            THREE.hinted_prompt("Why?", answers, best)
    with pytest.raises(TypeError, match="best: expected an integer"):
        THREE.hinted_prompt("Why?", answers, True)
    with pytest.raises(ValueError, match="num_answers: expected at least 2"):
        SINGLE.hinted_prompt("Why?", ["red"], 0)


class Characters:
    """A tokenizer of characters, but for 10, which may be one token."""

    def __init__(self, ten: bool) -> None:
        self.pieces = re.compile("10|." if ten else ".")

    def encode(self, text, add_special_tokens=False):
        return [1000 if piece == "10" else ord(piece) for piece in self.pieces.findall(text)]


def test_score_tokens_are_the_scores_that_may_stand_first():
    tokens = TWO.score_tokens(Characters(ten=True))
    assert tokens.labels == tuple(str(i) for i in range(1, 11))
    assert tokens.values == tuple(range(1, 11))
    assert tokens.forms == (*((48 + i,) for i in range(1, 10)), (1000,))
    single = SINGLE.score_tokens(Characters(ten=False))
    assert (single.labels, single.values, single.forms) == (("0", "1"), (0, 1), ((48,), (49,)))
    with pytest.raises(ValueError, match="one distinguishing token"):
        TWO.score_tokens(Characters(ten=False))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "num_answers: expected an integer, got bool", lambda: DeepSeekGRM(True)),
        (TypeError, "num_answers: expected an integer, got float", lambda: DeepSeekGRM(1.0)),
        (ValueError, "num_answers: expected an integer of at least 1, got 0", lambda: DeepSeekGRM(0)),
        (ValueError, r"template: expected the fields", lambda: DeepSeekGRM(1, Template("{question} {answer}"))),
        (TypeError, "texts: expected a sequence of texts", lambda: TWO.parse("text")),
        (ValueError, r"verdicts: expected shape \[K, 2\], got \[1, 3\]", lambda: TWO.reward(THREE.parse([""]), labels(0))),
        (TypeError, "labels: expected a tensor, got list", lambda: TWO.reward(TWO.parse([""]), [0])),
        (TypeError, "labels: expected int64, got torch.float32", lambda: TWO.reward(TWO.parse([""]), torch.zeros(1))),
        (ValueError, r"labels: expected shape \[1\], got \[2\]", lambda: TWO.reward(TWO.parse([""]), labels(0, 0))),
        (ValueError, r"labels: expected values in \[0, 2\), got 2", lambda: TWO.reward(TWO.parse([""]), labels(2))),
        (ValueError, r"labels: expected values in \[0, 2\), got -1", lambda: TWO.reward(TWO.parse([""]), labels(-1))),
        (ValueError, r"labels: expected values in \[0, 3\), got 3", lambda: THREE.correct(THREE.parse([""]), labels(3))),
        (ValueError, r"labels: expected values in \[0, 2\), got 2", lambda: SINGLE.reward(SINGLE.parse([""]), labels(2))),
        (ValueError, "samples: expected a divisor of 3 verdicts, got 2", lambda: TWO.rejection(TWO.parse([""] * 3), labels(0, 0, 0), samples=2)),
        (ValueError, "samples: expected an integer of at least 1, got 0", lambda: TWO.rejection(TWO.parse([""]), labels(0), samples=0)),
        (TypeError, "samples: expected an integer, got float", lambda: TWO.rejection(TWO.parse([""]), labels(0), samples=1.0)),
        (ValueError, r"labels: expected shape \[3\], got \[1\]", lambda: TWO.rejection(TWO.parse([""] * 3), labels(0), samples=3)),
    ],
)
def test_bad_input_is_told(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_verdicts_may_be_made_of_scores_from_elsewhere():
    verdicts = score_verdicts([[1.0, 2.0], Reason.NO_VERDICT], 2)
    assert TWO.reward(verdicts, labels(1, 1)).tolist() == [1, -1]
