"""group_advantages as verl 0.9.1 computes it, where its functions import (make bench-peers); TRL's is inline, its lines are written out elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import peers
from rrm_core import group_advantages
from tests.advantages.oracle import random_groups

pytestmark = [pytest.mark.native, pytest.mark.cpu]


@pytest.fixture(scope="module")
def verl():
    if not peers.available():
        pytest.skip("verl is not here (make bench-peers)")
    try:
        return peers.load("verl_core_algos", "verl/trainer/ppo/core_algos.py")
    except ImportError as error:
        pytest.skip(f"verl does not import: {error}")


class Config(dict):
    __getattr__ = dict.get


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "estimator", "needs_pairs"),
    [
        ("grpo", "grpo", False),
        ("grpo_passk", "pass_at_k", True),
        ("reinforce_plus_plus_baseline", "reinforce_pp_baseline", False),
        ("rloo", "rloo", False),
        ("opo", "opo", False),
        ("gpg", "gpg", False),
    ],
)
def test_as_verl_on_ragged_batches(verl, name, estimator, needs_pairs, seed):
    rewards, ids = random_groups(60, 15, seed=seed)
    rewards = rewards.sigmoid().round(decimals=2)
    if needs_pairs:
        ids = torch.arange(60) // 2 % 15
    lengths = torch.randint(1, 9, (60,), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(9) < lengths[:, None]).float()
    per_token = torch.zeros(60, 9)
    per_token[torch.arange(60), lengths - 1] = rewards
    config = Config(norm_adv_by_std_in_grpo=True)
    names = np.array([str(i) for i in ids.tolist()], dtype=object)
    expected, _ = getattr(verl, f"compute_{name}_outcome_advantage")(per_token.double(), mask, names, config=config)
    got = group_advantages(rewards.double(), ids, estimator=estimator, convention="verl", lengths=lengths, impl="native").advantage
    torch.testing.assert_close(got.unsqueeze(1) * mask, expected.double(), rtol=1e-6, atol=1e-7, check_dtype=False)
