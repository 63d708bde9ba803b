"""group_advantages against exact arithmetic, against the formulas of TRL and verl, and on every kind of reward."""

from __future__ import annotations

import math

import pytest
import torch

from rrm_core import Offsets, group_advantages
from rrm_core.testing import same_bits
from tests.advantages.oracle import ESTIMATORS, INF, NAN, check, random_groups

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("singleton", ["zero", "reward"])
def test_groups_of_every_small_size(impl, estimator, singleton):
    sizes = torch.arange(1, 40)
    ids = torch.repeat_interleave(sizes, sizes)
    rewards, _ = random_groups(len(ids), 1)
    offsets = Offsets(torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]))
    for groups in (None, offsets):
        check(rewards, ids, impl, groups=groups, estimator=estimator, singleton=singleton)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 16, 33, 64, 130])
def test_equal_groups_with_missing_and_masked_rewards(impl, estimator, size):
    rewards, _ = random_groups(size * 21, 1, seed=size)
    generator = torch.Generator().manual_seed(size)
    rewards[torch.rand(len(rewards), generator=generator) < 0.15] = NAN
    mask = torch.rand(len(rewards), generator=generator) < 0.8
    rewards[:size] = NAN
    mask[size : 2 * size] = False
    ids = torch.arange(len(rewards)) // size
    got = check(rewards, ids, impl, groups=size, estimator=estimator, mask=mask)
    assert got.size[:2].tolist() == [0, 0]
    assert got.mean[:2].isnan().all()
    assert bool((got.advantage[~mask | rewards.isnan()] == 0).all())


@pytest.mark.parametrize("size", [1023, 1024, 1025, 4097, 50_000])
def test_regression_groups_above_1024(impl, size):
    """A block per group ends at 1024 elsewhere (RL-Kernel)."""
    rewards, ids = random_groups(size + 9, 1, offset=3.0)
    ids[size:] = 1
    check(rewards, ids, impl)
    check(rewards[:size], ids[:size], impl, groups=size, estimator="rloo")


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e3, 1e6, -1e6])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_regression_offset_variance(impl, offset, estimator):
    """The mean of squares less the square of the mean gives +-10009.8 for the first of these elsewhere (RL-Kernel)."""
    triple = torch.tensor([0.0, 0.01, 0.02]) + offset
    check(torch.cat([triple, triple.flip(0)]), torch.tensor([0, 0, 0, 1, 1, 1]), impl, groups=3, estimator=estimator)
    ladder = torch.arange(5000) * 0.25 + offset
    check(ladder, torch.zeros(5000, dtype=torch.int64), impl, groups=5000, estimator=estimator)


def test_rewards_a_cent_apart_at_a_thousand(impl):
    got = group_advantages(torch.tensor([1000.0, 1000.01, 1000.02], dtype=torch.float64), 3, eps=0.0, impl=impl)
    assert got.advantage.tolist() == pytest.approx([-1, 0, 1], abs=1e-9)  # the cents are rounded at 1e-13 of a thousand
    assert got.advantage[2] * math.sqrt(1.5) == pytest.approx(1.2247448714, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -0.3, 1e6, 1 / 3, 1e30, 1e-40])
@pytest.mark.parametrize("size", [2, 3, 7, 10, 1000, 9001])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_regression_leave_one_out_residue(impl, value, size, eps):
    """Equal rewards whose float32 mean is not their value have a std of residue, and advantages in the thousands elsewhere (NeMo-RL)."""
    rewards = torch.full((2 * size,), value)
    for estimator in ESTIMATORS:
        got = group_advantages(rewards, size, estimator=estimator, eps=eps, impl=impl)
        assert bool((got.advantage == 0).all())
        assert got.std.tolist() == [0.0, 0.0]
        assert bool((got.mean == rewards[0]).all())
        assert got.keep.tolist() == [False, False]


def test_an_outlier_does_not_blur_the_rest(impl):
    for place in (0, 700, 2999):
        rewards, ids = random_groups(3000, 1)
        rewards[place] = 1e6
        for estimator in ESTIMATORS:
            check(rewards, ids, impl, estimator=estimator)


def test_regression_singletons_are_treated_alike(impl):
    """Elsewhere a lone reward is kept by GRPO and the looping RLOO and zeroed by the vectorised RLOO (verl)."""
    rewards, ids = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.5, NAN]), torch.tensor([0, 0, 0, 1, 2, 2])
    for estimator in ESTIMATORS:
        for singleton, expected in (("zero", [0.0, 0.0, 0.0]), ("reward", [1.0, 0.5, 0.0])):
            got = group_advantages(rewards, ids, estimator=estimator, singleton=singleton, impl=impl)
            assert got.advantage[3:].tolist() == expected
            assert got.size.tolist() == [3, 1, 1]
            assert got.std[1:].tolist() == [0.0, 0.0]
            assert got.keep.tolist() == [True, False, False]


