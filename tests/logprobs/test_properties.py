"""What holds for any logits: identities of the softmax, and of a batch with its rows, forward and gradients. See cases.py for what is drawn.

A batch has enough rows for float32 eager's largest error in it to be a yardstick.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rrm_core import ScoreTokens, token_logprobs
from rrm_core.testing import assert_within_contract, in_float64, same_bits, summation_orders
from tests.logprobs.cases import OPS, random_case
from tests.logprobs.oracle import run

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("one_thread")]
HALF_TOO = [torch.float32, torch.bfloat16, torch.float16]


def batches(ops=tuple(OPS), dtypes=(torch.float32, torch.bfloat16), **limits):
    drawn = {
        "op": st.sampled_from(ops),
        "rows": st.integers(33, 50),
        "vocab": st.sampled_from([64, 65, 129, 300, 1025]),
        "ids": st.sampled_from([1, 2, 5, 10, 64]),
        "hidden": st.integers(8, 40),
        "dtype": st.sampled_from(dtypes),
        "scale": st.sampled_from([0.5, 5.0, 40.0]),
        "softcap": st.sampled_from([None, 3.0, 30.0]),
        "impossible": st.sampled_from([0.0, 0.2, 0.9]),
        "ignored": st.sampled_from([0.0, 0.3, 1.0]),
        "seed": st.integers(0, 10_000),
        **limits,
    }
    return st.fixed_dictionaries(drawn)


def assert_the_same(op, case, changed, back=lambda results: results):
    """The op says of ``changed`` what it says of ``case``: the plain body in float64 to rounding, the native one by the contract."""
    function, wanted = OPS[op], case[2]
    args, options = case[:2]
    exact = run(function, in_float64(args), {**in_float64(options), "impl": "reference"}, wanted)
    eager = [run(function, args, {**options, "impl": "reference"}, wanted, order) for order in range(16)]
    native = back(run(function, changed[0], {**changed[1], "impl": "native"}, wanted))
    plain = back(run(function, in_float64(changed[0]), {**in_float64(changed[1]), "impl": "reference"}, wanted))
    for name, truth in exact.items():
        assert_within_contract(native[name], [e[name] for e in eager], truth, name)
        torch.testing.assert_close(plain[name], truth, rtol=1e-10, atol=1e-11, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")


@settings(max_examples=120)
@given(batches(dtypes=HALF_TOO), st.booleans())
def test_any_batch_is_within_contract(case, full_vocab):
    args, options, wanted = random_case(**case)
    if "score" in case["op"]:
        options["full_vocab"] = full_vocab
    assert_the_same(case["op"], (args, options, wanted), (args, options))


def head(op):
    return op in ("linear_token_logprobs", "score_token_logprobs")


@settings(max_examples=120)
@given(batches(dtypes=HALF_TOO, rows=st.integers(0, 9), vocab=st.integers(1, 200), hidden=st.integers(1, 70)))
def test_a_batch_is_its_rows_one_by_one(case):
    """Bit for bit, gradients of a row too."""
    args, options, _ = random_case(**case)
    function, wanted = OPS[case["op"]], ["hidden" if head(case["op"]) else "logits", "temperature"]
    if head(case["op"]):
        args[0] = args[0][options.pop("rows")]
    whole = run(function, args, {**options, "impl": "native"}, wanted)
    for row in range(case["rows"]):
        one = {name: x[row : row + 1] for name, x in options.items() if name in ("temperature", "row_sets")}
        ids = args[-1] if "score" in case["op"] else args[-1][row : row + 1]
        found = run(function, [args[0][row : row + 1], *args[1:-1], ids], {**options, **one, "impl": "native"}, wanted, part=(row, case["rows"]))
        assert all(same_bits(result[0], whole[name][row]) for name, result in found.items())


@given(batches(ops=["score_token_logprobs", "score_token_logprobs_from_logits"], dtypes=HALF_TOO, rows=st.integers(1, 40), vocab=st.integers(1, 200)))
def test_labels_alone_say_what_the_whole_vocabulary_says_of_them(case):
    """The native bodies bit for bit."""
    args, options, _ = random_case(**case)
    for impl, float64 in (("native", as_it_is), ("reference", in_float64)):
        full, labels = (OPS[case["op"]](*float64(args), **float64(options), full_vocab=f, impl=impl) for f in (True, False))
        assert labels.logprob is labels.log_mass is None
        for name in ("conditional", "expected", "variance", "entropy"):
            a, b = getattr(full, name), getattr(labels, name)
            assert same_bits(a, b) if impl == "native" else torch.allclose(a, b, rtol=1e-10, atol=1e-12, equal_nan=True), name


@given(batches())
def test_the_order_of_the_vocabulary_does_not_matter(case):
    args, options, wanted = random_case(**case)
    order = torch.randperm(case["vocab"], generator=torch.Generator().manual_seed(case["seed"]))
    place, padded = order.argsort(), torch.cat([order, torch.arange(case["vocab"], case["vocab"] + 3)])
    chosen = args[-1]
    if "score" in case["op"]:
        moved = [ScoreTokens({n: place[list(ids)].tolist() for n, ids in zip(s.labels, s.forms, strict=True)}, s.values) for s in chosen]
    else:
        moved = torch.where(chosen >= 0, place[chosen.clamp(min=0)], chosen)
    if head(case["op"]):
        changed = [args[0], args[1][padded], moved], {**options, "bias": options["bias"][padded]}
    else:
        changed = [args[0][:, order], moved], options

    def back(results):
        for name, there in (("weight", padded.argsort()), ("bias", padded.argsort()), ("logits", place)):
            if f"gradient of {name}" in results:
                gradient = results[f"gradient of {name}"]
                results[f"gradient of {name}"] = gradient[:, there] if name == "logits" else gradient[there]
        return results

    assert_the_same(case["op"], (args, options, wanted), changed, back)


def as_it_is(x):
    return x


def coarse(x):
    """Multiples of 1/8, so that sums and products of a few are exact."""
    return x.mul(8).round().div(8)


@given(batches(dtypes=[torch.float32], softcap=st.none()), st.integers(-4000, 4000))
def test_what_all_logits_share_moves_only_their_sum(case, eighths):
    args, options, wanted = random_case(**case)
    wanted.remove("temperature")  # whose gradient goes with the sum
    options["temperature"] = 1.0
    args[0], shift = coarse(args[0]), eighths / 8
    changed = [args[0] + shift, *args[1:]], options
    if head(case["op"]):
        args[1], options["bias"] = coarse(args[1]), coarse(options["bias"])
        changed = args, {**options, "bias": options["bias"] + shift}

    def back(results):
        if "logsumexp" in results:
            rounding = 2.0**-24 * (abs(shift) + 200)  # of the sum itself, about 100 and the shift
            ignored = (args[-1] == -100).all(-1)
            torch.testing.assert_close(results["logsumexp"][~ignored].double(), (logsumexp + shift)[~ignored], rtol=0, atol=2 * rounding)
            results["logsumexp"] = logsumexp
        return results

    function = OPS[case["op"]]
    logsumexp = None if "score" in case["op"] else function(*in_float64(args), **in_float64(options), impl="reference").logsumexp
    assert_the_same(case["op"], (args, options, wanted), changed, back)


@given(batches(dtypes=[torch.float32, torch.bfloat16]), st.sampled_from([0.125, 0.5, 2.0, 16.0]))
def test_a_temperature_is_a_division_of_all_logits(case, factor):
    """Powers of two, which round nothing."""
    args, options, wanted = random_case(**case)
    options["temperature"] = options["temperature"] * factor
    plain = {**options, "temperature": options["temperature"] / factor}
    if head(case["op"]):
        for name in ("bias", "softcap"):
            plain[name] = None if options[name] is None else options[name] / factor
        changed = [args[0], args[1] / factor, args[2]], plain
    else:
        changed = [args[0] / factor, args[1]], plain

    def back(results):
        scales = {
            "gradient of logits": 1 / factor,
            "gradient of weight": 1 / factor,
            "gradient of bias": 1 / factor,
            "gradient of temperature": 1 / factor,
        }
        return {name: result * scales.get(name, 1.0) for name, result in results.items()}

    assert_the_same(case["op"], (args, options, wanted), changed, back)


@given(batches(ops=["score_token_logprobs", "score_token_logprobs_from_logits"], ids=st.integers(2, 64), impossible=st.just(0.0)))
def test_a_label_is_the_sum_of_its_forms(case):
    """Said of each form by itself and added up, in float64, gradients too; one set of labels for all rows."""
    args, options, _ = random_case(**case)
    del options["row_sets"]
    (tokens, *_), function = args[-1], OPS[case["op"]]
    each = ScoreTokens({str(i): [i] for ids in tokens.forms for i in ids})
    widths = [len(ids) for ids in tokens.forms]

    def said(kind, impl, one_by_one=False, order=0):
        leaf, *weight = (kind(x.clone()) for x in args[:-1])
        reordered = summation_orders([leaf.requires_grad_(), *weight, each if one_by_one else tokens], order + 1)[-1]
        result = function(*reordered, **kind(options), impl=impl)
        fields = result.logprob, result.conditional
        if one_by_one:
            fields = [torch.stack([part.logsumexp(-1) for part in field.split(widths, -1)], -1) for field in fields]
        weights = torch.randn(fields[0].shape, generator=torch.Generator().manual_seed(0)).to(fields[0].dtype)
        (gradient,) = torch.autograd.grad(sum((f * weights).sum() for f in fields), leaf)
        return [*(f.detach() for f in fields), gradient]

    exact = said(in_float64, "reference", one_by_one=True)
    eager = [said(as_it_is, "reference", order=order) for order in range(4)]
    for i, native in enumerate(said(as_it_is, "native")):
        assert_within_contract(native, [e[i] for e in eager], exact[i])


@given(batches(ops=["token_logprobs"], ids=st.just(1), dtypes=[torch.float32], ignored=st.just(0.0)))
def test_gradients_over_the_vocabulary_add_up_to_nothing(case):
    """What all logits share moves no log-probability, and the log-sum-exp one for one."""
    (logits, ids), options, _ = random_case(**case)
    leaf = logits.requires_grad_()
    result = token_logprobs(leaf, ids, **options, impl="native")
    alive = result.logprob[:, 0].isfinite()
    for field, total in ((result.logprob, 0.0), (result.logsumexp, 1 / options["temperature"][alive].double())):
        gradient = torch.autograd.grad(field[alive].sum(), leaf, retain_graph=True)[0][alive].double()
        assert bool(((gradient.sum(-1) - total).abs() <= 2.0**-21 * gradient.abs().sum(-1)).all())  # 4 ulp of each
