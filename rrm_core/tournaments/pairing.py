"""Who meets whom in a Swiss round, over many problems at once."""

from __future__ import annotations

import torch
from torch import Tensor

_LOWEST = torch.iinfo(torch.int64).min


def pair_off(order: Tensor, meetings: Tensor) -> Tensor:
    """Pairs of neighbours in standing who have met as seldom as can be.

    The highest left takes, of those it has met least often, the nearest; then pairs exchange partners as long as that makes for fewer rematches. If
    each of an even number p of candidates has met fewer than p / 2 of them, nobody meets anybody twice: were a and b, who have met, left as a pair,
    of the ties between them and the other (p - 2) / 2 pairs at least p were unused, so 3 of the 4 to some pair, which can exchange with them.

    Args:
        order: int64 [B, n], an even number of candidates, best first, then -1.
        meetings: integers [B, n, n] with a diagonal of 0, how often they have met.

    Returns:
        int64 [B, n // 2, 2], -1 behind the last pair.
    """
    (problems, n), rows = order.shape, torch.arange(len(order))
    places = torch.full((problems, n // 2, 2), -1)
    free, ids = order >= 0, order.clamp(min=0)
    never = torch.iinfo(meetings.dtype).max
    for k in range(n // 2):
        left = free.any(1)
        one = free.to(torch.int8).argmax(1)
        free[rows, one] = False
        times = meetings[rows, ids[rows, one]].gather(1, ids).masked_fill(~free, never)
        other = times.argmin(1)
        free[rows, other] = False
        places[:, k] = torch.stack((one, other), 1).masked_fill(~left.unsqueeze(1), -1)
    _exchange(places, ids, meetings)
    return order.gather(1, places.clamp(min=0).flatten(1)).view_as(places).masked_fill(places < 0, -1)


def _both_ways(ties: Tensor) -> Tensor:
    """[R, 2, P, 2], from each of a pair to each of P others, to [R, 2, P]: their sum if first meets first, and if first meets second."""
    return torch.stack((ties[:, 0, :, 0] + ties[:, 1, :, 1], ties[:, 0, :, 1] + ties[:, 1, :, 0]), 1)


def _exchange(places: Tensor, ids: Tensor, meetings: Tensor) -> None:
    """Partners in places [B, P, 2]: pairs that have met, the lowest first, exchange with the pair that saves most rematches, of these the nearest."""
    (problems, pairs, _), n = places.shape, ids.shape[1]
    rows, given_up = torch.arange(problems), torch.zeros(problems, pairs, dtype=torch.bool)
    while True:
        place, there = places[rows].clamp(min=0), places[rows, :, 0] >= 0
        who = ids[rows].gather(1, place.flatten(1)).view_as(place)
        now = meetings[rows.unsqueeze(1), who[:, :, 0], who[:, :, 1]]
        wanted = (now > 0) & there & ~given_up[rows]
        again = wanted.any(1)
        if not bool(again.any()):
            return
        rows, place, there, who, now, wanted = (x[again] for x in (rows, place, there, who, now, wanted))
        at = torch.arange(len(rows))
        pair = (wanted * torch.arange(1, pairs + 1)).argmax(1)
        then = _both_ways(meetings[rows.view(-1, 1, 1, 1), who[at, pair].view(-1, 2, 1, 1), who.unsqueeze(1)])
        apart = _both_ways((place[at, pair].view(-1, 2, 1, 1) - place.unsqueeze(1)).abs())
        there[at, pair] = False
        saved = (now + now[at, pair].unsqueeze(1)).unsqueeze(1) - then
        best = (saved * (2 * n) - apart).masked_fill(~there.unsqueeze(1), _LOWEST).flatten(1).argmax(1)
        partner, better = best % pairs, (saved * there.unsqueeze(1)).flatten(1)[at, best] > 0
        given_up[rows, pair] = True
        given_up[rows[better]] = False
        row, pair, partner, straight = rows[better], pair[better], partner[better], (best[better] < pairs).unsqueeze(1)
        (a, b), (c, d) = places[row, pair].unbind(1), places[row, partner].unbind(1)
        places[row, pair] = torch.where(straight, torch.stack((a, c), 1), torch.stack((a, d), 1))
        places[row, partner] = torch.where(straight, torch.stack((b, d), 1), torch.stack((c, b), 1))
