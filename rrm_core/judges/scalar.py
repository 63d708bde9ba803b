"""The scalar reward model, which reads a score off the last token and thinks nothing: what judges that reason are compared with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rrm_core._validate import FLOATS, require, require_choice, require_shape, require_tensor, values_readable


class ScalarRM(nn.Module):
    """A linear head over the hidden state of a text's last token: ``score = w . h``. There is no bias: no pair could tell it.

    Args:
        hidden_size: H.
        device, dtype: of the weight [1, H], drawn from N(0, 1 / (H + 1)) (Stiennon et al., arXiv:2009.01325).

    Raises:
        TypeError, ValueError: hidden_size is no integer of at least 1.
    """

    def __init__(self, hidden_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        fits = isinstance(hidden_size, int) and not isinstance(hidden_size, bool)
        require(fits, "hidden_size", "an integer", type(hidden_size).__name__, TypeError)
        require(hidden_size >= 1, "hidden_size", "at least 1", hidden_size)
        self.head = nn.Linear(hidden_size, 1, bias=False, device=device, dtype=dtype)
        nn.init.normal_(self.head.weight, std=(hidden_size + 1) ** -0.5)

    def score(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each text's score.

        Args:
            hidden: [..., H], the last tokens' states; or with mask [..., T, H], those of all tokens. float32, bfloat16, float16 or float64.
            mask: bool [..., T], True for tokens that are no padding, on whichever side it lies.

        Returns:
            [...], of the inputs' widest float dtype and at least float32, in which the product is computed; differentiable. Where values
            cannot be checked (CUDA, torch.compile), a text without a token scores NaN.

        Raises:
            TypeError, ValueError: a dtype, shape or device doesn't fit, or a text has no token.
        """
        weight = self.head.weight
        require_tensor("hidden", hidden, FLOATS, weight)
        require_shape("hidden", hidden, ("...", weight.shape[1]) if mask is None else ("...", "T", weight.shape[1]))
        if mask is None:
            return self._read(hidden)
        require_tensor("mask", mask, (torch.bool,), hidden)
        require_shape("mask", mask, hidden.shape[:-1])
        require(mask.shape[-1] > 0, "mask", "at least one token", list(mask.shape))
        if values_readable(mask):
            require(bool(mask.any(-1).all()), "mask", "a token in every text", "a text without")
        last = torch.where(mask, torch.arange(mask.shape[-1], device=mask.device), -1).amax(-1)
        index = last.clamp(min=0)[..., None, None].expand(*last.shape, 1, hidden.shape[-1])
        return self._read(hidden.gather(-2, index).squeeze(-2)).masked_fill(last < 0, float("nan"))

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.score(hidden, mask)

    def _read(self, hidden: Tensor) -> Tensor:
        wide = torch.promote_types(torch.promote_types(hidden.dtype, self.head.weight.dtype), torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            return functional.linear(hidden.to(wide), self.head.weight.to(wide)).squeeze(-1)


def pair_loss(chosen: Tensor, rejected: Tensor, *, margin: float | Tensor = 0.0, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Bradley-Terry: ``-log sigmoid(chosen - rejected - margin)``.

    Args:
        chosen, rejected: [...], the scores of each pair's better and worse answer. float32, bfloat16, float16 or float64.
        margin: by how much the better one should lead: a number or [...], of the pairs.
        reduction: "mean" over all pairs, or "none".

    Returns:
        A scalar, or [...], of the inputs' widest dtype and at least float32, in which it is computed.

    Source: Ouyang et al. (arXiv:2203.02155), Eq. 1; the margin is Llama 2's (arXiv:2307.09288), Eq. 2.

    Raises:
        TypeError, ValueError: a dtype, shape, device or value doesn't fit; a mean of no pairs.
    """
    require_choice("reduction", reduction, ("mean", "none"))
    require_tensor("chosen", chosen, FLOATS)
    require_tensor("rejected", rejected, FLOATS, chosen)
    require_shape("rejected", rejected, chosen.shape)
    if isinstance(margin, Tensor):
        require_tensor("margin", margin, FLOATS, chosen)
        require_shape("margin", margin, (), chosen.shape)
    else:
        require(isinstance(margin, int | float) and not isinstance(margin, bool), "margin", "a number or a tensor", type(margin).__name__, TypeError)
        require(abs(margin) < float("inf"), "margin", "a finite number", margin)
    require(reduction == "none" or chosen.numel() > 0, "chosen", "at least one pair", list(chosen.shape))
    wide = torch.promote_types(torch.promote_types(chosen.dtype, rejected.dtype), torch.float32)
    losses = -functional.logsigmoid(chosen.to(wide) - rejected.to(wide) - margin)
    return losses.mean() if reduction == "mean" else losses
