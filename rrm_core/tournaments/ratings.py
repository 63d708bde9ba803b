"""Ratings: Bradley-Terry from the points of every pair, Elo from the matches one after the other. No gradients: inputs are detached."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import require, require_choice, require_in_range, require_positive, require_shape, values_readable
from rrm_core.tournaments import schema
from rrm_core.tournaments.inputs import ArrayLike, PairCounts, array, finite, matches, pair_counts, require_counts, seeded, taking_part, whole
from rrm_core.tournaments.tables import leaderboard


class Ratings(NamedTuple):
    """Per problem. ``stderr`` is None unless asked for; ``status`` holds ``RatingStatus``."""

    rating: Tensor
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
        """One problem's leaderboard as text, best first: rank, name, rating, standard error if there is one, and games if wins are given.

        Args:
            names: of the n candidates; their numbers when None.
            problem: which of the B.
            elo: shows log-strengths as Elo points, times 400 / ln 10, around this number. Not for ``elo``, whose ratings are Elo points.
            wins: [B, n, n] or a PairCounts, what the ratings come from, for a column of games.

        Returns:
            Lines without a newline at the end. Equals share the better rank; candidates who take no part are left out. A line below tells a
            status that isn't CONVERGED.

        Raises:
            TypeError, ValueError: an argument doesn't fit.
        """
        return leaderboard(names, problem, elo, wins, self.rating, stderr=self.stderr, status=self.status)


_ERRORS = {False: 0, True: 1, "hessian": 1, "sandwich": 2}


def bradley_terry(
    wins: ArrayLike | PairCounts,
    *,
    mask: ArrayLike | None = None,
    prior: float = 0.1,
    stderr: bool | Literal["hessian", "sandwich"] = False,
    max_iter: int = 50,
    tol: float = 1e-9,
    impl: Impl = None,
) -> Ratings:
    """Ratings of each problem's candidates under ``P(i beats j) = sigmoid(rating_i - rating_j)``, ties being half a win each way.

    Equivalent to::

        def log_posterior(t):  # of one problem
            return (wins * logsigmoid(t[:, None] - t)).sum() + prior / 2 * (logsigmoid(t) + logsigmoid(-t)).sum()

        t = argmax(log_posterior)
        rating = t - t.mean()

    Args:
        wins: [B, n, n], any float dtype (or int64), computed in float64: what i won against j, as from ``pairwise_wins``. The diagonal
            is ignored. Or a PairCounts, whose ties count half a win each way.
        mask: bool [B, n], True for candidates who take part; all when None. What wins says of the others is not read.
        prior: as many virtual games of each candidate against a fixed opponent of strength 0, half of them won. 0 is plain maximum
            likelihood, which has no answer for a candidate that won, or lost, everything.
        stderr: whether to compute standard errors: True or "hessian" from the Hessian, which takes the model for true; "sandwich" from
            how much the games spread around it, which ties and a model that doesn't fit change. It needs a PairCounts: ties (shares of
            exactly 0.5) are told apart, other soft verdicts are a part of a game won and a part of one lost, a weight is as many games.
        max_iter, tol: steps stop when no candidate's expected and actual points differ by more than ``tol`` of its games, or after ``max_iter``.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        rating [B, n], float64: natural log-strength, mean 0 over the candidates taking part (times 400 / ln 10 on the Elo scale); -inf
        for the others. stderr [B, n]: of the rating in that gauge, sqrt(diag(P H^-1 P)) with the Hessian H of the log posterior and the
        projection P onto mean 0; with "sandwich" sqrt(diag(P H^-1 G H^-1 P)), where G adds up (share - expected share)^2 over games won,
        lost and tied, in the direction of their two candidates. NaN for the others. status int64 [B]: ``RatingStatus``, about the data
        without the prior: DISCONNECTED before NO_MLE, but NOT_CONVERGED wherever an iteration was run in vain. iterations int64 [B]: steps
        of the method that ended it, Newton's or (in the native bodies) Gauss-Seidel's sweeps. Inputs are detached.

    Numerics: with a prior, ratings are finite whatever was won. With prior=0 they, and stderr, are NaN in a problem without a maximum
    (DISCONNECTED or NO_MLE). Where values cannot be checked (CUDA, torch.compile), NaN, inf or negative wins make their problem NaN with
    status NOT_CONVERGED. The native bodies try Gauss-Seidel sweeps first and give what those leave to Newton's method, from the start; they
    converge wherever the plain PyTorch body does. A problem has the same bits whatever else is in the batch (C++, and the Triton sweeps of up
    to 127 candidates). On CUDA the device is waited for once, to learn how many problems are left. The plain PyTorch body stops early on
    CPU only and runs max_iter steps elsewhere, so as not to wait for the device.

    Source: Bradley and Terry, Biometrika 39 (1952); the maximum exists where the digraph of wins is strongly connected (Ford, Amer. Math.
    Monthly 64, 1957); the sweeps are Newman's iteration (J. Mach. Learn. Res. 24, 2023); the sandwich is White's (Econometrica 50, 1982).

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    prior, tol, max_iter = require_positive("prior", prior, or_zero=True), require_positive("tol", tol), whole("max_iter", max_iter, 1)
    if not isinstance(stderr, bool | str):
        raise TypeError(f"stderr: expected a bool or a str, got {type(stderr).__name__}")
    require_choice("stderr", stderr, _ERRORS)
    won, ties = pair_counts(wins)
    require(stderr != "sandwich" or ties is not None, "wins", "a PairCounts for sandwich errors", type(wins).__name__)
    mask = taking_part(mask, won)
    require_counts(won, mask)
    if ties is not None:
        require_counts(ties, mask, "ties")
    rating, error, status, iterations = schema.bradley_terry.body(impl, won)(won, ties, mask, prior, _ERRORS[stderr], max_iter, tol)
    return Ratings(rating, error if stderr else None, status, iterations)


