"""Judges of one token against a plain softmax in float64, and whom they refuse."""

from __future__ import annotations

import math

import pytest
import torch

from rrm_core import ScoreTokens, score_token_logprobs, score_token_logprobs_from_logits
from rrm_core.judges import Template
from rrm_core.judges.baselines import AlpacaEval, GEval, YesNoReranker
from rrm_core.tournaments import combine_orders

NAN, INF = float("nan"), float("inf")
V, H, N = 300, 32, 17
JUDGES = {"geval5": GEval, "geval9": lambda **options: GEval(9, **options), "alpaca": AlpacaEval, "yes": YesNoReranker}


class Tokenizer:
    """A token for every character and for whole answers."""

    def __init__(self, *words):
        self.words = words

    def encode(self, text, add_special_tokens=True):
        ids = []
        while text:
            word = next((w for w in self.words if text.startswith(w)), text[0])
            ids.append(200 + self.words.index(word) if word in self.words else ord(word))
            text = text[len(word) :]
        return ids


TOKENIZER = Tokenizer("yes", "no", "m ")


def plain(judge, logits):
    """The judge's score by its formula, in float64, and the labels' mass."""
    p = logits.double().softmax(-1)
    labels = p[:, [TOKENIZER.encode(label)[0] for label in judge.VALUES]]
    mass = labels.sum(-1)
    if isinstance(judge, GEval):
        return (labels * torch.arange(1, labels.shape[1] + 1)).sum(-1) / mass, mass
    return labels[:, 0] / mass, mass


def data(dtype=torch.float32):
    hidden, weight = torch.randn(N, H), torch.randn(V, H) / 2
    return hidden.to(dtype), weight.to(dtype)


