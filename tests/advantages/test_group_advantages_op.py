"""Bad input, registration, torch.compile, and what happens where values cannot be looked at."""

from __future__ import annotations

import pytest
import torch

from rrm_core import NativeKernelError, Offsets, group_advantages
from rrm_core._library import OPS
from rrm_core.testing import same_bits

OP = torch.ops.rrm.group_advantages.default
REWARDS, IDS = torch.tensor([1.0, 0.0, 2.0, 2.0, 5.0, 7.0]), torch.tensor([4, 0, 0, 4, 4, 2])
CENTRED = (None, 0, 0.0, False, False, False)  # each, baseline, eps, population, divide, raw_singletons
SCALED = (None, 0, 1e-6, False, True, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": torch.zeros(2, 3, 1)}, r"rewards: expected shape \[N\] or \[N, R\], got \[2, 3, 1\]"),
        ({"groups": 4}, "groups: expected a group size that divides 6 rewards, got 4"),
        ({"groups": 0}, "groups: expected a group size of at least 1, got 0"),
        ({"groups": torch.zeros(5, dtype=torch.int64)}, r"groups: expected shape \[6\], got \[5\]"),
        ({"num_groups": 4}, r"groups: expected values in \[0, 4\), got 4"),
        ({"groups": -IDS, "num_groups": 5}, r"groups: expected values in \[0, 5\), got -4"),
        ({"num_groups": -1}, "num_groups: expected an integer of at least 0, got -1"),
        ({"groups": 3, "num_groups": 2}, "num_groups: expected None unless groups are ids, got 2"),
        ({"groups": Offsets(torch.tensor([0, 6])), "num_groups": 1}, "num_groups: expected None unless groups are ids, got 1"),
        ({"groups": Offsets(torch.tensor([1, 6]))}, "groups: expected offsets from 0 to 6, got 1 to 6"),
        ({"groups": Offsets(torch.tensor([0, 5]))}, "groups: expected offsets from 0 to 6, got 0 to 5"),
        ({"groups": Offsets(torch.tensor([0, 5, 4, 6]))}, r"groups: expected ascending offsets, got \[0, 5, 4, 6\]"),
        ({"groups": Offsets(torch.zeros(0, dtype=torch.int64))}, r"groups: expected at least one offset, got \[0\]"),
        ({"groups": Offsets(torch.zeros(2, 2, dtype=torch.int64))}, r"groups: expected shape \[G \+ 1\], got \[2, 2\]"),
        ({"estimator": "ppo"}, "estimator: expected 'grpo' or 'dr_grpo' or .* or 'pass_at_k', got 'ppo'"),
        ({"singleton": "mean"}, "singleton: expected 'zero' or 'reward', got 'mean'"),
        ({"eps": -1e-6}, "eps: expected a finite number of at least 0, got -1e-06"),
        ({"eps": float("nan")}, "eps: expected a finite number of at least 0, got nan"),
        ({"mask": torch.ones(5, dtype=torch.bool)}, r"mask: expected shape \[6\], got \[5\]"),
        ({"impl": "fast"}, "impl: expected None, 'native' or 'reference', got 'fast'"),
    ],
)
def test_bad_values(change, message):
    with pytest.raises(ValueError, match="^" + message):
        group_advantages(**{"rewards": REWARDS, "groups": IDS, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": [1.0, 2.0]}, "rewards: expected a tensor, got list"),
        ({"rewards": REWARDS.cfloat()}, "rewards: expected float32 or .*, got torch.complex64"),
        ({"groups": 3.0}, "groups: expected an integer, a tensor of ids or Offsets, got float"),
        ({"groups": True}, "groups: expected an integer, a tensor of ids or Offsets, got bool"),
        ({"groups": IDS.int()}, "groups: expected int64, got torch.int32"),
        ({"groups": Offsets(torch.tensor([0, 6], dtype=torch.int32))}, "groups: expected int64, got torch.int32"),
        ({"groups": Offsets([0, 6])}, "groups: expected a tensor, got list"),
        ({"num_groups": 5.0}, "num_groups: expected an integer or None, got float"),
        ({"eps": "1e-6"}, "eps: expected a number, got str"),
        ({"mask": torch.ones(6)}, "mask: expected bool, got torch.float32"),
    ],
)
def test_bad_types(change, message):
    with pytest.raises(TypeError, match="^" + message):
        group_advantages(**{"rewards": REWARDS, "groups": IDS, **change})


@pytest.mark.parametrize("groups", [3, IDS])
def test_native_is_refused_without_a_kernel(monkeypatch, groups):
    from rrm_core.advantages import schema

    monkeypatch.setattr(schema.group_advantages, "native_devices", set())
    with pytest.raises(NativeKernelError, match="no native kernel of group_advantages"):
        group_advantages(REWARDS, groups, impl="native")


@pytest.fixture
def zeroed(monkeypatch):
    """Results that a launcher allocates begin as 0: what is NaN then has been written."""
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)


def bodies():
    """The plain body, and what the dispatcher chooses on CPU."""
    return OPS["group_advantages"].reference, OP


