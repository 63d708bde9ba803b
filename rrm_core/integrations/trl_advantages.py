"""The advantages of TRL's trainers. TRL computes them inside a long method: computed again from the rewards, they take the place of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from rrm_core.advantages import group_advantages, whiten_tokens

Method = Callable[..., Any]

# multi_objective_aggregation, scale_rewards -> estimator, std
_ESTIMATORS = {
    ("sum_then_normalize", "group"): ("grpo", None),
    ("sum_then_normalize", "batch"): ("grpo", "batch"),
    ("sum_then_normalize", "none"): ("dr_grpo", None),
    ("normalize_then_sum", "group"): ("gdpo", None),
    ("normalize_then_sum", "batch"): ("gdpo", None),
    ("normalize_then_sum", "none"): ("gdpo", None),
}


@contextmanager
def recording(trainer: Any, **methods: str) -> Iterator[dict[str, list[Any]]]:
    """What the trainer's methods return meanwhile, whichever subclass's they are."""
    seen: dict[str, list[Any]] = {name: [] for name in methods}

    def recorded(method: Method, results: list[Any]) -> Method:
        @functools.wraps(method)
        def record(*args: Any, **options: Any) -> Any:
            results.append(method(*args, **options))
            return results[-1]

        return record

    own = vars(trainer)
    before = {method: own[method] for method in methods.values() if method in own}
    for name, method in methods.items():
        own[method] = recorded(getattr(trainer, method), seen[name])
    try:
        yield seen
    finally:
        for method in methods.values():
            del own[method]
        own.update(before)


def overwrite(advantages_of: Callable[[Any, dict[str, Any], dict[str, list[Any]]], Tensor | None]) -> Callable[[Method], Method]:
    """``advantages_of(trainer, output, seen)`` gives those of all ranks, or None to keep TRL's."""

    def wrap(original: Method) -> Method:
        @functools.wraps(original)
        def method(self: Any, inputs: Any) -> Any:
            with recording(self, rewards="_calculate_rewards", logprobs="_get_per_token_logps_and_entropies") as seen:
                output = original(self, inputs)
            advantages = advantages_of(self, output, seen) if len(seen["rewards"]) == 1 else None
            if advantages is not None:
                advantages = advantages.nan_to_num(nan=0.0)
                rows = output["advantages"].shape[0]
                first = self.accelerator.process_index * rows
                output["advantages"] = advantages[first : first + rows]
                shown = self._logs["advantages"]
                for _ in range(min(len(shown), len(advantages))):
                    shown.pop()
                shown.extend(advantages.tolist())
            return output

        return method

    return wrap


def _group_size(trainer: Any) -> int:
    return int(trainer.num_generations if trainer.model.training else trainer.num_generations_eval)


def of_grpo(trainer: Any, output: dict[str, Any], seen: dict[str, list[Any]]) -> Tensor | None:
    chosen = _ESTIMATORS.get((trainer.multi_objective_aggregation, trainer.scale_rewards))
    if chosen is None:
        return None
    (rewards,) = seen["rewards"]  # [N, R], NaN where a function had none to give
    weights = trainer.reward_weights.to(rewards.device)
    estimator, std = chosen
    return group_advantages(rewards, _group_size(trainer), estimator=estimator, std=std, weights=weights, convention="trl").advantage


def of_rloo(trainer: Any, output: dict[str, Any], seen: dict[str, list[Any]]) -> Tensor | None:
    from accelerate.utils import gather

    (each,) = seen["rewards"]  # [N, R]
    rewards = (each * trainer.reward_weights.to(each.device)).nansum(1).masked_fill(each.isnan().all(1), float("nan"))
    if trainer.reward_clip_range:
        rewards = rewards.clamp(*trainer.reward_clip_range)
    if trainer.beta != 0.0:  # the divergence is part of the reward
        if len(seen["logprobs"]) != 2:
            return None
        (old, _, _), (reference, _, _) = seen["logprobs"]
        rewards = rewards - trainer.beta * gather(((old - reference) * output["completion_mask"]).sum(-1))
    found = group_advantages(rewards, _group_size(trainer), estimator="rloo", convention="trl")
    if not trainer.normalize_advantages:
        return found.advantage
    counted = ~rewards.isnan() & (found.size > 1).repeat_interleave(_group_size(trainer))
    return whiten_tokens(found.advantage, counted, convention="trl").values
