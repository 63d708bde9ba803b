"""Everything that is chosen. It was chosen on seed 1000, before any of the seeds that are reported (0, 1, 2) was run."""

from __future__ import annotations

from typing import Literal, NamedTuple

REPORTED = [0, 1, 2]
COUNTS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33)  # of votes
Rule = Literal["majority", "beta", "sprt"]  # when a match is decided
RULES: tuple[Rule, ...] = ("majority", "beta", "sprt")


class Settings(NamedTuple):
    length: int = 6  # operations of a problem
    shorter: tuple[int, ...] = (1, 2, 4)  # lengths of the control
    shape: tuple[int, int, int] = (64, 4, 2)  # width, heads, layers of the judge
    traces: int = 2500  # problems that the teacher thinks about
    slips: float = 0.15  # share of its steps that are mistaken
    labels: int = 20000  # problems whose right verdict is known
    batch: int = 128
    sft_steps: int = 500
    sft_rate: float = 2e-3
    direct_steps: int = 2000
    direct_rate: float = 1e-3
    extra_steps: int = 300  # of more SFT, rejection fine-tuning and RLVR alike
    extra_rate: float = 1e-3  # of the former two
    rlvr_rate: float = 2e-4
    prompts: int = 32
    group: int = 8
    pairs: int = 1000  # test items
    votes: int = 33  # on each of them
    problems: int = 300  # of best of n
    candidates: int = 8
    match_votes: int = 16
    point_samples: int = 32
    meta_problems: int = 2000  # whose samples the meta reward model learns from
    timed_steps: int = 20


QUICK = Settings(
    length=3, shorter=(1,), labels=5000, sft_steps=500, direct_steps=300, extra_steps=60, pairs=500, votes=9, problems=100, match_votes=4,
    point_samples=8, meta_problems=500, timed_steps=5,
)  # fmt: skip
