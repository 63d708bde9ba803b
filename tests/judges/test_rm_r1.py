"""RM-R1: both readings of its verdicts and every way to give none, its reward, sections and task types."""

from __future__ import annotations

import re
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.judges import Reason, Template
from rrm_core.judges.rm_r1 import RMR1, Sections
from rrm_core.logprobs import ScoreTokens
from rrm_core.tournaments import Pairs

A, B = "<answer>[[A]]</answer>", "<answer>[[B]]</answer>"
PAD = "." * (80 - len(A))  # as much as still lets the verdict be seen

CHAT = f"""<type>Chat</type>
<rubric>1. Warmth (60%)
<justify>A guest asks for help.</justify>
2. Accuracy (40%)</rubric>
<eval><quote_A>No.</quote_A> is curt, <summary_B>offers three ways</summary_B> is not.</eval>
{B}"""
REASONING = f"<think>Is it <type>Chat</type>? {B}</think>\n<type> Reasoning </type><solution>4</solution>\n<eval>A says 4.</eval>{A}"


@pytest.mark.parametrize(
    ("text", "published", "strict"),
    [
        (CHAT, 1, 1),
        (REASONING, 0, 0),
        (A, 0, 0),
        (f"{A} {A}", 0, 0),
        (f"<think>hm</think>{B}\n", 1, 1),
        (f"hm</think>{B}", 1, 1),
        # where one of them does not see what the other does
        (A + PAD, 0, 0),
        (A + PAD + ".", Reason.NO_VERDICT, 0),
        (f"{B}{A}{PAD}", 0, Reason.CONTRADICTORY),
        (f"<think>{B}</think>{A}{PAD}", 0, 0),
        (f"<think>{B}</think>{A}", Reason.CONTRADICTORY, 0),
        (f"<think>{A}", 0, Reason.CUT_OFF),
        (f"<think>{A}</think>", 0, Reason.NO_VERDICT),
        (f"{A}<answer>[[C]]</answer>", 0, Reason.NO_VERDICT),
        (f"{A}<answer>[[B", 0, Reason.CUT_OFF),
        (f"<answer>{A}</answer>", 0, 0),
        # neither
        (f"{A} or {B}", Reason.CONTRADICTORY, Reason.CONTRADICTORY),
        (f"{B}, no: {A}", Reason.CONTRADICTORY, Reason.CONTRADICTORY),
        ("", Reason.NO_VERDICT, Reason.NO_VERDICT),
        ("[[A]]", Reason.NO_VERDICT, Reason.NO_VERDICT),
        ("<answer>A</answer>", Reason.NO_VERDICT, Reason.NO_VERDICT),
        ("<answer>[[C]]</answer>", Reason.NO_VERDICT, Reason.NO_VERDICT),
        ("<answer>[[a]]</answer>", Reason.NO_VERDICT, Reason.NO_VERDICT),
        ("<answer> [[A]] </answer>", Reason.NO_VERDICT, Reason.NO_VERDICT),
        ("<answer>[[A]] [[B]]</answer>", Reason.NO_VERDICT, Reason.NO_VERDICT),
        ("<answer></answer>", Reason.NO_VERDICT, Reason.NO_VERDICT),
        (f"{A[1:]}", Reason.NO_VERDICT, Reason.NO_VERDICT),
        ("<answer>[[A]]", Reason.NO_VERDICT, Reason.CUT_OFF),
        ("<think>hm", Reason.NO_VERDICT, Reason.CUT_OFF),
    ],
)
def test_verdicts(text, published, strict):
    for judge, expected in ((RMR1(), published), (RMR1(reading="published"), published), (RMR1(reading="strict"), strict)):
        got = judge.parse([text])
        invalid = isinstance(expected, Reason)
        assert got.reason.tolist() == [expected if invalid else 0]
        assert got.winner.tolist() == [-1 if invalid else expected]
        assert got.outcome.isnan().tolist() == [invalid]


def test_a_verdict_that_is_missing_because_the_text_was_cut_off():
    for reading in ("published", "strict"):
        got = RMR1(reading=reading).parse(["hm", "hm", A, A + B], [False, True, False, False])
        assert got.reason.tolist() == [Reason.CUT_OFF, Reason.NO_VERDICT, Reason.VALID, Reason.CONTRADICTORY]


