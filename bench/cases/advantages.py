"""Advantage cases: a batch of answers with ids in any order, and very many equal groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import peers
from bench.floors import reads_and_writes
from bench.registry import Case, Inputs, Run, Scale, contract
from rrm_core import group_advantages

GROUP = 8
WITH_IDS = {"tiny": 24, "quick": 4096, "full": 4096}  # rewards
EQUAL = {"tiny": 40, "quick": 2_000_000, "full": 10_000_000}
EPS = 1e-6


def _rewards(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(n))


def with_ids(n: int, device: torch.device) -> Inputs:
    """Rewards, ids, and the ids as the strings that verl's data carry."""
    ids = torch.arange(n // GROUP).repeat_interleave(GROUP)[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    names = np.array([f"{i:032x}" for i in ids.tolist()], dtype=object)
    return _rewards(n).to(device), ids.to(device), names


def plain_of_ids(rewards: Tensor, ids: Tensor, names: Any) -> dict[str, Tensor]:
    found, index, size = ids.unique(return_inverse=True, return_counts=True)
    mean = torch.zeros(len(found), device=rewards.device).index_add_(0, index, rewards) / size
    away = rewards - mean[index]
    std = (torch.zeros_like(mean).index_add_(0, index, away * away) / (size - 1)).sqrt()
    return {"advantage": away / (std[index] + EPS), "mean": mean, "std": std}


def plain_of_numbers(rewards: Tensor, ids: Tensor, names: Any) -> dict[str, Tensor]:
    """The same where ids are known to be 0 to G - 1."""
    groups = len(rewards) // GROUP
    size = torch.zeros(groups, device=rewards.device).index_add_(0, ids, torch.ones_like(rewards))
    mean = torch.zeros_like(size).index_add_(0, ids, rewards) / size
    away = rewards - mean[ids]
    std = (torch.zeros_like(mean).index_add_(0, ids, away * away) / (size - 1)).sqrt()
    return {"advantage": away / (std[ids] + EPS), "mean": mean, "std": std}


def plain_of_equal(rewards: Tensor) -> dict[str, Tensor]:
    groups = rewards.view(-1, GROUP)
    mean, std = groups.mean(1, keepdim=True), groups.std(1, keepdim=True)
    return {"advantage": ((groups - mean) / (std + EPS)).flatten(), "mean": mean.flatten(), "std": std.flatten()}


def _verl() -> dict[str, Run]:
    if not peers.available():
        return {}
    module = peers.load("verl_core_algos", "verl/trainer/ppo/core_algos.py")

    def vectorised(rewards: Tensor, ids: Tensor, names: Any) -> dict[str, Tensor]:
        scores = rewards.unsqueeze(1)  # one token each
        advantages, _ = module.compute_grpo_vectorized_outcome_advantage(scores, torch.ones_like(scores), names)
        return {"advantage": advantages.flatten()}

    def loop(rewards: Tensor, ids: Tensor, names: Any) -> dict[str, Tensor]:
        scores = rewards.unsqueeze(1)
        advantages, _ = module.compute_grpo_outcome_advantage(scores, torch.ones_like(scores), names)
        return {"advantage": advantages.flatten()}

    return {"verl, vectorised": vectorised, "verl": loop}


def cases(scale: Scale, inductor: bool) -> Iterator[Case]:
    n = WITH_IDS[scale]
    yield Case(
        "advantages",
        ("group_advantages",),
        f"group_advantages, {n:,} rewards with ids",
        lambda device: with_ids(n, device),
        lambda rewards, ids, names: group_advantages(rewards, ids, eps=EPS),
        {"PyTorch": plain_of_ids, **_verl()},
        contract(lambda rewards, ids, names: group_advantages(rewards, ids, eps=EPS, impl="reference")),
        moves=16.0 * n,  # rewards and ids read, advantages written
    )
    groups = n // GROUP
    yield Case(
        "advantages",
        ("group_advantages",),
        f"group_advantages, {n:,} rewards with ids below num_groups",
        lambda device: with_ids(n, device),
        lambda rewards, ids, names: group_advantages(rewards, ids, eps=EPS, num_groups=groups),
        {"PyTorch": plain_of_numbers},
        contract(lambda rewards, ids, names: group_advantages(rewards, ids, eps=EPS, num_groups=groups, impl="reference")),
        moves=16.0 * n,
    )
    many = EQUAL[scale]
    compiled = {"inductor": torch.compile(plain_of_equal, dynamic=False)} if inductor else {}
    yield Case(
        "advantages",
        ("group_advantages",),
        f"group_advantages, {many:,} rewards in groups of {GROUP}",
        lambda device: (_rewards(many).to(device),),
        lambda rewards: group_advantages(rewards, GROUP, eps=EPS),
        {"PyTorch": plain_of_equal, **compiled},
        contract(lambda rewards: group_advantages(rewards, GROUP, eps=EPS, impl="reference")),
        moves=8.0 * many,  # rewards read, advantages written; what is written per group is left out
        floors=reads_and_writes(0, times_read=1),
    )
