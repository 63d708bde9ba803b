"""From judged matches to points of every pair. Array-likes in, float64 tensors out, many problems at once; no gradients: inputs are detached."""

from __future__ import annotations

from torch import Tensor

from rrm_core._library import Impl
from rrm_core.tournaments import schema
from rrm_core.tournaments.inputs import ArrayLike, PairCounts, matches, whole


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
    num_problems, n = whole("num_problems", num_problems, 0), whole("num_candidates", num_candidates, 1)
    arguments = matches(first, second, outcome, problem, weight, num_problems, n)
    wins: Tensor = schema.pairwise_wins.body(impl, arguments[0])(*arguments, num_problems, n)
    return wins


def pairwise_counts(
    first: ArrayLike,
    second: ArrayLike,
    outcome: ArrayLike,
    *,
    problem: ArrayLike | None = None,
    num_problems: int = 1,
    num_candidates: int,
    weight: ArrayLike | None = None,
    impl: Impl = None,
) -> PairCounts:
    """Counts wins and ties of every pair apart, over the matches of many problems.

    Equivalent to::

        tie = outcome == 0.5
        wins = pairwise_wins(first[~tie], second[~tie], outcome[~tie], ...)
        ties = 2 * pairwise_wins(first[tie], second[tie], outcome[tie], ...)

    so that ``wins + ties / 2`` is what ``pairwise_wins`` counts. An outcome of exactly 0.5 is a tie, any other is shared out as wins.

    Args:
        first, second, outcome, problem, num_problems, num_candidates, weight, impl: as for ``pairwise_wins``.

    Returns:
        PairCounts(wins, ties), each [B, n, n] float64 with a diagonal of 0; ties are symmetric. The same bits for the same matches. Inputs
        are detached.

    Numerics: as for ``pairwise_wins``.

    Raises:
        TypeError, ValueError: a dtype, shape, device, id, outcome or weight doesn't fit, or a candidate meets itself.
        NativeKernelError: impl="native" without a native body.
    """
    num_problems, n = whole("num_problems", num_problems, 0), whole("num_candidates", num_candidates, 1)
    arguments = matches(first, second, outcome, problem, weight, num_problems, n)
    return PairCounts(*schema.pairwise_counts.body(impl, arguments[0])(*arguments, num_problems, n))
