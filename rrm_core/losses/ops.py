"""The policy loss of reinforcement learning from verifiable or judged rewards, with its gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import FLOATS, require_float32, require_in_range, require_positive, require_shape, require_tensor, values_readable
from rrm_core.logprobs import linear_token_logprobs
from rrm_core.logprobs.inputs import check_head, check_vocab_size, compute_dtype, row_temperatures
from rrm_core.losses import schema
from rrm_core.losses.inputs import check_behaviour, check_normalizer, check_options
from rrm_core.losses.reference import Behaviour, Options
from rrm_core.losses.reference_linear import IGNORED, counted_ids, entropy_bonus


class PolicyLossResults(NamedTuple):
    """0-d; ``loss`` is differentiable, the rest are metrics over the tokens that count."""

    loss: Tensor
    kl: Tensor
    clip_fraction_low: Tensor
    clip_fraction_high: Tensor
    ratio_mean: Tensor
    ratio_max: Tensor


class LinearPolicyLossResults(NamedTuple):
    """As ``PolicyLossResults``, with the mean entropy, 0-d, and the log probabilities [B, T] or [T], 0 where a token doesn't count."""

    loss: Tensor
    kl: Tensor
    clip_fraction_low: Tensor
    clip_fraction_high: Tensor
    ratio_mean: Tensor
    ratio_max: Tensor
    entropy: Tensor
    logprob: Tensor


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
    dtype = torch.promote_types(logprob.dtype, torch.float32)
    options = check_options(objective, ratio, clip, dual_clip, log_ratio_clamp, kl_coef, kl, reduction, rollout_clip, rollout)
    given = Behaviour(old_logprob, advantages, mask, cu_seqlens, ref_logprob, rollout_logprob)
    behaviour = check_behaviour("logprob", logprob, dtype, options.kl_coef, given)
    wide = logprob.to(dtype)
    body = schema.policy_loss.body(impl, wide)
    return PolicyLossResults(*body(wide, *behaviour, check_normalizer(normalizer, options.reduction, dtype, logprob.device), *options)[:6])


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    old_logprob: Tensor | None,
    advantages: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    vocab_size: int | None = None,
    entropy_coef: float = 0.0,
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
) -> LinearPolicyLossResults:
    """``policy_loss`` straight from hidden states and head, with a bonus for entropy; gradients are formed while a chunk's logits are at hand.

    Equivalent to::

        found = linear_token_logprobs(hidden, weight, token_ids, bias=bias, temperature=temperature, softcap=softcap)
        loss = policy_loss(found.logprob, old_logprob, advantages, mask).loss - entropy_coef * found.entropy[mask].mean()

    Args:
        hidden: [B, T, H] with ``mask``, or packed [T, H] with ``cu_seqlens``; the state before each token. float32, bfloat16, float16 or float64.
        weight: [V, H], the head, of hidden's dtype.
        token_ids: int64 [B, T] or [T]; anything where a token doesn't count.
        bias: [V], of hidden's dtype or float32.
        temperature: number, 0-d tensor or like token_ids; without gradient.
        softcap, vocab_size: as in ``linear_token_logprobs``.
        entropy_coef: what the entropies over the vocabulary, reduced like the loss, are multiplied with before they are taken off it.
        All else: as in ``policy_loss``, [B, T] or [T] like token_ids.

    Returns:
        loss, differentiable with respect to hidden, weight and bias; metrics as ``policy_loss``; entropy, its mean over the tokens that count;
        logprob like token_ids, for the next step's ``old_logprob``. Neither has a gradient.

    Work: three products with the head (logits and two gradients) instead of four. On CPU at most 96 tokens' logits are in memory, and tokens that
    don't count are not computed; on CUDA 2^26 logits, in the plain body all. Gradients are formed with the loss, for what requires them, and
    kept until backward in float32: 16-bit ones are rounded once, after what comes from above is multiplied in. Where one token's loss asks
    for another's log probability (ratio "sequence"; rollout "sequence" without old_logprob) it is ``linear_token_logprobs`` and
    ``policy_loss`` with their own gradients: four products.

    Numerics, errors: as ``linear_token_logprobs`` and ``policy_loss``.
    """
    packed = cu_seqlens is not None
    require_tensor("hidden", hidden, FLOATS)
    require_tensor("token_ids", token_ids, (torch.int64,), hidden)
    require_shape("token_ids", token_ids, ("T",) if packed else ("B", "T"))
    _, wide_bias = check_head(hidden, weight, None, bias, token_ids.shape)
    vocab = check_vocab_size(vocab_size, weight)
    dtype = compute_dtype(hidden)
    options = check_options(objective, ratio, clip, dual_clip, log_ratio_clamp, kl_coef, kl, reduction, rollout_clip, rollout)
    given = Behaviour(old_logprob, advantages, mask, cu_seqlens, ref_logprob, rollout_logprob)
    behaviour = check_behaviour("token_ids", token_ids, dtype, options.kl_coef, given)
    coefficient = require_positive("entropy_coef", entropy_coef, or_zero=True)
    if values_readable(token_ids):
        everything = mask is None and not packed
        require_in_range("token_ids", token_ids if everything else counted_ids(token_ids, mask, cu_seqlens, other=0), vocab)
    cap = None if softcap is None else require_float32("softcap", softcap)
    heat = row_temperatures(temperature, token_ids.shape, hidden)
    heat = None if heat is None else heat.detach().flatten()
    divisor = check_normalizer(normalizer, options.reduction, dtype, hidden.device)
    if options.sequence_ratio or (options.sequence_rollout and rollout_logprob is not None and old_logprob is None):
        return _in_two_steps(hidden, weight, token_ids, wide_bias, heat, cap, vocab, behaviour, divisor, options, coefficient, impl)
    body = schema.linear_policy_loss.body(impl, hidden)
    tracked = torch.is_grad_enabled()
    need = [tracked and x is not None and x.requires_grad for x in (hidden, weight, wide_bias)]
    objective_code, _, *others = options
    results = body(hidden, weight, token_ids, wide_bias, heat, cap, vocab, *behaviour, divisor, objective_code, *others, coefficient, *need)
    return LinearPolicyLossResults(*results[:8])


def _in_two_steps(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    bias: Tensor | None,
    temperature: Tensor | None,
    softcap: float | None,
    vocab_size: int,
    behaviour: Behaviour,
    normalizer: Tensor | None,
    options: Options,
    entropy_coef: float,
    impl: Impl,
) -> LinearPolicyLossResults:
    """Log probabilities, then their loss, for what needs all of the former first."""
    ids = counted_ids(token_ids, behaviour.mask, behaviour.cu_seqlens)
    heat = 1.0 if temperature is None else temperature
    rows = hidden.flatten(0, -2)
    logprob, entropy, _ = linear_token_logprobs(
        rows, weight, ids, bias=bias, temperature=heat, softcap=softcap, ignore_index=IGNORED, vocab_size=vocab_size, impl=impl
    )
    logprob, entropy = logprob.view(token_ids.shape), entropy.view(token_ids.shape)
    found = PolicyLossResults(*schema.policy_loss.body(impl, logprob)(logprob, *behaviour, normalizer, *options)[:6])
    bonus, mean = entropy_bonus(entropy, behaviour.mask, behaviour.cu_seqlens, normalizer, options.reduction)
    if entropy_coef != 0.0:
        found = found._replace(loss=found.loss - entropy_coef * bonus)
    return LinearPolicyLossResults(*found, entropy=mean.detach(), logprob=logprob.detach())
