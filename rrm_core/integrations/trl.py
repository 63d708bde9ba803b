"""TRL's GRPOTrainer and RLOOTrainer on our log-probabilities, advantages and policy loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from rrm_core.backends import backend_info
from rrm_core.integrations import trl_advantages, trl_loss
from rrm_core.logprobs import linear_token_logprobs

KNOWN = ("1.16",)
Method = Callable[..., Any]
Replacement = tuple[Any, str, Any]

_held: list[TrlPatch] = []
_originals: list[Replacement] = []


class TrlPatch:
    """What ``patch_trl`` returns. TRL stays patched until every one of them has been undone."""

    def __enter__(self) -> TrlPatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.unpatch()

    def unpatch(self) -> None:
        if self in _held:
            _held.remove(self)
            if not _held:
                _restore()


def patch_trl() -> TrlPatch:
    """Swaps our ops into trl 1.16, for every GRPOTrainer and RLOOTrainer of the process, those that exist already included::

        with patch_trl():
            trainer.train()

    or ``patch = patch_trl()`` and, later, ``patch.unpatch()``. Patching twice is harmless, ``unpatch_trl()`` undoes all at once.

    What changes:
        log-probabilities: ``linear_token_logprobs`` in the fused head that GRPO, RLOO, DPO, KTO and SFT score tokens with. On CPU only tokens
            with a label are scored; TRL scores prompts and padding as well. A head under autocast is cast once, with its result in float32.
        advantages: ``group_advantages`` with convention="trl", and ``whiten_tokens`` for RLOO's normalisation: equal rewards give exactly 0.
        loss: ``policy_loss``; TRL's metrics under their names.

    What stays TRL's own:
        log-probabilities: heads that are asked for more than log_probs and entropy (SFT's and DPO's metrics), a logit scale that is not
            positive, parameters that DeepSpeed ZeRO-3 has partitioned, devices without a native body.
        loss: sapo and vespo, a beta with use_bias_correction_kl (the default), adaptive entropy, cispo with epsilon_high < 1, a delta of at
            most 1 + epsilon_high, subclasses with a loss of their own.

    Raises:
        ImportError: trl is not installed.
        RuntimeError: it is of a version whose insides are not known here.
    """
    if not _held:
        _install(_replacements())
    patch = TrlPatch()
    _held.append(patch)
    return patch


def unpatch_trl() -> None:
    """TRL as it was, whoever holds a patch."""
    _held.clear()
    _restore()


def _install(replacements: list[Replacement]) -> None:
    _originals.extend((owner, name, vars(owner)[name]) for owner, name, _ in replacements)
    for owner, name, value in replacements:
        setattr(owner, name, value)


def _restore() -> None:
    while _originals:
        setattr(*_originals.pop())


def _replacements() -> list[Replacement]:
    try:
        import trl
    except ModuleNotFoundError as error:
        if error.name != "trl":
            raise
        raise ImportError(f"patch_trl: expected trl {' or '.join(KNOWN)}, got none (pip install 'trl=={KNOWN[-1]}.*')") from error
    if ".".join(trl.__version__.split(".")[:2]) not in KNOWN:
        raise RuntimeError(f"patch_trl: expected trl {' or '.join(KNOWN)}, got {trl.__version__}")
    from trl.trainer import utils
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    found: list[Replacement] = [
        (utils, "_ChunkedLogProbFunction", FusedHead(utils._ChunkedLogProbFunction)),
        (utils, "_use_triton", _compact_rows(utils._use_triton)),
    ]
    for trainer, advantages, loss in (
        (GRPOTrainer, trl_advantages.of_grpo, _choose(trl_loss.has_loss_of, trl_loss.of_grpo)),
        (RLOOTrainer, trl_advantages.of_rloo, _choose(lambda _: True, trl_loss.of_rloo)),
    ):
        methods: dict[str, Callable[[Method], Method]] = {
            "_generate_and_score_completions": trl_advantages.overwrite(advantages),
            "_compute_loss": loss,
        }
        found += [(trainer, name, wrap(vars(trainer)[name])) for name, wrap in methods.items()]
    return found


def _choose(ours: Callable[[Any], bool], loss: Method) -> Callable[[Method], Method]:
    """TRL's method, or ``loss`` for trainers that are ``ours``."""

    def wrap(original: Method) -> Method:
        @functools.wraps(original)
        def method(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
            return (loss if ours(self) else original)(self, model, inputs)

        return method

    return wrap


def _compact_rows(original: Callable[[torch.device], bool]) -> Callable[[torch.device], bool]:
    """TRL asks whether a device has Triton before it leaves out tokens without a label."""
    return lambda device: device.type == "cpu" or original(device)


class FusedHead:
    """In the place of TRL's autograd function: the same call, with the same results."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self.devices = {kind for kind in ("cpu", "cuda") if backend_info()[kind] != "reference"}  # plain PyTorch would store the logits

    def apply(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        outputs: tuple[str, ...] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """hidden [N, H], weight [V, H], bias [V], targets [N] -> log-probabilities [N], entropy [N], and three that are not asked for here."""
        ours = (
            outputs is not None
            and set(outputs) <= {"log_probs", "entropy"}
            and logit_scale > 0
            and not hasattr(weight, "ds_id")  # partitioned again before the backward
            and hidden.device.type in self.devices
        )
        if not ours or outputs is None:
            rest = () if outputs is None else (outputs,)
            return tuple(self.original.apply(hidden, weight, bias, targets, temperature, chunk_size, softcap, logit_scale, *rest))
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        scored = linear_token_logprobs(
            hidden.to(dtype),
            weight.to(dtype),
            targets,
            bias=None if bias is None else bias.to(torch.promote_types(dtype, torch.float32)),
            # c tanh(s x / c) / T = (c / s) tanh(x / (c / s)) / (T / s)
            temperature=temperature / logit_scale,
            softcap=None if softcap is None else softcap / logit_scale,
            batch_invariant=False,
        )
        return scored.logprob, scored.entropy if "entropy" in outputs else None, None, None, None
