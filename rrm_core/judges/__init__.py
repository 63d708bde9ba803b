"""The published judge systems: formats, readings of verdicts, rewards and aggregation, as short compositions of the ops."""

from rrm_core.judges.caller import GenerationError
from rrm_core.judges.generation import Call, Generated, RecordedTexts, TransformersGenerator
from rrm_core.judges.reward import JudgeReward
from rrm_core.judges.rrm import RRM
from rrm_core.judges.runner import Judge, Judged
from rrm_core.judges.system import Listwise, Messages, Pairwise, System, Template
from rrm_core.judges.taxonomy import GenerativeRM, OutcomeRM, RewardModel
from rrm_core.judges.verdicts import PairVerdicts, Reason, ScoreVerdicts

__all__ = [
    "RRM",
    "Call",
    "Generated",
    "GenerationError",
    "GenerativeRM",
    "Judge",
    "JudgeReward",
    "Judged",
    "Listwise",
    "Messages",
    "OutcomeRM",
    "PairVerdicts",
    "Pairwise",
    "Reason",
    "RecordedTexts",
    "RewardModel",
    "ScoreVerdicts",
    "System",
    "Template",
    "TransformersGenerator",
]
