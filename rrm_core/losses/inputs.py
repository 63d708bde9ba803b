"""Checks that the policy losses share: what a batch did and was worth, and how its loss is formed."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core._validate import FLOATS, require, require_choice, require_positive, require_shape, require_tensor, values_readable
from rrm_core.losses.reference import KLS, OBJECTIVES, REDUCTIONS, Behaviour, Options


def _choice(name: str, value: str, among: dict[str, int]) -> int:
    require_choice(name, value, among)
    return among[value]


def _level(name: str, value: str) -> bool:
    require_choice(name, value, ("token", "sequence"))
    return value == "sequence"


def check_options(
    objective: str,
    ratio: str,
    clip: tuple[float, float],
    dual_clip: float | None,
    log_ratio_clamp: float | None,
    kl_coef: float,
    kl: str,
    reduction: str,
    rollout_clip: float,
    rollout: str,
) -> Options:
    sequence_ratio = objective == "gspo" or _level("ratio", ratio)
    low, high = (require_positive("clip", bound, or_zero=True) for bound in clip)
    if dual_clip is not None:
        require(require_positive("dual_clip", dual_clip) > 1, "dual_clip", "a number above 1", dual_clip)
    if log_ratio_clamp is not None:
        require_positive("log_ratio_clamp", log_ratio_clamp)
    return Options(
        _choice("objective", "ppo" if objective == "gspo" else objective, OBJECTIVES),
        sequence_ratio,
        low,
        high,
        dual_clip,
        log_ratio_clamp,
        require_positive("kl_coef", kl_coef, or_zero=True),
        _choice("kl", kl, KLS),
        _choice("reduction", reduction, REDUCTIONS),
        require_positive("rollout_clip", rollout_clip),
        _level("rollout", rollout),
    )


def _check_sequences(name: str, cu_seqlens: Tensor | None, tokens: Tensor) -> int:
    """The number of sequences."""
    if cu_seqlens is None:
        require_shape(name, tokens, ("B", "T"))
        return tokens.shape[0]
    require_shape(name, tokens, ("T",))
    require_tensor("cu_seqlens", cu_seqlens, (torch.int32, torch.int64), tokens)
    require_shape("cu_seqlens", cu_seqlens, ("B + 1",))
    require(cu_seqlens.shape[0] > 0, "cu_seqlens", "at least one offset", list(cu_seqlens.shape))
    if values_readable(cu_seqlens):
        first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
        ascending = bool((cu_seqlens.diff() >= 0).all())
        require(
            first >= 0 and last <= tokens.shape[0] and ascending, "cu_seqlens", f"ascending offsets in [0, {tokens.shape[0]}]", cu_seqlens.tolist()
        )
    return cu_seqlens.shape[0] - 1


def check_behaviour(name: str, tokens: Tensor, dtype: torch.dtype, kl_coef: float, given: Behaviour) -> Behaviour:
    """tokens: the argument called ``name``, which has an element for each. dtype: what is computed with."""
    rows = _check_sequences(name, given.cu_seqlens, tokens)
    for label, value in (("old_logprob", given.old_logprob), ("ref_logprob", given.ref_logprob), ("rollout_logprob", given.rollout_logprob)):
        if value is not None:
            require_tensor(label, value, FLOATS, tokens)
            require_shape(label, value, tokens.shape)
    require_tensor("advantages", given.advantages, FLOATS, tokens)
    require_shape("advantages", given.advantages, (rows,), tokens.shape)
    if given.mask is not None:
        require_tensor("mask", given.mask, (torch.bool,), tokens)
        require_shape("mask", given.mask, tokens.shape)
    require(given.ref_logprob is not None or kl_coef == 0, "ref_logprob", "log probabilities with a kl_coef", None)
    old, advantages, reference, rollout = (
        None if x is None else x.detach().to(dtype) for x in (given.old_logprob, given.advantages, given.ref_logprob, given.rollout_logprob)
    )
    assert advantages is not None
    return Behaviour(old, advantages, given.mask, None if given.cu_seqlens is None else given.cu_seqlens.long(), reference, rollout)


def check_normalizer(normalizer: float | Tensor | None, reduction: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    if normalizer is None:
        require(reduction != REDUCTIONS["constant"], "normalizer", "a number with reduction 'constant'", None)
        return None
    if isinstance(normalizer, Tensor):
        require_tensor("normalizer", normalizer, (*FLOATS, torch.int32, torch.int64))
        require_shape("normalizer", normalizer, ())
        if values_readable(normalizer):
            require(0 < float(normalizer) < torch.inf, "normalizer", "a finite number above 0", normalizer.item())
        return normalizer.detach().to(device, dtype)
    return torch.full((), require_positive("normalizer", normalizer), dtype=dtype, device=device)
