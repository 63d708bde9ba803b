"""The readings of text: what each finds, why it finds nothing, that none raises and that none is slow."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from rrm_core.judges import PairVerdicts, Reason
from rrm_core.judges.verdicts import after_thinking, between, boxed, finish, number, numbers, one_of, pair_verdicts, score_verdicts

NAN = float("nan")
MARKS = ("<a>", "</a>", "\\boxed{", "}", "{", "<think>", "</think>", "1", ",", "-", ".", "9" * 12, " ", "\n", "é", "٣", "\ud800", "\x00", "x")
texts = st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a>x</a>", ("x", Reason.VALID)),
        ("<a> x \n</a>", ("x", Reason.VALID)),
        ("<a>x</a> then <a>y</a>", ("y", Reason.VALID)),
        ("<a>x</a> then <a>y", (None, Reason.CUT_OFF)),
        ("<a><a>x</a></a>", ("x", Reason.VALID)),
        ("</a>x<a>", (None, Reason.CUT_OFF)),
        ("</a>", (None, Reason.NO_VERDICT)),
        ("<a></a>", ("", Reason.VALID)),
        ("", (None, Reason.NO_VERDICT)),
    ],
)
def test_between_reads_what_the_last_opening_encloses(text, expected):
    assert between(text, "<a>", "</a>") == expected


def test_boxed():
    assert boxed("\\boxed{1} and \\boxed{ 2, 3 }.") == ("2, 3", Reason.VALID)
    assert boxed("\\boxed{\\text{A}}") == ("\\text{A", Reason.VALID)  # of nested braces the first that closes
    assert boxed("\\boxed{1} and \\boxed{2") == (None, Reason.CUT_OFF)
    assert boxed("boxed{1}") == (None, Reason.NO_VERDICT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no thoughts", "no thoughts"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),  # the prompt has opened them
        ("<think>a</think>b</think>c", "c"),
        ("<think>a</think>b<think>c", "b<think>c"),
        ("<think>a", None),
        ("<think>a</think>", ""),
        ("", ""),
    ],
)
def test_what_follows_the_thoughts(text, expected):
    assert after_thinking(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[A]] [[A]]", 0),
        ("x[[B]]", 1),
        ("[[A]] or [[B]]", Reason.CONTRADICTORY),
        ("[A]", Reason.NO_VERDICT),
        ("", Reason.NO_VERDICT),
    ],
)
def test_one_of_several_marks(text, expected):
    assert_same(one_of(text, ("[[A]]", "[[B]]")), expected)


def assert_same(got, expected):
    """A reason is an integer too."""
    assert (got, type(got)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7.0),
        (" 7.5\n", 7.5),
        ("+7", 7.0),
        ("0", 0.0),
        ("-0.0", 0.0),
        ("10", 10.0),
        ("10.000000001", Reason.OUT_OF_RANGE),
        ("-1", Reason.OUT_OF_RANGE),
        ("123456789", Reason.OUT_OF_RANGE),
        ("1234567890", Reason.NOT_A_NUMBER),
        (" " * 5000 + "7", Reason.NOT_A_NUMBER),
        *(
            (text, Reason.NOT_A_NUMBER)
            for text in ("", " ", "seven", "7.", ".5", "7 8", "7,5", "7/10", "--7", "1e1", "nan", "inf", "0x7", "7_0", "\ud800")
        ),
    ],
)
def test_a_number(text, expected):
    assert_same(number(text, 0, 10), expected)


def test_an_integer():
    assert number("7.0", 0, 10, integer=True) == 7.0
    assert number("7.5", 0, 10, integer=True) is Reason.NOT_A_NUMBER
    assert number("11.5", 0, 10, integer=True) is Reason.NOT_A_NUMBER


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1, 10,5", [1.0, 10.0, 5.0]),
        ("1, 2", Reason.WRONG_COUNT),
        ("1, 2, 3, 4", Reason.WRONG_COUNT),
        ("", Reason.WRONG_COUNT),
        ("1, 2, 3,", Reason.WRONG_COUNT),
        ("1, , 3", Reason.NOT_A_NUMBER),
        ("11, x, 3", Reason.NOT_A_NUMBER),  # before its range
        ("11, x", Reason.WRONG_COUNT),  # before all else
        ("1, 11, 3", Reason.OUT_OF_RANGE),
        ("1, 2.5, 3", Reason.NOT_A_NUMBER),
        (" " * 5000 + "1, 2, 3", Reason.WRONG_COUNT),
    ],
)
def test_numbers(text, expected):
    assert_same(numbers(text, 3, 1, 10, integer=True), expected)


def test_only_a_missing_verdict_is_told_as_cut_off():
    assert [finish(reason, False) for reason in Reason] == [Reason.CUT_OFF if reason is Reason.NO_VERDICT else reason for reason in Reason]
    assert [finish(reason, True) for reason in Reason] == list(Reason)


def test_verdicts_on_pairs_as_tensors():
    got = pair_verdicts([1.0, 0.0, 0.5, Reason.CONTRADICTORY, 0.75, Reason.CUT_OFF])
    torch.testing.assert_close(got.outcome, torch.tensor([1, 0, 0.5, NAN, 0.75, NAN], dtype=torch.float64), equal_nan=True)
    assert got.reason.tolist() == [0, 0, 0, 2, 0, 6]
    assert got.winner.tolist() == [0, 1, -1, -1, 0, -1]
    assert [x.dtype for x in (got.outcome, got.reason, got.winner)] == [torch.float64, torch.int64, torch.int64]
    none = pair_verdicts([])
    assert [x.shape for x in (*none, none.winner)] == [(0,)] * 3
    assert [x.dtype for x in (*none, none.winner)] == [torch.float64, torch.int64, torch.int64]
    assert isinstance(none, PairVerdicts)


def test_score_verdicts_as_tensors():
    got = score_verdicts([[1.0, 2.0], Reason.WRONG_COUNT], 2)
    torch.testing.assert_close(got.scores, torch.tensor([[1, 2], [NAN, NAN]], dtype=torch.float64), equal_nan=True)
    assert got.reason.tolist() == [0, 3]
    assert score_verdicts([], 3).scores.shape == (0, 3)
    assert score_verdicts([Reason.CUT_OFF], 1).scores.isnan().tolist() == [[True]]


@given(texts)
@example("<a>" * 3 + "</a>")
@example("\\boxed{" * 3 + "}")
def test_no_text_raises_and_what_is_found_is_there(text):
    for opening, closing in (("<a>", "</a>"), ("\\boxed{", "}")):
        found, reason = between(text, opening, closing)
        last = text.rpartition(opening)
        if found is None:
            assert reason is (Reason.CUT_OFF if last[1] else Reason.NO_VERDICT)
            assert not last[1] or closing not in last[2]
        else:
            assert (reason, found) == (Reason.VALID, last[2].split(closing)[0].strip())
    after = after_thinking(text)
    assert (after is None) == ("<think>" in text and "</think>" not in text)
    assert after is None or (text.endswith(after) and "</think>" not in after)
    named = {(True, False): 0, (False, True): 1, (True, True): Reason.CONTRADICTORY, (False, False): Reason.NO_VERDICT}
    assert_same(one_of(text, ("<a>", "}")), named["<a>" in text, "}" in text])


@given(texts, st.integers(1, 4), st.booleans())
def test_numbers_of_any_text_are_in_their_range(text, count, integer):
    found = numbers(text, count, -3, 10, integer=integer)
    if isinstance(found, Reason):
        assert found in (Reason.WRONG_COUNT, Reason.NOT_A_NUMBER, Reason.OUT_OF_RANGE)
        assert (found is Reason.WRONG_COUNT) == (len(text.split(",")) != count)
    else:
        assert len(found) == count
        assert all(-3 <= x <= 10 and math.isfinite(x) and (not integer or x.is_integer()) for x in found)


@given(st.lists(st.decimals(-3, 10, places=2), min_size=1, max_size=5), st.sampled_from([",", ", ", " ,\n"]))
def test_numbers_that_were_written_are_read(values, separator):
    assert numbers(separator.join(f"{v:f}" for v in values), len(values), -3, 10) == [float(v) for v in values]


MEGABYTE = [
    *(
        part * (1_000_000 // len(part))
        for part in ("<a>", "</a>", "<a></a>", "\\boxed{", "\\boxed{}", "{", "}", "1", "1,", " ", "-", "<think>", "</think>")
    ),
    "<a>" * 166_667 + "</a>" * 125_000,
    "</a>" * 125_000 + "<a>" * 166_667,
    "<think>" * 71_000 + "</think>" * 62_500,
    "1" * 500_000 + "." + "1" * 500_000,
    " " * 999_999 + "x",
]


@pytest.mark.parametrize("text", MEGABYTE, ids=lambda text: f"{text[:8]!r}..{text[-8:]!r}")
def test_a_megabyte_takes_no_time(text):
    readings = {
        "between": lambda: between(text, "<a>", "</a>"),
        "boxed": lambda: boxed(text),
        "after_thinking": lambda: after_thinking(text),
        "one_of": lambda: one_of(text, ("[[A]]", "<a></b>", "\\boxed{1")),
        "number": lambda: number(text, 0, 10),
        "numbers": lambda: numbers(text, 3, 0, 10),
    }
    for name, read in readings.items():
        assert fastest(read) < 0.05, name


def fastest(call):
    """Of three, in seconds: the machine may be busy with something else."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("text", ["\\boxed{5,\x1c6}", "\\boxed{\x1f5, 6\x1d}", "\\boxed{\u0667, 6}", "\\boxed{5\x00, 6}"])
def test_strange_blanks_and_digits_raise_nothing(text):
    from rrm_core.judges import DeepSeekGRM

    assert DeepSeekGRM(2).parse([text]).reason.item() in (Reason.VALID, Reason.NOT_A_NUMBER)
