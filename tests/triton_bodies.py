"""Pytest plugin (``-p tests.triton_bodies``): Triton bodies answer for CPU tensors wherever an op has one, under the interpreter or on a GPU.

Loaded in a fresh process, with TRITON_INTERPRET=1 for the interpreter; ``impl="native"`` then means the Triton body, and ops without one have no
native body at all.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import settings
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

import rrm_core.testing
from rrm_core._library import LIBRARY, OPS
from rrm_core.logprobs import reference

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
BAND = 64  # elements


def multiply(builder: InterpreterBuilder, a: TensorHandle, b: TensorHandle, d: TensorHandle, *options: object) -> TensorHandle:
    """tl.dot. The interpreter's own multiplies the bit patterns of bfloat16 as integers."""

    def widen(x: TensorHandle) -> np.ndarray:
        return (x.data.astype(np.uint32) << 16).view(np.float32) if x.dtype.scalar == tl.bfloat16 else x.data.astype(np.float32)

    a, b, total = widen(a), widen(b), d.data
    for k in range(a.shape[1]):  # one order along the inner size whatever the other two, as on a GPU; a BLAS has none
        total = total + a[:, k, None] * b[k]
    return TensorHandle(total, tl.float32)


def normalise(z: torch.Tensor, exact=reference.normalise) -> tuple[torch.Tensor, torch.Tensor]:
    """The yardstick in float32: eager as everybody writes it.

    (The C++ bodies are held to the reference's own form, exact near p = 1, digit for digit. Here an exponential's argument is one float32 number,
    which costs digits of a small complement but no others.)"""
    if z.dtype == torch.float64:
        return exact(z)
    log_p = z.log_softmax(-1)
    return log_p, -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)


def moved(value: object, device: str) -> object:
    """Tensors, anywhere in lists and tuples, on ``device`` in the same layout: a view is a view of the same memory's copy."""
    if isinstance(value, torch.Tensor):
        memory = value.untyped_storage().cpu() if device == "cpu" else value.untyped_storage().cuda()
        return torch.empty(0, dtype=value.dtype, device=device).set_(memory, value.storage_offset(), value.shape, value.stride())
    return type(value)(moved(x, device) for x in value) if isinstance(value, list | tuple) else value


def on_gpu(body: Callable[..., object]) -> Callable[..., object]:
    return lambda *args: moved(body(*moved(args, DEVICE)), "cpu")


def pytest_configure(config: pytest.Config) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a registered body is replaced
        for op in OPS.values():
            if op.triton is not None:
                LIBRARY.impl(op.name, op.triton if DEVICE == "cpu" else on_gpu(op.triton), "CPU", allow_override=True)
            op.native_devices = {"cpu"} if op.triton is not None else set()
    InterpreterBuilder.create_dot = multiply
    reference.normalise = normalise
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def guard_bands(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a launcher allocates is poisoned, inside and in a band on either side, and the bands are looked at after the test."""
    bands: list[tuple[torch.Tensor, torch.Tensor]] = []

    def guarding(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocated(*args: object, **options: object) -> torch.Tensor:
            inside = allocate(*args, **options)
            if type(inside) is not torch.Tensor or inside.device.type != DEVICE:
                return inside
            memory = rrm_core.testing.poisoned(inside.numel() + 2 * BAND, inside.dtype, DEVICE)
            bands.append((memory[:BAND], memory[-BAND:]))
            return memory[BAND:-BAND].view(inside.shape)

        return allocated

    monkeypatch.setattr(torch.Tensor, "new_empty", guarding(torch.Tensor.new_empty))
    yield
    for before, after in bands:
        expected = rrm_core.testing.poisoned(BAND, before.dtype, DEVICE)
        assert rrm_core.testing.same_bits(before, expected), "written before the beginning of a buffer"
        assert rrm_core.testing.same_bits(after, expected), "written past the end of a buffer"


def pytest_collection() -> None:
    settings.load_profile("interpreter")  # which tests/conftest.py has registered by now
