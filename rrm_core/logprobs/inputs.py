"""Checks that the log-probability ops, and losses from hidden states, share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rrm_core._validate import FLOATS, require, require_float32, require_in_range, require_shape, require_tensor, values_readable


def compute_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def row_temperatures(value: float | Tensor, leading: Sequence[int], like: Tensor) -> Tensor | None:
    """A temperature per row, None for 1."""
    if not isinstance(value, Tensor):
        if value.__class__ is float and value == 1.0:
            return None
        number = require_float32("temperature", value)
        return None if number == 1.0 else torch.full(tuple(leading), number, dtype=compute_dtype(like), device=like.device)
    require_tensor("temperature", value, FLOATS, like)
    require_shape("temperature", value, (), leading)
    value = value.to(compute_dtype(like))
    if values_readable(value):
        require(
            bool(((value > 0) & value.isfinite()).all()), "temperature", "finite values above 0", value.detach().amin().item() if value.numel() else 0
        )
    return value.expand(leading)


def check_head(
    hidden: Tensor, weight: Tensor, rows: Tensor | None, bias: Tensor | None, leading: Sequence[int | str] = ("...",)
) -> tuple[tuple[int, ...], Tensor | None]:
    """Checks hidden, weight, rows and bias; returns the results' leading sizes and the bias as it is computed with. leading: hidden's own."""
    require_tensor("hidden", hidden, FLOATS)
    require_shape("hidden", hidden, (*leading, "H"))
    require_tensor("weight", weight, (hidden.dtype,), hidden)
    require_shape("weight", weight, ("V", hidden.shape[-1]))
    require(weight.shape[0] > 0 and weight.shape[1] > 0, "weight", "at least one row and one column", list(weight.shape))
    if bias is not None:
        require_tensor("bias", bias, tuple(dict.fromkeys((hidden.dtype, compute_dtype(hidden)))), hidden)
        require_shape("bias", bias, (weight.shape[0],))
        bias = bias.to(compute_dtype(hidden))
    if rows is None:
        return tuple(hidden.shape[:-1]), bias
    require_tensor("rows", rows, (torch.int64,), hidden)
    require_shape("rows", rows, ("N",))
    require_in_range("rows", rows, math.prod(hidden.shape[:-1]))
    return tuple(rows.shape), bias


def check_vocab_size(value: int | None, weight: Tensor) -> int:
    if value is None:
        return weight.shape[0]
    require(isinstance(value, int) and 0 < value <= weight.shape[0], "vocab_size", f"an integer from 1 to {weight.shape[0]}", value)
    return value


def check_ids(token_ids: Tensor, leading: Sequence[int], vocab_size: int, ignore_index: int, like: Tensor) -> None:
    require_tensor("token_ids", token_ids, (torch.int64,), like)
    require_shape("token_ids", token_ids, leading, (*leading, "K"))
    if token_ids.dim() > len(leading) and token_ids.shape[-1] == 0:
        raise ValueError(f"token_ids: expected at least one id per row, got {list(token_ids.shape)}")
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise TypeError(f"ignore_index: expected an integer, got {ignore_index!r}")
    require_in_range("token_ids", token_ids, vocab_size, also=ignore_index)


def check_logits(logits: Tensor) -> None:
    require_tensor("logits", logits, FLOATS)
    require_shape("logits", logits, ("...", "V"))
    if logits.shape[-1] == 0:
        raise ValueError(f"logits: expected a vocabulary of at least one token, got {list(logits.shape)}")
