"""group_advantages against exact arithmetic, against the formulas of TRL and verl, and on every kind of group and reward."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core import Offsets, group_advantages
from rrm_core.testing import assert_within_contract, guarded, same_bits

NAN, INF = float("nan"), float("inf")
ESTIMATORS = ["grpo", "dr_grpo", "rloo"]
pytestmark = pytest.mark.triton


def exact(rewards, ids, *, estimator="grpo", eps=1e-6, mask=None, singleton="zero"):
    """By rational numbers, one group after the other, in float64; no infinities."""
    advantage, groups = [0.0] * len(rewards), []
    for g in sorted(set(ids)):
        rows = [i for i in range(len(rewards)) if ids[i] == g and not math.isnan(rewards[i]) and (mask is None or mask[i])]
        r = [Fraction(rewards[i]) for i in rows]
        n = len(r)
        if n == 0:
            groups.append((NAN, 0.0, 0, False))
            continue
        total = sum(r)
        mean = total / n
        std = math.sqrt(sum((x - mean) ** 2 for x in r) / (n - 1)) if n > 1 else 0.0
        groups.append((float(mean), std, n, len(set(r)) > 1))
        for i, x in zip(rows, r, strict=True):
            if n == 1:
                advantage[i] = float(x) if singleton == "reward" else 0.0
            elif estimator == "rloo":
                advantage[i] = float(x - (total - x) / (n - 1))
            elif x != mean:
                advantage[i] = float(x - mean) / (std + eps if estimator == "grpo" else 1.0)
    columns = zip(*groups, strict=True) if groups else [()] * 4
    dtypes = (torch.float64, torch.float64, torch.int64, torch.bool)
    return (torch.tensor(advantage, dtype=torch.float64), *(torch.tensor(c, dtype=d) for c, d in zip(columns, dtypes, strict=True)))


def eager(rewards, ids, *, estimator="grpo", eps=1e-6, mask=None, singleton="zero"):
    """What float32 PyTorch makes of it: the yardstick of the contract."""
    advantage, means, stds = torch.zeros(len(rewards)), [], []
    counted = ~rewards.isnan() if mask is None else mask & ~rewards.isnan()
    for g in ids.unique():
        rows = ((ids == g) & counted).nonzero()[:, 0]
        r = rewards[rows].float()
        std = r.std() if len(r) > 1 else torch.tensor(0.0)
        means.append(r.mean())
        stds.append(std)
        if len(r) == 1:
            advantage[rows] = r if singleton == "reward" else 0.0
        elif estimator == "rloo":
            advantage[rows] = r - (r.sum() - r) / (len(r) - 1)
        else:
            advantage[rows] = (r - r.mean()) / (std + eps if estimator == "grpo" else 1.0)
    return advantage, torch.tensor(means), torch.tensor(stds)


def check(rewards, ids, impl, *, groups=None, **options):
    """Against exact arithmetic by the contract; sizes and keep exactly."""
    got = group_advantages(rewards, ids if groups is None else groups, impl=impl, **options)
    options.pop("num_groups", None)
    true = exact(rewards.tolist(), ids.tolist(), **{k: v.tolist() if k == "mask" and v is not None else v for k, v in options.items()})
    fast = eager(rewards, ids, **options)
    for i, name in enumerate(("advantage", "mean", "std")):
        assert_within_contract(got[i], fast[i], true[i], name)
    assert torch.equal(got.size, true[3])
    assert torch.equal(got.keep, true[4])
    assert bool((got.advantage[~got.keep[ids.unique(return_inverse=True)[1]]] == 0).all()) or options.get("singleton") == "reward"
    return got


def random_groups(n, groups, seed=0, scale=1.0, offset=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=generator) * scale + offset).to(dtype), torch.randint(0, groups, (n,), generator=generator)


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


@pytest.mark.parametrize("groups", [3, torch.zeros(0, dtype=torch.int64), Offsets(torch.zeros(1, dtype=torch.int64))])
def test_no_rewards(impl, groups):
    got = group_advantages(torch.zeros(0), groups, mask=torch.zeros(0, dtype=torch.bool), impl=impl)
    assert [list(x.shape) for x in got] == [[0]] * 5


def test_groups_without_members(impl):
    rewards = torch.tensor([1.0, 2.0, 5.0])
    expected = {"size": [0, 2, 0, 1, 0], "keep": [False, True, False, False, False], "std": [0.0, pytest.approx(math.sqrt(0.5)), 0.0, 0.0, 0.0]}
    for groups, count in ((Offsets(torch.tensor([0, 0, 2, 2, 3, 3])), None), (torch.tensor([1, 1, 3]), 5)):
        got = group_advantages(rewards, groups, num_groups=count, impl=impl)
        assert {name: getattr(got, name).tolist() for name in expected} == expected
        assert got.mean.isnan().tolist() == [True, False, True, False, True]
        assert got.mean[[1, 3]].tolist() == [1.5, 5.0]


def test_ids_are_any_numbers(impl):
    low, high = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    names = torch.tensor([high, -1, low, 7, 0, 2**40, -(2**33), 255, 256, -256])
    rewards, ids = random_groups(300, len(names))
    plain = group_advantages(rewards, names.argsort().argsort()[ids], num_groups=len(names), impl=impl)
    named = group_advantages(rewards, names[ids], impl=impl)
    assert all(same_bits(a, b) for a, b in zip(plain, named, strict=True))
    check(rewards, names[ids], impl)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_forms_of_groups_agree(impl, estimator):
    rewards, _ = random_groups(24 * 17, 1)
    rewards[::29] = NAN
    runs = [
        group_advantages(rewards, groups, estimator=estimator, num_groups=count, impl=impl)
        for groups, count in [
            (24, None),
            (Offsets(torch.arange(0, 24 * 18, 24)), None),
            (torch.arange(24 * 17) // 24, None),
            (torch.arange(24 * 17) // 24, 17),
            (torch.arange(24 * 17) // 24 * 5 - 11, None),
        ]
    ]
    for other in runs[1:]:
        assert all(same_bits(a, b) for a, b in zip(runs[0], other, strict=True))


reward = st.one_of(st.floats(-100, 100, width=32), st.sampled_from([0.0, 1.0, NAN]))


@pytest.mark.native
@given(st.lists(st.tuples(reward, st.integers(-2, 3), st.booleans()), max_size=30), st.sampled_from(ESTIMATORS), st.sampled_from(["zero", "reward"]))
def test_any_rewards_against_exact_arithmetic(rows, estimator, singleton):
    rewards, ids = torch.tensor([r[0] for r in rows]).view(-1), torch.tensor([r[1] for r in rows], dtype=torch.int64)
    mask = torch.tensor([r[2] for r in rows], dtype=torch.bool)
    check(rewards, ids, "native", estimator=estimator, mask=mask, singleton=singleton)


@pytest.mark.native
@given(
    st.lists(st.tuples(st.integers(-8, 8), st.integers(0, 3)), min_size=1, max_size=30), st.integers(-1000, 1000), st.randoms(use_true_random=False)
)
def test_shifts_and_permutations(rows, shift, random):
    rewards, ids = torch.tensor([r[0] / 4 for r in rows]), torch.tensor([r[1] for r in rows])
    got = group_advantages(rewards, ids, impl="native")
    moved = group_advantages(rewards + shift, ids, impl="native")  # eighths and thousands are exact, so are the differences
    assert torch.allclose(moved.advantage, got.advantage, rtol=1e-6, atol=1e-6)
    assert torch.equal(moved.keep, got.keep)
    order = torch.tensor(random.sample(range(len(rows)), len(rows)))
    permuted = group_advantages(rewards[order], ids[order], impl="native")
    assert torch.allclose(permuted.advantage, got.advantage[order], rtol=1e-6, atol=1e-6)
    assert torch.equal(permuted.size, got.size)


def test_a_group_does_not_depend_on_the_others(impl):
    rewards, ids = random_groups(700, 25)
    rewards[::13] = NAN
    whole = group_advantages(rewards, ids, impl=impl)
    for g, i in enumerate(ids.unique()):
        alone = group_advantages(rewards[ids == i], int((ids == i).sum()), impl=impl)
        assert same_bits(alone.advantage, whole.advantage[ids == i])
        assert all(same_bits(a, b[g : g + 1]) for a, b in zip(alone[1:], whole[1:], strict=True))


@pytest.mark.cpu
def test_thread_count_changes_no_bit(impl, threads):
    rewards, ids = random_groups(60_000, 700)
    ids[:20_000] = 5
    runs = []
    for count in (1, 2, 3, 5):
        threads(count)
        runs.append(
            [*group_advantages(rewards, ids, impl=impl), *group_advantages(rewards, 8, impl=impl), *group_advantages(rewards, 30_000, impl=impl)]
        )
    for other in runs[1:]:
        assert all(same_bits(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.native
@pytest.mark.cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cpp_body_adds_in_the_order_of_the_plain_one(dtype):
    """So they agree bit by bit, in every instruction set: groups alone and side by side in vectors, some too long for that, whole and ragged.
    In float64 up to torch's square root, which is not always the nearest number."""
    sizes = torch.randint(0, 40, (300,), generator=torch.Generator().manual_seed(0))
    sizes[[7, 100, 101, 290]] = torch.tensor([1023, 1024, 1025, 3000])
    rewards, ids = random_groups(int(sizes.sum()), 50, offset=5.0)
    rewards = rewards.to(dtype) / 3
    offsets = Offsets(torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]))
    mask = torch.rand(rewards.shape, generator=torch.Generator().manual_seed(1)) < 0.9
    for estimator in ESTIMATORS:
        for groups in (offsets, ids, 1, len(rewards)):
            for some in (None, mask):
                options = {"estimator": estimator, "mask": some, "singleton": "reward"}
                native, plain = (group_advantages(rewards, groups, **options, impl=impl) for impl in ("native", "reference"))
                for a, b in zip(native, plain, strict=True):
                    assert same_bits(a, b) if dtype == torch.float32 else torch.allclose(a, b, rtol=1e-15, atol=0, equal_nan=True)


