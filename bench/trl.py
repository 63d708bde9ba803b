"""Seconds per step of TRL's GRPOTrainer at a vocabulary of 151,936, as it is, scoring labelled tokens alone, and on our ops: ``python -m bench.trl``.

The second is TRL's own arithmetic behind a one-line change, and what ours is compared with."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch
from transformers import TrainerCallback
from transformers.utils import logging
from trl.trainer import utils

from bench import machine
from bench.report import RESULTS
from bench.toy_trainer import make_model, make_trainer
from rrm_core.integrations.trl import patch_trl

CPU = torch.device("cpu")
WORK = {"vocabulary": 151936, "hidden": 128, "answers": 8, "group": 4, "completion": 16, "prompt": 45}
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "TRL": nullcontext,
    "TRL, labelled tokens alone": lambda: mock.patch.object(utils, "_use_triton", return_value=True),
    "rrm_core": patch_trl,
}
COMPACTED, OURS = list(MODES)[1:]
COMPARED = ("seconds", "seconds without generation", "processor seconds", "processor seconds without generation")


class Turns(TrainerCallback):
    """Every step in the next mode, its wall and processor seconds: generation, gradients and the optimizer included."""

    def __init__(self, modes: Sequence[str]) -> None:
        self.modes = itertools.cycle(modes)
        self.steps: list[dict[str, Any]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.mode = next(self.modes)
        self.context = MODES[self.mode]()
        self.context.__enter__()
        self.began = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wall, processor = self.began
        self.steps.append({"mode": self.mode, "seconds": time.perf_counter() - wall, "processor seconds": time.process_time() - processor})
        self.context.__exit__(None, None, None)


def timed(base: Any) -> Any:
    class Timed(base):  # type: ignore[misc]
        generation: list[tuple[float, float]]

        def _generate(self, *args: Any, **options: Any) -> Any:
            wall, processor = time.perf_counter(), time.process_time()
            result = super()._generate(*args, **options)
            self.generation = [*getattr(self, "generation", []), (time.perf_counter() - wall, time.process_time() - processor)]
            return result

    return Timed


def run(modes: Sequence[str], steps: int) -> list[dict[str, Any]]:
    turns = Turns(modes)
    trainer = make_trainer(
        "grpo", model=make_model(WORK["vocabulary"], WORK["hidden"]), base=timed, per_device_train_batch_size=WORK["answers"],
        num_generations=WORK["group"], max_completion_length=WORK["completion"], prompt_words=WORK["prompt"], max_steps=steps,
        generation_kwargs=None,
    )  # fmt: skip
    trainer.add_callback(turns)
    trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    for step, norm, (wall, processor) in zip(turns.steps, norms, trainer.generation, strict=True):
        step |= {"gradient norm": norm, "generation seconds": wall, "seconds without generation": step["seconds"] - wall}
        step["processor seconds without generation"] = step["processor seconds"] - processor
        print(f"{step['mode']}: {step['seconds']:.2f} s, {wall:.2f} of them generation, gradient norm {norm:.6g}", flush=True)
    return turns.steps


def check() -> None:
    """Two steps from one seed in every mode: the same gradients, or nothing is timed."""
    norms = {mode: torch.tensor([step["gradient norm"] for step in run([mode], 2)]) for mode in MODES}
    for mode, values in norms.items():
        torch.testing.assert_close(values, norms["TRL"], rtol=1e-4, atol=0, msg=f"gradient norms of {mode}: expected {norms['TRL']}, got {values}")
    if not bool((norms["TRL"] > 1e-3).all()):
        raise RuntimeError(f"gradient norms: expected some above 1e-3, got {norms['TRL'].tolist()}")


def summarise(steps: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians; the ratio is the median over turns, of steps that followed each other."""
    of_mode = {mode: [step for step in steps if step["mode"] == mode] for mode in MODES}
    summary = {}
    for mode, own in of_mode.items():
        summary[mode] = {name: statistics.median(step[name] for step in own) for name in ("generation seconds", *COMPARED)}
        pairs = list(zip(of_mode[COMPACTED], own, strict=True))
        for name in COMPARED:
            summary[mode][f"ratio of {name}"] = statistics.median(base[name] / step[name] for base, step in pairs)
    return summary


def as_text(facts: dict[str, Any], summary: dict[str, dict[str, float]], turns: int) -> str:
    versions = ", ".join(
        f"{name} {version}" for name, version in facts["versions"].items() if name in ("rrm-kernels", "torch", "transformers", "trl")
    )
    lines = [
        f"# A step of TRL's GRPOTrainer, {facts['date']}",
        "",
        f"{facts['device']}, {facts['cores']} cores ({facts['backends']['cpu']}); threads: {facts['threads']};",
        f"load before the run: {facts['load']:.1f};",
        f"{versions}; commit {facts['commit']}. Random two-layer Qwen3, {', '.join(f'{name} {size}' for name, size in WORK.items())}, float32.",
        f"Medians of {turns} steps in each mode, which take turns within one run; ratios are medians over the turns. The same gradient norms",
        "from the same seed in every mode, to 1e-4.",
        "In brackets: how many times less than TRL that scores labelled tokens alone. Processor seconds tell more where the machine is not idle.",
        "",
        "| | seconds a step | of them generation | the rest | processor seconds | the rest, processor seconds |",
        "|---|---|---|---|---|---|",
    ]
    for mode, one in summary.items():
        whole, rest, busy, busy_rest = (f"{one[name]:.2f} ({one[f'ratio of {name}']:.2f}x)" for name in COMPARED)
        lines.append(f"| {mode} | {whole} | {one['generation seconds']:.2f} | {rest} | {busy} | {busy_rest} |")
    verdict = "not slower" if summary[OURS]["ratio of seconds"] >= 1 else "SLOWER"
    return "\n".join([*lines, "", f"The patched trainer is {verdict} than TRL that scores labelled tokens alone.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="fewer where others are at work: threads wait for each other")
    options = parser.parse_args()
    turns = options.turns
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    facts = machine.describe(CPU) | {"load": machine.load(), "threads": options.threads}
    check()
    steps = run(list(MODES), len(MODES) * (turns + 1))[len(MODES) :]  # a turn to warm up
    summary = summarise(steps)
    text = as_text(facts, summary, turns)
    stem = RESULTS / f"{facts['date']}-trl-{facts['commit']}"
    stem.with_suffix(".md").write_text(text)
    stem.with_suffix(".json").write_text(json.dumps({**facts, "work": WORK, "medians": summary, "steps": steps}, indent=1) + "\n")
    print(f"\n{text}\nwritten to {stem}.md and {stem}.json")


if __name__ == "__main__":
    main()
