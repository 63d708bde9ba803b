"""Bradley-Terry with ties of their own. No gradients: inputs are detached."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import require, require_positive, require_shape, values_readable
from rrm_core.tournaments import schema
from rrm_core.tournaments.inputs import ArrayLike, PairCounts, array, pair_counts, require_all, require_counts, taking_part, whole
from rrm_core.tournaments.reference_bradley_terry import RatingStatus
from rrm_core.tournaments.reference_davidson import games_of, has_shared_mle
from rrm_core.tournaments.tables import leaderboard

_LONGEST = 2.0  # step of the log of a shared tie strength


class DavidsonRatings(NamedTuple):
    """Per problem, as ``Ratings``, and the tie strength [B]."""

    rating: Tensor
    tie_strength: Tensor
    stderr: Tensor | None
    status: Tensor
    iterations: Tensor

    def table(
        self,
        names: Iterable[object] | None = None,
        *,
        problem: int = 0,
        elo: float | None = None,
        wins: ArrayLike | PairCounts | None = None,
    ) -> str:
        """One problem's leaderboard as text, as of ``Ratings``, and the tie strength in a line below."""
        strength, status = self.tie_strength, self.status
        return leaderboard(names, problem, elo, wins, self.rating, stderr=self.stderr, tie_strength=strength, status=status)


def davidson(
    counts: PairCounts,
    *,
    mask: ArrayLike | None = None,
    prior: float = 0.1,
    tie_strength: ArrayLike | None = None,
    shared: bool = False,
    stderr: bool = False,
    max_iter: int = 50,
    tol: float = 1e-9,
    impl: Impl = None,
) -> DavidsonRatings:
    """Ratings of each problem's candidates where a tie is an outcome of its own, the likelier the closer two candidates are.

    Equivalent to::

        def log_posterior(t, log_tie):  # of one problem, with x = t[:, None] - t
            win, tie = x / 2, log_tie
            norm = (exp(x / 2) + exp(-x / 2) + exp(log_tie)).log()
            games = (wins * (win - norm)).sum() + (ties * (tie - norm)).sum() / 2
            virtual = (logsigmoid(t) + logsigmoid(-t)).sum() + logsigmoid(log_tie - log(2)) + logsigmoid(log(2) - log_tie)
            return games + prior / 2 * virtual

        t, log_tie = argmax(log_posterior)
        rating, tie_strength = t - t.mean(), exp(log_tie)

    Args:
        counts: PairCounts [B, n, n], as from ``pairwise_counts``: wins outright, and ties, of which a pair has those of both cells halved.
        mask: bool [B, n], True for candidates who take part; all when None.
        prior: as many virtual games of each candidate against a fixed opponent of strength 0, half of them won, and as many of two equals, half
            of them tied. 0 is plain maximum likelihood.
        tie_strength: [B] or a number, above 0: known beforehand instead of sought.
        shared: whether all problems have one tie strength (a judge's habit, say) instead of each its own.
        stderr: whether to compute standard errors, from the Hessian.
        max_iter, tol: steps stop when no candidate's expected and actual points, nor ties, differ by more than ``tol`` of the games, or after
            ``max_iter``.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        rating [B, n], float64: natural log-strength, mean 0 over the candidates taking part; -inf for the others. Spread wider than
        ``bradley_terry``'s, which takes a tie for half a win: don't compare the two. tie_strength [B]: nu in
        P(tie) = nu sqrt(p_i p_j) / (p_i + p_j + nu sqrt(p_i p_j)) with strengths p; evalica's ``newman`` gives half of it. stderr [B, n]: of the
        rating in its gauge, as for ``bradley_terry``. status int64 [B]: ``RatingStatus``, about the data without the prior. iterations int64
        [B]: Newton's steps, with ``shared`` of all rounds. Inputs are detached.

    Numerics: with a prior, everything is finite whatever was won. Without, the maximum exists where the digraph of wins and ties is strongly
    connected and, unless the tie strength is given, some matches are ties and some way round the candidates has more wins than ties on it: two
    candidates with a win and a tie have none. It is NaN elsewhere; with ``shared`` ties and ways round may come from different problems. A
    problem has the same bits whatever else is in the batch, but for ``shared``. On CUDA this is plain PyTorch.

    Source: Davidson, J. Amer. Stat. Assoc. 65 (1970).

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    if not isinstance(counts, PairCounts):
        raise TypeError(f"counts: expected a PairCounts, got {type(counts).__name__}")
    for name, value in (("shared", shared), ("stderr", stderr)):
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    prior, tol, max_iter = require_positive("prior", prior, or_zero=True), require_positive("tol", tol), whole("max_iter", max_iter, 1)
    require(tie_strength is None or not shared, "shared", "False with a given tie_strength", shared)
    won, ties = pair_counts(counts)
    assert ties is not None
    mask = taking_part(mask, won)
    require_counts(won, mask)
    require_counts(ties, mask, "ties")
    body = schema.davidson.body(impl, won)

    def fit(log_tie: Tensor | None) -> Any:
        return body(won, ties, mask, log_tie, prior, stderr, max_iter, tol)

    if tie_strength is not None:
        given = array("tie_strength", tie_strength, torch.float64, won)
        require_shape("tie_strength", given, (), (len(won),))
        if values_readable(given):
            require_all("tie_strength", (given > 0) & given.isfinite(), "finite numbers above 0", given)
        found = fit(given.log().expand(len(won)))
    else:
        found = _fit_shared(fit, won, ties, mask, prior, tol, max_iter) if shared else fit(None)
    rating, error, log_tie, _, _, _, status, iterations = found
    return DavidsonRatings(rating, log_tie.exp(), error if stderr else None, status, iterations)


def _fit_shared(fit: Any, won: Tensor, ties: Tensor, mask: Tensor | None, prior: float, tol: float, max_iter: int) -> Any:
    """The common tie strength, where what all problems gain by it adds up to 0: Newton's method between bounds on its log, a fit a step."""
    total = (games_of(won, ties, mask) + prior).clamp(min=torch.finfo(torch.float64).tiny)
    eta, low, high = (won.new_full((), x, dtype=torch.float64) for x in (0.0, float("-inf"), float("inf")))
    iterations = torch.zeros(len(won), dtype=torch.int64, device=won.device)
    for _ in range(max_iter):
        found = fit(eta.expand(len(won)))
        iterations = iterations + found[7]
        even = torch.sigmoid(eta - torch.log(torch.full_like(eta, 2.0)))
        score = found[3].nansum() + prior * (0.5 - even)
        curvature = found[4].nansum() + prior * even * (1 - even)
        done = score.abs() <= tol * total
        if values_readable(done) and bool(done):
            break
        low, high = torch.where(score > 0, eta, low), torch.where(score < 0, eta, high)
        following = eta + (score / curvature).clamp(-_LONGEST, _LONGEST)
        outside = (following <= low) | (following >= high)
        eta = torch.where(done, eta, torch.where(outside, (low + high) / 2, following))
    rating, error, log_tie, _, _, slope, status, _ = found
    if error.numel() > 0:
        error = (error.square() + slope.square() / curvature).sqrt()
    unknown = ~has_shared_mle(won, ties, mask)
    status = torch.where(unknown & (status == RatingStatus.CONVERGED), int(RatingStatus.NO_MLE), status)
    if prior == 0:
        rating = rating.masked_fill(unknown & ~rating.isinf(), float("nan"))
        log_tie = log_tie.masked_fill(unknown, float("nan"))
    status = torch.where(done | (unknown & (prior == 0)), status, int(RatingStatus.NOT_CONVERGED))
    return rating, error, log_tie, None, None, None, status, iterations
