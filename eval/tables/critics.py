"""The tables of critics: table 3 (the agent beside other critics) and table 4 (its parts)."""

from __future__ import annotations

from collections.abc import Mapping

from eval.benchmark.protocol import ERROR_METRICS
from eval.critics.ablations import AGENT, AgentVariant
from eval.critics.comparison import CriticComparison, CriticEvalSettings
from eval.critics.kinds import BASELINES, PARTS, TRUE_DETECTIONS, Critic
from eval.tables import paper
from eval.tables.table import Claim, Column, ResultTable, TableRow

__all__ = ["ablation_table", "critic_table"]

MPJPE = ERROR_METRICS[0]


def critic_table(found: CriticComparison, settings: CriticEvalSettings, data: str = "") -> ResultTable:
    """Table 3. data: as in `ResultTable`."""
    return ResultTable(
        "table-3",
        "Critics: agreement with the true errors within a group",
        _protocol(found, settings, data),
        _COLUMNS,
        paper.CRITIC_COLUMNS,
        paper.CRITIC_SOURCE,
        [_row(found, critic, paper.CRITICS) for critic in (AGENT, *BASELINES)],
        [_claim(found, critic) for critic in BASELINES],
        data,
    )


def ablation_table(found: CriticComparison, settings: CriticEvalSettings, data: str = "") -> ResultTable:
    """Table 4. data: as in `ResultTable`."""
    return ResultTable(
        "table-4",
        "The agent without its parts",
        _protocol(found, settings, data),
        _COLUMNS,
        (Column("srcc_mean", "SRCC", 3),),
        paper.CRITIC_SOURCE,
        [
            _row(found, critic, paper.ABLATIONS)
            for critic in found.critics
            if isinstance(critic, AgentVariant)
        ],
        [_claim(found, critic) for critic in PARTS],
        data,
    )


_COLUMNS = (
    Column("srcc_pve", "SRCC PVE", 3),
    Column("srcc_mpjpe", "SRCC MPJPE", 3),
    Column("srcc_pa_mpjpe", "SRCC PA-MPJPE", 3),
    Column("krcc_mpjpe", "KRCC MPJPE", 3),
    Column("plcc_mpjpe", "PLCC MPJPE", 3),
)


def _row(found: CriticComparison, critic: Critic, theirs: Mapping[Critic, Mapping[str, float]]) -> TableRow:
    result = found.critics[critic]
    cells = {
        f"srcc_{error.removesuffix('_mm')}": agreement.srcc for error, agreement in result.agreements.items()
    }
    first = result.agreements[MPJPE]
    cells |= {"krcc_mpjpe": first.krcc, "plcc_mpjpe": first.plcc}
    return TableRow(critic.name, cells, theirs.get(critic, {}), uses_truth=critic == TRUE_DETECTIONS)


def _claim(found: CriticComparison, other: Critic) -> Claim:
    lead = found.critics[other].agent_lead
    return Claim(f"the agent is above {other.name} (SRCC with MPJPE)", lead[MPJPE] if lead else None, 3)


def _protocol(found: CriticComparison, settings: CriticEvalSettings, data: str) -> str:
    base = found.base_policy if data else f"{found.base_policy} ({settings.base})"
    return (
        f"{settings.images} groups of {settings.samples} of the base policy {base}, benchmark {found.benchmark}; "
        f"critics learn on {settings.calibration} calibration {'people' if data else 'scenes'}; seed {settings.seed}"
    )
