"""Advantages of grouped rewards, and whitening. No gradients: rewards are detached."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import FLOATS, require, require_choice, require_positive, require_shape, require_tensor, values_readable
from rrm_core.advantages import schema
from rrm_core.advantages.estimators import CONVENTIONS, ESTIMATORS, OWN, STDS, Convention
from rrm_core.advantages.groups import Offsets, check_groups

_REWARDS = (*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class GroupAdvantages(NamedTuple):
    """``advantage`` per row, the rest per group, in ascending order of the ids."""

    advantage: Tensor
    mean: Tensor
    std: Tensor
    size: Tensor
    keep: Tensor


def _convention(name: str | None) -> Convention:
    if name is None:
        return OWN
    require_choice("convention", name, (*CONVENTIONS, None))
    return CONVENTIONS[name]


def _all(condition: Tensor, mask: Tensor | None) -> bool:
    """Of what counts."""
    return bool((condition if mask is None else condition | ~mask).all())


def _computed(rewards: Tensor) -> Tensor:
    """In the dtype of the op."""
    dtype = torch.promote_types(rewards.dtype, torch.float32)
    detached = rewards.detach() if rewards.requires_grad else rewards
    return detached if detached.dtype == dtype else detached.to(dtype)


def _counted(rewards: Tensor, mask: Tensor | None) -> Tensor:
    """Which rows count: those with a reward, unless they are masked."""
    missing = rewards.isnan() if rewards.dim() == 1 else rewards.isnan().all(1)
    return ~missing if mask is None else mask & ~missing


def _check_each(name: str, value: Tensor | None, rewards: Tensor, mask: Tensor | None, needed: str | None) -> Tensor | None:
    """A number per row, as the op takes it."""
    if value is None:
        require(name != needed, name, "a tensor with this estimator", None)
        return None
    require_tensor(name, value, _REWARDS, rewards)
    require_shape(name, value, rewards.shape[:1])
    if name == "lengths" and values_readable(value) and value.numel():
        require(_all(value >= 0, mask), name, "lengths of at least 0", value.min().item())
    return value.detach().to(torch.promote_types(rewards.dtype, torch.float32))


def _check_weights(weights: Tensor | None, rewards: Tensor) -> Tensor | None:
    require(weights is None or rewards.dim() == 2, "weights", "None for one reward an answer", "a tensor")
    if weights is None:
        return None
    require_tensor("weights", weights, FLOATS, rewards)
    require_shape("weights", weights, rewards.shape[1:])
    return weights.detach().to(rewards.dtype)


def group_advantages(
    rewards: Tensor,
    groups: int | Tensor | Offsets,
    *,
    estimator: str = "grpo",
    convention: str | None = None,
    eps: float | None = None,
    std: str | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    weights: Tensor | None = None,
    baseline: Tensor | None = None,
    singleton: str | None = None,
    num_groups: int | None = None,
    impl: Impl = None,
) -> GroupAdvantages:
    """How much better each answer was rewarded than its group.

    Equivalent to, for "grpo"::

        for g, id in enumerate(ids.unique()):
            r = rewards[(ids == id) & mask & ~rewards.isnan()].double()
            size[g], mean[g], std[g], keep[g] = len(r), r.mean(), r.std(), (r != r[0]).any()
            advantage[...] = (r - mean) / (std + eps)

    and with the last line of another estimator (B answers count, M of them in groups without signal; l: lengths)::

        "dr_grpo"                r - mean
        "rloo"                   r - (r.sum() - r) / (size - 1)
        "opo"                    r - (l * r).sum() / l.sum()
        "gpg"                    (r - mean) * B / (B - M)
        "reinforce_pp_baseline"  whiten(r - mean) over the batch
        "remax"                  r - baseline
        "gdpo"                   whiten((weights * (r - mean) / (std + eps)).sum(-1)) over the batch, r [size, R]
        "maxrl"                  (r - mean) / (mean + eps)
        "pass_at_k"              (r == r.max()) * (r.max() - r.kthvalue(size - 1))

    Args:
        rewards: [N], float32, bfloat16, float16 or float64; integers and bools are taken as float32. NaN is a missing reward. Or [N, R],
            several rewards an answer: "gdpo" compares each of them, the others their weighted sum without those that are missing.
        groups: a group size, N being a multiple of it; or int64 [N], each row's id, any numbers in any order; or ``Offsets``.
        estimator: see above. "maxrl" and "pass_at_k" are about successes, rewards in [0, 1]: +-1 becomes (r + 1) / 2 by the caller.
        convention: whose eps, lone rewards and whitening: "paper" (no eps), "trl" (eps 1e-4; whitening divides by std + 1e-4) or "verl" (eps
            1e-6; a lone reward is its own advantage; whitening divides by sqrt(variance + 1e-8); "gpg" counts rewards other than 0 for B - M;
            "pass_at_k" divides by std). None: as "verl", but for lone rewards, "gpg" and "pass_at_k".
        eps: in the place of the convention's, in a group.
        std: for "grpo", "gdpo" and "pass_at_k", which then divides by it: "sample" (Bessel's correction), "population", or, "grpo" alone,
            "batch", the sample std of all rewards that count, as TRL's ``scale_rewards="batch"``.
        mask: bool [N], False for rows that don't count, whatever they hold; all count when None.
        lengths: [N], tokens of each answer: the weights of "opo"; where given, whitening is over tokens, as verl's, and not over answers.
        weights: [R], of several rewards; 1 when None.
        baseline: [N], for "remax": the reward of each row's greedy answer.
        singleton: what a reward alone in its group gets, in the place of the convention's: "zero", or "reward", the reward itself. "remax"
            knows no groups.
        num_groups: the number G of groups where groups are ids, which are 0 to G - 1 then, each a group even if no row has it. Spares a
            synchronisation on CUDA, and torch.compile a size that depends on data.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        advantage [N]: exactly 0 for rows that don't count (NaN or masked), for all of a group of equal rewards, and for singletons, before
        whitening. mean [G]: NaN where nothing counts. std [G]: with Bessel's correction unless std="population", 0 for fewer than two
        rewards. size [G], int64: rewards that count. keep [G], bool: False where a group has no signal, having fewer than two rewards or
        equal ones (DAPO drops these). advantage, mean and std are float32, or float64 for float64 rewards. Groups come in ascending id.
        "gdpo": mean, std and size are [G, R]; keep is that of a group with signal in some reward.

    Numerics: two-pass and centred, in float64 on CPU: any offset is harmless. A group that counts an infinite reward has NaN advantages, mean
    and std, keep False. The same bits at any thread count, and a group's results have the same bits whatever the other groups are and
    however the groups are given (what concerns the whole batch, whitening and "gpg", excepted). Where values cannot be checked (CUDA,
    torch.compile), a row with an id outside [0, num_groups), or before the first offset or behind the last, gets NaN; rows that descending
    offsets put in two groups get the advantage of either. Ids cost a stable sort.

    Source: Shao et al., arXiv 2402.03300 (GRPO); Liu et al., arXiv 2503.20783 (Dr. GRPO); Ahmadian et al., arXiv 2402.14740 (RLOO); Hao et al.,
    arXiv 2505.23585 (OPO); Chu et al., arXiv 2504.02546 (GPG); Hu, arXiv 2501.03262 (REINFORCE++); Li et al., arXiv 2310.10505 (ReMax); arXiv
    2601.05242 (GDPO); arXiv 2602.02710 (MaxRL); arXiv 2503.19595 (pass@k); Yu et al., arXiv 2503.14476 (DAPO).

    Raises:
        TypeError, ValueError: a dtype, shape, device, option, id or offset doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    require_tensor("rewards", rewards, _REWARDS)
    require_shape("rewards", rewards, ("N",), ("N", "R"))
    require_choice("estimator", estimator, ESTIMATORS)
    chosen, habits = ESTIMATORS[estimator], _convention(convention)
    if std == "batch":
        require(singleton != "reward", "singleton", "'zero' with std 'batch'", repr(singleton))
    singleton = "zero" if std == "batch" else habits.singleton if singleton is None else singleton
    require_choice("singleton", singleton, ("zero", "reward"))
    eps = habits.eps if eps is None else require_positive("eps", eps, or_zero=True)
    if std is None and convention == "verl" and estimator == "pass_at_k":
        std = "sample"
    if std is not None:
        stds = STDS if estimator == "grpo" else STDS[:2] if estimator in ("gdpo", "pass_at_k") else ()
        require_choice("std", std, (*stds, None), f" for {estimator!r}")
    if mask is not None:
        require_tensor("mask", mask, (torch.bool,), rewards)
        require_shape("mask", mask, rewards.shape[:1])
    values = _computed(rewards)
    several = values.dim() == 2
    if several:
        require(values.shape[1] > 0, "rewards", "at least one reward an answer", list(values.shape))
    lengths = _check_each("lengths", lengths, values, mask, chosen.each)
    baseline = _check_each("baseline", baseline, values, mask, chosen.each)
    if baseline is not None:
        require(chosen.each == "baseline", "baseline", f"None for {estimator!r}", "a tensor")
    if estimator == "gdpo":
        require(several, "rewards", "shape [N, R] for 'gdpo'", list(values.shape))
    weights = _check_weights(weights, values)
    layout = check_groups(groups, num_groups, values[:, 0] if several else values)
    body = schema.group_advantages.body(impl, values)
    each = lengths if chosen.each == "lengths" else baseline
    options = (chosen.baseline, eps, std == "population", (chosen.divides or std is not None) and std != "batch", singleton == "reward")

    def of_groups(one: Tensor) -> GroupAdvantages:
        return GroupAdvantages(*body(one, *layout, mask, each, *options))

    if estimator == "gdpo":
        found = _of_each_reward([of_groups(one) for one in values.unbind(1)], weights)
    else:
        if several:
            total = (values if weights is None else values * weights).nansum(1)
            total = total.masked_fill(total.isnan(), float("inf"))  # of infinities of either sign
            values = total.masked_fill(values.isnan().all(1), float("nan"))
        if chosen.successes and values_readable(values):
            one = _all(((values >= 0) & (values <= 1)) | values.isnan(), mask)
            require(one, "rewards", "successes in [0, 1]", "others (+-1 becomes (r + 1) / 2)")
        found = of_groups(values)
    advantage = found.advantage
    if chosen.whitens:
        counted = _counted(rewards, mask)
        whitened = schema.whiten.body(impl, advantage)(advantage, counted, lengths, habits.whiten_eps, habits.of_variance)
        advantage = whitened[0].masked_fill(advantage.isnan() & counted, float("nan"))
    elif estimator == "gpg":
        active = ((values != 0) & _counted(rewards, mask)).sum() if convention == "verl" else (found.size * found.keep).sum()
        advantage = advantage * (found.size.sum() / active.clamp(min=1)).to(advantage.dtype)
    elif std == "batch":
        spread = schema.whiten.body(impl, values)(values, _counted(rewards, mask), None, 0.0, False)[2]
        advantage = torch.where(advantage == 0, advantage, advantage / (spread + eps))
    return found._replace(advantage=advantage)


def _of_each_reward(found: list[GroupAdvantages], weights: Tensor | None) -> GroupAdvantages:
    """ "gdpo" before it is whitened."""
    advantage, mean, std, size, keep = (torch.stack(columns, -1) for columns in zip(*found, strict=True))
    return GroupAdvantages((advantage if weights is None else advantage * weights).sum(-1), mean, std, size, keep.any(-1))


class Whitened(NamedTuple):
    """``values`` like those given; 0-d ``mean`` and ``std``."""

    values: Tensor
    mean: Tensor
    std: Tensor


def whiten_tokens(
    values: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    eps: float | None = None,
    convention: str | None = None,
    impl: Impl = None,
) -> Whitened:
    """All values together brought to mean 0 and variance 1: the token-level normalisation of REINFORCE++ and GDPO.

    Equivalent to::

        v = values[mask].double()
        (v - v.mean()) / (v.var() + eps).sqrt()

    Args:
        values: [...], float32, bfloat16, float16 or float64; per token, or per answer with ``weights``. NaN is a missing value.
        mask: bool, like values; False for what doesn't count, whatever it holds. All count when None.
        weights: like values, of at least 0: how many times each counts (an answer's tokens).
        eps: in the place of the convention's.
        convention: "verl" or None (1e-8 added to the variance), "trl" (1e-4 added to the std), "paper" (nothing).
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        values: float32, or float64 for float64; exactly 0 where nothing counts and where all that counts is equal. mean, std (Bessel's
        correction): NaN and 0 of nothing.

    Numerics: in float64 on CPU, centred in blocks that are merged in order: the same bits at any thread count, any offset harmless. An
    infinite value that counts makes everything that counts NaN.

    Source: Hu, arXiv 2501.03262 (REINFORCE++).

    Raises:
        TypeError, ValueError: a dtype, shape, device or option doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    require_tensor("values", values, FLOATS)
    habits = _convention(convention)
    eps = habits.whiten_eps if eps is None else require_positive("eps", eps, or_zero=True)
    wide = values.detach().to(torch.promote_types(values.dtype, torch.float32))
    if mask is not None:
        require_tensor("mask", mask, (torch.bool,), values)
        require_shape("mask", mask, values.shape)
    if weights is not None:
        require_tensor("weights", weights, _REWARDS, values)
        require_shape("weights", weights, values.shape)
        if values_readable(weights) and weights.numel():
            require(_all(weights >= 0, mask), "weights", "weights of at least 0", weights.min().item())
        weights = weights.detach().to(wide.dtype)
    return Whitened(*schema.whiten.body(impl, wide)(wide, mask, weights, eps, habits.of_variance))
