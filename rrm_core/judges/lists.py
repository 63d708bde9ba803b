"""Answers scored together or one by one, sample by sample, and the scores added up."""

from __future__ import annotations

import torch
from torch import Tensor

from rrm_core.judges.caller import Asked, Caller
from rrm_core.judges.shuffling import shuffles
from rrm_core.judges.system import Listwise
from rrm_core.judges.verdicts import ScoreVerdicts
from rrm_core.tournaments.inputs import seeded
from rrm_core.tournaments.league import ranked

NAN = float("nan")


def sample(
    caller: Caller, system: Listwise, sizes: list[int], samples: int, *, shuffle: bool, guided: bool, k_meta: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ranking, mean score, invalid calls and agreement, as in ``Judged``. ``sizes``: answers of each question. What the budget doesn't reach are the
    last samples."""
    count, seed = system.num_answers, caller.seed_of(())
    alone, most = count == 1, max(sizes, default=1)
    # what is scored together: its question, and its first answer there
    problem = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64) if alone else 1)
    begin = torch.tensor([i for size in sizes for i in (range(size) if alone else [0])], dtype=torch.int64)
    rows = len(problem)
    permutation = shuffles(rows, samples, count, seed) if shuffle else torch.arange(count).repeat(rows, samples, 1)
    calls = rows * samples if caller.left is None else min(rows * samples, caller.left)
    row, j = torch.arange(calls) % max(rows, 1), torch.arange(calls) // max(rows, 1)
    shown = (begin[row].unsqueeze(1) + permutation[row, j]).tolist()
    entries = caller([Asked((k, p, *places), p, tuple(places)) for k, p, places in zip(j.tolist(), problem[row].tolist(), shown, strict=True)])

    found = system.parse([entry.text for entry in entries], [entry.finished for entry in entries])
    scores, reason, meta = torch.full((rows, samples, count), NAN, dtype=torch.float64), torch.ones(rows, samples, dtype=torch.int64), None
    scores[row, j], reason[row, j] = found.scores, found.reason
    if guided:
        meta = torch.full((rows, samples), NAN, dtype=torch.float64)
        meta[row, j] = torch.tensor([NAN if entry.meta is None else entry.meta for entry in entries], dtype=torch.float64)
    votes = system.aggregate(
        ScoreVerdicts(scores.view(-1, count), reason.view(-1)), samples=samples, permutation=permutation, meta=meta, k_meta=k_meta, seed=seed
    )
    invalid = torch.zeros(len(sizes), dtype=torch.int64).index_add_(0, problem[row], (found.reason != 0).to(torch.int64))

    # by question and answer again
    place = (problem.unsqueeze(1), begin.unsqueeze(1) + torch.arange(count))
    mean, each = torch.full((len(sizes), most), NAN, dtype=torch.float64), torch.full((len(sizes), most, samples), NAN, dtype=torch.float64)
    mean[place] = votes.score if system.MEANS else votes.score / votes.used.unsqueeze(1)
    each[place] = torch.empty_like(scores).scatter_(2, permutation, scores).mT
    there = torch.arange(most) < torch.tensor(sizes, dtype=torch.int64).unsqueeze(1)
    ranking = ranked(there, mean.nan_to_num(-torch.inf), torch.rand(mean.shape, generator=seeded(seed)))  # equals at random
    judged = ~each.isnan().all(1)
    each = each.nan_to_num(-torch.inf)
    agrees = (each.gather(1, ranking[:, :1, None].clamp(min=0).expand(-1, -1, samples)).squeeze(1) == each.amax(1)) & judged
    return ranking, mean, invalid, agrees.sum(1).double() / judged.sum(1)
