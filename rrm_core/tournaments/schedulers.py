"""What all tournaments share: they say who meets whom, over many problems at once, and the judge stays in the caller's hands.

Host-side: tensors on CPU, nothing loops over problems. A tournament goes::

    while not tournament.done:
        tournament.record(judge(*tournament.pairs()))
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rrm_core._validate import require, require_shape, require_tensor
from rrm_core.tournaments.inputs import ArrayLike, array, require_shares, whole

_VERSION = 1
_EPSILON = torch.finfo(torch.float64).eps


class Pairs(NamedTuple):
    """What to judge now, int64 [K] each: first and second are candidates of the problem. A match's calls stand next to each other: its votes with
    the pair as it is, then, with both orders, as many with first and second swapped."""

    problem: Tensor
    first: Tensor
    second: Tensor


class Scheduler(ABC):
    """What the tournaments share: votes in one order or both, checks of outcomes and states."""

    _SETTINGS: tuple[str, ...] = ("num_problems", "num_candidates", "votes", "both_orders")
    _STATE: tuple[str, ...] = ()  # tensors

    def __init__(self, num_problems: int, num_candidates: int, votes: int, both_orders: bool, mask: ArrayLike | None) -> None:
        self.num_problems, self.num_candidates = whole("num_problems", num_problems, 0), whole("num_candidates", num_candidates, 1)
        self.votes = whole("votes", votes, 1)
        if not isinstance(both_orders, bool):
            raise TypeError(f"both_orders: expected a bool, got {type(both_orders).__name__}")
        self.both_orders = both_orders
        self._calls = 2 * votes if both_orders else votes  # per match
        sizes = (self.num_problems, self.num_candidates)
        self._taking = torch.ones(sizes, dtype=torch.bool) if mask is None else array("mask", mask, torch.bool).cpu()
        require_shape("mask", self._taking, sizes)
        self._asked = False

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether every match has been recorded."""

    @property
    @abstractmethod
    def ranking(self) -> Tensor:
        """All candidates, best first, int64 [B, n]; those who take no part are left out, with -1 at the end."""

    @property
    @abstractmethod
    def champion(self) -> Tensor:
        """The first of ``ranking``, int64 [B]; -1 where nobody takes part."""

    @abstractmethod
    def _matches(self) -> Pairs:
        """The matches of this round, none when done."""

    @abstractmethod
    def _settle(self, shares: Tensor) -> None:
        """shares: [matches, calls], what each call gives the match's own first."""

    @abstractmethod
    def _check(self) -> None:
        """Raises if the tensors cannot be a state of this tournament."""

    def pairs(self) -> Pairs:
        """What can be judged now, the same until the outcomes are recorded; nothing when done."""
        self._asked = not self.done
        problem, first, second = self._matches()
        shown = torch.stack((first, second), 1).unsqueeze(1)  # [matches, orders, 2]
        if self.both_orders:
            shown = torch.cat((shown, shown.flip(2)), 1)
        return Pairs(problem.repeat_interleave(self._calls), *shown.repeat_interleave(self.votes, 1).flatten(0, 1).T.contiguous())

    def record(self, outcome: ArrayLike) -> None:
        """Takes the outcomes of all ``pairs()``, aligned: the share of the win that goes to the ``first`` shown, NaN for an invalid verdict, which
        is a judge call but no vote.

        Raises:
            TypeError, ValueError: outcomes don't fit, pairs() was not called before, or the tournament is done. Nothing is changed then.
        """
        require(not self.done, "record", "a tournament with matches left", "one that is done")
        require(self._asked, "record", "pairs() to be called before", "outcomes of no pairs")
        shown = array("outcome", outcome, torch.float64).cpu()
        matches = len(self._matches().first)
        require_shape("outcome", shown, (matches * self._calls,))
        require_shares("outcome", shown)
        shares = shown.view(matches, self._calls)
        self._settle(torch.cat((shares[:, : self.votes], 1 - shares[:, self.votes :]), 1))
        self._asked = False

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later, as plain tensors, strings and integers."""
        settings = {name: getattr(self, name) for name in self._SETTINGS}
        tensors = {name: getattr(self, f"_{name}").clone() for name in self._STATE}
        return {"version": _VERSION, "scheduler": type(self).__name__, "asked": self._asked, **settings, **tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where another tournament with the same arguments (but for the seed) stood.

        Raises:
            TypeError, ValueError: it is not such a state. Nothing is changed then.
        """
        expected = self.state_dict()
        require(set(state) == set(expected), "state", f"entries {sorted(expected)}", sorted(state))
        for name in ("version", "scheduler", *self._SETTINGS):
            same = type(state[name]) is type(expected[name]) and state[name] == expected[name]
            require(same, f"state[{name!r}]", repr(expected[name]), repr(state[name]))
        if not isinstance(state["asked"], bool):
            raise TypeError(f"state['asked']: expected a bool, got {type(state['asked']).__name__}")
        for name in self._STATE:
            require_tensor(f"state[{name!r}]", state[name], (expected[name].dtype,), expected[name])
        restored = copy.copy(self)
        restored._asked = state["asked"]
        for name in self._STATE:
            setattr(restored, f"_{name}", state[name].clone())
        restored._check()
        vars(self).update(vars(restored))

    def _require_done(self, name: str) -> None:
        require(self.done, name, "every match to be recorded", f"{len(self._matches().first)} matches left in this round")


def balance(shares: Tensor) -> Tensor:
    """1, 0 or -1 [matches]: whether the valid ones of the shares [matches, calls] are more for first, even, or more for second. Sums that differ by
    no more than their rounding are even: both orders of a judge that looks at the position alone, whatever its probabilities."""
    lead = 2 * shares.nansum(1) - (~shares.isnan()).sum(1)
    return lead.masked_fill(lead.abs() <= shares.shape[1] ** 2 * _EPSILON, 0.0).sign()
