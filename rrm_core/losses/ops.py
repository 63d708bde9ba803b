"""The policy loss of reinforcement learning from verifiable or judged rewards, with its gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import FLOATS, require, require_positive, require_shape, require_tensor, values_readable
from rrm_core.losses import schema
from rrm_core.losses.reference import KLS, OBJECTIVES, REDUCTIONS


class PolicyLossResults(NamedTuple):
    """0-d; ``loss`` is differentiable, the rest are metrics over the tokens that count."""

    loss: Tensor
    kl: Tensor
    clip_fraction_low: Tensor
    clip_fraction_high: Tensor
    ratio_mean: Tensor
    ratio_max: Tensor


def _choice(name: str, value: str, among: dict[str, int]) -> int:
    require(value in among, name, " or ".join(map(repr, among)), repr(value))
    return among[value]


def _level(name: str, value: str) -> bool:
    require(value in ("token", "sequence"), name, "'token' or 'sequence'", repr(value))
    return value == "sequence"


def _check_sequences(cu_seqlens: Tensor | None, logprob: Tensor) -> int:
    """The number of sequences."""
    if cu_seqlens is None:
        require_shape("logprob", logprob, ("B", "T"))
        return logprob.shape[0]
    require_shape("logprob", logprob, ("T",))
    require_tensor("cu_seqlens", cu_seqlens, (torch.int32, torch.int64), logprob)
    require_shape("cu_seqlens", cu_seqlens, ("B + 1",))
    require(cu_seqlens.shape[0] > 0, "cu_seqlens", "at least one offset", list(cu_seqlens.shape))
    if values_readable(cu_seqlens):
        first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
        ascending = bool((cu_seqlens.diff() >= 0).all())
        require(
            first >= 0 and last <= logprob.shape[0] and ascending, "cu_seqlens", f"ascending offsets in [0, {logprob.shape[0]}]", cu_seqlens.tolist()
        )
    return cu_seqlens.shape[0] - 1


def _denominator(normalizer: float | Tensor | None, reduction: str, like: Tensor) -> Tensor | None:
    if normalizer is None:
        require(reduction != "constant", "normalizer", "a number with reduction 'constant'", None)
        return None
    if isinstance(normalizer, Tensor):
        require_shape("normalizer", normalizer, ())
        return normalizer.detach().to(like.device, like.dtype)
    return torch.full((), require_positive("normalizer", normalizer), dtype=like.dtype, device=like.device)


def policy_loss(
    logprob: Tensor,
    old_logprob: Tensor | None,
    advantages: Tensor,
    mask: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    rollout_logprob: Tensor | None = None,
    objective: str = "ppo",
    ratio: str = "token",
    clip: tuple[float, float] = (0.2, 0.2),
    dual_clip: float | None = None,
    log_ratio_clamp: float | None = None,
    kl_coef: float = 0.0,
    kl: str = "k3",
    reduction: str = "token_mean",
    normalizer: float | Tensor | None = None,
    rollout_clip: float = 2.0,
    rollout: str = "token",
    impl: Impl = None,
) -> PolicyLossResults:
    """The clipped policy-gradient loss with its relatives, divergence and metrics, in one pass over the tokens; its gradient in another.

    Equivalent to, for "ppo"::

        r = (logprob - old_logprob).exp()
        loss = -torch.minimum(r * advantages, r.clamp(1 - clip[0], 1 + clip[1]) * advantages)[mask].mean()

    Args:
        logprob: [B, T] with ``mask``, or packed [T] with ``cu_seqlens``; float32, bfloat16, float16 or float64, computed in float32 at least.
        old_logprob: like logprob, before the update; None on policy: ratio 1, with gradient.
        advantages: [B], one a sequence, or like logprob (packed with as many sequences as tokens: one a sequence).
        mask: bool, like logprob; False for tokens that don't count, whatever they hold.
        cu_seqlens: int32 or int64 [B + 1], where packed sequences begin, and the last ends.
        ref_logprob: like logprob, of the reference policy, for the divergence.
        rollout_logprob: like logprob, as the engine that sampled saw it: each token's loss is weighted with min(exp(old - rollout),
            ``rollout_clip``) (truncated importance sampling).
        objective: "ppo"; "cispo": -clip(r) A log p, no gradient through clip(r); "reinforce": -A log p. "gspo" is "ppo" with ratio="sequence".
        ratio: "token", or "sequence": exp of the mean log ratio over a sequence, for all of its tokens (GSPO).
        clip: (low, high): r is clipped to [1 - low, 1 + high].
        dual_clip: c > 1: where the advantage is negative the loss is at most -c A (verl's clip_ratio_c, TRL's delta).
        log_ratio_clamp: log ratios are clamped to [-c, c], without gradient beyond (verl: 20; its GSPO: 10).
        kl_coef: what the divergence from ref_logprob is multiplied with before it is added to each token's loss.
        kl: of d = log p - log p_ref: "k1" d, "k2" d^2 / 2, "k3" exp(-d) + d - 1, or "k3_k2", k3 with the gradient of k2 (verl's "k3+").
        reduction: "token_mean" (DAPO); "sequence_mean" of token means (GRPO); "sequence_sum", the mean of sums; "constant" (Dr. GRPO): the sum
            over ``normalizer``.
        normalizer: the denominator in the place of the number of tokens or sequences that count here: that of the whole batch, where this is
            a part of it (gradient accumulation, data parallelism). Number or 0-d tensor.
        rollout_clip, rollout: the truncation of the rollout's weight; "token", or "sequence", one weight from a sequence's sum.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        loss. kl: mean divergence, 0 without ref_logprob. clip_fraction_low, clip_fraction_high: shares of tokens with r < 1 - low and A < 0,
        r > 1 + high and A > 0. ratio_mean, ratio_max. Sequences without a token that counts are not counted; of nothing all is 0.

    Numerics: float32 terms, their sums in float64 after a few steps, in a fixed order: the same bits at any thread count.
    Divergences keep their digits for small differences. A token that doesn't count has gradient exactly 0 even if it holds NaN.

    Source: Schulman et al., arXiv 1707.06347 (PPO); Ye et al., arXiv 1912.09729 (dual clip); Yu et al., arXiv 2503.14476 (DAPO); Liu et al.,
    arXiv 2503.20783 (Dr. GRPO); Zheng et al., arXiv 2507.18071 (GSPO); MiniMax, arXiv 2506.13585 (CISPO); Schulman, "Approximating KL
    divergence" (k1, k2, k3).

    Raises:
        TypeError, ValueError: a dtype, shape, device or option doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    require_tensor("logprob", logprob, FLOATS)
    rows = _check_sequences(cu_seqlens, logprob)
    for name, value in (("old_logprob", old_logprob), ("ref_logprob", ref_logprob), ("rollout_logprob", rollout_logprob)):
        if value is not None:
            require_tensor(name, value, FLOATS, logprob)
            require_shape(name, value, logprob.shape)
    require_tensor("advantages", advantages, FLOATS, logprob)
    require_shape("advantages", advantages, (rows,), logprob.shape)
    if mask is not None:
        require_tensor("mask", mask, (torch.bool,), logprob)
        require_shape("mask", mask, logprob.shape)
    sequence_ratio = objective == "gspo" or _level("ratio", ratio)
    chosen = _choice("objective", "ppo" if objective == "gspo" else objective, OBJECTIVES)
    low, high = (require_positive("clip", bound, or_zero=True) for bound in clip)
    if dual_clip is not None:
        require(require_positive("dual_clip", dual_clip) > 1, "dual_clip", "a number above 1", dual_clip)
    if log_ratio_clamp is not None:
        require_positive("log_ratio_clamp", log_ratio_clamp)
    coefficient = require_positive("kl_coef", kl_coef, or_zero=True)
    require(ref_logprob is not None or coefficient == 0, "ref_logprob", "log probabilities with a kl_coef", None)
    dtype = torch.promote_types(logprob.dtype, torch.float32)
    others = [None if x is None else x.detach().to(dtype) for x in (old_logprob, advantages, ref_logprob, rollout_logprob)]
    wide = logprob.to(dtype)
    body = schema.policy_loss.body(impl, wide)
    results = body(
        wide, others[0], others[1], mask, None if cu_seqlens is None else cu_seqlens.long(), *others[2:],
        _denominator(normalizer, reduction, wide), chosen, sequence_ratio, low, high, dual_clip, log_ratio_clamp, coefficient,
        _choice("kl", kl, KLS), _choice("reduction", reduction, REDUCTIONS), require_positive("rollout_clip", rollout_clip),
        _level("rollout", rollout),
    )  # fmt: skip
    return PolicyLossResults(*results[:6])
