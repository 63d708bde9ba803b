"""What the patch puts in the place of TRL's arithmetic against TRL's own in float64, on random ragged batches: 1e-6 relative."""

from __future__ import annotations

import math
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from trl.trainer import utils

from bench.toy_trainer import make_trainer
from rrm_core.integrations import trl, trl_advantages
from rrm_core.integrations.trl import patch_trl
from rrm_core.testing import random_head, random_ids
from tests.integrations.counting import TRAINERS, count_calls

pytestmark = [pytest.mark.native, pytest.mark.cpu, pytest.mark.filterwarnings("ignore::FutureWarning")]
B, T = 12, 40
NAN = float("nan")


def assert_near(got, expected, what="", relative=1e-6):
    got, expected = got.double(), expected.double()
    assert expected.norm() > 0, what
    assert (got - expected).norm() <= relative * expected.norm(), what


def batch(seed, **changes):
    """Float64, every number exact in float32; ragged, one row without a token, advantages of either sign that don't cancel to nothing."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator)).double()

    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    lengths[3] = 0
    mask = (torch.arange(T) < lengths[:, None]).long()
    logprob = -random(B, T).abs().float().double() * mask
    near = {name: ((logprob + random(B, T, scale=0.3)) * mask).float().double() for name in ("old", "ref", "sampled")}
    given = {
        "prompt_ids": torch.ones(B, 2, dtype=torch.int64), "prompt_mask": torch.ones(B, 2, dtype=torch.int64),
        "completion_ids": torch.ones(B, T, dtype=torch.int64), "completion_mask": mask, "advantages": random(B) + 1,
        "old_per_token_logps": near["old"], "ref_per_token_logps": near["ref"], "sampling_per_token_logps": near["sampled"],
        "num_items_in_batch": mask.sum() * 2, "old_logps": near["old"].sum(1) * 0.1 + logprob.sum(1) * 0.9,
        "importance_sampling_ratio": random(B, T, scale=0.3).exp().clamp(max=2.0).float().double(),
    }  # fmt: skip
    given["old_logps"] = given["old_logps"].float().double()
    given["advantages"] = given["advantages"].float().double()
    given |= changes
    return logprob, random(B, T).abs().float().double() * mask, {name: value for name, value in given.items() if value is not None}


def loss_of(trainer, logprob, entropy, inputs, dtype):
    """Loss, gradients of log-probabilities and entropies, and metrics, of whatever ``_compute_loss`` is at the moment."""
    leaves = [logprob.to(dtype).requires_grad_(), entropy.to(dtype).requires_grad_()]
    trainer._get_per_token_logps_and_entropies = lambda *args, **options: (*leaves, None)
    trainer._metrics["train"].clear()
    trainer._metrics["eval"].clear()
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    loss = trainer._compute_loss(trainer.model, inputs)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    mode = "train" if trainer.model.training else "eval"
    return loss.detach(), gradients, {name: values[0] for name, values in trainer._metrics[mode].items()}


LOSSES = {
    "grpo": {"loss_type": "grpo"},
    "grpo-kl": {"loss_type": "grpo", "beta": 0.2, "use_bias_correction_kl": False},
    "grpo-delta": {"loss_type": "grpo", "delta": 1.4},
    "grpo-sequence": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03},
    "grpo-vllm": {"loss_type": "grpo", "vllm": True, "beta": 0.2, "use_bias_correction_kl": False},
    "bnpo": {"loss_type": "bnpo", "epsilon_high": 0.28},
    "bnpo-bonus": {"loss_type": "bnpo", "entropy_coef": 0.05},
    "dr_grpo": {"loss_type": "dr_grpo", "max_completion_length": 64},
    "dr_grpo-off-policy": {"loss_type": "dr_grpo", "off_policy_mask_threshold": 0.01},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "dapo-bonus-quantile": {"loss_type": "dapo", "entropy_coef": 0.05, "top_entropy_quantile": 0.3, "beta": 0.2, "use_bias_correction_kl": False},
    "dapo-sequence-vllm": {"loss_type": "dapo", "importance_sampling_level": "sequence", "vllm": True, "epsilon": 0.02},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2},
    "cispo-sequence": {"loss_type": "cispo", "epsilon_high": 1.02, "importance_sampling_level": "sequence"},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 0.02},
    "luspo-token": {"loss_type": "luspo", "beta": 0.2, "use_bias_correction_kl": False},
}


def compare(trainer, sample, calls, *, yardstick=torch.float64):
    """In float64, where our plain body answers, to 1e-12; in float32 against TRL in ``yardstick`` to 1e-6. Returns the metrics."""
    for dtype, of_theirs, relative in ((torch.float64, torch.float64, 1e-12), (torch.float32, yardstick, 1e-6)):
        calls.clear()
        with patch_trl():
            loss, gradients, metrics = loss_of(trainer, *sample, dtype)
        assert (calls["policy_loss"], calls["trl loss"]) == (1, 0)
        expected, true_gradients, true_metrics = loss_of(trainer, *sample, of_theirs)
        assert (calls["policy_loss"], calls["trl loss"]) == (1, 1)
        assert_near(loss, expected, "loss", relative)
        for name, got, true in zip(("log-probabilities", "entropies"), gradients, true_gradients, strict=True):
            assert (got is None) == (true is None), name
            if true is not None:
                assert_near(got, true, name, relative)
        assert metrics.keys() == true_metrics.keys()
        for name, value in true_metrics.items():
            assert metrics[name] == pytest.approx(value, rel=1e-6, abs=0, nan_ok=True), name
    return metrics


@pytest.mark.parametrize(("training", "seed"), [(True, 0), (True, 1), (True, 2), (False, 0)], ids=["train-0", "train-1", "train-2", "eval-0"])
@pytest.mark.parametrize("name", LOSSES)
def test_grpo_losses(name, training, seed, monkeypatch):
    options = dict(LOSSES[name])
    vllm = options.pop("vllm", False)
    calls = count_calls(monkeypatch)
    trainer = make_trainer("grpo", **options, steps_per_generation=3)
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = vllm, True
    trainer.current_gradient_accumulation_steps = 2
    trainer.model.train(training)
    changes = {}
    if seed == 1:  # tools' tokens are not the model's
        changes["tool_mask"] = (torch.rand(B, T, generator=torch.Generator().manual_seed(5)) < 0.8).long()
    if seed == 2:  # on policy
        changes["old_per_token_logps"] = None
    if seed == 1 and vllm:
        changes["importance_sampling_ratio"] = torch.tensor([0.0, 0.5, 1.0, 1.5] * (B // 4)).double().unsqueeze(1)  # sequences, some of them left out
    metrics = compare(trainer, batch(seed, **changes), calls)
    if seed == 0:
        shares = [value for metric, value in metrics.items() if "clip_ratio" in metric and "min" not in metric]
        assert shares
        assert min(shares) > 0


@pytest.mark.parametrize("seed", range(3))
def test_of_one_token_a_sequence(seed, monkeypatch):
    """[B, 1]: where TRL counts sequences and not tokens."""
    calls = count_calls(monkeypatch)
    trainer = make_trainer("grpo", beta=0.2, use_bias_correction_kl=False)
    trainer.current_gradient_accumulation_steps = 1
    logprob, entropy, inputs = batch(seed)
    inputs = {name: value[:, :1] if value.shape[1:] == (T,) else value for name, value in inputs.items()}
    compare(trainer, (logprob[:, :1], entropy[:, :1], inputs), calls)


@pytest.mark.parametrize("seed", range(3))
def test_rloo_loss(seed, monkeypatch):
    calls = count_calls(monkeypatch)
    trainer = make_trainer("rloo", epsilon=0.02, epsilon_high=0.03)
    # a sequence's sum of log-probabilities is TRL's own and rounded: 1e-6 for forty tokens
    metrics = compare(trainer, batch(seed), calls, yardstick=torch.float32)
    assert metrics["clip_ratio/region_mean"] > 0


def test_advantages_per_token(monkeypatch):
    """[B, T], which TRL lets subclasses give."""
    calls = count_calls(monkeypatch)
    trainer = make_trainer("grpo", loss_type="dapo", importance_sampling_level="sequence", epsilon=0.02)
    trainer.current_gradient_accumulation_steps = 1
    advantages = torch.randn(B, T, generator=torch.Generator().manual_seed(1)).double()
    with patch_trl():
        loss, gradients, _ = loss_of(trainer, *batch(0, advantages=advantages), torch.float32)
    assert (calls["policy_loss"], calls["trl loss"]) == (1, 0)
    expected, true_gradients, _ = loss_of(trainer, *batch(0, advantages=advantages), torch.float64)
    assert_near(loss, expected)
    assert_near(gradients[0], true_gradients[0])


def random_rewards(seed, rows, columns):
    """Groups of 4, in their order: equal, nothing scored, one scored, some missing."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(rows, columns, generator=generator) + 3
    rewards[torch.rand(rows, columns, generator=generator) < 0.2] = NAN
    rewards[0:4] = 0.3
    rewards[4:8] = NAN
    rewards[8:11] = NAN
    return rewards


