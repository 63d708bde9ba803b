"""Tournaments: who meets whom, and what judged matches say about the candidates."""

from rrm_core.tournaments.anchored import Anchored
from rrm_core.tournaments.bootstrap import Bootstrap, bootstrap
from rrm_core.tournaments.davidson import DavidsonRatings, davidson
from rrm_core.tournaments.frames import FrameMatches, matches_from_frame
from rrm_core.tournaments.inputs import PairCounts
from rrm_core.tournaments.knockout import Knockout
from rrm_core.tournaments.ops import pairwise_counts, pairwise_wins
from rrm_core.tournaments.plots import plot_calibration, plot_ratings, plot_tournament, plot_wins
from rrm_core.tournaments.ratings import Ratings, bradley_terry, elo
from rrm_core.tournaments.reference_bradley_terry import RatingStatus
from rrm_core.tournaments.round_robin import RoundRobin
from rrm_core.tournaments.schedulers import Pairs
from rrm_core.tournaments.scores import borda, copeland, eigenvector, pagerank, win_rate
from rrm_core.tournaments.swiss import Swiss
from rrm_core.tournaments.verdicts import OrderSwap, VoteStatus, combine_orders, vote_status
from rrm_core.tournaments.votes import Votes, majority_vote, sum_vote

__all__ = [
    "Anchored",
    "Bootstrap",
    "DavidsonRatings",
    "FrameMatches",
    "Knockout",
    "OrderSwap",
    "PairCounts",
    "Pairs",
    "RatingStatus",
    "Ratings",
    "RoundRobin",
    "Swiss",
    "VoteStatus",
    "Votes",
    "bootstrap",
    "borda",
    "bradley_terry",
    "combine_orders",
    "copeland",
    "davidson",
    "eigenvector",
    "elo",
    "majority_vote",
    "matches_from_frame",
    "pagerank",
    "pairwise_counts",
    "pairwise_wins",
    "plot_calibration",
    "plot_ratings",
    "plot_tournament",
    "plot_wins",
    "sum_vote",
    "vote_status",
    "win_rate",
]
