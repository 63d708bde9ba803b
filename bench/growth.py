"""How time and memory grow with rows and vocabulary, over three decades: ``python -m bench.growth`` writes a picture and its figures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench import machine
from bench.report import RESULTS
from bench.timing import extra_memory, seconds
from rrm_core import ScoreTokens, linear_token_logprobs, score_token_logprobs, token_logprobs
from rrm_core.testing import random_head, random_ids, random_logits

CPU = torch.device("cpu")
LABELS = ScoreTokens({"A": [3], "B": [7]})
STEPS = (1, 4, 16, 64, 256, 1024)

Run = tuple[Callable[..., Any], tuple[Any, ...]]


def _with_backward(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    grads = torch.autograd.grad(linear_token_logprobs(hidden, weight, ids, impl="native").logprob.sum(), (hidden, weight))
    return {"hidden": grads[0], "weight": grads[1]}


def series() -> Iterator[tuple[str, str, Callable[[int], Run], tuple[int, ...]]]:
    """(what, of what it is a function, its run at a size, sizes)."""
    yield (
        "token_logprobs, V = 32768",
        "rows",
        lambda n: (lambda x, i: token_logprobs(x, i, impl="native"), (random_logits(n, 32768), random_ids((n,), 32768))),
        STEPS,
    )
    yield (
        "token_logprobs, 4 rows",
        "vocabulary",
        lambda k: (lambda x, i: token_logprobs(x, i, impl="native"), (random_logits(4, 1024 * k), random_ids((4,), 1024 * k))),
        STEPS,
    )
    yield (
        "score_token_logprobs, [n, 256] x [32768, 256]",
        "rows",
        lambda n: (lambda h, w: score_token_logprobs(h, w, LABELS, impl="native"), random_head(n, 256, 32768)),
        STEPS,
    )
    yield (
        "score_token_logprobs, [64, 256] x [V, 256]",
        "vocabulary",
        lambda k: (lambda h, w: score_token_logprobs(h, w, LABELS, impl="native"), random_head(64, 256, 256 * k)),
        STEPS,
    )
    yield (
        "linear_token_logprobs with gradients, [n, 256] x [8192, 256]",
        "rows",
        lambda n: (_with_backward, (*random_head(n, 256, 8192), random_ids((n,), 8192))),
        (4, 16, 64, 256, 1024, 4096),
    )
    yield (
        "linear_token_logprobs with gradients, [64, 256] x [V, 256]",
        "vocabulary",
        lambda k: (_with_backward, (*random_head(64, 256, 128 * k), random_ids((64,), 128 * k))),
        STEPS,
    )


def measure() -> list[dict[str, Any]]:
    found = []
    for name, of, make, sizes in series():
        points = []
        for size in sizes:
            run, inputs = make(size)
            run(*inputs)
            taken = statistics.median(seconds(run, inputs, CPU)[0] for _ in range(9))
            points.append({"size": size, "seconds": taken, "extra bytes": extra_memory(run, inputs, CPU)})
        found.append({"series": name, "of": of, "points": points})
    return found


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    facts, found = machine.describe(CPU), measure()
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for one in found:
        points = one["points"]
        sizes = [p["size"] / points[0]["size"] for p in points]
        axes[0].loglog(sizes, [p["seconds"] * 1e3 for p in points], marker="o", label=f"{one['series']}, of {one['of']}")
        axes[1].semilogx(sizes, [(p["extra bytes"] or 0) / 2**20 for p in points], marker="o")
    axes[0].set(xlabel="size, relative to the smallest", ylabel="milliseconds")
    axes[1].set(xlabel="size, relative to the smallest", ylabel="extra memory, MB")
    axes[0].legend(fontsize=6)
    stem = RESULTS / f"{facts['date']}-growth-{facts['commit']}"
    figure.savefig(stem.with_suffix(".png"), dpi=120)
    stem.with_suffix(".json").write_text(json.dumps({**facts, "growth": found}, indent=1) + "\n")
    print(f"written to {stem}.png and {stem}.json")


if __name__ == "__main__":
    main()
