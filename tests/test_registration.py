"""Every op of the namespace: schema, fakes, autograd registration (opcheck) and torch.compile without graph breaks, forward and backward."""

import pytest
import torch

import rrm_core
from rrm_core import ScoreTokens
from rrm_core._library import OPS
from rrm_core.logprobs.score_tokens import pack
from rrm_core.testing import random_head, random_ids, random_logits

HIDDEN, WEIGHT = random_head(7, 12, 80)
SETS = [ScoreTokens({"A": [3, 70], "B": [64]}, values=[1.0, 0.0]), ScoreTokens({"1": [10], "2": [11], "3": [12]}, values=[1, 2, 3])]
FORMS, VALUES = pack(SETS, 80, torch.device("cpu"))
ROWS, ROW_SETS, IDS = torch.tensor([4, 0, 1, 6]), torch.tensor([0, 1, 1, 0]), random_ids((4, 2), 75)
BIAS, HEAT = random_logits(80), random_logits(4).sigmoid() + 0.5
LOGITS = random_logits(4, 80)
STATISTICS = random_logits(4, 3).abs()
TOKEN_GRADS = [random_logits(4, 2), random_logits(4), random_logits(4), random_logits(4), STATISTICS]
SCORE_GRADS = [random_logits(4, 3), random_logits(4, 3), *(random_logits(4) for _ in range(4))]
LABEL_GRADS = [torch.zeros(0), random_logits(4, 3), torch.zeros(0), *(random_logits(4) for _ in range(3))]
MASK = LOGITS[:, :7] > -1
# the tensors; then objective, sequence_ratio, clips, clamp, kl_coef, kl, reduction, rollout
LOSS = (LOGITS[:, :7], LOGITS[:, 1:8], HEAT, MASK, None, LOGITS[:, 2:9], LOGITS[:, 3:10], None, 0, False, 0.2, 0.2, 3.0, 20.0, 0.1, 2, 0, 2.0, False)
PACKED_LOSS = (
    LOGITS[0],
    None,
    HEAT,
    None,
    torch.tensor([0, 9, 9, 50, 80]),
    *[None] * 2,
    torch.tensor(9.0),
    1,
    True,
    1.0,
    4.0,
    *[None] * 2,
    0.0,
    2,
    3,
    2.0,
    True,
)

# hidden [2, 3, 12] and ids; then bias, temperature, softcap, vocab_size, behaviour, normalizer, options, entropy_coef, needs
STEPS = [LOGITS[:2, i : i + 3] for i in range(4)]
LINEAR_LOSS = (
    HIDDEN[:6].view(2, 3, 12), WEIGHT, IDS[:3].T, BIAS, HEAT[:1].expand(6), 8.0, 75, STEPS[0], HEAT[:2], MASK[:2, :3], None, STEPS[1], STEPS[2], None,
    0, 0.2, 0.2, 3.0, 20.0, 0.1, 2, 1, 2.0, True, 0.05, True, True, True,
)  # fmt: skip
PACKED_LINEAR_LOSS = (
    HIDDEN, WEIGHT, IDS.flatten()[:7], None, None, None, 80, None, HEAT[:3], None, torch.tensor([1, 3, 3, 6]), None, None, torch.tensor(9.0),
    1, 0.2, 0.2, None, None, 0.0, 2, 3, 2.0, False, 0.0, False, True, False,
)  # fmt: skip

SCORES, RATED, DRAWS = LOGITS.view(4, 16, 5).double(), LOGITS[:, :16].double(), torch.tensor([0.2, 0.5, 0.9, 0.1], dtype=torch.float64)
SHOWN, CAST, TAKING = SCORES.argsort(-1), random_ids((4, 16), 5) - 1, torch.ones(4, 5, dtype=torch.bool)

