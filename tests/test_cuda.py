"""On a GPU: public functions on its tensors, whatever is launched captured in a CUDA graph, more than 2^31 logits, another current device's stream.

The Triton bodies' values are the business of test_interpreter.py; everything here is skipped where there is no GPU.
"""

import pytest
import torch

pytest.importorskip("triton")

import rrm_core
from bench.gpu.samples import SAMPLES
from bench.measure import check
from bench.registry import all_cases, fields
from rrm_core import token_logprobs
from rrm_core._library import OPS
from rrm_core.testing import random_logits, same_bits
from rrm_core.tournaments import PairCounts, bootstrap, bradley_terry, davidson, elo, majority_vote, pairwise_counts, sum_vote, vote_status

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
CUDA = torch.device("cuda")
CASES = [case for case in all_cases("tiny") if case.ops and "cuda" in case.device_types]
VOCABULARY = 151936


def filled(value, generator):
    """On the GPU: floating-point numbers at random, whole numbers 0, flags True."""
    if isinstance(value, list | tuple):
        return type(value)(filled(x, generator) for x in value)
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_floating_point():
        return torch.randn(value.shape, dtype=value.dtype, device=CUDA, generator=generator)
    return torch.full(value.shape, value.dtype == torch.bool, dtype=value.dtype, device=CUDA)


def tensors(value):
    return [x for part in value for x in tensors(part)] if isinstance(value, list | tuple) else [value]


def test_every_op_with_a_triton_body_is_native_here():
    assert rrm_core.backend_info()["cuda"].startswith("triton ")
    assert {name for name, op in OPS.items() if "cuda" in op.native_devices} == {name for name, op in OPS.items() if op.triton is not None}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_public_functions_are_within_the_contract(case):
    inputs = case.make(CUDA)
    assert check(case, inputs) is None
    assert all(x.device.type == "cuda" for x in fields(case.ours(*inputs)).values())


@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if sample.op != "bradley_terry"], ids=str)  # which asks whether all fits converged
def test_a_graph_replays_what_a_launcher_launched(sample):
    """Launchers never look at values, so that they can be captured; a replay gives the bits of a call."""
    arguments, body = filled(sample.arguments(), torch.Generator(CUDA).manual_seed(0)), OPS[sample.op].triton
    expected = tensors(body(*arguments))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = tensors(body(*arguments))
    graph.replay()
    torch.cuda.synchronize()
    for ours, theirs in zip(found, expected, strict=True):
        assert same_bits(ours, theirs)


def test_more_logits_than_a_32_bit_index_counts():
    rows = (1 << 31) // VOCABULARY + 70
    logits = torch.empty(rows, VOCABULARY, dtype=torch.bfloat16, device=CUDA).normal_()
    ids = torch.randint(VOCABULARY, (rows,), device=CUDA)
    leaf = logits[-64:].clone().requires_grad_()
    expected = token_logprobs(leaf, ids[-64:], impl="native")
    logits.requires_grad_()
    found = token_logprobs(logits, ids, impl="native")
    for all_rows, last in zip(found, expected, strict=True):
        assert all_rows is None or same_bits(all_rows[-64:], last)
    (grad,) = torch.autograd.grad(found.logprob.sum(), logits)
    (expected_grad,) = torch.autograd.grad(expected.logprob.sum(), leaf)
    assert same_bits(grad[-64:], expected_grad)


def test_a_side_stream_is_where_everything_runs():
    logits, ids = random_logits(64, 20_000), torch.arange(64)
    expected = token_logprobs(logits.to(CUDA), ids.to(CUDA)).logprob
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = logits.to(CUDA, non_blocking=True) * 1.0
        found = token_logprobs(late, ids.to(CUDA)).logprob
    stream.synchronize()
    assert same_bits(found, expected)


GENERATOR = torch.Generator().manual_seed(0)
FIRST, STEP = (torch.randint(low, 6, (400,), generator=GENERATOR) for low in (0, 1))
SECOND, OUTCOME = (FIRST + STEP) % 6, torch.randint(3, (400,), generator=GENERATOR) / 2.0
SCORES, VOTES = torch.randint(1, 11, (5, 7, 6), generator=GENERATOR).double(), torch.randint(-1, 6, (5, 7), generator=GENERATOR)


def counts(first, second, outcome):
    return PairCounts(*pairwise_counts(first, second, outcome, num_candidates=6))


FUNCTIONS = {
    "bradley_terry, sandwich": lambda *m: bradley_terry(counts(*m[:3]), stderr="sandwich"),
    "davidson": lambda *m: davidson(counts(*m[:3])),
    "bootstrap": lambda *m: bootstrap(*m[:3], num_candidates=6, replicates=50),
    "elo, orders": lambda *m: elo(*m[:3], num_candidates=6, orders=3, seed=1),
    "sum_vote": lambda *m: sum_vote(m[3], on_tie="random", seed=3),
    "majority_vote": lambda *m: majority_vote(m[4], num_candidates=6, on_tie="random", seed=3),
    "vote_status": lambda *m: vote_status(m[3][:, 0, 0].long(), m[3][:, 0, 1].long(), max_votes=40, rule="beta"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_answers_are_those_of_a_cpu(name):
    arguments = FIRST, SECOND, OUTCOME, SCORES, VOTES
    expected, found = fields(FUNCTIONS[name](*arguments)), fields(FUNCTIONS[name](*(x.to(CUDA) for x in arguments)))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].device.type == "cuda", key
        if key != "iterations":
            torch.testing.assert_close(found[key].cpu(), value, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda text, key=key: f"{key}: {text}")
