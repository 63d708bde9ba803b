"""What is measured: a case is one op on one kind of input, with everyone who does the same work, and what the work needs at least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.floors import Floor
from rrm_core.testing import assert_within_contract, in_float64, summation_orders

Scale = Literal["tiny", "quick", "full"]
Inputs = tuple[Any, ...]
Run = Callable[..., Any]
LARGE = 1 << 16  # elements of the inputs


class Seconds(float):
    """What a run returns that has timed itself."""


@dataclass(frozen=True, eq=False)
class Case:
    """``ops`` names the ops whose bodies answer. ``make(device)`` gives the seeded inputs of ``ours`` and of every contender in ``others``.
    ``gate(ours, inputs)`` raises AssertionError where a result is wrong; then nothing is timed. ``moves`` and ``flops`` are what must be
    done at least, each formula written beside its case."""

    family: str
    ops: tuple[str, ...]
    name: str
    make: Callable[[torch.device], Inputs]
    ours: Run
    others: Mapping[str, Run]
    gate: Callable[[Run, Inputs], None]
    moves: float = 0.0
    flops: float = 0.0
    floors: Sequence[Floor] = ()
    device_types: tuple[str, ...] = ("cpu", "cuda")
    slow: bool = False  # measured with the most threads only
    rounds: int | None = None  # so many and no warm-up, where one takes minutes

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


def fields(results: Any) -> dict[str, Tensor]:
    """Tensors by name, from a NamedTuple of them, a dict, or one tensor; what was not asked for is left out."""
    if isinstance(results, Tensor):
        return {"": results}
    named = results if isinstance(results, Mapping) else results._asdict()
    return {name: x for name, x in named.items() if isinstance(x, Tensor) and x.numel()}


def contract(reference: Run, orders: int = 1, few: Callable[[Inputs], Inputs] = lambda inputs: inputs) -> Callable[[Run, Inputs], None]:
    """The gate of a float32 op: every result within the numeric contract of ``reference`` in float64, eager float32 being the yardstick.

    orders: of summation, for inputs that ``rrm_core.testing.summation_orders`` knows; where they are large, one is as good.
    few: the part of the inputs that is looked at, where float64 could not hold all.
    """

    def gate(run: Run, inputs: Inputs) -> None:
        inputs = few(inputs)
        found = fields(run(*inputs))
        large = sum(x.numel() for x in inputs if isinstance(x, Tensor)) > LARGE
        eager = [fields(reference(*order)) for order in summation_orders(inputs, 1 if large else orders)]
        exact = fields(reference(*in_float64(inputs)))
        assert found.keys() == exact.keys(), f"results {sorted(found)}, expected {sorted(exact)}"
        for name, truth in exact.items():
            if truth.is_floating_point():
                assert_within_contract(found[name], [run[name] for run in eager], truth, name)
            else:
                assert torch.equal(found[name], truth), f"{name} differs"

    return gate


def with_gradients(forward: Run, *wanted: int) -> Run:
    """``forward``, and the gradients of the sum of its first result with respect to inputs number ``wanted``."""

    def run(*inputs: Any) -> dict[str, Tensor]:
        leaves = [x.detach().requires_grad_() if i in wanted else x for i, x in enumerate(inputs)]
        results = fields(forward(*leaves))
        grads = torch.autograd.grad(next(iter(results.values())).sum(), [leaves[i] for i in wanted])
        return {**{name: x.detach() for name, x in results.items()}, **{f"grad_{i}": g for i, g in zip(wanted, grads, strict=True)}}

    return run


def all_cases(scale: Scale, *, inductor: bool = False) -> list[Case]:
    """Every case at a scale: "tiny" for tests, "quick" for a glance, "full" for figures. ``inductor``: torch.compile as a contender."""
    from bench.cases import advantages, bootstrap, logprobs, losses, overhead, tournaments, votes

    return [case for module in (logprobs, advantages, losses, tournaments, bootstrap, votes, overhead) for case in module.cases(scale, inductor)]
