"""All phases of the study: what each runs and starts from. A phase's results are kept in a file; a run that was stopped goes on from those."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

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
        "think longer": Phase(lambda s: arms.think(s, s.of.extra_steps)),
        "verdict first": Phase(arms.verdict_first),
        "rlvr": Phase(arms.reinforce, ("think",)),
        "rlvr taught": Phase(lambda s, start: arms.reinforce(s, start, "taught"), ("think",)),
        "rlvr alone": Phase(lambda s: arms.reinforce(s, None)),
        "rlvr format only": Phase(arms.reinforce, ("format only",)),
        "rejection": Phase(arms.rejection, ("think",)),
        "points": Phase(voting.points),
    }
    for n in settings.shorter:
        found |= {f"{name}, {n} operations": found[name]._replace(length=n) for name in ("direct", "think")}
    for name in ("think", "rlvr"):
        found |= {f"votes of {name}": Phase(voting.pair_votes, (name,)), f"tournaments of {name}": Phase(voting.tournaments, (name,))}
    return found


def file_of(folder: Path, seed: int, name: str) -> Path:
    return folder / f"seed {seed}, {name}.pt"


def _run(settings: Settings, seed: int, name: str, folder: Path) -> None:
    """On one thread: the same bits however many phases run side by side."""
    torch.set_num_threads(1)
    phase, began = phases(settings)[name], time.perf_counter()
    found = phase.run(Study(settings, seed, phase.length or settings.length), *(torch.load(file_of(folder, seed, x)) for x in phase.after))
    unfinished = file_of(folder, seed, name).with_suffix(".part")
    torch.save(found | {"seconds": time.perf_counter() - began}, unfinished)
    unfinished.rename(file_of(folder, seed, name))


def run_all(settings: Settings, seeds: list[int], folder: Path, workers: int) -> None:
    total, running = [(seed, name) for name in phases(settings) for seed in seeds], dict[Future[None], str]()
    left = {key: phases(settings)[key[1]].after for key in total if not file_of(folder, *key).exists()}
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool, tqdm(total=len(total), initial=len(total) - len(left), unit="phase") as bar:
        while left or running:
            for seed, name in [(seed, name) for (seed, name), after in left.items() if all(file_of(folder, seed, x).exists() for x in after)]:
                del left[seed, name]
                running[pool.submit(_run, settings, seed, name, folder)] = f"seed {seed}, {name}"
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                done.result()
                bar.set_postfix_str(running.pop(done))
                bar.update()
