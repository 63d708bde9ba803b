"""All phases of the study: what each runs, and which results it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from examples.evidence import arms, voting
from examples.evidence.arms import Found, Study
from examples.evidence.settings import Settings


class Phase(NamedTuple):
    run: Callable[..., Found]
    after: tuple[str, ...] = ()  # phases whose results it is given
    length: int | None = None  # of the problems, where it is not the settings'


def phases(settings: Settings) -> dict[str, Phase]:
    found = {
        "think": Phase(arms.think),
        "fillers": Phase(lambda s: arms.direct(s, s.length + 4)),  # as many tokens before the verdict as a thought has
        "direct": Phase(arms.direct),
        "format only": Phase(arms.format_only),
        "verdict first": Phase(arms.verdict_first),
        "rlvr": Phase(arms.reinforce, ("think",)),
        "rlvr taught": Phase(lambda s, start: arms.reinforce(s, start, "taught"), ("think",)),
        "rlvr alone": Phase(lambda s: arms.reinforce(s, None)),
        "rlvr format only": Phase(arms.reinforce, ("format only",)),
        "more distillation": Phase(arms.more_distillation, ("think",)),
        "rejection": Phase(arms.rejection, ("think",)),
        "alone": Phase(voting.alone),
    }
    for n in settings.shorter:
        found |= {f"{name}, {n} operations": found[name]._replace(length=n) for name in ("direct", "think")}
    for name in ("think", "rlvr"):
        found |= {f"votes of {name}": Phase(voting.pair_votes, (name,)), f"tournaments of {name}": Phase(voting.tournaments, (name,))}
    return found


def run(settings: Settings, seed: int, name: str, *given: Found) -> Found:
    phase = phases(settings)[name]
    return phase.run(Study(settings, seed, phase.length or settings.length), *given)
