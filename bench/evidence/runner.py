"""Runs the phases of a study side by side. A phase's results are kept in a file; a run that was stopped goes on from those."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

import rrm_core
from examples.evidence.arms import Found
from examples.evidence.phases import phases, run
from examples.evidence.settings import Settings


def kept_in(folder: Path, settings: Settings) -> Path:
    """Where results are kept: another folder for other settings, another study, another rrm_core or another torch."""
    found = hashlib.sha256(repr((settings, torch.__version__, rrm_core.backend_info()["cpu"])).encode())
    study, package = Path(sys.modules[Settings.__module__].__file__ or "").parent, Path(rrm_core.__file__).parent
    for path in sorted([*study.glob("*.py"), *package.rglob("*.py"), *package.glob("*.so")]):
        found.update(path.read_bytes())
    kept = folder / found.hexdigest()[:12]
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def file_of(folder: Path, seed: int, name: str) -> Path:
    return folder / f"seed {seed}, {name}.pt"


def load(folder: Path, seed: int, name: str) -> Found:
    found: Found = torch.load(file_of(folder, seed, name))
    return found


def _work(settings: Settings, seed: int, name: str, folder: Path) -> None:
    torch.set_num_threads(1)  # the same bits however many phases run side by side
    began = time.perf_counter()
    found = run(settings, seed, name, *(load(folder, seed, x) for x in phases(settings)[name].after))
    unfinished = file_of(folder, seed, name).with_suffix(f".{os.getpid()}")
    torch.save(found | {"seconds": time.perf_counter() - began}, unfinished)
    unfinished.rename(file_of(folder, seed, name))


def run_all(settings: Settings, seeds: list[int], folder: Path, workers: int) -> None:
    """Every phase of every seed, once those that it starts from are done."""
    all_of_them = phases(settings)
    everything = [(seed, name) for name in all_of_them for seed in seeds]
    left = [(seed, name) for seed, name in everything if not file_of(folder, seed, name).exists()]
    running: dict[Future[None], str] = {}
    with (
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
        tqdm(total=len(everything), initial=len(everything) - len(left), unit="phase") as bar,
    ):
        while left or running:
            ready = [(seed, name) for seed, name in left if all(file_of(folder, seed, x).exists() for x in all_of_them[name].after)]
            left = [key for key in left if key not in ready]
            for seed, name in ready:
                running[pool.submit(_work, settings, seed, name, folder)] = f"seed {seed}, {name}"
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                done.result()
                bar.set_postfix_str(running.pop(done))
                bar.update()