@pytest.mark.parametrize("name", JUDGES)
def test_scores_of_hidden_states_and_of_logits(name, impl):
    judge = JUDGES[name](min_mass=0.0)
    hidden, weight = data()
    tokens = judge.score_tokens(TOKENIZER)
    expected, _ = plain(judge, hidden.double() @ weight.double().T)
    torch.testing.assert_close(judge.score(score_token_logprobs(hidden, weight, tokens, impl=impl)).double(), expected, rtol=1e-5, atol=1e-6)
    unread = score_token_logprobs(hidden, weight, tokens, full_vocab=False, impl=impl)
    torch.testing.assert_close(judge.score(unread).double(), expected, rtol=1e-5, atol=1e-6)
    logits = (hidden.double() @ weight.double().T).view(1, N, V)
    got = judge.score(score_token_logprobs_from_logits(logits, tokens))  # no native body of float64
    assert (got.shape, got.dtype) == ((1, N), torch.float64)
    torch.testing.assert_close(got[0], expected, rtol=1e-12, atol=1e-12)
    got = judge.score(score_token_logprobs_from_logits(logits.bfloat16(), tokens, impl=impl))
    torch.testing.assert_close(got[0].double(), plain(judge, logits[0].bfloat16())[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", JUDGES)
def test_too_little_mass_is_refused(name):
    logits = torch.randn(50, V, dtype=torch.float64)
    judge = JUDGES[name](min_mass=0.0)
    expected, mass = plain(judge, logits)
    least = mass.median().item() * (1 + 1e-9)  # the median itself is refused, whatever its logarithm's last bit
    got = JUDGES[name](min_mass=least).score(score_token_logprobs_from_logits(logits, judge.score_tokens(TOKENIZER)))
    refused = mass < least
    assert 20 < refused.sum() < 30
    assert (got.isnan() == refused).all()
    torch.testing.assert_close(got[~refused], expected[~refused], rtol=1e-12, atol=1e-12)


def test_g_eval_refuses_by_default_what_is_mostly_no_grade():
    logits = torch.full((3, V), -INF)
    two, four, other = (TOKENIZER.encode(x)[0] for x in "24x")
    logits[0, [two, four]] = torch.tensor([0.75, 0.25]).log()
    logits[1, [two, four, other]] = torch.tensor([0.3, 0.3, 0.4]).log()
    logits[2, [two, four, other]] = torch.tensor([0.2, 0.2, 0.6]).log()
    judge = GEval()
    got = judge.score(score_token_logprobs_from_logits(logits, judge.score_tokens(TOKENIZER)))
    torch.testing.assert_close(got, torch.tensor([2.5, 3.0, NAN]), equal_nan=True)


def test_the_gradient_of_what_is_refused_is_0():
    logits = torch.randn(2, V)
    logits[0, TOKENIZER.encode("3")[0]] += 20
    logits.requires_grad_()
    judge = GEval()
    judge.score(score_token_logprobs_from_logits(logits, judge.score_tokens(TOKENIZER))).nansum().backward()
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[0] != 0).any()
    assert logits.grad.isfinite().all()


def test_alpaca_eval_takes_both_orders():
    judge = AlpacaEval()
    tokens = judge.score_tokens(TOKENIZER)
    forward, backward = torch.randn(2, N, V, dtype=torch.float64)
    results = [score_token_logprobs_from_logits(x, tokens) for x in (forward, backward)]
    m, other = (TOKENIZER.encode(x)[0] for x in "mM")
    p = [x[:, [m, other]].softmax(-1) for x in (forward, backward)]
    torch.testing.assert_close(judge.score(*results), (p[0][:, 0] + p[1][:, 1]) / 2, rtol=1e-12, atol=0)
    odds = [judge.log_odds(x) for x in results]
    torch.testing.assert_close(odds[0], forward[:, m] - forward[:, other], rtol=1e-10, atol=1e-12)
    expected = ((forward[:, m] - forward[:, other]) - (backward[:, m] - backward[:, other])) / 2
    torch.testing.assert_close(combine_orders(*odds).log_odds, expected, rtol=1e-10, atol=1e-12)


def test_alpaca_eval_with_one_label_or_none():
    judge = AlpacaEval()
    logits = torch.zeros(3, V)
    m, other = (TOKENIZER.encode(x)[0] for x in "mM")
    logits[0, other] = logits[1, m] = logits[2, m] = logits[2, other] = -INF
    result = score_token_logprobs_from_logits(logits, judge.score_tokens(TOKENIZER))
    torch.testing.assert_close(judge.score(result), torch.tensor([1.0, 0.0, NAN]), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(judge.log_odds(result), torch.tensor([INF, -INF, NAN]), rtol=0, atol=0, equal_nan=True)
    even = score_token_logprobs_from_logits(torch.zeros(3, V), judge.score_tokens(TOKENIZER))
    torch.testing.assert_close(judge.score(result, even), torch.tensor([0.75, 0.25, 0.5]), rtol=1e-6, atol=0)
    torch.testing.assert_close(judge.score(even, result), torch.tensor([0.25, 0.75, 0.5]), rtol=1e-6, atol=0)
    assert judge.score(result, result)[2].isnan()


def test_a_reranker_is_the_sigmoid_of_a_difference_of_logits():
    judge = YesNoReranker()
    yes, no = (TOKENIZER.encode(x)[0] for x in ("yes", "no"))
    logits = torch.randn(4, 5, V) * 5
    result = score_token_logprobs_from_logits(logits, judge.score_tokens(TOKENIZER), full_vocab=False)
    difference = logits[..., yes].double() - logits[..., no].double()
    torch.testing.assert_close(judge.log_odds(result).double(), difference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(judge.score(result).double(), difference.sigmoid(), rtol=1e-5, atol=1e-6)
    halved = score_token_logprobs_from_logits(logits, judge.score_tokens(TOKENIZER), temperature=2.0)
    torch.testing.assert_close(judge.log_odds(halved).double(), difference / 2, rtol=1e-5, atol=1e-5)


def test_prompts():
    [user] = GEval(9, "Is it {answer}?").prompt("Why {scale}?", ["because"])
    assert "Is it {answer}?" in user["content"]
    assert "Why {scale}?" in user["content"]
    assert "because" in user["content"]
    assert "to 9 (best)" in user["content"]
    assert GEval.CRITERIA in GEval().prompt("q", ["a"])[0]["content"]
    _, user = AlpacaEval().prompt("q", ["one {answer_2}", "two"])
    assert user["content"].index("one {answer_2}") < user["content"].index("two")
    _, user = YesNoReranker().prompt("why", ["because"])
    assert user["content"].index("why") < user["content"].index("because")
    assert YesNoReranker(Template("{question} {answer}")).prompt("q", ["a"]) == [{"role": "user", "content": "q a"}]


def test_a_template_from_a_file(tmp_path):
    path = tmp_path / "prompt.json"
    path.write_text('{"user": "{question} {answer} of {scale}"}')
    assert GEval(template=path).prompt("q", ["a"]) == [{"role": "user", "content": "q a of 5"}]


def test_tokens_and_their_values():
    assert GEval().score_tokens(TOKENIZER) == ScoreTokens({str(i): [48 + i] for i in range(1, 6)}, range(1, 6))
    assert YesNoReranker().score_tokens(TOKENIZER, "Verdict: ") == ScoreTokens({"yes": [200], "no": [201]}, [1, 0])
    assert AlpacaEval().score_tokens(TOKENIZER) == ScoreTokens({"m": [ord("m")], "M": [ord("M")]}, [1, 0])
    with pytest.raises(ValueError, match="yes"):
        YesNoReranker().score_tokens(Tokenizer())
    with pytest.raises(ValueError, match="merge"):
        YesNoReranker().score_tokens(Tokenizer(">yes"), "<>")


def test_errors():
    def fails(error, message, function, *arguments, **options):
        with pytest.raises(error, match=message):
            function(*arguments, **options)

    fails(ValueError, r"^min_mass: expected a number in \[0, 1\], got 1.5$", YesNoReranker, min_mass=1.5)
    fails(ValueError, r"^min_mass: expected a number in \[0, 1\], got nan$", YesNoReranker, min_mass=math.nan)
    fails(TypeError, r"^min_mass: expected a number, got str$", YesNoReranker, min_mass="1")
    fails(TypeError, r"^template: expected a Template or a path, got int$", YesNoReranker, 3)
    fails(ValueError, r"^template: expected the fields .*, got none of the name answer_2$", AlpacaEval, Template("{question}{answer_1}"))
    fails(ValueError, r"^scale: expected an integer from 2 to 9, got 10$", GEval, 10)
    fails(TypeError, r"^scale: expected an integer, got float$", GEval, 5.0)
    fails(TypeError, r"^criteria: expected a text, got int$", GEval, 5, 3)
    fails(ValueError, r"^answers: expected 1 text\(s\), got 2$", GEval().prompt, "q", ["a", "b"])
    fails(TypeError, r"^answers: expected a sequence of texts, got str$", GEval().prompt, "q", "a")
    logits = torch.randn(3, V)
    unread = score_token_logprobs_from_logits(logits, GEval().score_tokens(TOKENIZER), full_vocab=False)
    fails(ValueError, r"^result: expected log_mass, which full_vocab=True gives, got None$", GEval().score, unread)
    fails(TypeError, r"^result: expected a ScoreTokenLogprobs, got Tensor$", GEval().score, logits)
    two = score_token_logprobs_from_logits(logits, AlpacaEval().score_tokens(TOKENIZER))
    fails(ValueError, r"^result: expected the 5 labels of score_tokens, got 2$", GEval().score, two)
    bare = score_token_logprobs_from_logits(logits, ScoreTokens({str(i): [i] for i in range(5)}))
    fails(ValueError, r"^result: expected an expectation, .*, got None$", GEval().score, bare)
    fewer = score_token_logprobs_from_logits(logits[:2], AlpacaEval().score_tokens(TOKENIZER))
    fails(ValueError, r"^swapped: expected shape \[3\], got \[2\]$", AlpacaEval().score, two, fewer)
    fails(TypeError, r"^swapped: expected a ScoreTokenLogprobs, got int$", AlpacaEval().score, two, 1)
