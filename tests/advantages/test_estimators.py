"""Every estimator of group_advantages, its conventions, and whitening."""

from __future__ import annotations

import pytest
import torch

from rrm_core import GroupAdvantage, Offsets, group_advantages, whiten_tokens
from rrm_core.testing import assert_within_contract, same_bits
from tests.advantages.oracle import NAN, OF_GROUPS, check, random_groups

pytestmark = pytest.mark.triton
WHITENED = ["reinforce_pp_baseline", "gdpo"]


def of_rows(rewards, estimator, seed=0):
    """Rewards as the estimator takes them, and what else it needs of every row."""
    generator = torch.Generator().manual_seed(seed)
    if estimator in ("maxrl", "pass_at_k"):
        rewards = torch.where(rewards.isnan(), NAN, (rewards.sigmoid() * 8).round() / 8)  # ties
    numbers = torch.randint(0, 50, rewards.shape, generator=generator)
    return rewards, {"opo": {"lengths": numbers}, "remax": {"baseline": numbers / 7}}.get(estimator, {})


@pytest.mark.parametrize("estimator", OF_GROUPS)
def test_ragged_groups_of_every_small_size(impl, estimator):
    sizes = torch.arange(1, 24)
    ids = torch.repeat_interleave(sizes, sizes)[torch.randperm(int(sizes.sum()), generator=torch.Generator().manual_seed(5))]
    rewards, _ = random_groups(len(ids), 1)
    rewards[::11] = NAN
    rewards, own = of_rows(rewards, estimator)
    own = {name: value.double() if value.is_floating_point() else value for name, value in own.items()}
    own = {name: value.float() for name, value in own.items()}
    for singleton in ("zero", "reward"):
        check(rewards, ids, impl, estimator=estimator, singleton=singleton, **own)
    mask = torch.arange(len(ids)) % 5 != 0
    check(rewards, ids, impl, estimator=estimator, mask=mask, **own)
    order = ids.argsort(stable=True)
    offsets = Offsets(torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]))
    sorted_own = {name: value[order] for name, value in own.items()}
    check(rewards[order], ids[order], impl, groups=offsets, estimator=estimator, **sorted_own)


@pytest.mark.parametrize("estimator", OF_GROUPS)
@pytest.mark.parametrize("size", [2, 5, 1100])
def test_equal_groups(impl, estimator, size):
    rewards, own = of_rows(random_groups(3 * size, 1, seed=size)[0], estimator)
    ids = torch.arange(3 * size) // size
    check(rewards, ids, impl, groups=size, estimator=estimator, **{name: value.float() for name, value in own.items()})


@pytest.mark.parametrize("estimator", ["dr_grpo", "rloo", "opo", "gpg"])
@pytest.mark.parametrize("offset", [0.1, 1e6, -1e6])
def test_equal_rewards_are_exactly_zero_at_any_offset(impl, estimator, offset):
    rewards, lengths = torch.full((21,), offset), torch.arange(21) + 1
    own = {"lengths": lengths} if estimator == "opo" else {}
    got = group_advantages(rewards, 7, estimator=estimator, impl=impl, **own)
    assert bool((got.advantage == 0).all())
    check_opo = {"estimator": "opo", "lengths": lengths.float()}
    check(torch.arange(21) * 0.25 + offset, torch.arange(21) // 7, impl, groups=7, **check_opo)


@pytest.mark.parametrize("std", ["sample", "population"])
@pytest.mark.parametrize("estimator", ["grpo", "pass_at_k"])
def test_either_std(impl, estimator, std):
    rewards, _ = of_rows(random_groups(120, 1)[0], estimator)
    check(rewards, torch.arange(120) // 6, impl, groups=6, estimator=estimator, std=std)


def test_a_thousand_and_two_cents_by_the_population(impl):
    got = group_advantages(torch.tensor([1000.0, 1000.01, 1000.02], dtype=torch.float64), 3, std="population", convention="paper", impl=impl)
    assert got.advantage.tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5], abs=1e-9)  # +-1.2247