@pytest.mark.native
@pytest.mark.cpu
def test_ids_of_any_spread():
    generator = torch.Generator().manual_seed(0)
    for low, high in ((0, 1), (0, 2), (-3, 4), (0, 5000), (-(2**31), 2**31), (-(2**63), 2**63 - 1)):
        for n in (0, 1, 2, 3000):
            for step in (1, 2**13) if high < 2**32 else (1,):
                rewards = torch.randint(0, 9, (n,), generator=generator).double()
                ids = torch.randint(low, high, (n,), generator=generator) * step
                for groups in (None, 5000) if (low, high, step) in ((0, 2, 1), (0, 5000, 1)) else (None,):
                    native, plain = (group_advantages(rewards, ids, num_groups=groups, impl=impl) for impl in ("native", "reference"))
                    assert torch.equal(native.size, plain.size)
                    assert torch.equal(native.keep, plain.keep)
                    assert torch.allclose(native.advantage, plain.advantage, rtol=1e-12, atol=1e-12)


@pytest.mark.native
@pytest.mark.parametrize("size", [3, 16, 17, 128, 129, 1100])
def test_nothing_is_read_beyond_the_inputs(size):
    """Infinity lies around the rewards, False around the mask: either would show. NaN would not."""
    n, band = size * 5, 2048

    def between(x, poison):
        memory = torch.full((n + 2 * band,), poison, dtype=x.dtype)
        memory[band:-band] = x
        return memory[band:-band]

    rewards, _ = random_groups(n, 1)
    mask = torch.ones(n, dtype=torch.bool)
    offsets = Offsets(guarded(torch.tensor([0, 1, size, 4 * size, 4 * size, n])))
    for groups in (size, offsets, guarded(torch.arange(n) // size)):
        plain = group_advantages(rewards, groups, impl="native")
        got = group_advantages(between(rewards, INF), groups, mask=between(mask, False), impl="native")
        assert all(same_bits(a, b) for a, b in zip(got, plain, strict=True))
        assert bool((got.size.sum() == n) & got.advantage.isfinite().all())


def test_strided_inputs(impl):
    rewards, ids = random_groups(60, 4)
    mask = ids != 2
    plain = group_advantages(rewards, ids, mask=mask, impl=impl)
    got = group_advantages(*(torch.stack((x, x), -1)[:, 0] for x in (rewards, ids)), mask=torch.stack((mask, ~mask), -1)[:, 0], impl=impl)
    assert all(same_bits(a, b) for a, b in zip(plain, got, strict=True))
    offsets = torch.tensor([0, 9, 20, 9, 60, 9])[::2]
    same = group_advantages(rewards, Offsets(offsets), impl=impl), group_advantages(rewards, Offsets(offsets.clone()), impl=impl)
    assert all(same_bits(a, b) for a, b in zip(*same, strict=True))