def advantages_of(kind, rewards, **options):
    trainer = make_trainer(kind, per_device_train_batch_size=len(rewards), reward_funcs=[lambda **_: None] * rewards.shape[1], **options)
    trainer.scripted = rewards
    torch.manual_seed(3)
    output = trainer._generate_and_score_completions([{"prompt": f"w{5 + i // 4}"} for i in range(len(rewards))])
    assert list(trainer._logs["advantages"]) == output["advantages"].tolist()
    return output["advantages"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("grpo", {"scale_rewards": scale}) for scale in ("group", "batch", "none")),
        ("grpo", {"multi_objective_aggregation": "normalize_then_sum"}),
        ("rloo", {"beta": 0.0}),
        ("rloo", {"beta": 0.0, "normalize_advantages": True, "reward_clip_range": (-2.0, 3.0)}),
        ("rloo", {"beta": 0.1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
@pytest.mark.parametrize("columns", [1, 3])
def test_advantages(kind, options, columns, seed, monkeypatch):
    calls = count_calls(monkeypatch)
    monkeypatch.setattr(TRAINERS[kind], "_calculate_rewards", lambda self, *args: self.scripted)
    rewards = random_rewards(seed, 32, columns)
    weights = [1.0, 0.5, -0.75][:columns]
    if options.get("beta"):  # the divergence is no scripted number: a reference that is not the model
        monkeypatch.setattr(TRAINERS[kind], "_get_per_token_logps_and_entropies", scripted_logprobs())
    with patch_trl():
        ours = advantages_of(kind, rewards, reward_weights=weights, **options)
        assert calls["group_advantages"] == 1
    theirs = advantages_of(kind, rewards.double(), reward_weights=weights, **options)
    assert calls["group_advantages"] == 1
    assert_near(ours, theirs)
    assert bool((ours[4:8] == 0).all())


def scripted_logprobs():
    def logprobs(self, model, ids, mask, keep, *args, **options):
        generator = torch.Generator().manual_seed(int(model is self.model))
        return -torch.randn(len(ids), keep, generator=generator).abs().to(self.scripted.dtype), None, None

    return logprobs


def test_an_infinite_reward_is_no_signal(monkeypatch):
    monkeypatch.setattr(TRAINERS["grpo"], "_calculate_rewards", lambda self, *args: self.scripted)
    rewards = random_rewards(0, 32, 1)
    rewards[30] = float("inf")
    with patch_trl():
        ours = advantages_of("grpo", rewards)
    torch.testing.assert_close(ours, advantages_of("grpo", rewards), rtol=1e-4, atol=1e-6)
    assert bool((ours[28:] == 0).all())


def test_every_rank_takes_its_own_rows():
    """The second of two ranks: rewards of both, advantages of its own."""
    everyone = torch.arange(8.0)

    class Trainer:
        accelerator = SimpleNamespace(process_index=1)

        def __init__(self):
            self._logs = {"advantages": deque([NAN] * 8, maxlen=8)}

        def _calculate_rewards(self):
            return everyone

        def _get_per_token_logps_and_entropies(self):
            raise AssertionError

        @trl_advantages.overwrite(lambda trainer, output, seen: seen["rewards"][0])
        def generate(self, inputs):
            self._calculate_rewards()
            return {"advantages": torch.zeros(4)}

    trainer = Trainer()
    assert trainer.generate(None)["advantages"].tolist() == [4, 5, 6, 7]
    assert list(trainer._logs["advantages"]) == everyone.tolist()
    assert vars(trainer).keys() == {"_logs"}


def head(dtype=torch.float64, seed=0):
    hidden, weight = random_head(24, 48, 515, seed=seed)
    return hidden.to(dtype), weight.to(dtype), torch.linspace(-1, 1, 515, dtype=dtype), random_ids((24,), 515)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("scale", [1.0, 0.25, 2.0])
@pytest.mark.parametrize("frozen", [False, True])
def test_head(softcap, scale, frozen, monkeypatch):
    calls = count_calls(monkeypatch)
    results = {}
    for name, dtype in (("ours", torch.float32), ("true", torch.float64)):
        hidden, weight, bias, ids = head(dtype)
        leaves = [hidden.requires_grad_(), weight.requires_grad_(not frozen), bias.requires_grad_()]
        if name == "ours":
            with patch_trl():
                logprob, entropy, *rest = utils._ChunkedLogProbFunction.apply(
                    hidden, weight, bias, ids, 0.7, 100, softcap, scale, ("log_probs", "entropy")
                )
            assert rest == [None] * 3
        else:
            z = (hidden @ weight.T + bias) * scale
            z = z if softcap is None else softcap * (z / softcap).tanh()
            log_p = (z / 0.7).log_softmax(-1)
            logprob, entropy = log_p.gather(1, ids[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)
        (logprob.sum() + (entropy * torch.linspace(0, 1, 24, dtype=dtype)).sum()).backward()
        results[name] = (logprob.detach(), entropy.detach(), *(leaf.grad for leaf in leaves))
    assert (calls["linear_token_logprobs"], calls["trl head"]) == (1, 0)
    for got, true in zip(*results.values(), strict=True):
        assert (got is None) == (true is None)
        if true is not None:
            assert_near(got, true)


@pytest.mark.parametrize(
    ("outputs", "scale", "partitioned"),
    [(("log_probs", "is_top1"), 1.0, False), (None, 1.0, False), (("log_probs",), -1.0, False), (("log_probs",), 1.0, True)],
)
def test_a_head_that_is_not_ours_stays(outputs, scale, partitioned, monkeypatch):
    calls = count_calls(monkeypatch)
    hidden, weight, bias, ids = head(torch.float32)
    if partitioned:
        weight.ds_id = 0
    rest = () if outputs is None else (None, scale, outputs)
    with patch_trl():
        found = utils._ChunkedLogProbFunction.apply(hidden, weight, bias, ids, 1.0, 100, *rest)
    assert (calls["linear_token_logprobs"], calls["trl head"]) == (0, 1)
    assert (found[4] is None) == (outputs == ("log_probs",))


def test_a_head_without_a_native_body_stays(monkeypatch):
    """Plain PyTorch would store the logits, which TRL does not."""
    calls = count_calls(monkeypatch)
    monkeypatch.setattr(trl, "backend_info", lambda: {"cpu": "reference", "cuda": "triton"})
    hidden, weight, bias, ids = head(torch.float32)
    with patch_trl():
        utils._ChunkedLogProbFunction.apply(hidden, weight, bias, ids, 1.0, 100, None, 1.0, ("log_probs", "entropy"))
    assert (calls["linear_token_logprobs"], calls["trl head"]) == (0, 1)


def test_a_head_under_autocast():
    """As TRL: the products are of bfloat16, a gradient is of its parameter's type; logits are not rounded, which TRL's are."""
    hidden, weight, bias, ids = head(torch.float32)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    with patch_trl(), torch.autocast("cpu", dtype=torch.bfloat16):
        logprob, entropy, *_ = utils._ChunkedLogProbFunction.apply(*leaves, bias, ids, 1.0, 100, None, 1.0, ("log_probs",))
        gradients = torch.autograd.grad(logprob.sum(), leaves)
    assert entropy is None
    rounded = (hidden.bfloat16().double() @ weight.bfloat16().double().T + bias.double()).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    assert_near(logprob, rounded)
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 2
    assert all(math.isfinite(gradient.norm()) for gradient in gradients)


def test_no_tokens_give_a_zero_that_is_differentiable():
    hidden, weight, _, ids = head(torch.float32)
    with patch_trl():
        logprob, *_ = utils._ChunkedLogProbFunction.apply(
            hidden[:0].requires_grad_(), weight.requires_grad_(), None, ids[:0], 1.0, 100, None, 1.0, ("log_probs", "entropy")
        )
    logprob.sum().backward()
    assert weight.grad is not None
    assert weight.grad.count_nonzero() == 0