def test_a_std_of_the_batch(impl):
    rewards, ids = random_groups(60, 9, seed=2)
    rewards = rewards.double()
    rewards[4] = NAN
    known = ~rewards.isnan()
    got = group_advantages(rewards, ids, std="batch", convention="trl", impl=impl).advantage
    centred = group_advantages(rewards, ids, estimator="dr_grpo", impl=impl).advantage
    assert torch.allclose(got, centred / (rewards[known].std() + 1e-4), rtol=1e-12)
    assert bool((group_advantages(torch.ones(6), 3, std="batch", convention="paper", impl=impl).advantage == 0).all())


def test_gpg_scales_by_the_groups_that_have_a_signal(impl):
    rewards = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.5, NAN])
    plain = group_advantages(rewards, 2, estimator="dr_grpo", impl=impl).advantage
    got = group_advantages(rewards, 2, estimator="gpg", impl=impl).advantage
    assert got.tolist() == (plain * 7 / 2).tolist()  # 7 answers count, 2 of them differ
    got = group_advantages(rewards, 2, estimator="gpg", convention="verl", singleton="zero", impl=impl).advantage
    assert torch.allclose(got, plain * 7 / 4)  # 4 rewards are not 0
    assert group_advantages(torch.zeros(4), 2, estimator="gpg", impl=impl).advantage.tolist() == [0.0] * 4


@pytest.mark.parametrize("lengths", [None, torch.arange(48) % 7])
def test_reinforce_pp_baseline_whitens_the_batch(impl, lengths):
    rewards, ids = random_groups(48, 7, seed=4)
    rewards = rewards.double()
    centred = group_advantages(rewards, ids, estimator="dr_grpo", impl=impl).advantage
    tokens = centred if lengths is None else centred.repeat_interleave(lengths)
    expected = (centred - tokens.mean()) / (tokens.var() + 1e-8).sqrt()
    if lengths is not None:
        expected = expected.masked_fill(lengths == 0, 0.0)
    got = group_advantages(rewards, ids, estimator="reinforce_pp_baseline", lengths=lengths, impl=impl).advantage
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("convention", ["paper", "trl", "verl"])
def test_gdpo_sums_scores_of_each_reward(impl, convention):
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(24, 3, generator=generator, dtype=torch.float64).round(decimals=1)
    rewards[3, 1], rewards[7] = NAN, NAN
    rewards[8:12, 2] = 0.3  # no signal in one of them
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    eps = {"paper": 0.0, "trl": 1e-4, "verl": 1e-6}[convention]
    grid = rewards.view(6, 4, 3)
    mean = grid.nanmean(1, keepdim=True)
    count = (~grid.isnan()).sum(1, keepdim=True)
    std = ((grid - mean).square().nansum(1, keepdim=True) / (count - 1)).sqrt()
    score = ((grid - mean) / (std + eps)).nan_to_num(0.0).view(24, 3)
    total = (score * weights).sum(1)
    known = ~rewards.isnan().all(1)
    centred, var = total - total[known].mean(), total[known].var()
    expected = centred / (var.sqrt() + 1e-4 if convention == "trl" else (var + (1e-8 if convention == "verl" else 0.0)).sqrt())
    got = group_advantages(rewards, 4, estimator="gdpo", convention=convention, weights=weights, impl=impl)
    assert torch.allclose(got.advantage, expected.masked_fill(~known, 0.0), rtol=1e-6, atol=1e-9)
    assert got.mean.shape == got.std.shape == got.size.shape == (6, 3)
    assert got.keep.shape == (6,)


def test_several_rewards_are_summed_first(impl):
    rewards = torch.tensor([[1.0, NAN], [0.5, 2.0], [NAN, NAN], [0.0, 1.0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 0.5], dtype=torch.float64)
    total = torch.tensor([1.0, 1.5, NAN, 0.5], dtype=torch.float64)
    got = group_advantages(rewards, 4, weights=weights, impl=impl)
    assert all(same_bits(a, b) for a, b in zip(got, group_advantages(total, 4, impl=impl), strict=True))


def test_maxrl_on_successes(impl):
    got = group_advantages(torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]), 4, estimator="maxrl", eps=0.0, impl=impl).advantage
    assert got.tolist() == [3.0, -1.0, -1.0, -1.0, *[0.0] * 8]


def test_pass_at_k_rewards_the_best_alone(impl):
    got = group_advantages(torch.tensor([0.5, 1.0, 0.25, 1.0, 1.0, 0.0]), 3, estimator="pass_at_k", impl=impl).advantage
    assert got.tolist() == [0.0, 0.5, 0.0, 0.0, 0.0, 0.0]


