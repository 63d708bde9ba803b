"""Random calls of the log-probability ops: rows of every kind in one batch, so that one call checks many cases."""

import torch

from rrm_core import ScoreTokens, linear_token_logprobs, score_token_logprobs, score_token_logprobs_from_logits, token_logprobs

OPS = {f.__name__: f for f in (token_logprobs, linear_token_logprobs, score_token_logprobs, score_token_logprobs_from_logits)}


def score_sets(count, ids, vocab, draw):
    """Sets of up to ``ids`` distinct tokens, shared out at random among labels of one or more forms, with values."""
    sets = []
    for _ in range(count):
        tokens = torch.randperm(vocab, generator=draw)[:ids].tolist()
        owners = torch.randint(0, len(tokens), (len(tokens),), generator=draw).tolist()
        forms = {}
        for token, owner in zip(tokens, owners, strict=True):
            forms.setdefault(str(owner), []).append(token)
        sets.append(ScoreTokens(forms, values=torch.randn(len(forms), generator=draw).tolist()))
    return sets


def random_case(op, *, rows, vocab, seed, ids=3, hidden=12, dtype=torch.float32, scale=5.0, offset=0.0, softcap=None, impossible=0.0, ignored=0.0):
    """Arguments, options and the names of what is differentiable.

    scale: of the logits' largest row, the smallest has a tenth of it; none is beyond 100 + |offset|. impossible: share of -inf logits, never of a
    set's first token. ignored: share of ids. Every other option is drawn: temperatures and sets per row; of a head also rows, bias and padding.
    """
    draw = torch.Generator().manual_seed(seed)
    head, scores = op in ("linear_token_logprobs", "score_token_logprobs"), "score" in op
    options = {"temperature": torch.rand(rows, generator=draw) * 1.5 + 0.5}
    wanted = ["hidden", "weight", "bias", "temperature"] if head else ["logits", "temperature"]
    sizes = scale * (0.1 + 0.9 * torch.rand(rows, 1, generator=draw))
    dead = torch.rand(vocab, generator=draw) < impossible
    if scores:
        sets = score_sets(3, ids, vocab, draw)
        dead[[s.forms[0][0] for s in sets]] = False
        chosen, options["row_sets"] = sets, torch.randint(0, 3, (rows,), generator=draw)
    else:
        chosen = torch.randint(0, vocab, (rows, ids), generator=draw)
        chosen = chosen.masked_fill(torch.rand(rows, ids, generator=draw) < ignored, -100)
        dead[0] &= not bool(dead.all())
    if not head:
        logits = (torch.randn(rows, vocab, generator=draw) * sizes).clamp(-100, 100) + offset
        return [logits.masked_fill(dead, -torch.inf).to(dtype), chosen], options, wanted
    sources = max(1, rows // 2)  # some rows of hidden are taken twice, some never
    options["rows"] = torch.randint(0, sources, (rows,), generator=draw)
    states = torch.randn(sources, hidden, generator=draw) * sizes[:sources] if rows else torch.randn(1, hidden, generator=draw)
    weight = (torch.randn(vocab + 3, hidden, generator=draw) / hidden**0.5).to(dtype)
    weight[vocab:] = torch.nan
    states = states.to(dtype)
    largest = (states.double() @ weight[:vocab].double().T).abs().amax().clamp(min=1e-3)
    states = (states * min(1.0, 95.0 / float(largest))).to(dtype)
    bias = (torch.randn(vocab + 3, generator=draw) + offset).masked_fill(torch.cat([dead, dead.new_zeros(3)]), -torch.inf)
    return [states, weight, chosen], {**options, "bias": bias, "softcap": softcap, "vocab_size": vocab}, wanted
