"""What tests and benchmarks share: the numeric contract as an assertion, hostile memory, input factories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance from |x| to the next larger number of ``dtype``, as float64."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(x.double().abs().clamp(min=info.tiny)).exponent - 1
    return info.eps * torch.exp2(exponent.double())


def assert_within_contract(actual: Tensor, eager: Tensor | Sequence[Tensor], exact: Tensor, name: str = "result") -> None:
    """``actual`` errs at most twice as much as float32 eager does anywhere in the tensor, plus 4 ulp of the result, element by element.

    Args:
        actual: what a native body gave.
        eager: the same by float32 eager PyTorch on the same inputs, or several runs of it; the largest error counts.
        exact: the same in float64. NaN and infinities must agree with it.
    """
    assert actual.shape == exact.shape, f"{name}: shape {list(actual.shape)}, expected {list(exact.shape)}"
    finite = exact.isfinite()
    same_special = torch.where(exact.isnan(), actual.isnan(), actual.double() == exact)
    assert bool(same_special[~finite].all()), f"{name}: NaN or infinities differ from float64"
    if not bool(finite.any()):
        return
    runs = [eager] if isinstance(eager, Tensor) else eager
    eager_error = torch.stack([(run.double() - exact).abs()[finite].nan_to_num(0.0, posinf=0.0).max() for run in runs]).max()
    error = (actual.double() - exact).abs()[finite]
    budget = 2 * eager_error + 4 * ulp(exact[finite], actual.dtype) + torch.finfo(actual.dtype).tiny  # a subnormal result may be flushed to 0
    worst = int((error - budget).nan_to_num(torch.inf).argmax())
    assert bool((error <= budget).all()), (
        f"{name}: error {error[worst]:.3e} above the budget {budget[worst]:.3e} where float64 gives {exact[finite][worst]:.9g}"
        f" and the op {actual[finite][worst]:.9g}"
    )


def in_float64(value: Any) -> Any:
    """Floating tensors, anywhere in lists, tuples and dicts, as float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {k: in_float64(v) for k, v in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(in_float64(v) for v in value)
    return value


def summation_orders(args: Sequence[Any], count: int = 16) -> list[Sequence[Any]]:
    """The arguments as they are, and ``count - 1`` times with the same sums in another order: the hidden size of (hidden [T, H], weight [V, H], ...)
    permuted, or the vocabulary of (logits [..., V], token_ids, ...).

    One order's luck (a small case may come out exact) is no yardstick for float32 eager; the largest error over several is.
    """
    orders: list[Sequence[Any]] = [list(args)]
    if len(args) < 2 or not isinstance(args[1], Tensor):
        return orders
    for seed in range(count - 1):
        order = torch.randperm(args[0].shape[-1], generator=torch.Generator().manual_seed(seed)).to(args[0].device)
        second = args[1][:, order] if args[1].is_floating_point() else torch.where(args[1] >= 0, order.argsort()[args[1].clamp(min=0)], args[1])
        orders.append([args[0][..., order], second, *args[2:]])
    return orders


def assert_native_within_contract(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Runs ``function`` natively, in eager float32 and in float64 on the same (already rounded) inputs; checks every result by the contract."""
    native = function(*args, **kwargs, impl="native")
    eager = [function(*order, **kwargs, impl="reference") for order in summation_orders(args)]
    exact = function(*in_float64(args), **in_float64(kwargs), impl="reference")
    for i, name in enumerate(native._fields):
        assert (native[i] is None) == (exact[i] is None), name
        if native[i] is not None:
            assert native[i].dtype == torch.float32, f"{name}: {native[i].dtype}"
            assert_within_contract(native[i], [run[i] for run in eager], exact[i], name)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal shape and bit pattern, NaN included."""

    def raw(x: Tensor) -> Tensor:
        return x.contiguous().view(-1).view(torch.uint8)

    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(raw(a), raw(b))


def poisoned(count: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Memory full of NaN (or the most negative integer, or True)."""
    poison = float("nan") if dtype.is_floating_point else True if dtype == torch.bool else torch.iinfo(dtype).min
    return torch.full((count,), poison, dtype=dtype, device=device)


def guarded(x: Tensor, band: int = 64) -> Tensor:
    """A copy of x with poison before and after it in memory, so that a read out of bounds shows."""
    memory = poisoned(x.numel() + 2 * band, x.dtype, x.device)
    inside = memory[band : band + x.numel()].view(x.shape)
    inside.copy_(x)
    return inside


def layouts(x: Tensor) -> dict[str, Tensor]:
    """Views with the values of x [A, B, C] (A, B >= 2) in other memory layouts."""
    a, b, c = x.shape
    wide = torch.full((a, b + 1, c + 3), float("nan"), dtype=x.dtype)
    wide[:, :-1, 1:-2] = x
    return {
        "contiguous": x,
        "two-level strides": wide[:, :-1, 1:-2],
        "last dimension strided": x.repeat_interleave(2, -1)[..., ::2],
        "transposed": x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "rows transposed": x.transpose(0, 1).contiguous().transpose(0, 1),
    }


def random_logits(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 5.0, offset: float = 0.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale + offset).to(dtype)


def random_ids(shape: Sequence[int], end: int, seed: int = 0) -> Tensor:
    return torch.randint(0, end, tuple(shape), generator=torch.Generator().manual_seed(seed))


def random_head(tokens: int, hidden: int, vocab: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """hidden [T, H] and weight [V, H] whose logits have a standard deviation of about 4."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(tokens, hidden, generator=generator)
    w = torch.randn(vocab, hidden, generator=generator) * (4.0 / hidden**0.5)
    return h.to(dtype), w.to(dtype)
