"""The task: follow a chain of operations on a digit, then say how near a candidate is to its end, or which of two is nearer.

A problem is a digit and L of 12 operations modulo 10, each a bijection. A candidate is a digit; its grade is 5 less its distance around the circle of
digits from the truth. A judge that thinks writes the state after every operation, each candidate with its grade, and the verdict. All tokens stand at
fixed places: nothing is padded or masked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rrm_core import ScoreTokens

DIGITS, GRADES, OPERATIONS, VOCABULARY = 10, 6, 12, 34
_GRADE, _OPERATION, _VERDICT, _PAIR, _POINT, _END, _FILLER = 10, 16, 28, 30, 31, 32, 33  # the first token of each kind; a digit is its own
UNWRITTEN = _PAIR  # begins a prompt, and is never in a thought
VERDICT_TOKENS = ScoreTokens({"first": [_VERDICT], "second": [_VERDICT + 1]}, values=[1.0, 0.0])
GRADE_TOKENS = ScoreTokens({str(g): [_GRADE + g] for g in range(GRADES)}, values=range(GRADES))
_TABLE = torch.tensor([[(d + a) % 10 for d in range(10)] for a in range(1, 10)] + [[(d * a) % 10 for d in range(10)] for a in (3, 7, 9)])


class Problems(NamedTuple):
    start: Tensor  # [P] digits
    operations: Tensor  # [P, L], rows of the table
    candidates: Tensor  # [P, n] digits

    def states(self, slips: float = 0.0, seed: torch.Generator | None = None) -> Tensor:
        """The digit after each operation [P, L]. That share of steps is mistaken, and what follows carries on from there."""
        shape, digit, found = self.operations.shape, self.start, []
        mistakes = torch.randint(1, DIGITS, shape, generator=seed) * (torch.rand(shape, generator=seed) < slips)
        for operation, mistake in zip(self.operations.T, mistakes.T, strict=True):
            digit = (_TABLE[operation, digit] + mistake) % DIGITS
            found.append(digit)
        return torch.stack(found, 1)

    def grades(self) -> Tensor:
        """Of every candidate [P, n], by the truth."""
        return _grade(self.candidates, self.states()[:, -1:])

    def better(self) -> Tensor:
        """Of a pair: 0 if the first candidate is better, 1 if the second is, [P]."""
        return self.grades().argmax(1)

    def number(self) -> Tensor:
        """Problems are the same where these are [P]."""
        number = self.start
        for digit, base in [(x, OPERATIONS) for x in self.operations.T] + [(x, DIGITS) for x in self.candidates.T]:
            number = number * base + digit
        return number

    @property
    def thought(self) -> int:
        """Tokens of a thought about a pair with its verdict."""
        return self.operations.shape[1] + 5

    def take(self, index: Tensor) -> Problems:
        return Problems(*(x[index] for x in self))


def _grade(candidate: Tensor, truth: Tensor) -> Tensor:
    distance = (candidate - truth) % DIGITS
    return GRADES - 1 - torch.minimum(distance, DIGITS - distance)


def draw(count: int, length: int, n: int, seed: torch.Generator) -> Problems:
    start, candidates = torch.randint(DIGITS, (count,), generator=seed), torch.randint(DIGITS, (count, n), generator=seed)
    return Problems(start, torch.randint(OPERATIONS, (count, length), generator=seed), candidates)


def draw_pairs(count: int, length: int, seed: torch.Generator) -> Problems:
    """Problems with two candidates of different grades, in random order."""
    drawn = draw(2 * count + 100, length, 2, seed)  # four fifths of random pairs have different grades
    grades = drawn.grades()
    return drawn.take((grades[:, 0] != grades[:, 1]).nonzero()[:count, 0])


def draw_best_of(count: int, length: int, n: int, seed: torch.Generator) -> Problems:
    """Problems with n different candidates, the right one among them, in random order."""
    drawn = draw(count, length, n, seed)
    others = torch.rand(count, DIGITS, generator=seed).scatter_(1, drawn.states()[:, -1:], -1.0).argsort(1)[:, :n]  # the truth comes first
    return drawn._replace(candidates=others.gather(1, torch.rand(count, n, generator=seed).argsort(1)))


def pair_prompt(problems: Problems, fillers: int = 0, kind: int = _PAIR) -> Tensor:
    """[P, L + 5 + fillers]; fillers stand where thoughts would."""
    begin, *end = (problems.start.new_full((len(problems.start), 1), token) for token in (kind, _END, *[_FILLER] * fillers))
    return torch.cat((begin, problems.start.unsqueeze(1), _OPERATION + problems.operations, problems.candidates, *end), 1)


def _alone(problems: Problems) -> Problems:
    """Every candidate as a problem of its own, [P n]."""
    count, n = problems.candidates.shape
    return problems.take(torch.arange(count).repeat_interleave(n))._replace(candidates=problems.candidates.reshape(-1, 1))


def point_prompt(problems: Problems) -> Tensor:
    """[P n, L + 5], every candidate alone, shown twice so that places are those of pairs."""
    alone = _alone(problems)
    return pair_prompt(alone._replace(candidates=alone.candidates.expand(-1, 2)), kind=_POINT)


def _graded(problems: Problems, states: Tensor) -> Tensor:
    """States, then every candidate with the grade that they give it."""
    grades = _GRADE + _grade(problems.candidates, states[:, -1:])
    return torch.cat((states, torch.stack((problems.candidates, grades), 2).flatten(1)), 1)


def pair_trace(problems: Problems, states: Tensor) -> Tensor:
    """[P, L + 5]: the thoughts of a judge that went through these states, and its verdict by its grades (the first, if they are equal)."""
    traced = _graded(problems, states)
    return torch.cat((traced, _VERDICT + (traced[:, -1:] > traced[:, -3:-2])), 1)


def point_trace(problems: Problems, states: Tensor) -> Tensor:
    """[P n, L + 2]."""
    return _graded(_alone(problems), states.repeat_interleave(problems.candidates.shape[1], 0))


def random_trace(problems: Problems, seed: torch.Generator) -> Tensor:
    """The format of ``pair_trace`` without its content: states, grades and verdict at random."""
    made = pair_trace(problems, torch.randint(DIGITS, problems.operations.shape, generator=seed))
    drawn = (torch.rand(len(made), 3, generator=seed) * torch.tensor([GRADES, GRADES, 2])).long()
    return made.index_copy(1, torch.tensor([-4, -2, -1]) % made.shape[1], drawn + torch.tensor([_GRADE, _GRADE, _VERDICT]))


def verdict(problems: Problems) -> Tensor:
    """The right verdict's token [P, 1]."""
    return _VERDICT + problems.better().unsqueeze(1)


def votes(tokens: Tensor) -> Tensor:
    """What samples [..., T] end with: 0 for the first, 1 for the second, -1 where it is no verdict."""
    last = tokens[..., -1] - _VERDICT
    return torch.where((last >= 0) & (last < 2), last, -1)


def written_grades(tokens: Tensor) -> Tensor:
    """The grade at the end of samples [..., T], float64, NaN where it is none."""
    last = tokens[..., -1] - _GRADE
    return torch.where((last >= 0) & (last < GRADES), last.double(), torch.nan)
