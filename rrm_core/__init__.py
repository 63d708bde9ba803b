"""The accelerated backend for reward reasoning models: verdict log-probabilities and tournaments, each op with a native and a plain PyTorch body."""

from rrm_core import backends
from rrm_core._library import NativeKernelError
from rrm_core.advantages import GroupAdvantage, GroupAdvantages, Offsets, Whitened, group_advantages, whiten_tokens
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
from rrm_core.losses import LinearPolicyLoss, LinearPolicyLossResults, PolicyLoss, PolicyLossResults, linear_policy_loss, policy_loss
from rrm_core.tournaments import (
    Knockout,
    OrderSwap,
    PairCounts,
    Pairs,
    Ratings,
    RatingStatus,
    RoundRobin,
    Votes,
    VoteStatus,
    borda,
    bradley_terry,
    combine_orders,
    elo,
    majority_vote,
    pairwise_counts,
    pairwise_wins,
    sum_vote,
    vote_status,
    win_rate,
)
from rrm_core.version import __version__

__all__ = [
    "GroupAdvantage",
    "GroupAdvantages",
    "Knockout",
    "LinearPolicyLoss",
    "LinearPolicyLossResults",
    "NativeKernelError",
    "NativeLibraryWarning",
    "Offsets",
    "OrderSwap",
    "PairCounts",
    "Pairs",
    "PolicyLoss",
    "PolicyLossResults",
    "RatingStatus",
    "Ratings",
    "RoundRobin",
    "ScoreTokenHead",
    "ScoreTokenLogprobs",
    "ScoreTokens",
    "TokenLogprobs",
    "VoteStatus",
    "Votes",
    "Whitened",
    "__version__",
    "backend_info",
    "borda",
    "bradley_terry",
    "combine_orders",
    "elo",
    "group_advantages",
    "linear_policy_loss",
    "linear_token_logprobs",
    "majority_vote",
    "pairwise_counts",
    "pairwise_wins",
    "policy_loss",
    "score_token_logprobs",
    "score_token_logprobs_from_logits",
    "sum_vote",
    "token_logprobs",
    "vote_status",
    "whiten_tokens",
    "win_rate",
]

backends.load()
