"""The log-probability ops as everybody writes them, on log_softmax: the truth in float64, the yardstick in float32.

Nothing of rrm_core's reference is used.
"""

import inspect

import torch

from rrm_core import linear_token_logprobs, score_token_logprobs, score_token_logprobs_from_logits, token_logprobs
from rrm_core.logprobs.ops import ScoreTokenLogprobs, TokenLogprobs
from rrm_core.testing import assert_within_contract, in_float64, summation_orders


def wide(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def surprise(log_p):
    """-sum p log p, with 0 log 0 = 0."""
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)


def tempered(logits, temperature):
    impossible = logits == -torch.inf
    heat = temperature.unsqueeze(-1) if isinstance(temperature, torch.Tensor) else temperature
    return (wide(logits).masked_fill(impossible, 0.0) / heat).masked_fill(impossible, -torch.inf)


def head_logits(hidden, weight, rows=None, bias=None, softcap=None, vocab_size=None):
    hidden = hidden if rows is None else hidden[rows]
    logits = wide(hidden) @ wide(weight[:vocab_size]).T
    logits = logits if bias is None else logits + wide(bias[:vocab_size])
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def tokens(logits, token_ids, *, temperature=1.0, ignore_index=-100):
    """No row may consist of ignored ids alone."""
    z = tempered(logits, temperature)
    log_p = z.log_softmax(-1)
    ids = token_ids if token_ids.dim() == logits.dim() else token_ids.unsqueeze(-1)
    skipped = ids == ignore_index
    found = log_p.gather(-1, ids.masked_fill(skipped, 0)).masked_fill(skipped, 0.0)
    return TokenLogprobs(found.view(token_ids.shape), surprise(log_p), z.logsumexp(-1))


def linear_tokens(hidden, weight, token_ids, *, temperature=1.0, ignore_index=-100, **head):
    return tokens(head_logits(hidden, weight, **head), token_ids, temperature=temperature, ignore_index=ignore_index)


def scores_from_logits(logits, score_tokens, *, temperature=1.0, full_vocab=True):
    """One set; some label must be possible."""
    log_p = tempered(logits, temperature).log_softmax(-1)
    logprob = torch.stack([log_p[..., list(ids)].logsumexp(-1) for ids in score_tokens.forms], -1)
    conditional, expected, variance = logprob.log_softmax(-1), None, None
    if score_tokens.values is not None:
        q, values = conditional.exp(), torch.tensor(score_tokens.values, dtype=logprob.dtype)
        expected = (q * values).sum(-1)
        variance = (q * (values - expected.unsqueeze(-1)) ** 2).sum(-1)
    mass = logprob.logsumexp(-1) if full_vocab else None
    return ScoreTokenLogprobs(logprob if full_vocab else None, conditional, mass, expected, variance, surprise(conditional))


def scores(hidden, weight, score_tokens, *, temperature=1.0, full_vocab=True, **head):
    return scores_from_logits(head_logits(hidden, weight, **head), score_tokens, temperature=temperature, full_vocab=full_vocab)


PLAIN = {
    token_logprobs: tokens,
    linear_token_logprobs: linear_tokens,
    score_token_logprobs: scores,
    score_token_logprobs_from_logits: scores_from_logits,
}


def run(function, args, options, wanted=(), order=0, part=None):
    """Every result by name, and the gradients, for the arguments and options named, of a fixed random combination of all finite results.

    order: of the sums, see summation_orders. part: (first, all) where these rows are part of a batch, whose combination it then is.
    """
    parameters, args, options, leaves = list(inspect.signature(function).parameters), list(args), dict(options), {}
    for name in wanted:
        place, key = (options, name) if name in options else (args, parameters.index(name))
        leaves[name] = place[key] = place[key].detach().clone().requires_grad_()
    results = function(*summation_orders(args, order + 1)[-1], **options)
    fields = {name: field for name, field in zip(results._fields, results, strict=True) if field is not None}
    generator = torch.Generator().manual_seed(1)
    first, rows = part or (0, None)
    upstream = [torch.randn((rows or f.shape[0], *f.shape[1:]), generator=generator)[first : first + f.shape[0]] for f in fields.values()]
    upstream = [u.masked_fill(~f.detach().isfinite(), 0.0).to(f.dtype) for u, f in zip(upstream, fields.values(), strict=True)]
    gradients = torch.autograd.grad(list(fields.values()), list(leaves.values()), upstream) if leaves else ()
    return {n: f.detach() for n, f in fields.items()} | {f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True)}


def check(function, *args, impl, wanted=(), orders=8, **options):
    """One body's results and gradients by the numeric contract, against the plain ones of the same, already rounded, inputs. Returns them."""
    found = run(function, args, {**options, "impl": impl}, wanted)
    plain = PLAIN[function]
    eager = [run(plain, args, options, wanted, order) for order in range(orders)]
    exact = run(plain, in_float64(args), in_float64(options), wanted)
    assert set(found) == set(exact)
    for name, result in found.items():
        assert "gradient" in name or result.dtype == torch.float32, f"{name}: {result.dtype}"
        assert_within_contract(result, [e[name] for e in eager], exact[name], name)
    return found
