"""Ratings of resampled matches: how sure a rating, a rank or a champion is. No gradients: inputs are detached."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import require, require_positive
from rrm_core.tournaments import schema
from rrm_core.tournaments.inputs import ArrayLike, PairCounts, matches, seeded, taking_part, whole
from rrm_core.tournaments.ratings import Ratings, bradley_terry
from rrm_core.tournaments.tables import leaderboard

# Draws and cells of wins at work at a time, 4 and 8 bytes each: as many as caches hold.
_AT_ONCE = 1 << 20


class Bootstrap(NamedTuple):
    """Per problem and candidate [B, n]; ``samples`` [R, B, n] if they were to be kept."""

    rating: Tensor
    lower: Tensor
    upper: Tensor
    rank_lower: Tensor
    rank_upper: Tensor
    best: Tensor
    samples: Tensor | None

    def table(
        self,
        names: Iterable[object] | None = None,
        *,
        problem: int = 0,
        elo: float | None = None,
        wins: ArrayLike | PairCounts | None = None,
    ) -> str:
        """One problem's leaderboard as text, as of ``Ratings``, with the intervals of rating and rank and the chance of being best."""
        interval, ranks = (self.lower, self.upper), (self.rank_lower, self.rank_upper)
        return leaderboard(names, problem, elo, wins, self.rating, interval=interval, ranks=ranks, best=self.best)


def bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    outcome: ArrayLike,
    *,
    problem: ArrayLike | None = None,
    num_problems: int = 1,
    num_candidates: int,
    weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    rate: Callable[[Tensor], Ratings | Tensor] | None = None,
    prior: float = 0.1,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    keep_samples: bool = False,
    impl: Impl = None,
) -> Bootstrap:
    """Rates each problem's matches, and as many drawn from them with replacement, over and over.

    Equivalent to::

        for r in range(replicates):  # of one problem with M valid matches
            k = torch.randint(M, (M,))
            samples[r] = rate(pairwise_wins(first[k], second[k], outcome[k], weight=weight[k], ...))
        lower, upper = samples.quantile((1 - level) / 2, 0), samples.quantile((1 + level) / 2, 0)
        rank = 1 + (samples[:, None, :] > samples[:, :, None]).sum(-1)  # of each candidate in each replicate

    Args:
        first, second, outcome, problem, num_problems, num_candidates, weight: as for ``pairwise_wins``. Invalid verdicts (NaN) are not drawn.
        mask: bool [B, n], True for candidates who take part; all when None.
        rate: wins [P, n, n] of many problems (replicates of one problem are B apart) -> Ratings or scores [P, n], such as ``borda`` or
            ``lambda wins: bradley_terry(wins, prior=1.0)``. ``bradley_terry`` with mask and prior when None.
        prior: of ``bradley_terry``. Keep it: a replicate in which somebody won everything has no finite rating of its own.
        replicates: R. Their matches are drawn and counted side by side, a million draws at a time.
        level: the coverage of the intervals, in (0, 1).
        seed: of the draws.
        keep_samples: whether to return the ratings of every replicate.
        impl: None (dispatcher's choice), "native" or "reference": of counting and of ``bradley_terry``.

    Returns:
        rating [B, n]: of the matches themselves. lower, upper [B, n]: percentiles of the replicates' ratings, interpolated between neighbours;
        replicates that rate a candidate NaN are left out, of its ranks too. rank_lower, rank_upper int64 [B, n]: percentiles of its rank, 1
        for the best, rounded outwards; equals share the better rank. best [B, n]: the share of replicates in which it comes out on top, shared
        between equals; it adds up to less than 1 where replicates rate nobody. samples [R, B, n] or None. float64; candidates who take no
        part have ratings of -inf, ranks of 0 and ``best`` 0. Inputs are detached.

    Numerics: draws are 31 bits each of ``Tensor.random_`` on CPU, scaled to the number of the problem's matches M: no match is favoured by more than
    M / 2^31. The same seed gives the same draws on every device, replicate by replicate. Matches are taken for independent of each other:
    where several are judgements of one prompt, intervals come out too narrow.

    Source: Efron and Tibshirani (1993), chapter 13, percentile intervals; ranks and leaders as on LMArena.

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit, or ``rate`` returns another shape.
        NativeKernelError: impl="native" without a native body.
    """
    num_problems, n = whole("num_problems", num_problems, 0), whole("num_candidates", num_candidates, 1)
    replicates, prior = whole("replicates", replicates, 1), require_positive("prior", prior, or_zero=True)
    level = require_positive("level", level)
    require(level < 1, "level", "a number in (0, 1)", level)
    if rate is not None and not callable(rate):
        raise TypeError(f"rate: expected a callable, got {type(rate).__name__}")
    generator = seeded(seed)
    first, second, outcome, problem, weight = matches(first, second, outcome, problem, weight, num_problems, n)
    mask = taking_part(mask, first.new_empty(1).expand(num_problems, n, n))

    problem = torch.zeros_like(first) if problem is None else problem
    kept = (~outcome.isnan()).nonzero().squeeze(-1)
    kept = kept[problem[kept].argsort(stable=True)]
    columns = first[kept], second[kept], outcome[kept], None if weight is None else weight[kept]
    ends = torch.arange(num_problems + 1, device=first.device)
    offsets = torch.searchsorted(problem[kept], ends)
    count = schema.resampled_wins.body(impl, first)

    def rated(wins: Tensor) -> Tensor:
        """[R, B, n, n] -> [R, B, n]"""
        flat = wins.flatten(0, 1)
        everyone = None if mask is None else mask.repeat(len(wins), 1)
        found = bradley_terry(flat, mask=everyone, prior=prior, impl=impl) if rate is None else rate(flat)
        score = found[0] if isinstance(found, tuple) else found
        require(isinstance(score, Tensor) and score.shape == flat.shape[:2], "rate", f"scores {list(flat.shape[:2])}", getattr(score, "shape", score))
        score = score.detach().to(torch.float64)
        return score.view(wins.shape[:3]) if mask is None else score.view(wins.shape[:3]).masked_fill(~mask, float("-inf"))

    total = len(kept)
    step = min(replicates, 2 * max(1, _AT_ONCE // (2 * max(1, total, num_problems * n * n))))
    samples = torch.empty(replicates, num_problems, n, dtype=torch.float64, device=first.device)
    bits = torch.empty((step * total + 1) // 2, dtype=torch.int64)  # two draws each: torch takes no longer for 63 bits than for 31
    for start in range(0, replicates, step):
        some = min(step, replicates - start)  # an even number but for the last: what is drawn doesn't depend on it
        drawn = bits.random_(generator=generator).view(torch.int32)[: some * total].view(some, total)
        samples[start : start + step] = rated(count(*columns, offsets, drawn.to(first.device), n))
    rating = rated(schema.pairwise_wins.body(impl, first)(*columns[:3], problem[kept], columns[3], num_problems, n).unsqueeze(0))[0]
    return _summary(rating, samples, level, mask, keep_samples)


def _summary(rating: Tensor, samples: Tensor, level: float, mask: Tensor | None, keep: bool) -> Bootstrap:
    out = torch.zeros_like(rating, dtype=torch.bool) if mask is None else ~mask
    rank = _ranks(samples)
    top = ((rank == 1) & ~out & ~samples.isnan()).double()
    best = (top / top.sum(-1, keepdim=True).clamp(min=1)).mean(0)
    low, high = (1 - level) / 2, (1 + level) / 2
    lower, upper = (_quantile(samples, q).masked_fill(out, float("-inf")) for q in (low, high))
    rank_lower, rank_upper = (_rank_quantile(rank, samples.isnan(), q, up).masked_fill(out, 0) for q, up in ((low, False), (high, True)))
    return Bootstrap(rating, lower, upper, rank_lower, rank_upper, best, samples if keep else None)


def _ranks(samples: Tensor) -> Tensor:
    """1 for the highest [R, B, n], equals sharing the better one; NaN comes last."""
    score = samples.nan_to_num(nan=float("-inf"), posinf=float("inf"), neginf=float("-inf"))
    ordered, order = score.sort(-1, descending=True)
    place = torch.arange(1, score.shape[-1] + 1, device=score.device).expand_as(order)
    new = torch.ones_like(order, dtype=torch.bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    return torch.empty_like(order).scatter_(-1, order, place.masked_fill(~new, 0).cummax(-1).values)


def _rank_quantile(rank: Tensor, without: Tensor, q: float, up: bool) -> Tensor:
    """Over the replicates but for those without a rating, rounded down or up; 0 where there is none."""
    ordered = rank.masked_fill(without, torch.iinfo(torch.int64).max).sort(0).values
    last = (~without).sum(0) - 1
    at = (q * last).clamp(min=0)
    return ordered.gather(0, (at.ceil() if up else at.floor()).long().unsqueeze(0))[0].masked_fill(last < 0, 0)


def _quantile(samples: Tensor, q: float) -> Tensor:
    """Over the first dimension, without NaN, as ``torch.nanquantile`` but for any size; NaN where there is nothing else."""
    ordered = samples.sort(0).values  # NaN last
    last = (~samples.isnan()).sum(0) - 1
    at = (q * last).clamp(min=0)
    floor = at.floor()
    below = ordered.gather(0, floor.long().unsqueeze(0))[0]
    above = ordered.gather(0, at.ceil().long().unsqueeze(0))[0]
    return torch.where(below == above, below, below + (at - floor) * (above - below))
