"""Registration of the advantage ops: schemas, shapes, bodies. Meaning and validation are in ``reference`` and ``ops``. No gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core._library import define_op
from rrm_core.advantages import reference


def _fake_advantages(
    rewards: Tensor,
    ids: Tensor | None,
    offsets: Tensor | None,
    num_groups: int | None,
    *options: object,
) -> reference.AdvantageResults:
    given = num_groups if offsets is None else offsets.shape[0] - 1
    groups = torch.library.get_ctx().new_dynamic_size() if given is None else given
    mean, std = rewards.new_empty(groups), rewards.new_empty(groups)
    size, keep = rewards.new_empty(groups, dtype=torch.int64), rewards.new_empty(groups, dtype=torch.bool)
    return rewards.new_empty(rewards.shape), mean, std, size, keep


group_advantages = define_op(
    "group_advantages(Tensor rewards, Tensor? ids, Tensor? offsets, SymInt? num_groups, Tensor? mask, Tensor? each, int baseline, float eps,"
    " bool population, bool divide, bool raw_singletons) -> (Tensor advantage, Tensor mean, Tensor std, Tensor size, Tensor keep)",
    reference.group_advantages,
    _fake_advantages,
    in_float64=True,
    triton="advantages:group_advantages",
)

whiten = define_op(
    "whiten(Tensor values, Tensor? mask, Tensor? weights, float eps, bool of_variance) -> (Tensor whitened, Tensor mean, Tensor std)",
    reference.whiten,
    lambda values, *options: (values.new_empty(values.shape), values.new_empty(()), values.new_empty(())),
    in_float64=True,
    triton="whiten:whiten",
)
