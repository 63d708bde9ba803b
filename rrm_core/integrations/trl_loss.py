"""The losses of TRL's trainers by ``policy_loss``, with the metrics they log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rrm_core.losses import policy_loss

# what TRL calls a loss type is a reduction; its denominators are in _normalizer
REDUCTIONS = {
    "grpo": "sequence_mean",
    "bnpo": "token_mean",
    "dapo": "constant",
    "cispo": "constant",
    "dr_grpo": "constant",
    "luspo": "sequence_sum",
}
_OF_THE_WINDOW = ("dapo", "cispo")  # their denominator spans what is accumulated

_FORWARD = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)


def has_loss_of(trainer: Any) -> bool:
    """Whether ``policy_loss`` is what this GRPOTrainer is configured for, bounds and all."""
    args, high = trainer.args, trainer.epsilon_high
    return (
        trainer.loss_type in REDUCTIONS
        and trainer.importance_sampling_level in ("token", "sequence")
        and not (args.use_bias_correction_kl and trainer.beta != 0.0)
        and not trainer.use_adaptive_entropy
        and (high >= 1 if trainer.loss_type == "cispo" else args.delta is None or args.delta > 1 + high)
    )


def _scored(trainer: Any, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probabilities and entropies [B, T] of the completions; the load-balancing loss of a mixture of experts."""
    ids, mask = (torch.cat([inputs[f"prompt_{what}"], inputs[f"completion_{what}"]], 1) for what in ("ids", "mask"))
    found: tuple[Tensor, Tensor, Tensor | None] = trainer._get_per_token_logps_and_entropies(
        model,
        ids,
        mask,
        inputs["completion_ids"].shape[1],
        compute_entropy=True,
        compute_aux_loss=trainer.aux_loss_enabled,
        **{name: inputs.get(name) for name in _FORWARD},
    )
    return found


def _normalizer(trainer: Any, inputs: dict[str, Any], mask: Tensor, training: bool, accumulated: float) -> float | Tensor:
    """Rows without a token are counted, as TRL does."""
    rows = len(mask)
    if trainer.loss_type in ("grpo", "luspo"):
        return accumulated * rows
    if trainer.loss_type == "bnpo":
        return accumulated * mask.sum().clamp(min=1)
    if trainer.loss_type == "dr_grpo":
        return accumulated * rows * float(trainer.max_completion_length)
    items: Tensor = inputs["num_items_in_batch"].clamp(min=1.0) / trainer.accelerator.num_processes
    return items * accumulated / trainer.args.steps_per_generation if training else items


def _weights(trainer: Any, inputs: dict[str, Any], logprob: Tensor, chosen: Tensor | None, mask: Tensor) -> list[Tensor]:
    """What TRL multiplies a token's loss with, each [B, 1] or [B, T] and at least 0."""
    found = [] if chosen is None else [chosen]
    if trainer.off_policy_mask_threshold is not None:
        old = inputs.get("old_per_token_logps")
        sampled = inputs.get("sampling_per_token_logps", logprob.detach() if old is None else old)
        threshold = trainer.off_policy_mask_threshold
        found.append(trainer.get_off_policy_mask(_per_token(inputs["advantages"]), logprob, sampled, mask, threshold))
    if trainer.use_vllm and trainer.vllm_importance_sampling_correction:
        found.append(inputs["importance_sampling_ratio"])
    return found


def _per_token(advantages: Tensor) -> Tensor:
    return advantages.unsqueeze(1) if advantages.dim() == 1 else advantages


def of_grpo(trainer: Any, model: Any, inputs: dict[str, Any]) -> Tensor:
    training = trainer.model.training
    metrics = trainer._metrics["train" if training else "eval"]
    accumulated = trainer.current_gradient_accumulation_steps if training else 1
    mask = inputs["completion_mask"] * inputs["tool_mask"] if "tool_mask" in inputs else inputs["completion_mask"]
    logprob, entropy, balance = _scored(trainer, model, inputs)
    chosen = None
    if trainer.top_entropy_quantile < 1.0:
        chosen = trainer.get_high_entropy_mask(entropy, mask, 1 - trainer.top_entropy_quantile)

    # every objective is linear in the advantage, so that what TRL multiplies the loss with (but not the divergence) goes there
    advantages = inputs["advantages"]
    for weight in _weights(trainer, inputs, logprob, chosen, mask):
        advantages = _per_token(advantages) * weight
    if advantages.dim() == 2:
        advantages = advantages.expand_as(logprob)
    cispo = trainer.loss_type == "cispo"
    old = inputs.get("old_per_token_logps")
    found = policy_loss(
        logprob,
        old,
        advantages,
        mask.bool(),
        ref_logprob=inputs["ref_per_token_logps"] if trainer.beta != 0.0 else None,
        objective="cispo" if cispo else "ppo",
        ratio=trainer.importance_sampling_level,
        clip=(1.0, trainer.epsilon_high - 1) if cispo else (trainer.epsilon_low, trainer.epsilon_high),
        dual_clip=None if cispo else trainer.args.delta,
        kl_coef=trainer.beta,
        reduction=REDUCTIONS[trainer.loss_type],
        normalizer=_normalizer(trainer, inputs, mask, training, accumulated),
    )
    loss = found.loss
    if trainer._entropy_bonus_enabled:
        whole = loss.detach() * (1 if trainer.loss_type in _OF_THE_WINDOW else accumulated)
        metrics["policy_loss"].append(trainer.accelerator.gather(whole).nanmean().item())
        acting = mask if chosen is None else mask * chosen
        loss = loss - trainer.entropy_coef * (entropy * acting).sum() / acting.sum().clamp(min=1) / accumulated
        if training and trainer.accelerator.sync_gradients:
            metrics["entropy_coef"].append(trainer.entropy_coef)
    if balance is not None:
        loss = loss + trainer.router_aux_loss_coef * balance / accumulated
        metrics["aux_loss"].append(trainer.accelerator.gather_for_metrics(balance).mean().item())

    if trainer.beta != 0.0:
        tokens = mask.sum()
        metrics["kl"].append(_over_ranks(trainer, found.kl * tokens, tokens if mask.shape[1] > 1 else tokens.new_tensor(len(mask))))
    metrics["entropy"].append(_mean(trainer, entropy.detach(), mask))
    with torch.no_grad():
        _log_clipped(trainer, metrics, logprob, logprob if old is None else old, _per_token(inputs["advantages"]), mask)
    return loss


