"""The published setups against their formulas, written out for a small case in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from rrm_core.advantages import group_advantages
from rrm_core.judges.presets import DEEPSEEK_GRM_RL, J1_RL, RM_R1_RLVR
from rrm_core.losses import policy_loss

SETUPS = {  # G, what is added to the std, beta, and whether each text's mean is taken first
    "rm_r1": (RM_R1_RLVR, 7, 1e-6, 0.001, False),
    "deepseek_grm": (DEEPSEEK_GRM_RL, 4, 0.0, 0.08, True),
    "j1": (J1_RL, 5, 1e-6, 0.01, False),
}
setups = pytest.mark.parametrize(("preset", "size", "eps", "beta", "by_text"), SETUPS.values(), ids=SETUPS)


def rewards_of(size):
    """Two groups, one with and one without signal."""
    return [1.0, 1.0, 1.0, -1.0, *[1.0] * (size - 4)] + [-1.0] * size


def advantages_by_hand(rewards, size, eps):
    found = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        mean = math.fsum(group) / size
        std = math.sqrt(math.fsum((r - mean) ** 2 for r in group) / (size - 1))  # Bessel's correction
        found += [0.0 if std == 0 else (r - mean) / (std + eps) for r in group]
    return found


@setups
def test_advantages(preset, size, eps, beta, by_text):
    rewards = rewards_of(size)
    got = group_advantages(torch.tensor(rewards, dtype=torch.float64), **preset.advantages)
    assert got.advantage.tolist() == pytest.approx(advantages_by_hand(rewards, size, eps), rel=1e-14)
    assert got.keep.tolist() == [True, False]


def test_a_lone_reward_is_its_own_advantage_in_verl():
    for preset, expected in ((RM_R1_RLVR, 1.0), (J1_RL, 1.0), (DEEPSEEK_GRM_RL, 0.0)):
        rewards = torch.tensor([1.0] + [float("nan")] * (preset.group_size - 1))
        assert group_advantages(rewards, **preset.advantages).advantage.tolist() == [expected] + [0.0] * (preset.group_size - 1)


@setups
def test_loss_and_gradient(preset, size, eps, beta, by_text):
    rows, longest = 2 * size, 5
    advantage = torch.tensor(advantages_by_hand(rewards_of(size), size, eps), dtype=torch.float64)
    old, ref = -torch.rand(2, rows, longest, dtype=torch.float64)
    logprob = (old + torch.randn(rows, longest, dtype=torch.float64)).requires_grad_()  # far enough for both clips
    lengths = torch.arange(rows) % longest + 1
    mask = torch.arange(longest) < lengths[:, None]

    clipped, terms = set(), []
    for row in range(rows):
        terms.append([])
        for t in range(int(lengths[row])):
            ratio, a = (logprob[row, t] - old[row, t]).exp(), advantage[row]
            surrogate = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
            clipped.add((bool(ratio < 0.8), bool(ratio > 1.2), a.sign().item()))
            d = ref[row, t] - logprob[row, t]
            terms[-1].append(surrogate - beta * (d.exp() - d - 1))
    assert {(True, False, -1.0), (False, True, 1.0), (False, True, -1.0)} <= clipped
    means = [torch.stack(text).mean() for text in terms]
    expected = -(torch.stack(means).mean() if by_text else torch.cat([torch.stack(text) for text in terms]).mean())
    got = policy_loss(logprob, old, advantage, mask, ref_logprob=ref, **preset.loss).loss
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)  # some 1e-16 a token, of terms that partly cancel
    gradients = [torch.autograd.grad(x, logprob)[0] for x in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-16)


@setups
def test_presets_cannot_be_changed(preset, size, eps, beta, by_text):
    assert preset.group_size == preset.advantages["groups"] == size
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.group_size = 8
    for arguments in (preset.advantages, preset.loss):
        with pytest.raises(TypeError):
            arguments["eps"] = 1.0
