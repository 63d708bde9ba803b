"""The published judge systems: formats, readings of verdicts, rewards and aggregation, as short compositions of the ops."""

from rrm_core.judges.baselines import AlpacaEval, GEval, TokenJudge, YesNoReranker
from rrm_core.judges.caller import GenerationError
from rrm_core.judges.deepseek_grm import DeepSeekGRM
from rrm_core.judges.distillation import DistillationRecord, Written, read_distillation, write_distillation
from rrm_core.judges.generation import Call, Generated, RecordedTexts, TransformersGenerator
from rrm_core.judges.j1 import J1Pairwise, J1Pointwise
from rrm_core.judges.meta_rm import MetaRM, last_hidden
from rrm_core.judges.orders import OrderMetrics, compare_scores, consistency_reward, order_metrics
from rrm_core.judges.presets import DEEPSEEK_GRM_RL, J1_RL, RM_R1_RLVR, Preset
from rrm_core.judges.reward import JudgeReward
from rrm_core.judges.rm_r1 import RMR1, Sections
from rrm_core.judges.rrm import RRM
from rrm_core.judges.runner import Judge, Judged
from rrm_core.judges.scalar import ScalarRM, pair_loss
from rrm_core.judges.shuffling import labels_shown, shuffled, shuffles
from rrm_core.judges.system import Listwise, Messages, Pairwise, System, Template
from rrm_core.judges.taxonomy import GenerativeRM, OutcomeRM, RewardModel
from rrm_core.judges.verdicts import PairVerdicts, Reason, ScoreVerdicts

__all__ = [
    "DEEPSEEK_GRM_RL",
    "J1_RL",
    "RMR1",
    "RM_R1_RLVR",
    "RRM",
    "AlpacaEval",
    "Call",
    "DeepSeekGRM",
    "DistillationRecord",
    "GEval",
    "Generated",
    "GenerationError",
    "GenerativeRM",
    "J1Pairwise",
    "J1Pointwise",
    "Judge",
    "JudgeReward",
    "Judged",
    "Listwise",
    "Messages",
    "MetaRM",
    "OrderMetrics",
    "OutcomeRM",
    "PairVerdicts",
    "Pairwise",
    "Preset",
    "Reason",
    "RecordedTexts",
    "RewardModel",
    "ScalarRM",
    "ScoreVerdicts",
    "Sections",
    "System",
    "Template",
    "TokenJudge",
    "TransformersGenerator",
    "Written",
    "YesNoReranker",
    "compare_scores",
    "consistency_reward",
    "labels_shown",
    "last_hidden",
    "order_metrics",
    "pair_loss",
    "read_distillation",
    "shuffled",
    "shuffles",
    "write_distillation",
]
