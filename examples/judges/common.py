"""What the programs share: options, the demo's model and questions, a generator that is held to its format, a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from examples.arguments import positive
from examples.tournament import data
from examples.tournament.judge import DEFAULT_MODEL, head_of, load_model
from rrm_core import ScoreTokens, score_token_logprobs
from rrm_core.judges import Call, Generated, Judged, Messages, Reason, System, TransformersGenerator

ANSWERS = 3  # of each question: the best, one from the middle, the worst


class Model(NamedTuple):
    tokenizer: Any
    model: Any


def arguments(name: str, about: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m examples.judges.{name}", description=about)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder or name of a Hugging Face causal language model (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=data.DEFAULT, help="JSONL file of questions with answers, best first")
    parser.add_argument("--limit", type=positive, default=2, help="only the first LIMIT questions (default: %(default)s)")
    parser.add_argument("--votes", type=positive, default=3, help="calls of a match, or samples of a list, at most (default: %(default)s)")
    parser.add_argument("--tokens", type=positive, default=40, help="of a judgement before its verdict (default: %(default)s)")
    parser.add_argument("--budget", type=positive, help="calls of the whole run at most")
    parser.add_argument("--journal", type=Path, help="a file from which a run that was killed goes on")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def questions(options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """Questions, and some answers of each, best first."""
    loaded = data.load(options.data, options.limit)
    chosen = [[q.answers[round(i * (len(q.answers) - 1) / (ANSWERS - 1))] for i in range(ANSWERS)] for q in loaded]
    return [q.text for q in loaded], chosen


def load(options: argparse.Namespace) -> Model:
    print(f"loading {options.model} ...", flush=True)
    return Model(*load_model(options.model))


@torch.inference_mode()
def state_behind(model: Model, messages: Messages, text: str) -> torch.Tensor:
    """The hidden state [1, H] behind the text with which the judge answers the messages."""
    prompt = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([model.tokenizer.encode(prompt + text, add_special_tokens=False)])
    hidden: torch.Tensor = model.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, -1]


class HeldToFormat:
    """Writes ``tokens`` tokens of judgement; where they hold no verdict (a small model's seldom do) the verdict's marks are written behind them, and
    each of its places is drawn from the probabilities of the tokens that may stand there.

    places: what stands before each place; closing: what stands behind the last.
    """

    def __init__(self, model: Model, system: System[Any], places: Sequence[str], labels: Sequence[str], closing: str, tokens: int) -> None:
        self._write = TransformersGenerator(model.model, model.tokenizer, max_new_tokens=tokens, temperature=0.6)
        self._model, self._system, self._places, self._closing, self._labels = model, system, places, closing, labels
        self._head = head_of(model.model)
        self._sets = [ScoreTokens.from_tokenizer(model.tokenizer, {label: [label] for label in labels}, place) for place in places]

    @torch.inference_mode()
    def __call__(self, calls: Sequence[Call]) -> list[Generated]:
        texts = [found.text for found in self._write(calls)]
        missing = (self._system.parse(texts).reason != Reason.VALID).nonzero().flatten().tolist()
        for step, (place, tokens) in enumerate(zip(self._places, self._sets, strict=True)):
            for i in missing:
                texts[i] += place
                state = state_behind(self._model, calls[i].messages, texts[i])
                conditional = score_token_logprobs(state, **self._head, score_tokens=tokens, full_vocab=False).conditional
                generator = torch.Generator().manual_seed(calls[i].seed + step)
                texts[i] += self._labels[int(conditional[0].exp().multinomial(1, generator=generator))]
        return [Generated(text + self._closing if i in missing else text) for i, text in enumerate(texts)]


def show(name: str, asked: Sequence[str], answers: Sequence[Sequence[str]], judged: Judged) -> None:
    for b, question in enumerate(asked):
        print(f"\n{question}   ({int(judged.calls[b])} calls, {int(judged.invalid[b])} invalid, confidence {float(judged.confidence[b]):.2f})")
        for place, i in enumerate(judged.ranking[b].tolist(), 1):
            print(f"  {place}. {float(judged.score[b, i]) + 0.0:7.3f}   {answers[b][i][:100]}")
    right = float((judged.ranking[:, 0] == 0).double().mean())
    print(f"\n{name}: the best answer came first in {right:.0%} of {len(asked)} questions, after {int(judged.calls.sum())} calls")