def test_reward():
    judge = RMR1()
    got = judge.reward(judge.parse([A, A, B, B, A + B, A + B, "", "<answer>[[B]]"]), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1]))
    assert got.tolist() == [1, -1, -1, 1, -1, -1, -1, -1]
    assert got.dtype == torch.float32
    assert judge.reward(judge.parse([]), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_candidates_are_rated():
    pairs = Pairs(*torch.tensor([[0, 0, 0], [0, 1, 0], [1, 2, 2]]))
    assert RMR1().aggregate(RMR1().parse([A, A, A]), pairs, num_candidates=3).rating.argsort(descending=True).tolist() == [[0, 1, 2]]


def test_sections():
    chat, reasoning = RMR1().sections([CHAT, REASONING])
    assert chat == Sections(
        task="Chat",
        rubric="1. Warmth (60%)\n2. Accuracy (40%)",
        justification="A guest asks for help.",
        solution=None,
        evaluation="<quote_A>No.</quote_A> is curt, <summary_B>offers three ways</summary_B> is not.",
        answer="[[B]]",
    )
    assert reasoning == Sections("Reasoning", None, None, "4", "A says 4.", "[[A]]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("<think><type>Chat</type>", {}),
        ("<type>Poetry</type>", {}),
        ("<type>Chat", {}),
        ("<type>Reasoning</type>", {"task": "Reasoning"}),
        ("<type>Chat</type><type>Reasoning</type>", {"task": "Reasoning"}),
        ("<rubric>r</rubric>", {"rubric": "r"}),
        ("<rubric><justify>j</justify></rubric>", {"rubric": "", "justification": "j"}),
        ("<rubric>r <justify>j</rubric>", {"rubric": "r <justify>j"}),
        ("<rubric>r</rubric><justify>outside</justify>", {"rubric": "r"}),
        ("<rubric>r <justify>j</justify> s <justify>k</justify></rubric>", {"rubric": "r\ns <justify>k</justify>", "justification": "j"}),
        ("<rubric>r", {}),
        ("<solution></solution><eval> </eval>", {"solution": "", "evaluation": ""}),
        ("<answer>[[A]] or so</answer>", {"answer": "[[A]] or so"}),
    ],
)
def test_sections_of_other_texts(text, expected):
    assert RMR1().sections([text]) == [Sections(**{name: expected.get(name) for name in Sections._fields})]


def test_task_types():
    got = RMR1().task_types([CHAT, REASONING, "", "<type>chat</type>", "<think><type>Chat</type>"])
    assert got.tolist() == [0, 1, -1, -1, -1]
    assert got.dtype == RMR1().task_types([]).dtype == torch.int64


