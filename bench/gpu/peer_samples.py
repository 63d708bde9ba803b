"""Other people's Triton kernels that do the same work, called as their packages call them: what the GPU report compiles beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from bench import peers
from bench.gpu.samples import floats, ids

ROWS, VOCABULARY, HIDDEN = 4096, 151936, 4096
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class PeerSample:
    """A call for a target. ``ops``: which of our ops each of its kernels stands beside; others are left out of the report."""

    who: str
    dtype: str
    ops: Mapping[str, str]
    launch: Callable[[str], None]


def _trl(dtype: torch.dtype) -> Callable[[str], None]:
    def launch(target: str) -> None:
        module = peers.load("trl.kernels.logprob_entropy")
        logprob, entropy = module.selective_log_softmax_and_entropy(floats(ROWS, VOCABULARY, dtype=dtype).requires_grad_(), ids(ROWS))
        torch.autograd.backward([logprob, entropy], [floats(ROWS), floats(ROWS)])

    return launch


def _liger_logprob(dtype: torch.dtype) -> Callable[[str], None]:
    def launch(target: str) -> None:
        module = peers.load("liger_kernel.ops.grpo_loss")
        module.fused_selective_log_softmax(floats(4, ROWS // 4 + 1, VOCABULARY, dtype=dtype), ids(4, ROWS // 4), 1.0)

    return launch


def _liger_cross_entropy(dtype: torch.dtype) -> Callable[[str], None]:
    def launch(target: str) -> None:
        module = peers.load("liger_kernel.ops.cross_entropy")
        module.is_hip = lambda: target.startswith("gfx")  # it would ask the machine it runs on
        module.infer_device_arch = lambda: "blackwell" if target == "sm_100" else "hopper"
        logits, target_ids = floats(ROWS, VOCABULARY, dtype=dtype).requires_grad_(), torch.zeros(ROWS, dtype=torch.int64)
        module.cross_entropy_forward(logits, target_ids, None, -100, 0.0, 0.0, "none", None, False)

    return launch


def _axolotl(dtype: torch.dtype) -> Callable[[str], None]:
    def launch(target: str) -> None:
        function = peers.load("axolotl.monkeypatch.trainer.utils")._SelectiveLogSoftmaxTriton
        block, grid = 4096, 8192  # what selective_log_softmax passes
        logprob = function.apply(floats(ROWS, VOCABULARY, dtype=dtype).requires_grad_(), ids(ROWS, 1), 1, 1, VOCABULARY, block, grid)
        torch.autograd.backward([logprob], [floats(ROWS, 1)])

    return launch


def _verl(dtype: torch.dtype) -> Callable[[str], None]:
    def launch(target: str) -> None:
        module = peers.load("verl_kernels", "verl/utils/kernel/kernels.py")
        module.SUPPORT_CUDA_TMA = target in ("sm_90", "sm_100")
        module.efficient_entropy_forward(floats(128, HIDDEN, dtype=dtype), floats(VOCABULARY, HIDDEN, dtype=dtype), ids(128), 0, 1.0, None)

    return launch


_ROW = "token_logprobs"
PEER_SAMPLES = [
    sample
    for name, dtype in DTYPES.items()
    for sample in (
        PeerSample("TRL 1.16.0", name, {"_forward_kernel": _ROW, "_backward_kernel": f"{_ROW}_backward"}, _trl(dtype)),
        PeerSample("Liger 0.8.5", name, {"_selective_log_softmax_kernel": _ROW}, _liger_logprob(dtype)),
        PeerSample("Liger 0.8.5", name, {"liger_cross_entropy_kernel": f"{_ROW}_backward"}, _liger_cross_entropy(dtype)),
        PeerSample(
            "axolotl 0.19.0",
            name,
            {"_selective_logsoftmax_fwd_kernel": _ROW, "_selective_logsoftmax_bwd_kernel": f"{_ROW}_backward"},
            _axolotl(dtype),
        ),
        PeerSample("verl 0.9.1", name, {"efficient_entropy_kernel_general_mainloop": "linear_token_logprobs"}, _verl(dtype)),
    )
]
