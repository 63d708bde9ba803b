"""One realistic call of every Triton body, per dtype: what the compile-only tests and the GPU report compile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rrm_core._library import OPS


@dataclass(frozen=True)
class Sample:
    """A call of an op's Triton body on CPU tensors; storage is never touched, so large ones cost nothing.

    streaming: kernels whose time is the reading of one large operand, in loads of 128 bits. float64: kernels meant to compute in it.
    """

    op: str
    label: str
    arguments: Callable[[], tuple[Any, ...]]
    streaming: frozenset[str] = frozenset()
    float64: frozenset[str] = frozenset()

    def launch(self) -> None:
        body = OPS[self.op].triton
        assert body is not None, f"{self.op} has no Triton body"
        body(*self.arguments())

    def __str__(self) -> str:
        return f"{self.op} {self.label}"


def floats(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(sizes, dtype=dtype)


def ids(*sizes: int) -> Tensor:
    return torch.empty(sizes, dtype=torch.int64)


SAMPLES: list[Sample] = []
