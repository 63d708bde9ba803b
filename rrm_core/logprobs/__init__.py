"""Log-probabilities of chosen tokens and of a judge's score tokens."""

from rrm_core.logprobs.modules import ScoreTokenHead
from rrm_core.logprobs.ops import (
    ScoreTokenLogprobs,
    TokenLogprobs,
    linear_token_logprobs,
    score_token_logprobs,
    score_token_logprobs_from_logits,
    token_logprobs,
)
from rrm_core.logprobs.score_tokens import ScoreTokens

__all__ = [
    "ScoreTokenHead",
    "ScoreTokenLogprobs",
    "ScoreTokens",
    "TokenLogprobs",
    "linear_token_logprobs",
    "score_token_logprobs",
    "score_token_logprobs_from_logits",
    "token_logprobs",
]