class Tokenizer:
    """A token a character, but for the pieces it is given."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def encode(self, text, add_special_tokens=True):
        found = re.findall("|".join([*map(re.escape, self.pieces), "(?s:.)"]), text)
        return [0] * add_special_tokens + [1000 + self.pieces.index(piece) if piece in self.pieces else ord(piece) for piece in found]


def test_tokens_of_task_types_and_verdicts():
    expected = ScoreTokens({"Chat": [1000], "Reasoning": [1001]}, {"Chat": 0, "Reasoning": 1})
    assert RMR1().task_tokens(Tokenizer("Chat", "Reasoning", "<type>")) == expected
    assert RMR1().task_tokens(Tokenizer("Chat", "Reason", "ing")) == expected  # the first of several tells them apart
    assert RMR1().task_tokens(Tokenizer()) == ScoreTokens({"Chat": [ord("C")], "Reasoning": [ord("R")]}, [0, 1])
    assert RMR1().score_tokens(Tokenizer("[[", "]]")) == ScoreTokens({"A": [65], "B": [66]}, [1, 0])
    with pytest.raises(
        ValueError, match=r"^tokenizer: expected one that begins a token with 'Reasoning' after '<type>', got tokens that merge with it$"
    ):
        RMR1().task_tokens(Tokenizer(">R"))

    class Spelling(Tokenizer):
        def encode(self, text, add_special_tokens=True):
            return super().encode(text.replace("Chat", "^chat").replace("Reasoning", "^reasoning"), add_special_tokens)

    with pytest.raises(ValueError, match=r"^tokenizer: expected task types that begin with different tokens, got \[94\]$"):
        RMR1().task_tokens(Spelling())


def test_prompts():
    system, user = RMR1().prompt("{answer_1}?", ["one", "two"])
    for mark in ("<type>Reasoning</type>", "<type>Chat</type>", "<solution>", "<rubric>", "weight", "<justify>", "<eval>", "<quote_A>", A, B):
        assert mark in system["content"]
    shown = "[The Start of Chatbot A's Response]\none\n[The End of Chatbot A's Response]\n\n"
    shown += "[The Start of Chatbot B's Response]\ntwo\n[The End of Chatbot B's Response]"
    assert user["content"] == "[Client Question]\n{answer_1}?\n\n" + shown
    (alone,) = RMR1(RMR1.DISTILLED_TEMPLATE).prompt("q", ["one", "two"])
    assert alone["role"] == "user"
    assert shown in alone["content"]
    assert all(mark in alone["content"] for mark in (A, B))
    assert "<rubric>" not in alone["content"]


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^reading: expected 'published' or 'strict', got 'lenient'$"):
        RMR1(reading="lenient")
    with pytest.raises(ValueError, match=r"^template: expected the fields .*, got none of the name answer_2$"):
        RMR1(Template("{question} {answer_1}"))
    for method in (RMR1().parse, RMR1().sections, RMR1().task_types):
        with pytest.raises(TypeError, match=r"^texts: expected a sequence of texts, got str$"):
            method(A)


PARTS = [
    A,
    B,
    "<answer>",
    "</answer>",
    "[[A]]",
    "<think>",
    "</think>",
    "<type>",
    "Chat",
    "</type>",
    "<rubric>",
    "<justify>",
    "</justify>",
    "</rubric>",
]
PARTS += ["." * 30, "<eval>", "</eval>", " ", "\ud800", "{}"]


@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join))
def test_any_text_has_a_verdict_or_a_reason(text):
    end = text[-80:]
    published = RMR1().parse([text])
    assert published.winner.tolist() == [0 if A in end and B not in end else 1 if B in end and A not in end else -1]
    assert (published.reason == 0).tolist() == (published.winner >= 0).tolist()
    strict = RMR1(reading="strict").parse([text])
    answer = "" if "<think>" in text and "</think>" not in text else text.rpartition("</think>")[2]
    last = re.match(r"\s*\[\[([AB])\]\]\s*</answer>", answer.rpartition("<answer>")[2]) if "<answer>" in answer else None
    tags = {A in answer: "A", B in answer: "B"} if (A in answer) != (B in answer) else {}
    assert strict.winner.tolist() == [-1 if last is None or last[1] != tags.get(True) else "AB".index(last[1])]
    assert (strict.reason == 0).tolist() == (strict.winner >= 0).tolist()
    (sections,) = RMR1().sections([text])
    assert sections.task in (None, "Chat")
    assert all(part is None or part in text for part in (sections.justification, sections.evaluation, sections.answer))


MEGABYTE = [part * (1_000_000 // len(part)) for part in (*PARTS, "</", "<", "[[A]]</answer>", "<rubric><justify>", "<rubric></rubric>")]
MEGABYTE += ["<rubric>" + "<justify>" * 110_000 + "</rubric>", "<rubric>" + "<justify></justify>" * 52_000 + "</rubric>" + "</justify>" * 100]


@pytest.mark.parametrize("text", MEGABYTE, ids=lambda text: f"{text[:20]!r}..{text[-8:]!r}")
def test_a_megabyte_takes_no_time(text):
    for read in (RMR1().parse, RMR1(reading="strict").parse, RMR1().sections, RMR1().task_types):
        times = []
        for _ in range(3):  # the machine may be busy with something else
            start = time.perf_counter()
            read([text])
            times.append(time.perf_counter() - start)
        assert min(times) < 0.05
