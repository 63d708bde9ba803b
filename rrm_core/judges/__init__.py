"""The published judge systems: formats, readings of verdicts, rewards and aggregation, as short compositions of the ops."""

from rrm_core.judges.rrm import RRM
from rrm_core.judges.system import Listwise, Messages, Pairwise, System, Template
from rrm_core.judges.verdicts import PairVerdicts, Reason, ScoreVerdicts

__all__ = ["RRM", "Listwise", "Messages", "PairVerdicts", "Pairwise", "Reason", "ScoreVerdicts", "System", "Template"]