def test_conventions_set_eps_and_lone_rewards(impl):
    rewards, ids = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0, 0, 1])
    for convention, eps, lone in ((None, 1e-6, 0.0), ("paper", 0.0, 0.0), ("trl", 1e-4, 0.0), ("verl", 1e-6, 0.5)):
        got = group_advantages(rewards, ids, convention=convention, impl=impl).advantage
        assert same_bits(got[:2], group_advantages(rewards[:2], 2, eps=eps, impl=impl).advantage)
        assert got[2] == lone


@pytest.mark.parametrize("estimator", [*OF_GROUPS, "gpg", *WHITENED])
def test_the_module_holds_options(impl, estimator):
    rewards, own = of_rows(random_groups(12, 1)[0], estimator)
    rewards = rewards.unsqueeze(1) if estimator == "gdpo" else rewards
    module = GroupAdvantage(estimator, convention="trl", impl=impl)
    expected = group_advantages(rewards, 4, estimator=estimator, convention="trl", impl=impl, **own)
    assert all(same_bits(a, b) for a, b in zip(module(rewards, 4, **own), expected, strict=True))
    assert estimator in repr(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "ppo"}, "estimator: expected 'grpo' or"),
        ({"convention": "openrlhf"}, "convention: expected 'paper' or 'trl' or 'verl' or None"),
        ({"estimator": "opo"}, "lengths: expected a tensor with this estimator, got None"),
        ({"estimator": "remax"}, "baseline: expected a tensor"),
        ({"estimator": "gdpo"}, r"rewards: expected shape \[N, R\] for 'gdpo'"),
        ({"std": "batch", "estimator": "gdpo"}, "std: expected 'sample' or 'population' or None for 'gdpo'"),
        ({"std": "sample", "estimator": "rloo"}, "std: expected None for 'rloo'"),
        ({"std": "batch", "singleton": "reward"}, "singleton: expected 'zero' with std 'batch', got 'reward'"),
        ({"baseline": torch.zeros(4)}, "baseline: expected None for 'grpo'"),
        ({"weights": torch.zeros(4)}, "weights: expected None for one reward"),
        ({"estimator": "opo", "lengths": torch.tensor([1, -1, 0, 0])}, "lengths: expected lengths of at least 0, got -1"),
        ({"estimator": "maxrl"}, r"rewards: expected successes in \[0, 1\]"),
        ({"estimator": "pass_at_k"}, r"rewards: expected successes in \[0, 1\]"),
    ],
)
def test_bad_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(torch.tensor([1.0, -1.0, 0.0, 2.0]), 2, **options)


def test_whitening_leaves_a_broken_group_broken(impl):
    rewards, ids = torch.tensor([1.0, torch.inf, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1, 1])
    got = group_advantages(rewards, ids, estimator="reinforce_pp_baseline", impl=impl).advantage
    assert got.isnan().tolist() == [True, True, False, False, False]


def test_masked_rows_may_hold_what_would_be_refused(impl):
    mask, lengths = torch.tensor([True, True, False]), torch.tensor([3.0, 2.0, -1.0])
    opo = group_advantages(torch.tensor([1.0, 0.0, 5.0]), 3, estimator="opo", lengths=lengths, mask=mask, impl=impl)
    assert opo.advantage.tolist() == [pytest.approx(0.4), pytest.approx(-0.6), 0.0]
    group_advantages(torch.tensor([1.0, 0.0, -1.0]), 3, estimator="maxrl", mask=mask, impl=impl)
    assert whiten_tokens(torch.ones(3), mask, weights=lengths, impl=impl).values.tolist() == [0.0] * 3


def test_several_rewards_are_judged_by_their_sum(impl):
    with pytest.raises(ValueError, match=r"rewards: expected successes in \[0, 1\]"):
        group_advantages(torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]), 3, estimator="maxrl", impl=impl)
    broken = group_advantages(torch.tensor([[torch.inf, -torch.inf], [1.0, 0.0]]), 2, impl=impl)
    assert bool(broken.advantage.isnan().all())
    with pytest.raises(ValueError, match="rewards: expected at least one reward an answer"):
        group_advantages(torch.zeros(4, 0), 2, impl=impl)


