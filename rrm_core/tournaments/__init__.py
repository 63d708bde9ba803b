"""Tournaments: who meets whom, and what judged matches say about the candidates."""

from rrm_core.tournaments.anchored import Anchored
from rrm_core.tournaments.knockout import Knockout
from rrm_core.tournaments.ops import PairCounts, borda, pairwise_counts, pairwise_wins, win_rate
from rrm_core.tournaments.ratings import Ratings, bradley_terry, elo
from rrm_core.tournaments.reference_bradley_terry import RatingStatus
from rrm_core.tournaments.round_robin import RoundRobin
from rrm_core.tournaments.schedulers import Pairs
from rrm_core.tournaments.swiss import Swiss

__all__ = [
    "Anchored",
    "Knockout",
    "PairCounts",
    "Pairs",
    "RatingStatus",
    "Ratings",
    "RoundRobin",
    "Swiss",
    "borda",
    "bradley_terry",
    "elo",
    "pairwise_counts",
    "pairwise_wins",
    "win_rate",
]
