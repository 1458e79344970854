"""The tables of critics: table 3 (the agent beside other critics) and table 4 (its parts)."""

from __future__ import annotations

from collections.abc import Mapping

from eval.benchmark.protocol import ERROR_METRICS
from eval.critics.ablations import AGENT, COMPONENTS, AgentVariant
from eval.critics.comparison import CriticComparison, CriticEvalSettings, CriticResult
from eval.tables import paper
from eval.tables.table import Claim, Column, ResultTable, TableRow

__all__ = ["ablation_table", "critic_table"]

OTHERS = ("hmr-scorer", "ranknet", "consensus", "random")
MPJPE = ERROR_METRICS[0]
WITH_TRUTH = AgentVariant(true_detections=True).name


def critic_table(found: CriticComparison, settings: CriticEvalSettings, data: str = "") -> ResultTable:
    """Table 3. data: as in `ResultTable`."""
    names = [AGENT.name, *OTHERS]
    return ResultTable(
        "table-3",
        "Critics: agreement with the true errors within a group",
        _protocol(found, settings, data),
        _COLUMNS,
        paper.CRITIC_COLUMNS,
        paper.CRITIC_SOURCE,
        [_row(found.critics[name], paper.CRITICS.get(name, {})) for name in names],
        [_claim(found, name) for name in OTHERS],
        data,
    )


def ablation_table(found: CriticComparison, settings: CriticEvalSettings, data: str = "") -> ResultTable:
    """Table 4. data: as in `ResultTable`."""
    parts = [AgentVariant(without=frozenset({part})).name for part in COMPONENTS]
    names = [name for name in found.critics if name not in OTHERS]
    return ResultTable(
        "table-4",
        "The agent without its parts",
        _protocol(found, settings, data),
        _COLUMNS,
        (Column("srcc_mean", "SRCC", 3),),
        paper.CRITIC_SOURCE,
        [_row(found.critics[name], paper.ABLATIONS.get(name, {})) for name in names],
        [_claim(found, name) for name in parts],
        data,
    )


_COLUMNS = (
    Column("srcc_pve", "SRCC PVE", 3),
    Column("srcc_mpjpe", "SRCC MPJPE", 3),
    Column("srcc_pa_mpjpe", "SRCC PA-MPJPE", 3),
    Column("krcc_mpjpe", "KRCC MPJPE", 3),
    Column("plcc_mpjpe", "PLCC MPJPE", 3),
)


def _row(result: CriticResult, theirs: Mapping[str, float]) -> TableRow:
    cells = {
        f"srcc_{error.removesuffix('_mm')}": agreement.srcc for error, agreement in result.agreements.items()
    }
    first = result.agreements[MPJPE]
    cells |= {"krcc_mpjpe": first.krcc, "plcc_mpjpe": first.plcc}
    return TableRow(result.name, cells, theirs, uses_truth=result.name == WITH_TRUTH)


def _claim(found: CriticComparison, other: str) -> Claim:
    lead = found.critics[other].agent_lead
    return Claim(f"the agent is above {other} (SRCC with MPJPE)", lead[MPJPE] if lead else None, 3)


def _protocol(found: CriticComparison, settings: CriticEvalSettings, data: str) -> str:
    base = found.base_policy if data else f"{found.base_policy} ({settings.base})"
    return (
        f"{settings.images} groups of {settings.samples} of the base policy {base}, benchmark {found.benchmark}; "
        f"critics learn on {settings.calibration} calibration {'people' if data else 'scenes'}; seed {settings.seed}"
    )