def test_regression_one_nan_stays_alone(impl):
    rewards, ids = random_groups(40, 5)
    for estimator in ESTIMATORS:
        whole = group_advantages(rewards, ids, estimator=estimator, impl=impl)
        missing = rewards.clone()
        missing[7] = NAN
        got = check(missing, ids, impl, estimator=estimator)
        assert got.advantage[7] == 0
        others = ids != ids[7]
        assert same_bits(got.advantage[others], whole.advantage[others])
        without = torch.arange(40) != 7
        apart = group_advantages(rewards[without], ids[without], estimator=estimator, impl=impl)
        assert same_bits(got.advantage[without], apart.advantage)


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
def test_masked_rows_are_not_looked_at(impl, poison):
    rewards, ids = random_groups(60, 4)
    mask = torch.arange(60) % 3 != 1
    clean = group_advantages(rewards, ids, mask=mask, impl=impl)
    got = group_advantages(rewards.masked_fill(~mask, poison), ids, mask=mask, impl=impl)
    assert all(same_bits(a, b) for a, b in zip(got, clean, strict=True))
    assert bool((got.advantage[~mask] == 0).all())
    check(rewards, ids, impl, mask=mask)


@pytest.mark.parametrize("infinities", [[INF], [-INF], [INF, -INF], [INF, INF]])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_infinite_rewards_make_their_group_nan(impl, infinities, estimator):
    lone = torch.tensor(infinities)
    rewards = torch.cat([torch.tensor([1.0, 2.0, NAN]), lone, torch.tensor([3.0, 4.0]), lone])
    ids = torch.tensor([0] * (3 + len(lone)) + [1, 1] + [2] * len(lone))
    got = group_advantages(rewards, ids, estimator=estimator, singleton="reward", impl=impl)
    assert got.advantage.isnan().tolist() == [True, True, False, *[True] * len(lone), False, False, *[True] * len(lone)]
    assert got.advantage[2] == 0
    assert got.mean.isnan().tolist() == got.std.isnan().tolist() == [True, False, True]
    assert got.keep.tolist() == [False, True, False]
    assert got.size.tolist() == [2 + len(lone), 2, len(lone)]


def test_as_trl(impl):
    """view(-1, n), nanmean, nanstd with Bessel's correction, eps 1e-4, what is NaN then is 0."""
    n, rewards = 6, torch.rand(60, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    rewards[[3, 17, 18, 19, 20, 21, 22]] = NAN
    grid = rewards.double().view(-1, n)
    mean = grid.nanmean(1, keepdim=True)
    count = (~grid.isnan()).sum(1, keepdim=True)
    std = ((grid - mean).square().nansum(1, keepdim=True) / (count - 1)).sqrt()
    expected = ((grid - mean) / (std + 1e-4)).nan_to_num(0.0).flatten()
    got = group_advantages(rewards.double(), n, eps=1e-4, impl=impl)
    assert torch.allclose(got.advantage, expected, rtol=1e-12, atol=1e-14)
    others = ((grid.nansum(1, keepdim=True) - grid) / (count - 1)).flatten()
    rloo = group_advantages(rewards.double(), n, estimator="rloo", impl=impl).advantage
    assert torch.allclose(rloo, (rewards - others).nan_to_num(0.0, posinf=0.0, neginf=0.0), rtol=1e-12, atol=1e-14)


def test_as_verl(impl):
    """A dictionary of lists by id; torch.std, eps 1e-6; a lone reward has mean 0 and std 1."""
    rewards, ids = random_groups(50, 20, seed=3)
    by_id = {i: rewards[ids == i].double() for i in ids.tolist()}
    assert min(len(r) for r in by_id.values()) == 1
    expected = []
    for r, i in zip(rewards.double(), ids.tolist(), strict=True):
        mean, std = (by_id[i].mean(), by_id[i].std()) if len(by_id[i]) > 1 else (0.0, 1.0)
        expected.append((r - mean) / (std + 1e-6))
    got = group_advantages(rewards.double(), ids, singleton="reward", impl=impl).advantage
    lone = torch.tensor([len(by_id[i]) == 1 for i in ids.tolist()])
    expected = torch.stack(expected)
    assert torch.allclose(got[~lone], expected[~lone], rtol=1e-12, atol=1e-14)
    assert torch.equal(got[lone], rewards[lone].double())
    assert torch.allclose(got[lone], expected[lone], rtol=2e-6, atol=0)  # verl divides it by 1 + 1e-6


def test_binary_rewards_have_a_closed_form(impl):
    rewards = torch.tensor([1.0, 1, 1, 0, 0, 0, 0], dtype=torch.float64)
    got = group_advantages(rewards, 7, eps=0.0, impl=impl).advantage
    assert got[0] == pytest.approx(math.sqrt(6 / 7 * (4 / 7) / (3 / 7)), rel=1e-14)  # 1.06904
    assert got[6] == pytest.approx(-math.sqrt(6 / 7 * (3 / 7) / (4 / 7)), rel=1e-14)  # -0.80178


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool],
)
def test_reward_dtypes(impl, dtype):
    rewards = torch.tensor([0, 1, 1, 1, 0, 0]).to(dtype)
    got = group_advantages(rewards, 3, impl=impl)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert [x.dtype for x in got] == [wide, wide, wide, torch.int64, torch.bool]
    expected = group_advantages(rewards.to(wide), 3, impl=impl)
    assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))


def test_half_rewards_are_not_rounded_again(impl):
    for dtype in (torch.bfloat16, torch.float16):
        rewards, ids = random_groups(300, 9, offset=100.0, dtype=dtype)
        check(rewards, ids, impl)


def test_no_gradient(impl):
    rewards = torch.tensor([1.0, 2.0], requires_grad=True)
    got = group_advantages(rewards, 2, impl=impl)
    assert not any(x.requires_grad for x in got)
