"""Where a judge's texts come from: any callable from calls to texts; one over a local transformers model, one over texts recorded before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rrm_core._validate import require, require_positive
from rrm_core.judges.system import Messages

Key: TypeAlias = tuple[int, ...]


class Call(NamedTuple):
    """One call of a judge. ``key`` says which: (round, problem, place in the order shown, ..., vote); ``seed``, of 63 bits, follows from the run's
    seed and the key, so that a text does not depend on what else is in its batch."""

    messages: Messages
    key: Key
    seed: int


class Generated(NamedTuple):
    """``text``: with its ``<think>``, also where the chat template has written that: a verdict within thoughts that never end is none.
    ``finished``: whether it came to its own end. ``hidden``: [H], what a meta reward model reads; None where nobody asked for it."""

    text: str
    finished: bool = True
    hidden: Tensor | None = None


Generator: TypeAlias = Callable[[Sequence[Call]], Sequence[str | Generated | None]]  # None: not this time, ask again


class RecordedTexts:
    """Answers calls by texts that are there: a mapping from keys, or what a run's journal holds.

    Raises:
        LookupError: a call that was not recorded, when it is asked for.
    """

    def __init__(self, texts: Mapping[Key, str | Generated]) -> None:
        self._texts = dict(texts)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> RecordedTexts:
        """From a journal of ``Judge``, whatever run it belongs to."""
        records = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[1:-1]]  # a kill may have cut the last line short
        return cls({tuple(record["key"]): Generated(record["text"], record["finished"]) for record in records})

    def __call__(self, calls: Sequence[Call]) -> list[str | Generated]:
        for call in calls:
            if call.key not in self._texts:
                raise LookupError(f"recorded texts: expected one for the call {call.key}, got none among {len(self._texts)}")
        return [self._texts[call.key] for call in calls]


class TransformersGenerator:
    """Samples from a local causal language model. Every row draws from its own seed, by adding Gumbel noise to its logits and taking the largest.

    Args:
        model: a transformers causal language model, where it should run. tokenizer: its own, with a chat template.
        max_new_tokens: of a text; one that is longer is not ``finished``.
        temperature: 0 takes the likeliest token. top_p: of the probability, at each step, that may be drawn from.
        hidden: whether to hand on the last layer's state before each text's last token, for a meta reward model.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_new_tokens: int = 8192, temperature: float = 0.6, top_p: float = 1.0, hidden: bool = False
    ) -> None:
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int):
            raise TypeError(f"max_new_tokens: expected an integer, got {type(max_new_tokens).__name__}")
        require(max_new_tokens >= 1, "max_new_tokens", "at least 1", max_new_tokens)
        require(getattr(tokenizer, "chat_template", None) is not None, "tokenizer", "one with a chat template", "one without")
        self.model, self.tokenizer, self.max_new_tokens, self.hidden = model, tokenizer, max_new_tokens, bool(hidden)
        self.temperature, self.top_p = require_positive("temperature", temperature, or_zero=True), require_positive("top_p", top_p)
        require(self.top_p <= 1, "top_p", "at most 1", top_p)

    @torch.inference_mode()
    def __call__(self, calls: Sequence[Call]) -> list[Generated]:
        texts = [self.tokenizer.apply_chat_template(call.messages, tokenize=False, add_generation_prompt=True) for call in calls]
        ids, mask = self._padded([self.tokenizer.encode(text, add_special_tokens=False) for text in texts])
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self._pad,
            logits_processor=[] if self.temperature == 0 else [_SeededNoise([call.seed for call in calls], self.temperature, self.top_p)],
            return_dict_in_generate=True,
            output_hidden_states=self.hidden,
        )
        ends = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        found = []
        for row, tokens in enumerate(out.sequences[:, ids.shape[1] :].tolist()):
            length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
            text = "<think>" * texts[row].rstrip().endswith("<think>") + self.tokenizer.decode(tokens[:length], skip_special_tokens=True)
            state = out.hidden_states[min(length, len(tokens) - 1)][-1][row, -1].float().cpu() if self.hidden else None
            found.append(Generated(text, length < len(tokens), state))
        return found

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask [K, T], blanks on the left."""
        width = max(map(len, rows))
        ids = torch.tensor([[self._pad] * (width - len(row)) + list(row) for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        return ids, mask


class _SeededNoise:
    """A logits processor after which the largest logit is a draw: Gumbel noise of each row's own generator (Gumbel-max trick)."""

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature, self._top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits = scores.float() / self._temperature
        if self._top_p < 1:
            ordered, order = logits.sort(-1, descending=True)
            p = ordered.softmax(-1)
            logits = logits.masked_fill(torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, p.cumsum(-1) - p >= self._top_p), float("-inf"))
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64) for generator in self._generators])
        return logits - (-uniform.log()).log().to(logits)
