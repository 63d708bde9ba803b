"""The native bodies' promise: a row's bits don't depend on the batch, the order of rows, the passes over them, or the number of threads.

Sizes lie on both sides of every constant in kernels/cpu that divides work:
lanes (4, 8, 16), kTileRows (3, 6), kTileColumns (4), kDotChain (256), kPadColumns (16, 32, 64), kStep (4 to 32), kHiddenPad (32), kTaskRows (96),
kLinearBlock (256), kLogitsBlock (1024), kPassPartials (2^18), kPassPacked (2^21), kThreadCost (2^14), kWidened (2^15); gradients: kPanelRows (6, 12),
kPanelColumns (8, 16, 32), kChain (256), kGradientColumns (1536), kGradientRows (768), kProductRows (192), kProductColumns (256).
"""

import re
from pathlib import Path

import pytest
import torch

from rrm_core import ScoreTokens, linear_token_logprobs, score_token_logprobs, score_token_logprobs_from_logits, token_logprobs
from rrm_core._library import OPS
from rrm_core.testing import random_head, random_ids, random_logits, same_bits

pytestmark = pytest.mark.native

SETS = [ScoreTokens({"A": [0, 40], "B": [1]}, values=[1.0, 0.0]), ScoreTokens({"1": [2], "2": [3], "3": [5]}, values=[1, 2, 3])]
ROWS = 200
BATCHES = [1, 2, 3, 4, 5, 6, 7, 95, 96, 97, 200]


