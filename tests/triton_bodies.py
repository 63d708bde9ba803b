"""Pytest plugin (``-p tests.triton_bodies``): Triton bodies answer on CPU, under the interpreter, wherever an op has one.

Loaded in a fresh process with TRITON_INTERPRET=1; ``impl="native"`` then means the Triton body, and ops without one have no native body at all.
"""

import warnings

import pytest
import torch

import rrm_core
from rrm_core._library import LIBRARY, OPS

assert rrm_core.backend_info()["library"] is not None


def pytest_configure(config: pytest.Config) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a registered body is replaced
        for op in OPS.values():
            if op.triton is not None:
                LIBRARY.impl(op.name, op.triton, "CPU", allow_override=True)
            op.native_devices = {"cpu"} if op.triton is not None else set()
    torch.set_num_threads(1)
