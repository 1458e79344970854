"""The numbers of the paper (arXiv 2602.19180) that the tables are held against, in its own protocol.

Millimetres, minimum over M hypotheses. They were measured on other data with another body and policy; only the order of
rows can be compared with ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from eval.critics.ablations import AGENT, AgentVariant
from eval.critics.kinds import HMR_SCORER, Critic
from eval.tables.table import Column

__all__ = [
    "ABLATIONS", "ALIGNMENT", "ALIGNMENT_COLUMNS", "ALIGNMENT_SOURCE", "CRITICS", "CRITIC_COLUMNS", "CRITIC_SOURCE",
    "TRAINING", "TRAINING_COLUMNS", "TRAINING_SOURCE",
]  # fmt: skip

ALIGNMENT_SOURCE = "paper, tables of results: MPJPE, minimum over M = 100 (200), 14 joints, pelvis-aligned"
ALIGNMENT_COLUMNS = (
    Column("3dpw", "3DPW, M=100"),
    Column("h36m", "Human3.6M, M=100"),
    Column("3dpw200", "3DPW, M=200"),
    Column("h36m200", "Human3.6M, M=200"),
)
ALIGNMENT: Mapping[str, Mapping[str, float]] = {
    "base": {"3dpw": 63.0, "h36m": 38.4},
    "adhmr": {"3dpw": 57.2, "h36m": 36.9},
    "ours": {"3dpw": 52.5, "h36m": 35.0},
    "more": {"3dpw": 49.9, "h36m": 34.3, "3dpw200": 48.5, "h36m200": 33.2},
}

TRAINING_SOURCE = "paper, ablation of the training: 3DPW MPJPE, minimum over M = 100"
TRAINING_COLUMNS = (Column("3dpw", "3DPW, M=100"),)
TRAINING: Mapping[str, Mapping[str, float]] = {
    "base": {"3dpw": 63.0},
    "sft": {"3dpw": 61.3},
    "group loss, hmr-scorer": {"3dpw": 54.9},
    "dpo, agent": {"3dpw": 53.1},
    "group loss, agent": {"3dpw": 49.9},
}

CRITIC_SOURCE = "paper, critics on GTA-Human II with Qwen3-VL-32B"
CRITIC_COLUMNS = (
    Column("srcc_pve", "SRCC PVE", 3),
    Column("srcc_mpjpe", "SRCC MPJPE", 3),
    Column("srcc_pa_mpjpe", "SRCC PA-MPJPE", 3),
    Column("plcc_mpjpe", "PLCC MPJPE", 3),
)
CRITICS: Mapping[Critic, Mapping[str, float]] = {
    AGENT: {"srcc_pve": 0.605, "srcc_mpjpe": 0.615, "srcc_pa_mpjpe": 0.528, "plcc_mpjpe": 0.697},
    HMR_SCORER: {"srcc_pve": 0.578, "srcc_mpjpe": 0.588, "srcc_pa_mpjpe": 0.489, "plcc_mpjpe": 0.627},
}
ABLATIONS: Mapping[Critic, Mapping[str, float]] = {
    AGENT: {"srcc_mean": 0.597},
    AgentVariant(without=frozenset({"reflection"})): {"srcc_mean": 0.534},
}
