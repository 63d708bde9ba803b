"""TRL's trainers with our ops against themselves: the same runs, the same figures; and what patching does to TRL."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import pytest
import torch
import trl

from bench.toy_trainer import make_trainer, reward
from rrm_core.integrations.trl import patch_trl, unpatch_trl
from tests.integrations.counting import count_calls, seams

pytestmark = [pytest.mark.native, pytest.mark.cpu, pytest.mark.filterwarnings("ignore::FutureWarning")]  # of transformers, about its own options
TIMINGS = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
TIMINGS |= {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


def watched(base):
    class Watched(base):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            self.given = [*getattr(self, "given", []), output["advantages"].clone()]
            return output

    return Watched


def run(kind, *, patched, evaluate=False, **options):
    with patch_trl() if patched else nullcontext():
        trainer = make_trainer(kind, base=watched, **options)
        trainer.train()
        if evaluate:
            trainer.evaluate()
    return trainer


def assert_same_run(ours, stock):
    """Everything that was logged. The absolute 1e-6 is for losses that are nothing but cancelled advantages of size 1 (on policy)."""
    assert len(ours.state.log_history) == len(stock.state.log_history)
    for got, expected in zip(ours.state.log_history, stock.state.log_history, strict=True):
        assert got.keys() == expected.keys()
        for name in expected.keys() - TIMINGS:
            assert got[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    for got, expected in zip(ours.given, stock.given, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert list(ours._logs["advantages"]) == pytest.approx(list(stock._logs["advantages"]), rel=1e-4, abs=1e-6)


def steps(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(("kind", "heads"), [("grpo", 15), ("rloo", 20)])
def test_ten_steps_as_stock(kind, heads, monkeypatch):
    stock = run(kind, patched=False, num_iterations=2)
    calls = count_calls(monkeypatch)
    ours = run(kind, patched=True, num_iterations=2)
    assert_same_run(ours, stock)
    assert len(steps(ours, "loss")) == 10
    assert min(steps(ours, "grad_norm")) > 1e-3
    assert all(given.abs().max() > 0.1 for given in ours.given)
    assert max(map(abs, steps(ours, "loss"))) > 1e-3
    assert max(steps(ours, "clip_ratio/region_mean")) > 0
    # every iteration; log-probabilities before the update as well, and RLOO's reference model
    assert (calls["policy_loss"], calls["group_advantages"], calls["linear_token_logprobs"]) == (10, 5, heads)
    assert calls["trl loss"] == calls["trl head"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False},
        {"loss_type": "grpo", "mask_truncated_completions": True},  # rows without a token
        {"loss_type": "dr_grpo", "delta": 1.5, "scale_rewards": "none"},
        {"loss_type": "bnpo", "entropy_coef": 0.01, "scale_rewards": "batch"},
        {"loss_type": "dapo", "entropy_coef": 0.01, "gradient_accumulation_steps": 2, "steps_per_generation": 4},
        {"loss_type": "dapo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        {"loss_type": "dapo", "top_entropy_quantile": 0.4, "temperature": 0.7, "beta": 0.1, "use_bias_correction_kl": False},
        {"loss_type": "cispo", "epsilon_high": 1.1, "multi_objective_aggregation": "normalize_then_sum"},
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "off_policy_mask_threshold": 0.001},
        {"kind": "rloo", "normalize_advantages": True, "reward_clip_range": (0.5, 2.0), "gradient_accumulation_steps": 2},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_other_losses_as_stock(options, monkeypatch):
    options = {"kind": "grpo", "num_iterations": 2, "max_steps": 4, "learning_rate": 1e-3, **options}
    stock = run(patched=False, **options)
    calls = count_calls(monkeypatch)
    ours = run(patched=True, **options)
    assert_same_run(ours, stock)
    assert max(steps(ours, "grad_norm")) > 1e-3
    assert calls["policy_loss"] == 4 * options.get("gradient_accumulation_steps", 1)
    assert calls["whiten_tokens"] == (len(ours.given) if options.get("normalize_advantages") else 0)
    assert calls["trl loss"] == calls["trl head"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "sapo"},
        {"loss_type": "vespo"},
        {"loss_type": "cispo", "epsilon_high": 0.3},
        {"loss_type": "grpo", "delta": 1.1},
        {"loss_type": "grpo", "beta": 0.1},
        {"loss_type": "dapo", "use_adaptive_entropy": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_loss_that_is_not_ours_stays(options, monkeypatch):
    options = {"kind": "grpo", "num_iterations": 2, "max_steps": 2, **options}
    stock = run(patched=False, **options)
    calls = count_calls(monkeypatch)
    ours = run(patched=True, **options)
    assert_same_run(ours, stock)
    assert (calls["policy_loss"], calls["trl loss"], calls["group_advantages"]) == (0, 2, 1)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("alone", [False, True], ids=["groups", "alone"])
def test_evaluation_as_stock(kind, alone):
    options = {"kind": kind, "max_steps": 1, "eval_rows": 4, "per_device_eval_batch_size": 4, "evaluate": True}
    options |= {"num_generations_eval": 1 if alone else 2}
    stock, ours = run(patched=False, **options), run(patched=True, **options)
    assert_same_run(ours, stock)
    assert "eval_loss" in ours.state.log_history[-1]


def sometimes(completion_ids, **_):
    return [len(ids) / 4 if sum(ids) % 3 else None for ids in completion_ids]


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_several_rewards_some_missing(kind):
    options = {"kind": kind, "reward_funcs": [reward, sometimes, sometimes], "reward_weights": [1.0, 0.5, -0.25], "max_steps": 4}
    stock, ours = run(patched=False, **options), run(patched=True, **options)
    assert_same_run(ours, stock)
    assert_same_run(run(patched=True, **options | {"reward_funcs": [sometimes], "reward_weights": None}),
                    run(patched=False, **options | {"reward_funcs": [sometimes], "reward_weights": None}))  # fmt: skip


def test_only_tokens_of_completions_are_scored(monkeypatch):
    calls = count_calls(monkeypatch)
    trainer = run("grpo", patched=True, max_steps=1)
    assert calls["rows"] == 8 * steps(trainer, "completions/mean_length")[0]


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("extends", [False, True])
def test_rewards_are_a_subclass_s_own(kind, extends, monkeypatch):
    def base(trainer):
        class Own(watched(trainer)):
            def _calculate_rewards(self, inputs, *rest):
                places = torch.arange(len(inputs)).unsqueeze(1).float()
                return super()._calculate_rewards(inputs, *rest) - 10 * places**2 if extends else places**2

        return Own

    calls, given = count_calls(monkeypatch), []
    for patched in (True, False):
        with patch_trl() if patched else nullcontext():
            trainer = make_trainer(kind, base=base, max_steps=1)
            trainer.train()
        given.append(trainer.given[0])
    assert calls["group_advantages"] == 1
    assert given[0].abs().max() > 0.1
    torch.testing.assert_close(*given, rtol=1e-4, atol=1e-5)
    assert not vars(trainer).keys() & {"_calculate_rewards", "_get_per_token_logps_and_entropies"}


def test_everything_comes_back():
    before = seams()
    first = patch_trl()
    assert not any(a is b for a, b in zip(seams(), before, strict=True))
    patched = seams()
    second = patch_trl()
    assert all(a is b for a, b in zip(seams(), patched, strict=True))  # not patched twice
    first.unpatch()
    first.unpatch()
    assert all(a is b for a, b in zip(seams(), patched, strict=True))
    second.unpatch()
    assert all(a is b for a, b in zip(seams(), before, strict=True))


def test_contexts_nest_and_survive_errors():
    before = seams()
    with patch_trl():
        with pytest.raises(KeyError), patch_trl():
            raise KeyError
        assert not any(a is b for a, b in zip(seams(), before, strict=True))
    assert all(a is b for a, b in zip(seams(), before, strict=True))
    patch_trl()
    with patch_trl():
        unpatch_trl()
        assert all(a is b for a, b in zip(seams(), before, strict=True))
    assert all(a is b for a, b in zip(seams(), before, strict=True))


@pytest.mark.parametrize("version", ["1.15.2", "1.17.0", "2.0.0", "1.160.0"])
def test_other_versions_are_refused(version, monkeypatch):
    before = seams()
    monkeypatch.setattr(trl, "__version__", version)
    with pytest.raises(RuntimeError, match=rf"^patch_trl: expected trl 1\.16, got {version}$"):
        patch_trl()
    assert all(a is b for a, b in zip(seams(), before, strict=True))


def test_no_trl_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match=r"^patch_trl: expected trl 1\.16, got none \(pip install 'trl==1\.16\.\*'\)$"):
        patch_trl()