# ---- whitening


def plain_whiten(values, mask, weights=None, eps=1e-8, of_variance=True):
    times = torch.ones_like(values) if weights is None else weights.to(values.dtype)
    counted = mask & ~values.isnan() & (times > 0)
    v, w = values[counted], times[counted]
    mean = (v * w).sum() / w.sum()
    var = (w * (v - mean).square()).sum() / (w.sum() - 1)
    whitened = torch.zeros_like(values)
    whitened[counted] = (v - mean) / ((var + eps).sqrt() if of_variance else var.sqrt() + eps)
    return whitened, mean, var.sqrt()


@pytest.mark.parametrize("shape", [(2,), (3, 70), (5, 1700), pytest.param((40, 1000), marks=pytest.mark.cpu)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_whitening_within_contract(impl, shape, offset, weighted):
    generator = torch.Generator().manual_seed(1)
    values, mask = torch.randn(shape, generator=generator) + offset, torch.rand(shape, generator=generator) < 0.8
    mask.view(-1)[:2] = True
    weights = torch.randint(0, 9, shape, generator=generator).float() if weighted else None
    if weighted:
        weights.view(-1)[:2] = 3.0
    values[~mask] = NAN
    for convention, eps, of_variance in ((None, 1e-8, True), ("trl", 1e-4, False)):
        got = whiten_tokens(values, mask, weights=weights, convention=convention, impl=impl)
        fast = plain_whiten(values, mask, weights, eps, of_variance)
        true = plain_whiten(values.double(), mask, weights, eps, of_variance)
        for name, a, b, c in zip(got._fields, got, fast, true, strict=True):
            assert_within_contract(a, b, c, name)


def test_equal_values_are_whitened_to_zero(impl):
    for value in (0.1, 1e6, -1e30):
        got = whiten_tokens(torch.full((9000,), value), impl=impl)
        assert bool((got.values == 0).all())
        assert got.mean == torch.tensor(value)
        assert got.std == 0


def test_what_does_not_count_is_zero_whatever_it_holds(impl):
    values, mask = torch.randn(4, 9), torch.ones(4, 9, dtype=torch.bool)
    mask[1, 3:], mask[2] = False, False
    clean = whiten_tokens(values, mask, impl=impl)
    poisoned = whiten_tokens(values.masked_fill(~mask, torch.inf), mask, impl=impl)
    assert all(same_bits(a, b) for a, b in zip(clean, poisoned, strict=True))
    assert bool((clean.values[~mask] == 0).all())
    broken = whiten_tokens(values.index_fill(0, torch.tensor([0]), torch.inf), mask, impl=impl)
    assert bool(broken.values[mask].isnan().all() & (broken.values[~mask] == 0).all())
    assert bool(broken.mean.isnan() & broken.std.isnan())


def test_whitening_nothing(impl):
    for values, mask in ((torch.zeros(0, 3), None), (torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)), (torch.full((3,), NAN), None)):
        got = whiten_tokens(values, mask, impl=impl)
        assert got.values.tolist() == torch.zeros_like(values).tolist()
        assert bool(got.mean.isnan() & (got.std == 0))
    alone = whiten_tokens(torch.tensor([3.0, NAN]), impl=impl)
    assert (alone.values.tolist(), alone.mean.item(), alone.std.item()) == ([0.0, 0.0], 3.0, 0.0)


@pytest.mark.native
@pytest.mark.cpu
def test_whitening_has_the_same_bits_at_any_thread_count():
    values = torch.randn(300, 1000)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(whiten_tokens(values, impl="native"))
    torch.set_num_threads(before)
    assert all(same_bits(a, b) for run in results[1:] for a, b in zip(results[0], run, strict=True))


def test_any_layout_is_whitened(impl):
    values, mask = torch.randn(12, 10), torch.rand(12, 10) < 0.7
    got, flat = whiten_tokens(values.T, mask.T, impl=impl), whiten_tokens(values.T.contiguous(), mask.T.contiguous(), impl=impl)
    assert all(same_bits(a, b) for a, b in zip(got, flat, strict=True))
    half = whiten_tokens(values.bfloat16(), mask, impl=impl)
    assert half.values.dtype == torch.float32
    assert whiten_tokens(values.double(), mask, impl=impl).values.dtype == torch.float64
