"""How an op is registered: schema, shapes, plain-PyTorch body and gradient in one call; other bodies come through torch's dispatcher."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch

Impl = Literal["native", "reference"] | None

LIBRARY = torch.library.Library("rrm", "DEF")
OPS: dict[str, Op] = {}

HAS_TRITON = importlib.util.find_spec("triton") is not None

_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


class NativeKernelError(RuntimeError):
    """``impl="native"`` was asked for where no native kernel exists."""


@dataclass
class Op:
    """One op of the ``rrm`` namespace: the dispatcher's entry point, the plain-PyTorch body, and the devices that have a native body.

    Native bodies compute in float32, or in float64 throughout (``in_float64``); float64 inputs of the former go to the reference.
    """

    name: str
    dispatched: Callable[..., Any]
    reference: Callable[..., Any]
    in_float64: bool
    triton: Callable[..., Any] | None
    function: type[torch.autograd.Function] | None
    native_devices: set[str] = field(default_factory=set)

    def __call__(self, *args: Any) -> Any:
        """``dispatched(*args)``. In eager PyTorch without its kernel under the autograd key, which goes through Python and costs 10 us."""
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or torch.overrides.has_torch_function(args):
            return self.dispatched(*args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return self.dispatched(*args) if self.function is None else self.function.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return self.dispatched(*args)

    def find_native(self) -> None:
        """Asks the dispatcher which devices have a body of their own; called when a library has been loaded."""
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        self.native_devices = {device for device, key in _KEYS.items() if has_kernel(f"rrm::{self.name}", key)}

    def body(self, impl: Impl, like: torch.Tensor) -> Callable[..., Any]:
        """The callable for ``impl`` and a main input."""
        too_wide = like.dtype == torch.float64 and not self.in_float64
        if impl == "reference" or (impl is None and too_wide):
            return self.reference
        if impl is None:
            return self
        if impl != "native":
            raise ValueError(f"impl: expected None, 'native' or 'reference', got {impl!r}")
        if like.device.type not in self.native_devices or too_wide:
            raise NativeKernelError(f"impl: no native kernel of {self.name} for {like.dtype} on {like.device.type}; see rrm_core.backend_info()")
        return self


def _autograd_function(
    name: str, dispatched: Callable[..., Any], setup_context: Callable[..., None], backward: Callable[..., Any]
) -> type[torch.autograd.Function]:
    """What torch.library makes of the same functions for the autograd key."""

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = dispatched(*args)
        setup_context(ctx, args, output)
        return output

    return type(name, (torch.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)})


@cache
def launcher(name: str) -> Callable[..., Any]:
    """The Triton launcher "family:function". Triton itself is imported here: with the first CUDA tensor, not with the package."""
    family, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"rrm_core._triton.{family}"), function)
    return found


def _on_device(triton: str | Callable[..., Any]) -> Callable[..., Any]:
    """An op's body for CUDA: with the device of its first tensor as the current one, which is where Triton launches."""

    def body(*args: Any) -> Any:
        tensors = (x for arg in args for x in (arg if isinstance(arg, list) else (arg,)) if isinstance(x, torch.Tensor))
        with torch.cuda.device_of(next(tensors)):
            return (launcher(triton) if isinstance(triton, str) else triton)(*args)

    return body


def define_op(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    in_float64: bool = False,
    triton: str | Callable[..., Any] | None = None,
    plain: Callable[..., Any] | None = None,
) -> Op:
    """Registers ``schema`` ("name(args) -> results"). Without ``backward`` the op refuses to be differentiated.

    triton: the body for CUDA and HIP, a ``launcher`` by name or a function that calls some. plain: the body where no native one answers, if it is
    not ``reference``: an op that forms gradients in its forward can't leave them to autograd.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, plain or reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rrm::{name}", fake, lib=LIBRARY)

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"rrm::{name} is not differentiable" + ("; double backward is not supported" if name.endswith("_backward") else ""))

    torch.library.register_autograd(f"rrm::{name}", backward or refuse, setup_context=setup_context, lib=LIBRARY)
    body = None if triton is None else _on_device(triton)
    if body is not None and HAS_TRITON:
        LIBRARY.impl(name, body, "CUDA")
    dispatched = getattr(torch.ops.rrm, name).default
    function = None if setup_context is None or backward is None else _autograd_function(name, dispatched, setup_context, backward)
    op = Op(name, dispatched, reference, in_float64, body, function)
    OPS[name] = op
    return op