def elo(
    first: ArrayLike,
    second: ArrayLike,
    outcome: ArrayLike,
    *,
    problem: ArrayLike | None = None,
    num_problems: int = 1,
    num_candidates: int,
    weight: ArrayLike | None = None,
    k: float = 4.0,
    init: float = 1000.0,
    scale: float = 400.0,
    orders: int | Tensor | None = None,
    seed: int = 0,
    impl: Impl = None,
) -> Ratings:
    """Elo ratings of each problem's candidates, match after match in the order given or averaged over shuffled orders.

    Equivalent to::

        rating = torch.full((num_problems, num_candidates), init)
        for p, i, j, share, w in zip(problem, first, second, outcome, weight):
            if not isnan(share):
                expected = 1 / (1 + 10 ** ((rating[p, j] - rating[p, i]) / scale))
                gain = k * w * (share - expected)
                rating[p, i] += gain
                rating[p, j] -= gain

    Args:
        first, second, outcome, problem, num_problems, num_candidates, weight: as for ``pairwise_wins``. The matches of several problems may be
            interleaved. A weight scales its match's whole update.
        k, init, scale: the largest move, the rating before the first match, and the rating difference that means odds of 10 to 1.
        orders: None rates in the order given, on which Elo depends. A number R averages the ratings over R orders,
            ``torch.randperm(M, generator=g)`` one after the other with ``g = torch.Generator().manual_seed(seed)``. An int64 tensor
            [R, M], each row a permutation of the matches, names the orders: torch.compile cannot draw them.
        seed: of the orders.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        rating [B, n], float64; ``init`` for a candidate without a match. stderr is None: the spread over orders is no standard error. status
        int64 [B]: CONVERGED, since nothing is iterated to a limit. iterations int64 [B]: matches counted. Inputs are detached.

    Numerics: float64; bodies agree with the loop above to some 1e-16 of a rating a match. Where values cannot be checked (CUDA,
    torch.compile), a match with an id out of range or of a candidate against itself is not counted, nor is an order's entry out of range, and
    an outcome or weight out of range makes both ratings NaN, and those of whoever meets them later. The plain PyTorch body takes as many
    steps as the largest problem has matches on CPU, and M elsewhere, so as not to wait for the device.

    Source: Elo, The Rating of Chessplayers (1978); the defaults are evalica's, with which RRM (arXiv:2505.14674) rates.

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit, or a candidate meets itself.
        NativeKernelError: impl="native" without a native body.
    """
    num_problems, n = whole("num_problems", num_problems, 0), whole("num_candidates", num_candidates, 1)
    k, init, scale = require_positive("k", k), finite("init", init), require_positive("scale", scale)
    arguments = matches(first, second, outcome, problem, weight, num_problems, n)
    order = None if orders is None else _orders(orders, seed, arguments[0])
    rating, counted = schema.elo.body(impl, arguments[0])(*arguments, order, num_problems, n, k, init, scale)
    return Ratings(rating, None, torch.zeros_like(counted), counted)


def _orders(orders: int | Tensor, seed: int, first: Tensor) -> Tensor:
    """int64 [R, M], drawn on CPU wherever the matches are."""
    if isinstance(orders, Tensor):
        orders = array("orders", orders, torch.int64, first)
        require_shape("orders", orders, ("R", len(first)))
        require(len(orders) > 0, "orders", "at least one order", list(orders.shape))
        require_in_range("orders", orders, len(first))
        if values_readable(orders):
            distinct = bool((orders.sort(dim=1).values == torch.arange(len(first))).all())
            require(distinct, "orders", "permutations of the matches", "a match twice in one order")
        return orders
    count = whole("orders", orders, 1)
    generator = seeded(seed)
    return torch.stack([torch.randperm(len(first), generator=generator) for _ in range(count)]).to(first.device)
