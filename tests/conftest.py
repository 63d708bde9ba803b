import os
import sys

import pytest
import torch
from hypothesis import settings

# The same examples in every run: a case that fails can be looked at, and one new to this run never fails an unrelated change
settings.register_profile("default", max_examples=40, deadline=None, derandomize=True)
settings.register_profile("interpreter", max_examples=5, deadline=None, derandomize=True)  # of Triton: seconds an example
settings.load_profile("default")


if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers fill the cores; threads that wait for each other would only spin


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["reference", pytest.param("native", marks=pytest.mark.native)])
def impl(request: pytest.FixtureRequest) -> str:
    """Both bodies of an op, each asked for by name."""
    return request.param


@pytest.fixture
def interpreted(impl: str) -> bool:
    """Whether ``impl`` is a Triton body (see triton_bodies.py)."""
    return impl == "native" and "tests.triton_bodies" in sys.modules


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def threads():
    """Sets torch's thread count inside a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
