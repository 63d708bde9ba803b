"""Which token ids stand for which verdict."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rrm_core._validate import require
from rrm_core.logprobs.reference import PAD_ID


@dataclass(frozen=True, init=False)
class ScoreTokens:
    """Labels of a verdict, the token ids each may appear as (its surface forms), and optionally a value per label.

    Args:
        forms: label -> token ids. Ids are disjoint: a token stands for one label.
        values: label -> number, or numbers in the order of the labels; needed for expected scores.

    Example:
        >>> ScoreTokens({"A": [330, 34], "B": [389, 35]}).labels
        ('A', 'B')
        >>> ScoreTokens({str(i): [28 + i] for i in range(1, 10)}, values=range(1, 10)).values[0]
        1.0

    Raises:
        ValueError, TypeError: no label, a label without forms, an id that is negative, repeated or no integer, values that don't fit.
    """

    labels: tuple[str, ...]
    forms: tuple[tuple[int, ...], ...]
    values: tuple[float, ...] | None

    def __init__(self, forms: Mapping[str, Sequence[int]], values: Mapping[str, float] | Iterable[float] | None = None) -> None:
        require(isinstance(forms, Mapping) and len(forms) > 0, "forms", "a mapping with at least one label", forms, TypeError)
        owner: dict[int, str] = {}
        for label, ids in forms.items():
            require(len(ids) > 0, f"forms[{label!r}]", "at least one token id", "none")
            for i in ids:
                require(isinstance(i, int) and not isinstance(i, bool), f"forms[{label!r}]", "integer token ids", repr(i), TypeError)
                require(i >= 0, f"forms[{label!r}]", "token ids of at least 0", i)
                require(i not in owner, f"forms[{label!r}]", "disjoint token ids", f"{i}, which also stands for {owner.get(i)!r}")
                owner[i] = label
        object.__setattr__(self, "labels", tuple(forms))
        object.__setattr__(self, "forms", tuple(tuple(ids) for ids in forms.values()))
        object.__setattr__(self, "values", None if values is None else self._in_order(values))

    def _in_order(self, values: Mapping[str, float] | Iterable[float]) -> tuple[float, ...]:
        if isinstance(values, Mapping):
            require(set(values) == set(self.labels), "values", f"exactly the labels {list(self.labels)}", list(values))
            values = [values[label] for label in self.labels]
        numbers = tuple(float(v) for v in values)
        require(len(numbers) == len(self.labels), "values", f"{len(self.labels)} numbers, one per label", len(numbers))
        require(all(math.isfinite(v) for v in numbers), "values", "finite numbers", list(numbers))
        return numbers

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Any, forms: Mapping[str, Sequence[str]], context: str = "", values: Mapping[str, float] | Iterable[float] | None = None
    ) -> ScoreTokens:
        """Finds the token id of every surface form as the tokenizer writes it right after ``context``.

        Args:
            tokenizer: has ``encode(text, add_special_tokens=False) -> list[int]``, as Hugging Face's do.
            forms: label -> texts, e.g. ``{"A": ["A", " A"], "B": ["B", " B"]}``.
            context: the text that stands before the verdict, e.g. ``"[["``. What a form becomes depends on it.
            values: as in the constructor.

        Raises:
            ValueError: a form is not one token of its own after the context, because it takes several tokens, merges with the context,
                or begins with the token of another label. The message names the labels and the way out.
        """

        def encode(text: str) -> list[int]:
            return [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]

        before = encode(context) if context else []
        tokens: dict[str, dict[str, list[int]]] = {}
        for label, texts in forms.items():
            require(not isinstance(texts, str), f"forms[{label!r}]", "a sequence of texts", repr(texts), TypeError)
            for text in texts:
                ids = encode(context + text)
                if ids[: len(before)] != before or len(ids) == len(before):
                    raise ValueError(
                        f"forms[{label!r}]: expected {text!r} to be tokenised on its own after the context {context!r},"
                        " got tokens that merge with it; end the context where the tokenizer splits, or move its last characters into every form"
                    )
                tokens.setdefault(label, {})[text] = ids[len(before) :]
        for label, by_text in tokens.items():
            for text, ids in by_text.items():
                rivals = [other for other in tokens if other != label and any(t[0] == ids[0] for t in tokens[other].values())]
                if len(ids) > 1 or rivals:
                    shared = f", the first of them shared with {', '.join(map(repr, rivals))}" if rivals else ""
                    raise ValueError(
                        f"forms[{label!r}]: expected {text!r} to be one distinguishing token after {context!r}, got {len(ids)} token(s){shared};"
                        " name the labels by single tokens (letters instead of numbers of two digits), or put what they share into the context"
                    )
        return cls({label: sorted({ids[0] for ids in by_text.values()}) for label, by_text in tokens.items()}, values)


def pack(sets: Sequence[ScoreTokens], vocab_size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor | None]:
    """Form ids int64 [S, L, F] padded with -1, and values [S, L] of the dtype padded with 0 (None if some set has none)."""
    require(len(sets) > 0, "score_tokens", "at least one ScoreTokens", "none")
    for s in sets:
        largest = max(i for ids in s.forms for i in ids)
        require(largest < vocab_size, "score_tokens", f"token ids below the vocabulary size {vocab_size}", largest)
    labels = max(len(s.forms) for s in sets)
    width = max(len(ids) for s in sets for ids in s.forms)
    form_ids = [[list(ids) + [PAD_ID] * (width - len(ids)) for ids in s.forms] + [[PAD_ID] * width] * (labels - len(s.forms)) for s in sets]
    values = [list(s.values) + [0.0] * (labels - len(s.values)) for s in sets if s.values is not None]
    with torch.inference_mode(False):  # kept for calls that save them for backward
        packed_values = torch.tensor(values, dtype=dtype, device=device) if len(values) == len(sets) else None
        return torch.tensor(form_ids, dtype=torch.int64, device=device), packed_values


pack_once = functools.lru_cache(maxsize=256)(pack)
