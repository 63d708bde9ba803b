"""Tournaments: who meets whom, and what judged matches say about the candidates."""

from rrm_core.tournaments.knockout import Knockout
from rrm_core.tournaments.ops import PairCounts, borda, pairwise_counts, pairwise_wins, win_rate
from rrm_core.tournaments.ratings import Ratings, bradley_terry, elo
from rrm_core.tournaments.reference_bradley_terry import RatingStatus
from rrm_core.tournaments.round_robin import RoundRobin
from rrm_core.tournaments.schedulers import Pairs
from rrm_core.tournaments.verdicts import OrderSwap, VoteStatus, combine_orders, vote_status
from rrm_core.tournaments.votes import Votes, majority_vote, sum_vote

__all__ = [
    "Knockout",
    "OrderSwap",
    "PairCounts",
    "Pairs",
    "RatingStatus",
    "Ratings",
    "RoundRobin",
    "VoteStatus",
    "Votes",
    "borda",
    "bradley_terry",
    "combine_orders",
    "elo",
    "majority_vote",
    "pairwise_counts",
    "pairwise_wins",
    "sum_vote",
    "vote_status",
    "win_rate",
]
