"""Registration of the advantage ops: schemas, shapes, plain bodies. Meaning and validation are in ``reference`` and ``ops``. No gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core._library import define_op
from rrm_core.advantages import reference


def _fake_order(ids: Tensor, num_groups: int | None) -> tuple[Tensor, Tensor]:
    offsets = torch.library.get_ctx().new_dynamic_size(min=1) if num_groups is None else num_groups + 1
    return ids.new_empty(ids.shape), ids.new_empty(offsets)


def _fake_advantages(
    rewards: Tensor,
    order: Tensor | None,
    offsets: Tensor | None,
    group_size: int,
    mask: Tensor | None,
    estimator: int,
    eps: float,
    raw_singletons: bool,
) -> reference.AdvantageResults:
    groups = rewards.shape[0] // group_size if offsets is None else offsets.shape[0] - 1
    mean, std = rewards.new_empty(groups), rewards.new_empty(groups)
    size, keep = rewards.new_empty(groups, dtype=torch.int64), rewards.new_empty(groups, dtype=torch.bool)
    return rewards.new_empty(rewards.shape), mean, std, size, keep


group_order = define_op("group_order(Tensor ids, SymInt? num_groups) -> (Tensor order, Tensor offsets)", reference.group_order, _fake_order)

group_advantages = define_op(
    "group_advantages(Tensor rewards, Tensor? order, Tensor? offsets, SymInt group_size, Tensor? mask, int estimator, float eps,"
    " bool raw_singletons) -> (Tensor advantage, Tensor mean, Tensor std, Tensor size, Tensor keep)",
    reference.group_advantages,
    _fake_advantages,
    in_float64=True,
    triton="advantages:group_advantages",
)
