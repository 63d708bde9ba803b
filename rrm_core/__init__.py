"""The accelerated backend for reward reasoning models: verdict log-probabilities and tournaments, each op with a native and a plain PyTorch body."""

from rrm_core import backends
from rrm_core._library import NativeKernelError
from rrm_core.advantages import GroupAdvantages, Offsets, group_advantages
from rrm_core.backends import NativeLibraryWarning, backend_info
from rrm_core.logprobs import (
    ScoreTokenHead,
    ScoreTokenLogprobs,
    ScoreTokens,
    TokenLogprobs,
    linear_token_logprobs,
    score_token_logprobs,
    score_token_logprobs_from_logits,
    token_logprobs,
)
from rrm_core.tournaments import Ratings, RatingStatus, borda, bradley_terry, pairwise_wins, win_rate
from rrm_core.version import __version__

__all__ = [
    "GroupAdvantages",
    "NativeKernelError",
    "NativeLibraryWarning",
    "Offsets",
    "RatingStatus",
    "Ratings",
    "ScoreTokenHead",
    "ScoreTokenLogprobs",
    "ScoreTokens",
    "TokenLogprobs",
    "__version__",
    "backend_info",
    "borda",
    "bradley_terry",
    "group_advantages",
    "linear_token_logprobs",
    "pairwise_wins",
    "score_token_logprobs",
    "score_token_logprobs_from_logits",
    "token_logprobs",
    "win_rate",
]

backends.load()
