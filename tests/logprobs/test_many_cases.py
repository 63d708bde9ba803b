"""A hundred thousand random rows, and the corners of what is promised: every result and every gradient against float64 by the numeric contract.

A case is one row of one op. Calls of one kind (op, dtype, vocabulary, scale of the logits) are judged together: float32 eager's largest error among
them is the yardstick, which in a single row would be luck. Each group prints its number of cases and its largest error as a share of what is allowed.
"""

import itertools

import pytest
import torch

from rrm_core.testing import assert_within_contract, in_float64, ulp
from tests.logprobs.cases import OPS, random_case
from tests.logprobs.oracle import run

pytestmark = [pytest.mark.slow, pytest.mark.native, pytest.mark.usefixtures("one_thread")]
GROUPS = list(itertools.product(OPS, [torch.float32, torch.bfloat16, torch.float16]))
CASES = 100_000


def distance(found, exact):
    """The largest, over what is finite."""
    apart = (found.double() - exact).abs()[exact.isfinite()]
    return float(apart.max()) if apart.numel() else 0.0


def share_of_budget(found, eager, exact):
    allowed = 2 * distance(eager, exact) + 4 * ulp(exact, found.dtype) + torch.finfo(found.dtype).tiny
    return distance(found.double() / allowed, exact / allowed)


def judge(op, calls):
    """Largest share of the budget, and whose it is."""
    columns = {}
    for args, options, wanted in calls:
        exact = run(OPS[op], in_float64(args), {**in_float64(options), "impl": "reference"}, wanted)
        native = run(OPS[op], args, {**options, "impl": "native"}, wanted)
        vocab, rows = options.get("vocab_size", args[0].shape[-1]), len(options["temperature"])
        orders = 8 if vocab < 64 else 1 if rows > 1000 else 2  # few numbers are no yardstick, many are
        eager = [run(OPS[op], args, {**options, "impl": "reference"}, wanted, order) for order in range(orders)]
        for name in exact:
            largest = max(eager, key=lambda results, name=name, exact=exact: distance(results[name], exact[name]))
            columns.setdefault(name, []).append([x[name].flatten() for x in (native, exact, largest)])
    worst = (0.0, "")
    for name, rows in columns.items():
        native, exact, eager = (torch.cat(column) for column in zip(*rows, strict=True))
        assert_within_contract(native, eager, exact, name)
        worst = max(worst, (share_of_budget(native, eager, exact), name))
    return worst


def report(capsys, title, group, cases, worst):
    op, dtype = group
    with capsys.disabled():
        print(f"\n{title}: {op}, {str(dtype)[6:]}: {cases} cases, largest error {worst[0]:.2f} of the budget ({worst[1]})", end="", flush=True)


def kinds(draw):
    """Endlessly: numbers of rows of some calls, and what else they share."""

    def one_of(*values):
        return values[int(torch.randint(0, len(values), (), generator=draw))]

    yield [0, 1, 7, 24], {"vocab": 151_936, "ids": 64, "scale": 33.0}
    while True:
        vocab = int(2 ** (12 * torch.rand((), generator=draw)))
        rows = one_of([0, 1, 2, 7, 40, 250], [0, 1, 99, 900], [4096]) if vocab >= 64 else [0, 1, 2, 7, 40] * 6
        if sum(rows) * vocab > 2_000_000:
            rows = [0, 1, 2, 7, 40, 250]
        options = {"ids": one_of(1, 2, 3, 5, 10, 64), "hidden": int(torch.randint(4, 65, (), generator=draw)), "scale": one_of(1.0, 5.0, 33.0)}
        options |= {"offset": one_of(0.0, 0.0, -120.0, 500.0), "impossible": one_of(0.0, 0.2, 0.9), "ignored": one_of(0.0, 0.3)}
        softcap = one_of(None, 3.0, 30.0) if options["offset"] == 0.0 else None
        yield rows, {"vocab": vocab, "softcap": softcap, **options}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0]}-{str(group[1])[6:]}")
def test_many_random_rows(group, capsys):
    op, dtype = group
    number = GROUPS.index(group)
    seeds = itertools.count(1_000_000 * number)
    cases, worst = 0, (0.0, "")
    for rows, kind in kinds(torch.Generator().manual_seed(number)):
        worst = max(worst, judge(op, [random_case(op, rows=n, dtype=dtype, seed=next(seeds), **kind) for n in rows]))
        cases += sum(rows)
        if cases * len(GROUPS) >= CASES:
            break
    report(capsys, "random rows", group, cases, worst)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0]}-{str(group[1])[6:]}")
def test_the_corners(group, capsys):
    """Logits up to 100; 0, 1, 8, 300 and 4096 rows, a vocabulary of 1, 2, 1000 and 151936 (of up to 64 rows), 1, 10 and 64 tokens asked for."""
    op, dtype = group
    seeds = itertools.count(1_000_000 * GROUPS.index(group))
    cases, worst = 0, (0.0, "")
    for vocab in (1, 2, 1000, 151_936):
        many = {1: [300, 4096], 2: [300, 4096], 1000: [300], 151_936: []}[vocab]
        large = {1000: [(4096, 10), (4096, 64)], 151_936: [(64, 10), (64, 64)]}.get(vocab, [])
        corners = [*itertools.product([0, 1, 8, *many], [1, 10, 64]), *large]
        calls = (random_case(op, rows=n, vocab=vocab, ids=ids, scale=33.0, dtype=dtype, seed=next(seeds)) for n, ids in corners)
        worst = max(worst, judge(op, calls))
        cases += sum(n for n, _ in corners)
    report(capsys, "corners", group, cases, worst)