# Triton: rows per program (16, 32, 64), columns per block of a product (64, 128) and of stored logits (2048 in 16384)
@pytest.mark.triton
@pytest.mark.parametrize(
    ("rows", "dtype"), [(1, torch.float32), (17, torch.float16), (17, torch.float32), (33, torch.bfloat16), (65, torch.bfloat16)]
)
def test_a_batch_leaves_no_trace(rows, dtype):
    """Forward and, where the backward has a native body, gradients of a few rows, alone and among others in another order."""
    some = torch.tensor([rows - 1, rows // 2])
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    hidden, weight = random_head(rows, 70, 150, dtype=dtype)
    ids, sets, heat, bias = random_ids((rows, 2), 150), random_ids((rows,), 2), torch.rand(rows) + 0.5, torch.randn(150)
    logits = random_logits(rows, 17_000 if rows == 1 else 300, dtype=dtype)
    functions = {
        "linear_token_logprobs": lambda x, r: linear_token_logprobs(x, weight, ids[r], bias=bias, temperature=heat[r], softcap=9.0, impl="native"),
        "token_logprobs": lambda x, r: token_logprobs(x, ids[r], temperature=heat[r], impl="native"),
        "score_token_logprobs": lambda x, r: score_token_logprobs(x, weight, SETS, row_sets=sets[r], temperature=heat[r], impl="native"),
        "score_token_logprobs_from_logits": lambda x, r: score_token_logprobs_from_logits(x, SETS, row_sets=sets[r], impl="native"),
    }
    for name, function in functions.items():
        if "linear" not in name and name != "score_token_logprobs" and rows > 17:
            continue  # stored rows are computed one by one
        x = hidden if "linear" in name or name == "score_token_logprobs" else logits
        found = []
        for taken, kept in ((order, order.argsort()[some]), (some, slice(None))):
            leaf = x[taken].requires_grad_()
            fields = [f for f in function(leaf, taken) if f is not None]
            (gradient,) = torch.autograd.grad([f.masked_fill(f.isinf(), 0.0).sum() for f in fields], leaf)
            found.append([*(f.detach()[kept] for f in fields), *([gradient[kept]] if "cpu" in OPS[f"{name}_backward"].native_devices else [])])
        assert all(same_bits(a, b) for a, b in zip(*found, strict=True)), name


def token(logits, ids, **kw):
    return token_logprobs(logits, ids, impl="native", **kw)


def assert_rows_agree(run, expected, rows):
    """run(rows) gives exactly the rows of ``expected``."""
    for name, field, whole in zip(expected._fields, run(rows), expected, strict=True):
        assert field is whole is None or same_bits(field, whole[rows]), f"{name} of {len(rows)} rows"


def subsets(n):
    generator = torch.Generator().manual_seed(0)
    for size in BATCHES:
        yield torch.arange(size) % n
        yield torch.randint(0, n, (size,), generator=generator)


@pytest.mark.parametrize("vocab", [41, 255, 256, 257, 300])
@pytest.mark.parametrize("hidden_size", [15, 16, 17, 31, 32, 33])
def test_linear_ops_at_every_tile_boundary(vocab, hidden_size, dtype):
    hidden, weight = random_head(ROWS, hidden_size, vocab, dtype=dtype)
    ids, sets, heat = random_ids((ROWS,), vocab), random_ids((ROWS,), 2), torch.rand(ROWS) + 0.5
    options = {"softcap": 20.0, "impl": "native"}
    expected = linear_token_logprobs(hidden, weight, ids, temperature=heat, **options)
    scores = {full: score_token_logprobs(hidden, weight, SETS, row_sets=sets, temperature=heat, full_vocab=full, **options) for full in (True, False)}
    for r in subsets(ROWS):
        assert_rows_agree(lambda r: linear_token_logprobs(hidden, weight, ids[r], rows=r, temperature=heat[r], **options), expected, r)
        for full, whole in scores.items():
            kw = {"rows": r, "temperature": heat[r], "full_vocab": full, **options}
            assert_rows_agree(lambda r, kw=kw: score_token_logprobs(hidden, weight, SETS, row_sets=sets[r], **kw), whole, r)


@pytest.mark.parametrize("vocab", [41, 1023, 1024, 1025, 2049])
def test_logits_ops_at_every_block_boundary(vocab, dtype):
    logits = random_logits(ROWS, vocab, dtype=dtype)
    ids, sets = random_ids((ROWS,), vocab), random_ids((ROWS,), 2)
    expected = token(logits, ids)
    scores = {full: score_token_logprobs_from_logits(logits, SETS, row_sets=sets, full_vocab=full, impl="native") for full in (True, False)}
    for r in subsets(ROWS):
        assert_rows_agree(lambda r: token(logits[r], ids[r]), expected, r)
        for full, whole in scores.items():
            assert_rows_agree(
                lambda r, full=full: score_token_logprobs_from_logits(logits[r], SETS, row_sets=sets[r], full_vocab=full, impl="native"), whole, r
            )


@pytest.mark.parametrize("blocks", [1, 3])
def test_logits_rows_on_both_sides_of_a_pass(blocks):
    vocab = 1 if blocks == 1 else 2049
    pass_rows = 2**18 // blocks
    if blocks == 1:
        logits = random_logits(pass_rows + 3, vocab)
        ids = torch.zeros(pass_rows + 3, dtype=torch.int64)
    else:
        logits = random_logits(97, vocab).repeat(pass_rows // 97 + 2, 1).as_strided((pass_rows + 3, vocab), (0, 1))
        ids = random_ids((pass_rows + 3,), vocab)
    whole = token(logits, ids)
    edge = torch.arange(pass_rows - 2, pass_rows + 3)
    assert_rows_agree(lambda r: token(logits[r], ids[r]), whole, edge)


def linear_gradients(hidden, weight, ids, heat, bias=None, **options):
    """Of everything the linear op has a gradient for."""
    leaves = [x.detach().requires_grad_() for x in (hidden, weight, heat, *([] if bias is None else [bias]))]
    options |= {} if bias is None else {"bias": leaves[3]}
    fields = linear_token_logprobs(leaves[0], leaves[1], ids, temperature=leaves[2], softcap=20.0, impl="native", **options)
    return torch.autograd.grad([f.sum() for f in fields], leaves)


@pytest.mark.parametrize(("hidden_size", "vocab"), [(40, 1600), (290, 530)])
def test_gradients_of_a_row_at_every_boundary(hidden_size, vocab, dtype):
    hidden, weight = random_head(800, hidden_size, vocab, dtype=dtype)
    ids, heat = random_ids((800,), vocab), torch.rand(800) + 0.5
    whole = linear_gradients(hidden, weight, ids, heat)
    generator = torch.Generator().manual_seed(0)
    for size in (1, 5, 6, 7, 12, 13, 96, 97, 192, 193, 767, 768, 769):
        r = torch.randperm(800, generator=generator)[:size]
        of_hidden, _, of_heat = linear_gradients(hidden[r], weight, ids[r], heat[r])
        assert same_bits(of_hidden, whole[0][r]), size
        assert same_bits(of_heat, whole[2][r]), size


def test_gradients_of_logits_on_both_sides_of_a_block(dtype):
    logits, ids = random_logits(5, 2049, dtype=dtype), random_ids((5, 2), 2049)

    def gradient(r):
        leaf = logits[r].requires_grad_()
        return torch.autograd.grad([f.sum() for f in token(leaf, ids[r], temperature=0.7)], leaf)[0]

    whole = gradient(torch.arange(5))
    for r in ([4], [2, 0], [1, 1, 3]):
        assert same_bits(gradient(torch.tensor(r)), whole[r])


@pytest.mark.parametrize(("hidden_size", "vocab", "edge"), [(5, 151936, 384), (11000, 40, 96)])
def test_linear_rows_on_both_sides_of_a_pass(hidden_size, vocab, edge):
    hidden, weight = random_head(edge + 4, hidden_size, vocab)
    ids = random_ids((edge + 4,), vocab)
    whole = linear_token_logprobs(hidden, weight, ids, impl="native")
    assert_rows_agree(lambda r: linear_token_logprobs(hidden[r], weight, ids[r], impl="native"), whole, torch.arange(edge - 2, edge + 4))


@pytest.mark.parametrize("rows", [1, 5, 100, 800])
def test_thread_count_changes_no_bit_of_a_gradient(rows, threads, dtype):
    hidden, weight = random_head(rows, 48, 1700, dtype=dtype)
    ids, heat, bias = random_ids((rows,), 1700), torch.rand(rows) + 0.5, torch.randn(1700)
    scores = [x.clone().requires_grad_() for x in (hidden, weight)]
    runs = []
    for n in (1, 2, 3, 5):
        threads(n)
        labels = score_token_logprobs(*scores, SETS[0], full_vocab=False, impl="native").conditional
        runs.append([*linear_gradients(hidden, weight, ids, heat, bias), *torch.autograd.grad(labels.sum(), scores)])
    for other in runs[1:]:
        assert all(same_bits(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 140])
def test_thread_count_changes_no_bit(rows, threads, dtype):
    hidden, weight = random_head(rows, 48, 700, dtype=dtype)
    logits = random_logits(rows, 3000, dtype=dtype)
    ids = random_ids((rows,), 700)
    runs = []
    for n in (1, 2, 3, 5):
        threads(n)
        runs.append(
            [
                *token(logits, ids),
                *linear_token_logprobs(hidden, weight, ids, impl="native"),
                *score_token_logprobs(hidden, weight, SETS[0], impl="native"),
                *score_token_logprobs(hidden, weight, SETS[0], full_vocab=False, impl="native")[1:2],
            ]
        )
    for other in runs[1:]:
        assert all(same_bits(a, b) for a, b in zip(runs[0], other, strict=True))


def test_ignored_rows_between_do_not_matter():
    hidden, weight = random_head(ROWS, 20, 100)
    ids = random_ids((ROWS,), 100)
    whole = linear_token_logprobs(hidden, weight, ids, impl="native")
    sparse_ids = ids.masked_fill(torch.arange(ROWS) % 3 != 0, -100)
    sparse = linear_token_logprobs(hidden, weight, sparse_ids, impl="native")
    for a, b in zip(sparse, whole, strict=True):
        assert same_bits(a[::3], b[::3])


def test_the_sizes_above_name_every_constant_that_divides_work():
    """A new or changed constant in the kernels must be met by the sizes of this file."""
    files = [
        p for p in sorted((Path(__file__).parents[2] / "kernels/cpu").iterdir()) if not re.search("advantages|losses|tournaments|doubles", p.name)
    ]
    sources = "\n".join(p.read_text() for p in files)
    constants = dict(re.findall(r"constexpr (?:int64_t|int) (k\w+) = ([^;]+);", sources))
    assert constants == {
        "kVectorBytes": constants["kVectorBytes"],
        "kLanes": "kVectorBytes / 4",
        "kTileRows": "kVectorBytes == 64 ? 6 : 3",
        "kTileColumns": "4",
        "kDotChain": "256",
        "kStep": constants["kStep"],
        "kSums": "kLanes == 4 ? 8 : 4",
        "kPadColumns": "kSums * kLanes",
        "kInStep": "kLanes == 16 ? 4 : 2",
        "kHiddenPad": "32",
        "kTaskRows": "96",
        "kLinearBlock": "256",
        "kLogitsBlock": "1024",
        "kPassPartials": "int64_t{1} << 18",
        "kPassPacked": "int64_t{1} << 21",
        "kThreadCost": "int64_t{1} << 14",
        "kWidened": "1 << 15",
        "kPanelRows": "kVectorBytes == 64 ? 12 : 6",
        "kPanelVectors": "2",
        "kPanelColumns": "kPanelVectors * kLanes",
        "kPanelPad": "12",
        "kChain": "256",
        "kGradientColumns": "1536",
        "kGradientRows": "768",
        "kProductRows": "192",
        "kProductColumns": "256",
        "kPadId": "-1",
        "kMaxTables": "4",
        "kHugePage": "int64_t{1} << 21",
        "kWorthHugePages": "2 * kHugePage",
    }
