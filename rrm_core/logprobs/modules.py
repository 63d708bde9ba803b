"""nn.Modules that hold options and call the ops."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rrm_core.logprobs.ops import ScoreTokenLogprobs, score_token_logprobs
from rrm_core.logprobs.score_tokens import ScoreTokens


class ScoreTokenHead(nn.Module):
    """A language model's head that answers with verdicts instead of logits.

    Args:
        head: the model's output embedding (``model.get_output_embeddings()``), shared, not copied.
        score_tokens: one set of labels, or several for ``row_sets``.
        temperature, softcap, full_vocab: as in ``score_token_logprobs``.
    """

    def __init__(
        self,
        head: nn.Linear,
        score_tokens: ScoreTokens | Sequence[ScoreTokens],
        *,
        temperature: float = 1.0,
        softcap: float | None = None,
        full_vocab: bool = True,
    ) -> None:
        super().__init__()
        self.head = head
        self.score_tokens = score_tokens
        self.temperature = temperature
        self.softcap = softcap
        self.full_vocab = full_vocab

    def forward(self, hidden: Tensor, rows: Tensor | None = None, row_sets: Tensor | None = None) -> ScoreTokenLogprobs:
        """hidden [..., H] -> results [...], or, with rows int64 [N] of its [T, H], [N]."""
        return score_token_logprobs(
            hidden,
            self.head.weight,
            self.score_tokens,
            rows=rows,
            row_sets=row_sets,
            bias=self.head.bias,
            temperature=self.temperature,
            softcap=self.softcap,
            full_vocab=self.full_vocab,
        )
