"""Tournaments: what judged matches say about the candidates."""

from rrm_core.tournaments.ops import Ratings, borda, bradley_terry, pairwise_wins, win_rate
from rrm_core.tournaments.reference import RatingStatus

__all__ = ["RatingStatus", "Ratings", "borda", "bradley_terry", "pairwise_wins", "win_rate"]
