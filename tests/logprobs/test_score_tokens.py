import re

import pytest

from rrm_core import ScoreTokens


class CharacterTokenizer:
    """One id per character, but for the pieces it is given, which are matched first, longest first."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = sorted(pieces, key=len, reverse=True)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [1] if add_special_tokens else []
        while text:
            piece = next((p for p in self.pieces if text.startswith(p)), text[0])
            ids.append(1000 + self.pieces.index(piece) if piece in self.pieces else ord(piece))
            text = text[len(piece) :]
        return ids


def test_labels_forms_and_values_keep_their_order():
    tokens = ScoreTokens({"B": [9, 4], "A": [2]}, values={"A": 1, "B": 0})
    assert (tokens.labels, tokens.forms, tokens.values) == (("B", "A"), ((9, 4), (2,)), (0.0, 1.0))
    assert tokens == ScoreTokens({"B": [9, 4], "A": [2]}, values=[0, 1])
    assert hash(tokens) == hash(ScoreTokens({"B": [9, 4], "A": [2]}, values=[0, 1]))
    assert ScoreTokens({"A": [1]}).values is None


@pytest.mark.parametrize(
    ("forms", "values", "error", "message"),
    [
        ({}, None, TypeError, "forms: expected a mapping with at least one label, got {}"),
        ({"A": []}, None, ValueError, "forms['A']: expected at least one token id, got none"),
        ({"A": [1.5]}, None, TypeError, "forms['A']: expected integer token ids, got 1.5"),
        ({"A": [-1]}, None, ValueError, "forms['A']: expected token ids of at least 0, got -1"),
        ({"A": [1], "B": [2, 1]}, None, ValueError, "forms['B']: expected disjoint token ids, got 1, which also stands for 'A'"),
        ({"A": [1, 1]}, None, ValueError, "forms['A']: expected disjoint token ids, got 1, which also stands for 'A'"),
        ({"A": [1], "B": [2]}, [1.0], ValueError, "values: expected 2 numbers, one per label, got 1"),
        ({"A": [1]}, {"B": 1.0}, ValueError, "values: expected exactly the labels ['A'], got ['B']"),
        ({"A": [1]}, [float("inf")], ValueError, "values: expected finite numbers, got [inf]"),
    ],
)
def test_bad_sets_are_told_in_one_sentence(forms, values, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        ScoreTokens(forms, values)


def test_from_tokenizer_finds_each_form_after_the_context():
    tokenizer = CharacterTokenizer(" A", " B")
    tokens = ScoreTokens.from_tokenizer(tokenizer, {"A": ["A", " A"], "B": ["B", " B"]}, context="verdict:", values=[1, 0])
    assert tokens == ScoreTokens({"A": [65, 1000], "B": [66, 1001]}, values=[1, 0])


def test_two_texts_of_a_label_may_be_one_token():
    assert ScoreTokens.from_tokenizer(CharacterTokenizer(), {"A": ["A", "A"], "B": ["B"]}).forms == ((65,), (66,))


def test_one_and_ten_are_refused_by_name():
    with pytest.raises(ValueError, match=r"forms\['1'\]: .* 1 token\(s\), the first of them shared with '10'; name the labels by single tokens"):
        ScoreTokens.from_tokenizer(CharacterTokenizer(), {"1": ["1"], "10": ["10"]})


def test_a_shared_first_token_is_refused_by_name():
    forms = {"one": ["Assistant 1"], "two": ["Assistant 2"]}
    with pytest.raises(ValueError, match=r"forms\['one'\]: .* got 11 token\(s\), the first of them shared with 'two'; .* into the context"):
        ScoreTokens.from_tokenizer(CharacterTokenizer(), forms)
    assert ScoreTokens.from_tokenizer(CharacterTokenizer(), {"one": ["1"], "two": ["2"]}, context="Assistant ").forms == ((49,), (50,))


def test_several_tokens_are_refused_even_when_distinct():
    with pytest.raises(ValueError, match=r"forms\['yes'\]: expected 'yes' to be one distinguishing token after '', got 3 token\(s\); "):
        ScoreTokens.from_tokenizer(CharacterTokenizer(), {"yes": ["yes"], "no": ["n"]})


def test_a_form_that_merges_with_the_context_is_refused():
    with pytest.raises(ValueError, match=r"forms\['A'\]: .* got tokens that merge with it; end the context where the tokenizer splits"):
        ScoreTokens.from_tokenizer(CharacterTokenizer("[[A"), {"A": ["A"], "B": ["B"]}, context="[[")


def test_an_empty_form_is_refused():
    with pytest.raises(ValueError, match=r"forms\['A'\]: "):
        ScoreTokens.from_tokenizer(CharacterTokenizer(), {"A": [""], "B": ["B"]})


def test_a_bare_string_of_forms_is_refused():
    with pytest.raises(TypeError, match=r"forms\['AB'\]: expected a sequence of texts, got 'AB'"):
        ScoreTokens.from_tokenizer(CharacterTokenizer(), {"AB": "AB"})
