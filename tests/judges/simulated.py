"""A judge of known accuracy, for the tests of the runner: candidate 0 is the best, 1 the next, and so on."""

import random

import torch

from rrm_core.judges import Generated

QUESTION, BOX = "Which?", "because \\boxed{{Assistant {}}}"


class Simulated:
    """Right with probability ``accuracy``; a text without a verdict with probability ``invalid``. Draws follow from a call's seed alone."""

    def __init__(self, accuracy=0.8, invalid=0.0, dies_after=None, error=KeyboardInterrupt):
        self.accuracy, self.invalid, self.dies_after, self.error = accuracy, invalid, dies_after, error
        self.keys, self.seeds = [], {}

    def verdict(self, call):
        """Of one call: 1, 0 or None."""
        draws = random.Random(call.seed)
        if draws.random() < self.invalid:
            return None
        _, _, first, second, _ = call.key
        return int((first < second) == (draws.random() < self.accuracy))

    def __call__(self, calls):
        if self.dies_after is not None and len(self.keys) + len(calls) > self.dies_after:
            raise self.error("the generator is gone")
        self.keys += [call.key for call in calls]
        self.seeds |= {call.key: call.seed for call in calls}
        texts = {1: BOX.format(1), 0: BOX.format(2), None: "I cannot tell."}
        return [Generated(texts[self.verdict(call)]) for call in calls]


def questions(problems, n):
    return [f"{QUESTION} {i}" for i in range(problems)], [[f"answer {j}" for j in range(n)] for _ in range(problems)]


def same(a, b):
    """Equal fields, NaN included."""
    return all(torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(a, b, strict=True))
