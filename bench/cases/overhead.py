"""What a call costs when there is nothing to compute, and what the import costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.cases.logprobs import plain_token_logprobs
from bench.registry import Case, Inputs, Scale, Seconds, contract, with_gradients
from rrm_core import token_logprobs
from rrm_core._library import OPS
from rrm_core.testing import random_ids, random_logits

IMPORT = """import torch, time; started = time.perf_counter(); import rrm_core; print(time.perf_counter() - started)"""


def _reference(logits: Tensor, ids: Tensor) -> Any:
    return token_logprobs(logits, ids, impl="reference")


def _op(logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
    results = OPS["token_logprobs"].dispatched(logits, ids, None, -100)[:3]
    return dict(zip(("logprob", "entropy", "logsumexp"), results, strict=True))


def _make(device: torch.device) -> Inputs:
    return random_logits(2, 8).to(device), random_ids((2,), 8).to(device)


def import_time(*_: object) -> Seconds:
    """Of rrm_core in a fresh process that has imported torch."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    return Seconds(done.stdout)


def _nothing_to_check(*_: object) -> None:
    pass


def cases(scale: Scale, inductor: bool) -> Iterator[Case]:
    plain = {"PyTorch": plain_token_logprobs}
    trained = {"PyTorch": with_gradients(plain_token_logprobs, 0)}
    op = ("token_logprobs",)
    yield Case("overhead", op, "token_logprobs [2, 8]: the op", _make, _op, plain, contract(_reference, 16))
    yield Case("overhead", op, "token_logprobs [2, 8]: the public function", _make, token_logprobs, plain, contract(_reference, 16))
    function, gate = with_gradients(token_logprobs, 0), contract(with_gradients(_reference, 0))
    yield Case("overhead", (*op, "token_logprobs_backward"), "token_logprobs [2, 8]: forward + backward", _make, function, trained, gate)
    yield Case("overhead", (), "import rrm_core after torch", lambda device: (), import_time, {}, _nothing_to_check, device_types=("cpu",), slow=True)
