"""Which options make an estimator, and what papers and trainers add to them."""

from __future__ import annotations

from dataclasses import dataclass

from rrm_core.advantages.reference import BASELINES


@dataclass(frozen=True)
class Estimator:
    """baseline: see ``reference``. divides: by the group's std. whitens: the whole batch afterwards. each: the option with a number per row."""

    baseline: int
    divides: bool = False
    whitens: bool = False
    each: str | None = None
    successes: bool = False  # rewards are in [0, 1]


@dataclass(frozen=True)
class Convention:
    """What a trainer adds to a std or, where ``of_variance``, to the variance of a whole batch; what a lone reward gets."""

    eps: float
    whiten_eps: float
    of_variance: bool
    singleton: str


_MEAN = BASELINES["mean"]
ESTIMATORS = {
    "grpo": Estimator(_MEAN, divides=True),
    "dr_grpo": Estimator(_MEAN),
    "rloo": Estimator(BASELINES["others"]),
    "opo": Estimator(BASELINES["weighted"], each="lengths"),
    "gpg": Estimator(_MEAN),
    "reinforce_pp_baseline": Estimator(_MEAN, whitens=True),
    "remax": Estimator(BASELINES["given"], each="baseline"),
    "gdpo": Estimator(_MEAN, divides=True, whitens=True),
    "maxrl": Estimator(BASELINES["share"], successes=True),
    "pass_at_k": Estimator(BASELINES["top_two"], successes=True),
}
OWN = Convention(eps=1e-6, whiten_eps=1e-8, of_variance=True, singleton="zero")
CONVENTIONS = {
    "paper": Convention(eps=0.0, whiten_eps=0.0, of_variance=True, singleton="zero"),
    "trl": Convention(eps=1e-4, whiten_eps=1e-4, of_variance=False, singleton="zero"),
    "verl": Convention(eps=1e-6, whiten_eps=1e-8, of_variance=True, singleton="reward"),
}
STDS = ("sample", "population", "batch")
