"""What the tournament functions accept, and how it is checked: array-likes in, float64, int64 and bool tensors out, without gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rrm_core._validate import FLOATS, require, require_in_range, require_shape, require_tensor, values_readable

ArrayLike: TypeAlias = Any  # a tensor, a numpy array or anything with __array__, a (nested) sequence of numbers
MatchArguments: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


class PairCounts(NamedTuple):
    """``wins[b, i, j]``: what i won outright against j. ``ties[b, i, j]``: their ties, the same both ways."""

    wins: Tensor
    ties: Tensor


def array(name: str, value: ArrayLike, dtype: torch.dtype, like: Tensor | None = None) -> Tensor:
    """As a tensor of dtype int64, bool or float64, without gradient; what is no tensor yet is copied to the device of ``like``."""
    numbers = dtype == torch.float64
    if isinstance(value, Tensor):
        require_tensor(name, value, (*FLOATS, torch.int64, torch.bool) if numbers else (dtype,), like)
        return value.detach().to(dtype)
    expected = {torch.int64: "integers", torch.bool: "bools"}.get(dtype, "numbers")
    try:
        source = value.__array__().copy() if hasattr(value, "__array__") else value  # torch takes no negative strides
        made = torch.tensor(source, dtype=dtype if numbers else None, device=None if like is None else like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__} ({error})") from error
    integers = not (made.is_floating_point() or made.is_complex() or made.dtype == torch.bool)
    fits = numbers or made.dtype == dtype or (dtype == torch.int64 and integers) or made.numel() == 0
    require(fits, name, expected, made.dtype, TypeError)
    return made.to(dtype)


def whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    require(least <= value < 1 << 63, name, f"an integer of at least {least}" + ("" if value < least else ", of 63 bits"), value)
    return value


def require_all(name: str, ok: Tensor, expected: str, values: Tensor) -> None:
    """The message shows the first of the values that is not ok."""
    if not bool(ok.all()):
        raise ValueError(f"{name}: expected {expected}, got {values[~ok][0].item()}")


def require_nonnegative(name: str, values: Tensor, unread: Tensor | None = None) -> None:
    """Finite and not below 0, but for what is not read."""
    if values.numel() > 0:
        least, most = torch.aminmax(values)
        if not (least >= 0 and most < math.inf):
            ok = (values >= 0) & values.isfinite()
            require_all(name, ok if unread is None else ok | unread, "finite values of at least 0", values)


def require_shares(name: str, values: Tensor) -> None:
    """Shares of a win; NaN is an invalid verdict."""
    if values.numel() > 0:
        least, most = torch.aminmax(values)  # one pass; NaN if there is one
        if not (least >= 0 and most <= 1):
            require_all(name, ((values >= 0) & (values <= 1)) | values.isnan(), "values in [0, 1] or NaN", values)


def finite(name: str, value: object) -> float:
    """A finite Python number. Compared, not asked math.isfinite, which fails on the symbolic floats of torch.compile(dynamic=True)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    require(-math.inf < value < math.inf, name, "a finite number", value)
    return float(value)


def seeded(seed: object) -> torch.Generator:
    """A generator on CPU."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected an integer, got {type(seed).__name__}")
    require(-(1 << 63) <= seed < 1 << 64, "seed", "an integer of 64 bits", seed)
    return torch.Generator().manual_seed(seed)


def matches(
    first: ArrayLike, second: ArrayLike, outcome: ArrayLike, problem: ArrayLike | None, weight: ArrayLike | None, num_problems: int, n: int
) -> MatchArguments:
    """The matches as tensors [M] on one device; their values are checked where that costs no synchronisation."""
    like = next((x for x in (first, second, outcome, problem, weight) if isinstance(x, Tensor)), None)
    first = array("first", first, torch.int64, like)
    require_shape("first", first, ("M",))
    second, outcome = array("second", second, torch.int64, first), array("outcome", outcome, torch.float64, first)
    require_shape("second", second, first.shape)
    require_shape("outcome", outcome, first.shape)
    if problem is None:
        require(num_problems == 1, "problem", f"each match's problem, with {num_problems} problems", None)
    else:
        problem = array("problem", problem, torch.int64, first)
        require_shape("problem", problem, first.shape)
        require_in_range("problem", problem, num_problems)
    if weight is not None:
        weight = array("weight", weight, torch.float64, first)
        require_shape("weight", weight, first.shape)
        if values_readable(weight):
            require_nonnegative("weight", weight)
    require_in_range("first", first, n)
    require_in_range("second", second, n)
    if values_readable(first):
        require_all("second", first != second, "another candidate than first", second)
        require_shares("outcome", outcome)
    return first, second, outcome, problem, weight


def pair_wins(wins: ArrayLike) -> Tensor:
    """Wins [B, n, n] as float64, n > 0."""
    counts = array("wins", wins, torch.float64)
    require_shape("wins", counts, ("B", "n", "n"))
    require(counts.shape[1] == counts.shape[2] and counts.shape[1] > 0, "wins", "shape [B, n, n] with n > 0", list(counts.shape))
    return counts


def pair_counts(wins: ArrayLike | PairCounts) -> tuple[Tensor, Tensor | None]:
    """Wins [B, n, n] and ties, if they are apart."""
    if not isinstance(wins, PairCounts):
        return pair_wins(wins), None
    won, ties = pair_wins(wins.wins), array("ties", wins.ties, torch.float64)
    require_tensor("ties", ties, FLOATS, won)
    require_shape("ties", ties, won.shape)
    return won, ties


def taking_part(mask: ArrayLike | None, like: Tensor) -> Tensor | None:
    """Who takes part, bool [B, n]; like: [B, n, n]."""
    if mask is None:
        return None
    mask = array("mask", mask, torch.bool, like)
    require_shape("mask", mask, like.shape[:2])
    return mask


def require_counts(wins: Tensor, mask: Tensor | None = None, name: str = "wins") -> None:
    """Checks what is read of wins (or ties): not the diagonal, nor those out of the mask."""
    if values_readable(wins):
        diagonal = torch.eye(wins.shape[1], dtype=torch.bool)
        require_nonnegative(name, wins, diagonal if mask is None else diagonal | ~(mask.unsqueeze(-1) & mask.unsqueeze(-2)))
