"""What all tournaments share: they say who meets whom, over many problems at once, and the judge stays in the caller's hands.

Host-side: tensors on CPU, nothing loops over problems. A tournament goes::

    while not tournament.done:
        tournament.record(judge(*tournament.pairs()))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rrm_core._validate import require, require_shape, require_tensor
from rrm_core.tournaments.inputs import ArrayLike, array, require_all, whole

_VERSION = 1


class Pairs(NamedTuple):
    """The matches to judge now, int64 [K] each: first and second are candidates of the problem. A match with several votes is there as often,
    one after the other."""

    problem: Tensor
    first: Tensor
    second: Tensor


class Scheduler(ABC):
    """What the tournaments share: repetition of votes, checks of outcomes and states."""

    _SETTINGS: tuple[str, ...] = ("num_problems", "num_candidates", "votes")
    _STATE: tuple[str, ...] = ()  # tensors

    def __init__(self, num_problems: int, num_candidates: int, votes: int, mask: ArrayLike | None) -> None:
        self.num_problems, self.num_candidates = whole("num_problems", num_problems, 0), whole("num_candidates", num_candidates, 1)
        self.votes = whole("votes", votes, 1)
        sizes = (self.num_problems, self.num_candidates)
        self._taking = torch.ones(sizes, dtype=torch.bool) if mask is None else array("mask", mask, torch.bool).cpu()
        require_shape("mask", self._taking, sizes)
        self._asked = False

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether every match has been recorded."""

    @abstractmethod
    def _matches(self) -> Pairs:
        """The matches of this round, none when done."""

    @abstractmethod
    def _settle(self, votes: Tensor) -> None:
        """votes: [matches, votes]."""

    @abstractmethod
    def _restored(self, state: Mapping[str, Tensor]) -> None:
        """Raises if the tensors cannot be a state of this tournament."""

    def pairs(self) -> Pairs:
        """The matches that can be judged now, the same until their outcomes are recorded; none when done."""
        self._asked = not self.done
        return Pairs(*(ids.repeat_interleave(self.votes) for ids in self._matches()))

    def record(self, outcome: ArrayLike) -> None:
        """Takes the outcomes of all ``pairs()``, aligned: the share of the win that goes to ``first``, NaN for an invalid verdict.

        Raises:
            TypeError, ValueError: outcomes don't fit, pairs() was not called before, or the tournament is done. Nothing is changed then.
        """
        require(not self.done, "record", "a tournament with matches left", "one that is done")
        require(self._asked, "record", "pairs() to be called before", "outcomes of no pairs")
        votes = array("outcome", outcome, torch.float64).cpu()
        matches = len(self._matches().first)
        require_shape("outcome", votes, (matches * self.votes,))
        require_all("outcome", ((votes >= 0) & (votes <= 1)) | votes.isnan(), "values in [0, 1] or NaN", votes)
        self._settle(votes.view(matches, self.votes))
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
            require(state[name] == expected[name], f"state[{name!r}]", repr(expected[name]), repr(state[name]))
        if not isinstance(state["asked"], bool):
            raise TypeError(f"state['asked']: expected a bool, got {type(state['asked']).__name__}")
        for name in self._STATE:
            require_tensor(f"state[{name!r}]", state[name], (expected[name].dtype,), expected[name])
        self._restored(state)
        for name in self._STATE:
            setattr(self, f"_{name}", state[name].clone())
        self._asked = state["asked"]

    def _require_done(self, name: str) -> None:
        require(self.done, name, "every match to be recorded", f"{len(self._matches().first)} matches left in this round")


def balance(votes: Tensor) -> Tensor:
    """1, 0 or -1 [matches]: whether the valid votes [matches, votes] are more for first, even, or more for second."""
    valid = ~votes.isnan()
    return (2 * votes.nansum(1) - valid.sum(1)).sign()
