"""Every form of groups: equal blocks, offsets, ids of any spread; a group depends on nothing but its rows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core import Offsets, group_advantages
from rrm_core.advantages import schema
from rrm_core.testing import guarded, same_bits
from tests.advantages.oracle import ESTIMATORS, INF, NAN, check, random_groups

pytestmark = pytest.mark.triton


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
@pytest.mark.cpu
@pytest.mark.parametrize("low", [-(2**63), -5, 0, 3, 2**62])
@pytest.mark.parametrize(("count", "each", "stride"), [(1, 50_000, 1), (3000, 1, 1), (500, 8, 1), (500, 8, 7), (500, 8, 2**40), (40, 1250, 100)])
@pytest.mark.parametrize("order", ["shuffled", "ascending", "descending", "one out of place"])
def test_ids_counted_sorted_or_in_order_already(low, count, each, stride, order):
    """All forms of grouping by id have the bits of the plain body: a table of ids that are close together, a sort of others, nothing to do."""
    n = count * each
    groups = torch.arange(count).repeat_interleave(each)
    if order == "shuffled":
        groups = groups[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    elif order == "descending":
        groups = groups.flip(0)
    elif order == "one out of place":
        groups[-1] = 0
    ids = groups * stride + low
    rewards = random_groups(n, 1, offset=3.0)[0] / 3
    mask = torch.rand(n, generator=torch.Generator().manual_seed(1)) < 0.9
    for some in (None, mask):
        native, plain = (group_advantages(rewards, ids, mask=some, impl=impl) for impl in ("native", "reference"))
        assert all(same_bits(a, b) for a, b in zip(native, plain, strict=True))
    if 0 <= low <= 3 and stride == 1:
        native, plain = (group_advantages(rewards, ids, num_groups=low + count + 2, impl=impl) for impl in ("native", "reference"))
        assert all(same_bits(a, b) for a, b in zip(native, plain, strict=True))


@pytest.mark.native
@pytest.mark.cpu
@pytest.mark.parametrize("ids", [[4, -1, 2, 0, 9, 2, 0], [-7, -1, 0, 0, 2, 2, 2, 5], [2**60, 0, -(2**60), 2], [-3, -2, -2], [9, 8, 7]])
def test_ids_of_no_group_where_values_are_not_checked(ids):
    ids, rewards = torch.tensor(ids), torch.arange(len(ids)) * 1.5
    native, plain = (
        schema.group_advantages.body(impl, rewards)(rewards, ids, None, 4, None, None, 0, 0.0, False, True, False) for impl in ("native", "reference")
    )
    assert all(same_bits(a, b) for a, b in zip(native, plain, strict=True))
    assert torch.equal(native[0].isnan(), (ids < 0) | (ids >= 4))


@pytest.mark.native
@pytest.mark.parametrize("size", [3, 8, 16, 17, 128, 129, 1100])
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
