"""`meshcritic critic-eval`: measures how well critics rank groups with known errors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from cli.backend_flags import (
    BackendSpecs,
    CritiqueSets,
    DryRunFlag,
    MaxCalls,
    Record,
    ReplyCacheFile,
    critique_and_backends,
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

if TYPE_CHECKING:
    from agent.vlm.options import BackendOptions
    from agent.vlm.wrappers.dry_run import DryRun
    from eval.critics.backends import BackendComparison
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


Prices = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="YAML file of dollars per million tokens of each backend (docs/guides/compare-critics.md): adds the cost.",
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
    backend: BackendSpecs = None,
    prices: Prices = None,
    settings: CritiqueSets = None,
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

    `--critic all` compares all critics and ablations of the agent; several `--backend` compare models.

    Example: `meshcritic critic-eval --backend embedded --backend openai:NAME@URL --images 50 --prices prices.yaml`
    """
    from eval.critics.ablations import AgentVariant
    from eval.critics.comparison import CriticEvalSettings

    critique_settings, options = critique_and_backends(
        backend, settings, dry_run, max_calls, record, reply_cache
    )
    removed = [name.strip() for name in (without or "").split(",") if name.strip()]
    eval_settings = CriticEvalSettings(
        critic=critic, ablation=AgentVariant(frozenset(removed), frozenset(without_tool or ())), images=images,
        samples=samples, calibration=calibration, seed=seed, motion=motion, memory=memory, ucb=ucb, detector=detector,
        rules_per_case=rules_per_case, critique=critique_settings, base=base,
    )  # fmt: skip
    folder = policy_folder(policy, base)
    if dry_run:
        for each in options:
            with TemporaryDirectory() as unused:
                _, estimate = _run(eval_settings, each, folder, device, Path(unused))
            print_estimate(cast("DryRun", estimate), as_json)
    elif len(options) > 1 or prices:
        compared = _compare(eval_settings, options, prices, folder, device, out)
        _print_backends(compared, eval_settings, as_json)
    else:
        comparison, _ = _run(eval_settings, options[0], folder, device, out)
        _print_comparison(comparison, eval_settings, options[0].spec, as_json)


def _run(
    settings: CriticEvalSettings, options: BackendOptions, policy: Path, device: str, out: Path
) -> tuple[CriticComparison, DryRun | None]:
    from agent.vlm.options import open_backend
    from eval.critics.comparison import evaluate_critics
    from hmr.policy.checkpoint import load_policy

    with open_backend(options) as opened, report_lost_questions(), stages() as stage:
        model = load_policy(policy, device)
        comparison = evaluate_critics(model, opened.backend, settings, out, stage, workers=WORKERS)
        return comparison, opened.dry_run


def _compare(
    settings: CriticEvalSettings,
    options: Sequence[BackendOptions],
    prices: Path | None,
    policy: Path,
    device: str,
    out: Path,
) -> BackendComparison:
    from agent.vlm.options import open_backend
    from eval.critics.backends import evaluate_backends
    from eval.critics.prices import read_prices
    from hmr.policy.checkpoint import load_policy

    table = read_prices(prices) if prices else {}
    backends = {name: partial(open_backend, each) for name, each in _names(options).items()}
    with report_lost_questions(), stages() as stage:
        model = load_policy(policy, device)
        return evaluate_backends(model, backends, settings, out, stage, prices=table, workers=WORKERS)


def _names(options: Sequence[BackendOptions]) -> dict[str, BackendOptions]:
    """By spec; the same spec with other settings gets a number."""
    named: dict[str, BackendOptions] = {}
    for number, each in enumerate(options, start=1):
        named[each.spec if each.spec not in named else f"{each.spec} ({number})"] = each
    return named


def _settings_json(settings: CriticEvalSettings) -> dict[str, Any]:
    names = ("base", "images", "samples", "seed", "ucb", "detector", "rules_per_case", "critique")
    values = {name: getattr(settings, name) for name in names}
    return {**values, "motion": settings.motion.name if settings.motion else None}


def _print_backends(comparison: BackendComparison, settings: CriticEvalSettings, as_json: bool) -> None:
    if as_json:
        print_json({**comparison.to_json(), **_settings_json(settings)})
        return
    from eval.critics.table import backend_tables

    for table in backend_tables(comparison):
        console().print(table)
    print_message(
        f"benchmark {comparison.hashes['benchmark']}, base policy {comparison.hashes['base_policy']}"
    )


def _print_comparison(
    comparison: CriticComparison, settings: CriticEvalSettings, backend: str, as_json: bool
) -> None:
    if as_json:
        print_json({**comparison.to_json(), **_settings_json(settings), "backend": backend})
        return
    from eval.critics.table import critic_table

    console().print(critic_table(comparison))
    print_message(f"benchmark {comparison.benchmark}, base policy {comparison.base_policy}")