# op -> argument lists; the gradient of the first is checked too where the op has one
SAMPLES = {
    "token_logprobs": [(LOGITS, IDS, HEAT, -100), (LOGITS.view(2, 2, 80), IDS[:, 0].view(2, 2), None, -100)],
    "token_logprobs_backward": [(*TOKEN_GRADS, LOGITS, IDS, HEAT, -100, True, True), (*TOKEN_GRADS, LOGITS, IDS, None, -100, True, False)],
    "linear_token_logprobs": [
        (HIDDEN, WEIGHT, IDS, ROWS, BIAS, HEAT, 8.0, -100, 75, True),
        (HIDDEN[:4], WEIGHT, IDS, None, None, None, None, -100, 80, False),
    ],
    "linear_token_logprobs_backward": [
        (*TOKEN_GRADS, HIDDEN, WEIGHT, IDS, ROWS, BIAS, HEAT, 8.0, -100, 75, True, True, True, True),
        (*TOKEN_GRADS, HIDDEN, WEIGHT, IDS, ROWS, None, None, None, -100, 75, False, True, False, False),
    ],
    "score_token_logprobs": [
        (HIDDEN, WEIGHT, FORMS, VALUES, ROWS, ROW_SETS, BIAS, HEAT, 8.0, True, 75, True),
        (HIDDEN, WEIGHT, FORMS[:1], None, None, None, None, None, None, False, 80, True),
    ],
    "score_token_logprobs_backward": [
        (SCORE_GRADS, STATISTICS, HIDDEN, WEIGHT, FORMS, VALUES, ROWS, ROW_SETS, BIAS, HEAT, 8.0, True, 75, True, True, True, True),
        (LABEL_GRADS, STATISTICS, HIDDEN, WEIGHT, FORMS, VALUES, ROWS, ROW_SETS, BIAS, HEAT, 8.0, False, 75, True, False, False, True),
    ],
    "score_token_logprobs_from_logits": [(LOGITS, FORMS, VALUES, ROW_SETS, HEAT, True), (LOGITS.view(2, 2, 80), FORMS[:1], None, None, None, False)],
    "score_token_logprobs_from_logits_backward": [(SCORE_GRADS, STATISTICS, LOGITS, FORMS, VALUES, ROW_SETS, HEAT, True, True, True)],
    "policy_loss": [LOSS, PACKED_LOSS],
    "policy_loss_backward": [(torch.tensor(2.0), torch.ones(4, 4, dtype=torch.float64), *LOSS)],
    "linear_policy_loss": [LINEAR_LOSS, PACKED_LINEAR_LOSS, (HIDDEN.bfloat16(), WEIGHT.bfloat16(), *PACKED_LINEAR_LOSS[2:])],
    "linear_policy_loss_backward": [(torch.tensor(2.0), [HIDDEN, WEIGHT], [HIDDEN, WEIGHT])],
    "sum_vote": [(SCORES, SHOWN, RATED > -5, TAKING, RATED, DRAWS, 3), (SCORES[:2], None, None, None, None, None, 1)],
    "majority_vote": [(CAST, RATED.abs(), RATED > -5, TAKING, DRAWS, 5), (CAST[:2], None, None, None, None, 9)],
    "group_advantages": None,  # these in tests/advantages
    "whiten": None,
    "pairwise_wins": None,  # these in tests/tournaments
    "pairwise_counts": None,
    "elo": None,
    "bradley_terry": None,
    "davidson": None,
    "pair_scores": None,
    "power_iteration": None,
    "resampled_wins": None,
}
DIFFERENTIABLE = [name for name in SAMPLES if f"{name}_backward" in OPS]
CHECKS = [(name, i) for name, samples in SAMPLES.items() for i in range(len(samples or ()))]


def test_every_op_has_samples():
    assert set(SAMPLES) == set(OPS)


@pytest.mark.parametrize(("name", "i"), CHECKS)
def test_opcheck(name, i):
    torch.library.opcheck(OPS[name].dispatched, SAMPLES[name][i])


def requiring_grad(argument):
    return (
        argument.clone().requires_grad_()
        if isinstance(argument, torch.Tensor) and argument.is_floating_point() and argument is not VALUES
        else argument
    )


@pytest.mark.parametrize(("name", "i"), [c for c in CHECKS if c[0] in DIFFERENTIABLE])
def test_opcheck_with_gradients(name, i):
    torch.library.opcheck(OPS[name].dispatched, tuple(requiring_grad(a) for a in SAMPLES[name][i]))


def heads(rows):
    hidden, weight = random_head(rows, 12, 80, seed=rows)
    return hidden.requires_grad_(), weight.requires_grad_()


FUNCTIONS = {
    "token_logprobs": lambda h, w, heat: rrm_core.token_logprobs(h @ w.T, torch.arange(len(h)), temperature=heat),
    "linear_token_logprobs": lambda h, w, heat: rrm_core.linear_token_logprobs(h, w, torch.arange(len(h)), temperature=heat, softcap=9.0),
    "score_token_logprobs": lambda h, w, heat: rrm_core.score_token_logprobs(h, w, SETS, row_sets=torch.arange(len(h)) % 2, temperature=heat),
    "score_token_logprobs, labels only": lambda h, w, heat: rrm_core.score_token_logprobs(h, w, SETS[0], full_vocab=False, temperature=heat),
    "score_token_logprobs_from_logits": lambda h, w, heat: rrm_core.score_token_logprobs_from_logits(h @ w.T, SETS[1], temperature=heat),
}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_without_a_graph_break_forward_and_backward(name, backend):
    function = FUNCTIONS[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    for rows in (5, 9, 6):
        heat = torch.tensor(0.5 + rows / 10)
        results, grads = [], []
        for run in (function, compiled):
            inputs = heads(rows)
            fields = [r for r in run(*inputs, heat) if r is not None]
            results.append(fields)
            grads.append(torch.autograd.grad(sum(f[f.isfinite()].sum() if f.isinf().any() else f.sum() for f in fields), inputs))
        for eager, other in zip([*results[0], *grads[0]], [*results[1], *grads[1]], strict=True):
            torch.testing.assert_close(other, eager)


def test_compiled_ids_out_of_range_give_nan_in_their_row(impl):
    torch._dynamo.reset()
    ids = torch.tensor([3, 80, -7, 4])
    run = torch.compile(lambda x, i: rrm_core.token_logprobs(x, i, impl=impl), fullgraph=True, backend="aot_eager")
    assert run(LOGITS, ids).logprob.isnan().tolist() == [False, True, True, False]


def test_compiled_rows_and_sets_out_of_range_give_nan_in_their_row(impl):
    torch._dynamo.reset()

    def run(rows, sets):
        return rrm_core.score_token_logprobs(HIDDEN, WEIGHT, SETS, rows=rows, row_sets=sets, impl=impl)

    result = torch.compile(run, fullgraph=True, backend="aot_eager")(torch.tensor([0, 7, -1, 3]), torch.tensor([0, 0, 1, 2]))
    for field in result:
        assert field.isnan().view(4, -1).all(-1).tolist() == [False, True, True, True]


def test_inference_mode_and_no_grad():
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            assert not rrm_core.token_logprobs(LOGITS.clone(), IDS).logprob.requires_grad
