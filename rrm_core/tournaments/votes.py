"""Votes of judges on many problems at once: sums of sampled scores, and counts of verdicts. Array-likes in, float64 out; no gradients."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import require, require_choice, require_in_range, require_shape, values_readable
from rrm_core.tournaments import schema
from rrm_core.tournaments.inputs import ArrayLike, array, require_all, seeded, whole

OnTie = Literal["random", "first", "none"]


class Votes(NamedTuple):
    """Per problem: the winner, every candidate's score [B, n], how many samples or votes were counted, how many candidates share the top."""

    winner: Tensor
    score: Tensor
    used: Tensor
    tied: Tensor


def sum_vote(
    scores: ArrayLike,
    *,
    permutation: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    meta: ArrayLike | None = None,
    k_meta: int | None = None,
    on_tie: OnTie = "random",
    seed: int = 0,
    impl: Impl = None,
) -> Votes:
    """Adds up the scores that a judge gave in k samples; the candidate with the highest sum wins.

    Equivalent to, of one problem::

        usable = [j for j in range(k) if valid[j] and scores[j].isfinite().all()]
        if meta is not None:
            usable = sorted(usable, key=lambda j: -meta[j])[:k_meta]
        score = torch.zeros(n, dtype=torch.float64)
        for j in sorted(usable):
            score[permutation[j]] += scores[j]
        top = (score == score.max()).nonzero()
        winner = top[int(u * len(top))]  # u: the problem's of torch.rand(B, dtype=torch.float64) from the seed

    Args:
        scores: [B, k, n]: of each sampled judgement, the scores of the n candidates in the order in which they were shown.
        permutation: int64 [B, k, n], the candidate shown at each place of each sample; in order when None.
        valid: bool [B, k], samples that could be parsed; all when None. A sample with a score that is not finite (NaN or infinite) for a
            candidate taking part is invalid too.
        mask: bool [B, n], True for candidates who take part; all when None. The others' scores are not read.
        meta: [B, k], how a meta reward model rates each sample: only the ``k_meta`` valid ones rated highest are counted, or all valid ones
            if these are fewer. Of equals the first are; NaN makes a sample invalid.
        k_meta: ``max(1, k // 2)`` when None.
        on_tie: "random": one of those who share the top, each as likely; "first": the one with the lowest index; "none": nobody (-1).
        seed: of the ties. torch.compile cannot draw: use "first" or "none" there.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        winner int64 [B]; -1 where nobody takes part, no sample is used, or on_tie="none" meets a tie. score [B, n], float64: the sums, -inf
        for those who take no part. used int64 [B]: samples counted. tied int64 [B]: candidates who share the top, 0 where nobody takes part
        or no sample is used. Inputs are detached.

    Numerics: float64, added in the order of the samples: the same bits in every body, whatever else is in the batch. Where values cannot be
    checked (CUDA, torch.compile), a sample whose row of ``permutation`` is none is invalid.

    Source: DeepSeek-GRM (arXiv:2504.02495), Eq. 14 and its vote guided by a meta reward model, where k_meta is k / 2.

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    like = next((x for x in (scores, permutation, valid, mask, meta) if isinstance(x, Tensor)), None)
    scores = array("scores", scores, torch.float64, like)
    require_shape("scores", scores, ("B", "k", "n"))
    batch, k, n = scores.shape
    require(n > 0, "scores", "shape [B, k, n] with n > 0", list(scores.shape))
    permutation = _optional("permutation", permutation, torch.int64, scores, (batch, k, n))
    valid, mask = _optional("valid", valid, torch.bool, scores, (batch, k)), _optional("mask", mask, torch.bool, scores, (batch, n))
    meta = _optional("meta", meta, torch.float64, scores, (batch, k))
    require(k_meta is None or meta is not None, "k_meta", "None without meta", k_meta)
    keep = max(1, k // 2) if k_meta is None else whole("k_meta", k_meta, 1)
    draws = _draws(on_tie, seed, scores)
    if permutation is not None:
        _require_permutations(permutation)
    return _result(schema.sum_vote.body(impl, scores)(scores, permutation, valid, mask, meta, draws, keep), on_tie)


def majority_vote(
    votes: ArrayLike,
    *,
    num_candidates: int,
    weight: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    on_tie: OnTie = "random",
    seed: int = 0,
    impl: Impl = None,
) -> Votes:
    """Counts votes, each of a weight of its own; the candidate with most of it wins. Candidates may be answers, labels or verdicts.

    Equivalent to, of one problem::

        score = torch.zeros(num_candidates, dtype=torch.float64)
        for vote, w in zip(votes, weight):
            if vote >= 0:
                score[vote] += w
        top = (score == score.max()).nonzero()
        winner = top[int(u * len(top))]  # u: the problem's of torch.rand(B, dtype=torch.float64) from the seed

    Args:
        votes: int64 [B, k], the index of the candidate voted for; -1 for an invalid vote, which is not counted.
        num_candidates: n.
        weight: [B, k], finite and not negative, such as the probability of the verdict's token; all 1 when None. Those of invalid votes are
            not read.
        valid: bool [B, k], votes to count; all when None.
        mask: bool [B, n], True for candidates who take part; all when None. A vote for another is not counted.
        on_tie, seed, impl: as for ``sum_vote``.

    Returns:
        winner int64 [B], score [B, n] float64, used int64 [B] (votes counted), tied int64 [B], as of ``sum_vote``. A vote of weight 0 is
        counted. Inputs are detached.

    Numerics: float64, added in the order of the votes: the same bits in every body, whatever else is in the batch. Where values cannot be
    checked (CUDA, torch.compile), a vote out of range is not counted, and a weight out of range makes its candidate's score NaN, which leaves
    its problem without a winner (-1, tied 0).

    Source: DeepSeek-GRM (arXiv:2504.02495), Eq. 13; weights are its "w/ TokenProb".

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    n = whole("num_candidates", num_candidates, 1)
    like = next((x for x in (votes, weight, valid, mask) if isinstance(x, Tensor)), None)
    votes = array("votes", votes, torch.int64, like)
    require_shape("votes", votes, ("B", "k"))
    weight = _optional("weight", weight, torch.float64, votes, votes.shape)
    valid, mask = _optional("valid", valid, torch.bool, votes, votes.shape), _optional("mask", mask, torch.bool, votes, (len(votes), n))
    draws = _draws(on_tie, seed, votes)
    require_in_range("votes", votes, n, also=-1)
    if weight is not None and values_readable(weight):
        unread = votes < 0 if valid is None else (votes < 0) | ~valid
        require_all("weight", ((weight >= 0) & weight.isfinite()) | unread, "finite values of at least 0", weight)
    return _result(schema.majority_vote.body(impl, votes)(votes, weight, valid, mask, draws, n), on_tie)


def _optional(name: str, value: ArrayLike | None, dtype: torch.dtype, like: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    if value is None:
        return None
    made = array(name, value, dtype, like)
    require_shape(name, made, shape)
    return made


def _require_permutations(permutation: Tensor) -> None:
    require_in_range("permutation", permutation, permutation.shape[2])
    if values_readable(permutation):
        named = torch.zeros_like(permutation, dtype=torch.bool).scatter_(2, permutation, True)
        require(bool(named.all()), "permutation", "permutations of the candidates", "a candidate twice in one sample")


def _draws(on_tie: OnTie, seed: int, like: Tensor) -> Tensor | None:
    """A number in [0, 1) for each problem, or None: the first of those tied."""
    require_choice("on_tie", on_tie, ("random", "first", "none"))
    return torch.rand(len(like), dtype=torch.float64, generator=seeded(seed)).to(like.device) if on_tie == "random" else None


def _result(fields: tuple[Tensor, Tensor, Tensor, Tensor], on_tie: OnTie) -> Votes:
    found = Votes(*fields)
    return found._replace(winner=found.winner.masked_fill(found.tied > 1, -1)) if on_tie == "none" else found
