"""Checks of user input. Every message reads "name: expected ..., got ..."."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch

_FLOAT32 = torch.finfo(torch.float32)
_FEW = 64  # values are looked at one by one
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def require(ok: bool, name: str, expected: str, got: object, error: type[Exception] = ValueError) -> None:
    if not ok:
        raise error(f"{name}: expected {expected}, got {got}")


def require_choice(name: str, value: object, among: Collection[object], note: str = "") -> None:
    """One of some options; the message is made when it is needed, as making it takes longer than the rest of the checks."""
    if value not in among:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, among))}{note}, got {value!r}")


def require_tensor(name: str, value: object, dtypes: Sequence[torch.dtype], like: torch.Tensor | None = None) -> None:
    """A strided tensor of one of the dtypes, on the device of ``like``."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name}: expected {' or '.join(str(d).removeprefix('torch.') for d in dtypes)}, got {value.dtype}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name}: expected a strided tensor, got {value.layout}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got {value.device}")


def _fits(got: Sequence[int], shape: Sequence[int | str]) -> bool:
    if shape and shape[0] == "...":
        shape = shape[1:]
        got = got[max(0, len(got) - len(shape)) :]
    if len(got) != len(shape):
        return False
    for want, size in zip(shape, got, strict=True):  # noqa: SIM110 - a generator would cost a microsecond
        if want != size and not isinstance(want, str):
            return False
    return True


def require_shape(name: str, value: torch.Tensor, *shapes: Sequence[int | str]) -> None:
    """One of the shapes; a str names a size that may be anything, "..." any leading sizes."""
    got = value.shape
    for shape in shapes:
        if _fits(got, shape):
            return
    expected = " or ".join("[" + ", ".join(map(str, shape)) + "]" for shape in shapes)
    raise ValueError(f"{name}: expected shape {expected}, got {list(got)}")


def is_ordinary(value: torch.Tensor) -> bool:
    """Neither a stand-in (fake tensor, subclass) nor seen by torch.compile."""
    return not torch.compiler.is_compiling() and type(value) in (torch.Tensor, torch.nn.Parameter)


def values_readable(value: torch.Tensor) -> bool:
    """Whether looking at values costs no synchronisation and breaks no graph."""
    return is_ordinary(value) and value.device.type == "cpu"


def require_in_range(name: str, ids: torch.Tensor, end: int, *, also: int | None = None) -> None:
    """Integers in [0, end), or equal to ``also``; checked where values are readable."""
    if not values_readable(ids) or ids.numel() == 0:
        return
    if ids.numel() <= _FEW:
        values = ids.flatten().tolist()
        low, high = min(values), max(values)
    else:
        low, high = (int(v) for v in torch.aminmax(ids))
    if low >= 0 and high < end:
        return
    bad = (ids < 0) | (ids >= end)
    if also is not None:
        bad &= ids != also
    if bool(bad.any()):
        raise ValueError(f"{name}: expected values in [0, {end})" + (f" or {also}" if also is not None else "") + f", got {int(ids[bad][0])}")


def require_float32(name: str, value: object) -> float:
    """A Python number above 0 that float32 can hold."""
    number = require_positive(name, value)
    require(_FLOAT32.tiny <= number <= _FLOAT32.max, name, "a number float32 can hold", value)
    return number


def require_positive(name: str, value: object, *, or_zero: bool = False) -> float:
    """A finite Python number above 0. Compared, not asked math.isfinite, which fails on the symbolic floats of torch.compile(dynamic=True)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    require(0 < value < math.inf or (or_zero and value == 0), name, f"a finite number {'of at least' if or_zero else 'above'} 0", value)
    return float(value)