@pytest.mark.native
@pytest.mark.triton
def test_unchecked_rows_of_no_group_are_nan(zeroed):
    rewards, ids = torch.tensor([1.0, 9.0, 3.0, 9.0, 5.0]), torch.tensor([1, 2, 1, -4, 0])
    for body in bodies():
        for mask in (None, rewards < 6):
            got = body(rewards, ids, None, 2, mask, *CENTRED)
            assert got[0].isnan().tolist() == [False, True, False, True, False]
            assert got[0][[0, 2, 4]].tolist() == [-1.0, 1.0, 0.0]
            assert [x.tolist() for x in got[1:]] == [[5.0, 2.0], [0.0, pytest.approx(2**0.5)], [1, 2], [False, True]]
        assert bool(body(rewards, ids, None, 0, None, *CENTRED)[0].isnan().all())


@pytest.mark.native
@pytest.mark.triton
@pytest.mark.parametrize("offsets", [[2, 4], [0, 3], [2, 2], [0, -5, 99, 6], [6, 0], [-3, 2, 2**62], [3], [0, 2, 1, 6]])
def test_unchecked_offsets_stay_inside(zeroed, offsets):
    for body in bodies():
        result = body(REWARDS, None, torch.tensor(offsets), None, None, *CENTRED)
        assert [len(x) for x in result] == [6, *[len(offsets) - 1] * 4]
        outside = [i for i in range(6) if i < min(offsets) or i >= max(offsets)]
        assert bool(result[0][outside].isnan().all())


def test_runs_without_looking_at_values():
    """Meta tensors have no values: whatever would wait for a device raises here."""
    rewards, ids = torch.zeros(6, device="meta"), torch.zeros(6, dtype=torch.int64, device="meta")
    for groups, given, count in ((3, None, 2), (Offsets(ids), None, 5), (ids, 4, 4)):
        got = group_advantages(rewards, groups, num_groups=given, mask=rewards > 0, impl="reference")
        assert [len(x) for x in got] == [6, *[count] * 4]


@pytest.mark.parametrize("rewards", [REWARDS, REWARDS.double(), REWARDS[:0]])
def test_opcheck(rewards):
    n, mask, lengths = len(rewards), rewards > 0, rewards.abs()
    starts, ids = torch.arange(0, n + 1, 3), IDS[:n] // 2  # no empty group: opcheck takes NaN for unequal to NaN
    torch.library.opcheck(OP, (rewards, None, None, n // 3, None, *SCALED))
    torch.library.opcheck(OP, (rewards, None, starts, None, mask, lengths, 2, 1e-6, True, True, True))
    for groups in (3 if n else 0, None):
        torch.library.opcheck(OP, (rewards, ids, None, groups, mask, None, 1, 1e-6, False, False, False))


def test_is_not_differentiable():
    with pytest.raises(RuntimeError, match="group_advantages is not differentiable"):
        OP(REWARDS.clone().requires_grad_(), None, None, 2, None, *SCALED)[0].sum().backward()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("form", ["size", "offsets", "ids"])
def test_compiles_with_dynamic_shapes(form, backend, impl):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def run(rewards, groups, count):
        if form == "offsets":
            groups = Offsets(groups)
        got = group_advantages(rewards, groups, num_groups=count, mask=rewards != 0, estimator="rloo", impl=impl)
        return got.advantage * 2, got.size.sum(), got.keep

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=backend)
    for n, count in ((12, 3), (20, 5), (36, 9)):
        rewards, ids = torch.arange(n) * 1.0 % 7, torch.arange(n) * 5 % count
        groups, given = {"size": (4, None), "offsets": (torch.arange(count + 1) * 4, None), "ids": (ids, count)}[form]
        results = zip(compiled(rewards, groups, given), run(rewards, groups, given), strict=True)
        assert all(torch.allclose(a.double(), b.double()) for a, b in results)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_compiles_with_as_many_groups_as_ids_occur(impl):
    torch._dynamo.reset()

    def run(rewards, ids):
        got = group_advantages(rewards, ids, impl=impl)
        return *got, got.mean * 2

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
        for ids in (IDS, IDS * 2 - 3, IDS[:4]):
            assert all(same_bits(a, b) for a, b in zip(compiled(REWARDS[: len(ids)], ids), run(REWARDS[: len(ids)], ids), strict=True))


def test_compiled_ids_out_of_range_give_nan_in_their_row(impl):
    torch._dynamo.reset()
    compiled = torch.compile(lambda r, i: group_advantages(r, i, num_groups=3, impl=impl), fullgraph=True, backend="aot_eager")
    assert compiled(REWARDS, IDS).advantage.isnan().tolist() == [True, False, False, True, True, False]


@pytest.mark.parametrize("values", [REWARDS, REWARDS.double().view(2, 3), REWARDS[:0]])
def test_opcheck_of_whitening(values):
    for mask, weights in ((None, None), (values > 1, values.abs() + 1)):
        if values.numel():  # opcheck takes the NaN mean of nothing for unequal to NaN
            torch.library.opcheck(torch.ops.rrm.whiten.default, (values, mask, weights, 1e-8, True))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("estimator", ["opo", "gpg", "reinforce_pp_baseline", "gdpo", "pass_at_k"])
def test_every_kind_of_estimator_compiles(estimator, backend, impl):
    torch._dynamo.reset()

    def run(rewards, ids, lengths):
        given = rewards.unsqueeze(1) if estimator == "gdpo" else rewards
        got = group_advantages(given, ids, num_groups=3, estimator=estimator, lengths=lengths, weights=None, impl=impl)
        return got.advantage * 2, got.keep

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=backend)
    for n in (6, 10):
        arguments = (torch.arange(n) % 4 / 4, torch.arange(n) % 3, torch.arange(n) + 1)
        for a, b in zip(compiled(*arguments), run(*arguments), strict=True):
            torch.testing.assert_close(a, b)
