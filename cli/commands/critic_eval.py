"""`meshcritic critic-eval`: measures how well critics rank groups with known errors."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.backend_flags import (
    BackendSpec,
    CritiqueSet,
    DryRunFlag,
    MaxCalls,
    Record,
    ReplyCacheFile,
    critique_and_backend,
)
from cli.console import console, print_estimate, print_json, print_message, report_lost_questions, stages
from cli.options import (
    WORKERS,
    BasePolicy,
    DetectorSpec,
    Device,
    Json,
    MemoryOrExplore,
    Motion,
    Out,
    PolicyOrBase,
    Seed,
    Ucb,
    policy_folder,
)
from common.locks import single_run

if TYPE_CHECKING:
    from agent.vlm.options import BackendOptions
    from agent.vlm.wrappers.dry_run import DryRun
    from eval.critics.comparison import CriticComparison, CriticEvalSettings

__all__ = ["critic_eval"]

Critic = Annotated[
    str,
    typer.Option(
        help="Critic: agent; its variants greedy (explored without the bonus) and true-detections; the baselines "
        "hmr-scorer, ranknet, consensus and random; or all."
    ),
]
Without = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Parts to remove from the agent: rules, prototypes or reflection, separated by commas.",
    ),
]
WithoutTool = Annotated[
    list[str] | None, typer.Option(metavar="TOOL", help="Tool to remove from the agent; repeatable.")
]
Images = Annotated[
    int,
    typer.Option(
        min=1,
        help="Number of synthetic scenes of the base policy's test split, one group each.",
    ),
]
Calibration = Annotated[
    int,
    typer.Option(
        min=4,
        help="Number of calibration scenes that critics learn from. Half are explored; a quarter decides which new "
        "rules are admitted.",
    ),
]


def critic_eval(
    critic: Critic = "agent",
    without: Without = None,
    without_tool: WithoutTool = None,
    images: Images = 100,
    samples: Annotated[int, typer.Option(min=3, help="Hypotheses per group.")] = 20,
    calibration: Calibration = 128,
    motion: Motion = None,
    memory: MemoryOrExplore = None,
    ucb: Ucb = 0.5,
    rules_per_case: Annotated[int, typer.Option(min=1, help="Number of rules retrieved per group.")] = 16,
    detector: DetectorSpec = "embedded",
    backend: BackendSpec = "embedded",
    settings: CritiqueSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    policy: PolicyOrBase = None,
    base: BasePolicy = "shipped",
    device: Device = "cpu",
    seed: Seed = 0,
    out: Out = Path("runs/critic-eval"),
    as_json: Json = False,
) -> None:
    """Measure how well critics rank hypotheses by their true errors, on synthetic scenes.

    `--critic all` compares all critics and ablations of the agent.

    Example: `meshcritic critic-eval --critic all --images 100 --samples 20`
    """
    from eval.critics.ablations import AgentVariant
    from eval.critics.comparison import CriticEvalSettings

    critique_settings, options = critique_and_backend(
        backend, settings, dry_run, max_calls, record, reply_cache
    )
    removed = [name.strip() for name in (without or "").split(",") if name.strip()]
    eval_settings = CriticEvalSettings(
        critic=critic, ablation=AgentVariant(frozenset(removed), frozenset(without_tool or ())), images=images,
        samples=samples, calibration=calibration, seed=seed, motion=motion, memory=memory, ucb=ucb, detector=detector,
        rules_per_case=rules_per_case, critique=critique_settings, base=base,
    )  # fmt: skip
    comparison, estimate = _run(eval_settings, options, policy_folder(policy, base), device, out)
    if estimate:
        print_estimate(estimate, as_json)
    else:
        _print_comparison(comparison, eval_settings, backend, as_json)


def _run(
    settings: CriticEvalSettings, options: BackendOptions, policy: Path, device: str, out: Path
) -> tuple[CriticComparison, DryRun | None]:
    """A dry run writes to a temporary folder."""
    from agent.vlm.options import open_backend
    from eval.critics.comparison import evaluate_critics
    from hmr.policy.checkpoint import load_policy

    with ExitStack() as stack:
        opened = stack.enter_context(open_backend(options))
        if opened.dry_run:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(single_run(out))
        stack.enter_context(report_lost_questions())
        stage = stack.enter_context(stages())
        comparison = evaluate_critics(
            load_policy(policy, device), opened.backend, settings, out, stage, workers=WORKERS
        )
        return comparison, opened.dry_run


def _print_comparison(
    comparison: CriticComparison, settings: CriticEvalSettings, backend: str, as_json: bool
) -> None:
    if as_json:
        names = ("base", "images", "samples", "seed", "ucb", "detector", "rules_per_case", "critique")
        values = {name: getattr(settings, name) for name in names}
        motion = settings.motion.name if settings.motion else None
        print_json({**comparison.to_json(), **values, "backend": backend, "motion": motion})
        return
    from eval.critics.table import critic_table

    console().print(critic_table(comparison))
    print_message(f"benchmark {comparison.benchmark}, base policy {comparison.base_policy}")
