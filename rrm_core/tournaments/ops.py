"""From judged matches to wins, and from wins to ratings and scores. Array-likes in, float64 tensors out, many problems at once; no gradients:
inputs are detached."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rrm_core._library import Impl
from rrm_core._validate import FLOATS, require, require_in_range, require_positive, require_shape, require_tensor, values_readable
from rrm_core.tournaments import schema

ArrayLike: TypeAlias = Any  # a tensor, a numpy array or anything with __array__, a (nested) sequence of numbers


class Ratings(NamedTuple):
    """Per problem. ``stderr`` is None unless asked for; ``status`` holds ``RatingStatus``."""

    rating: Tensor
    stderr: Tensor | None
    status: Tensor
    iterations: Tensor


def _array(name: str, value: ArrayLike, dtype: torch.dtype, like: Tensor | None = None) -> Tensor:
    """As a tensor of dtype int64, bool or float64, without gradient; what is no tensor yet is copied to the device of ``like``."""
    numbers = dtype == torch.float64
    if isinstance(value, Tensor):
        require_tensor(name, value, (*FLOATS, torch.int64, torch.bool) if numbers else (dtype,), like)
        return value.detach().to(dtype)
    expected = {torch.int64: "integers", torch.bool: "bools"}.get(dtype, "numbers")
    try:
        source = value.__array__() if hasattr(value, "__array__") else value
        made = torch.tensor(source, dtype=dtype if numbers else None, device=None if like is None else like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__} ({error})") from error
    integers = not (made.is_floating_point() or made.is_complex() or made.dtype == torch.bool)
    fits = numbers or made.dtype == dtype or (dtype == torch.int64 and integers) or made.numel() == 0
    require(fits, name, expected, made.dtype, TypeError)
    return made.to(dtype)


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    require(value >= least, name, f"an integer of at least {least}", value)
    return value


def _require_all(name: str, ok: Tensor, expected: str, values: Tensor) -> None:
    """The message shows the first of the values that is not ok."""
    if not bool(ok.all()):
        raise ValueError(f"{name}: expected {expected}, got {values[~ok][0].item()}")


def _wins(wins: ArrayLike) -> Tensor:
    """Wins [B, n, n] as float64, n > 0."""
    counts = _array("wins", wins, torch.float64)
    require_shape("wins", counts, ("B", "n", "n"))
    require(counts.shape[1] == counts.shape[2] and counts.shape[1] > 0, "wins", "shape [B, n, n] with n > 0", list(counts.shape))
    return counts


def _require_counts(wins: Tensor, mask: Tensor | None = None) -> None:
    """Checks what is read of wins: not the diagonal, nor those out of the mask."""
    if not values_readable(wins):
        return
    ok = ((wins >= 0) & wins.isfinite()) | torch.eye(wins.shape[1], dtype=torch.bool)
    _require_all("wins", ok if mask is None else ok | ~(mask.unsqueeze(-1) & mask.unsqueeze(-2)), "finite values of at least 0", wins)


def pairwise_wins(
    first: ArrayLike,
    second: ArrayLike,
    outcome: ArrayLike,
    *,
    problem: ArrayLike | None = None,
    num_problems: int = 1,
    num_candidates: int,
    weight: ArrayLike | None = None,
    impl: Impl = None,
) -> Tensor:
    """Counts what every candidate won against every other, over the matches of many problems.

    Equivalent to::

        wins = torch.zeros(num_problems, num_candidates, num_candidates, dtype=torch.float64)
        for p, i, j, share, w in zip(problem, first, second, outcome, weight):
            if not isnan(share):
                wins[p, i, j] += w * share
                wins[p, j, i] += w * (1 - share)

    Args:
        first, second: int64 [M], the candidates of each match. M may be 0.
        outcome: [M], the share of the win that goes to ``first``: 1, 0.5 (tie) and 0 for verdicts, a probability for a soft verdict, NaN
            for an invalid one, which is not counted. Bools and integers will do.
        problem: int64 [M], each match's problem; may be None where there is only one.
        num_problems, num_candidates: B and n; a problem with fewer candidates leaves the last ones without matches (see ``mask`` of
            ``bradley_terry``).
        weight: [M], finite and not negative; all 1 when None.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        wins [B, n, n], float64: ``wins[b, i, j]`` is what i won against j, the diagonal is 0. The same bits for the same matches, on CUDA
        too. Inputs are detached.

    Numerics: where values cannot be checked (CUDA, torch.compile), a match with an id out of range or of a candidate against itself is not
    counted, and an outcome or weight out of range makes the two cells of its pair NaN.

    Raises:
        TypeError, ValueError: a dtype, shape, device, id, outcome or weight doesn't fit, or a candidate meets itself.
        NativeKernelError: impl="native" without a native body.
    """
    like = next((x for x in (first, second, outcome, problem, weight) if isinstance(x, Tensor)), None)
    num_problems, n = _whole("num_problems", num_problems, 0), _whole("num_candidates", num_candidates, 1)
    first = _array("first", first, torch.int64, like)
    require_shape("first", first, ("M",))
    second, outcome = _array("second", second, torch.int64, first), _array("outcome", outcome, torch.float64, first)
    require_shape("second", second, first.shape)
    require_shape("outcome", outcome, first.shape)
    if problem is None:
        require(num_problems == 1, "problem", f"each match's problem, with {num_problems} problems", None)
    else:
        problem = _array("problem", problem, torch.int64, first)
        require_shape("problem", problem, first.shape)
        require_in_range("problem", problem, num_problems)
    if weight is not None:
        weight = _array("weight", weight, torch.float64, first)
        require_shape("weight", weight, first.shape)
        if values_readable(weight):
            _require_all("weight", (weight >= 0) & weight.isfinite(), "finite values of at least 0", weight)
    require_in_range("first", first, n)
    require_in_range("second", second, n)
    if values_readable(first):
        _require_all("second", first != second, "another candidate than first", second)
        _require_all("outcome", ((outcome >= 0) & (outcome <= 1)) | outcome.isnan(), "values in [0, 1] or NaN", outcome)
    body = schema.pairwise_wins.body(impl, first)
    wins: Tensor = body(first, second, outcome, problem, weight, num_problems, n)
    return wins


def borda(wins: ArrayLike) -> Tensor:
    """Games won, ties half, over all opponents: ``wins.sum(-1)`` but for the diagonal, which is ignored. wins [B, n, n] -> float64 [B, n]."""
    counts = _wins(wins)
    _require_counts(counts)
    return counts.masked_fill(torch.eye(counts.shape[1], dtype=torch.bool, device=counts.device), 0.0).sum(-1)


def win_rate(wins: ArrayLike) -> Tensor:
    """Mean over the opponents met of the share won against each; NaN for a candidate that met nobody. wins [B, n, n] -> float64 [B, n].

    Equivalent to ``(wins / (wins + wins.mT)).nanmean(-1)``, the diagonal ignored. Source: the average win rate of LMArena and evalica.
    """
    counts = _wins(wins)
    _require_counts(counts)
    games = counts + counts.mT
    met = (games != 0) & ~torch.eye(counts.shape[1], dtype=torch.bool, device=counts.device)
    return torch.where(met, counts / games, 0.0).sum(-1) / met.sum(-1)


def bradley_terry(
    wins: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    prior: float = 0.1,
    stderr: bool = False,
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
            is ignored.
        mask: bool [B, n], True for candidates who take part; all when None. What wins says of the others is not read.
        prior: as many virtual games of each candidate against a fixed opponent of strength 0, half of them won. 0 is plain maximum
            likelihood, which has no answer for a candidate that won, or lost, everything.
        stderr: whether to compute standard errors.
        max_iter, tol: Newton steps stop when no candidate's expected and actual points differ by more than ``tol`` of its games.
        impl: None (dispatcher's choice), "native" or "reference".

    Returns:
        rating [B, n], float64: natural log-strength, mean 0 over the candidates taking part (times 400 / ln 10 on the Elo scale); -inf
        for the others. stderr [B, n]: of the rating in that gauge, sqrt(diag(P H^-1 P)) with the Hessian H of the log posterior and the
        projection P onto mean 0; NaN for the others. status int64 [B]: ``RatingStatus``, about the data without the prior: DISCONNECTED
        before NO_MLE, but NOT_CONVERGED wherever an iteration was run in vain. iterations int64 [B]: Newton
        steps. Inputs are detached.

    Numerics: with a prior, ratings are finite whatever was won. With prior=0 they, and stderr, are NaN in a problem without a maximum
    (DISCONNECTED or NO_MLE). Where values cannot be checked (CUDA, torch.compile), NaN, inf or negative wins make their problem NaN with
    status NOT_CONVERGED. The plain PyTorch body stops early on CPU only and runs max_iter steps elsewhere, so as not to wait for the device.

    Source: Bradley and Terry, Biometrika 39 (1952); the maximum exists where the digraph of wins is strongly connected (Ford, Amer. Math.
    Monthly 64, 1957).

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit.
        NativeKernelError: impl="native" without a native body.
    """
    prior, tol, max_iter = require_positive("prior", prior, or_zero=True), require_positive("tol", tol), _whole("max_iter", max_iter, 1)
    wins = _wins(wins)
    if mask is not None:
        mask = _array("mask", mask, torch.bool, wins)
        require_shape("mask", mask, wins.shape[:2])
    _require_counts(wins, mask)
    body = schema.bradley_terry.body(impl, wins)
    rating, error, status, iterations = body(wins, mask, prior, bool(stderr), max_iter, tol)
    return Ratings(rating, error if stderr else None, status, iterations)