def _over_ranks(trainer: Any, total: Tensor, count: Tensor) -> float:
    total, count = trainer.accelerator.reduce(torch.stack([total, count.to(total.dtype)]), reduction="sum")
    return (total / count.clamp(min=1.0)).item()


def _mean(trainer: Any, values: Tensor, mask: Tensor) -> float:
    """Over tokens; over sequences where there is one value for each, [B, 1]."""
    if values.shape[1] == 1:
        return _over_ranks(trainer, values.sum(), mask.new_tensor(len(values)))
    return _over_ranks(trainer, (values * mask).sum(), mask.sum())


def _log_clipped(trainer: Any, metrics: Any, logprob: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> None:
    """Where ratios left their bounds; TRL asks for the extreme sequences, which ``policy_loss`` doesn't tell."""
    from trl.trainer.utils import nanmax, nanmin

    log_ratio = logprob - old
    if trainer.importance_sampling_level == "sequence":
        log_ratio = ((log_ratio * mask).sum(1) / mask.sum(1).clamp(min=1)).unsqueeze(1)
    ratio = log_ratio.exp()
    if trainer.loss_type == "cispo":
        metrics["cispo_clip_ratio"].append(_mean(trainer, ((ratio > trainer.epsilon_high) & (advantages > 0)).float(), mask))
        return
    low = ((ratio < 1 - trainer.epsilon_low) & (advantages < 0)).float()
    high = ((ratio > 1 + trainer.epsilon_high) & (advantages > 0)).float()
    for name, values in (("low_mean", low), ("high_mean", high), ("region_mean", low + high)):
        metrics[f"clip_ratio/{name}"].append(_mean(trainer, values, mask))
    for name, values, extreme in (("low_min", low, nanmin), ("high_max", high, nanmax)):
        shares = values.squeeze(1) if values.shape[1] == 1 else (values * mask).sum(1) / mask.sum(1)
        metrics[f"clip_ratio/{name}"].append(extreme(trainer.accelerator.gather(shares)).item())


def of_rloo(trainer: Any, model: Any, inputs: dict[str, Any]) -> Tensor:
    """A ratio per sequence, of the product of its tokens' probabilities: each sequence is one token to ``policy_loss``."""
    from trl.trainer.utils import nanmax, nanmin

    metrics = trainer._metrics["train" if trainer.model.training else "eval"]
    mask, advantages, old = inputs["completion_mask"], inputs["advantages"], inputs["old_logps"]
    logprob, entropy, balance = _scored(trainer, model, inputs)
    whole = (logprob * mask).sum(1)
    loss = policy_loss(whole.unsqueeze(1), old.unsqueeze(1), advantages, clip=(trainer.epsilon_low, trainer.epsilon_high)).loss
    if balance is not None:
        loss = loss + trainer.router_aux_loss_coef * balance
        metrics["aux_loss"].append(trainer.accelerator.gather_for_metrics(balance).mean().item())
    metrics["entropy"].append(_over_ranks(trainer, (entropy.detach() * mask).sum(), mask.sum()))

    ratio = (whole.detach() - old).exp()
    low = ((ratio < 1 - trainer.epsilon_low) & (advantages < 0)).float()
    high = ((ratio > 1 + trainer.epsilon_high) & (advantages > 0)).float()
    low, high = trainer.accelerator.gather(low), trainer.accelerator.gather(high)
    for name, value in (("low_mean", low.mean()), ("low_min", nanmin(low)), ("high_mean", high.mean()), ("high_max", nanmax(high))):
        metrics[f"clip_ratio/{name}"].append(value.item())
    metrics["clip_ratio/region_mean"].append((low + high).mean().item())
    return loss
