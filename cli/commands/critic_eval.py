"""`meshcritic critic-eval`: measures how well critics rank groups with known errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
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
    DETECTORS,
    MAX_GROUP,
    MODELS,
    WORKERS,
    BasePolicy,
    Device,
    Json,
    MemoryOrExplore,
    Motion,
    Out,
    PolicyOrBase,
    SceneBodyFile,
    Seed,
    Ucb,
    WithoutTool,
    policy_folder,
)
from common.storage.locks import single_run

if TYPE_CHECKING:
    from agent.vlm.options import BackendOptions
    from agent.vlm.wrappers.dry_run import DryRun
    from eval.critics.backends import BackendComparison
    from eval.critics.comparison import CriticComparison, CriticEvalSettings
    from hmr.policy.policy import DiffusionPolicy

__all__ = ["critic_eval"]

Critic = Annotated[
    str,
    typer.Option(
        help="Critic: agent; its variants greedy (explored without the bonus) and true-detections; the baselines "
        "hmr-scorer, ranknet, consensus and random; peers, which is the agent and the baselines; or all, with the "
        "variants of the agent, its ablations and each metric alone too."
    ),
]
Without = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Parts to remove from the agent: rules, prototypes or reflection, separated by commas.",
    ),
]
Images = Annotated[
    int,
    typer.Option(
        min=1,
        help="Number of synthetic scenes of the base policy's test split, one group each.",
    ),
]
EvalDetector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="SPEC",
        rich_help_panel=MODELS,
        help=f"{DETECTORS} Default: embedded; with --rankings the one that --memory was explored with, or blazepose.",
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


RankingsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Compare with rankings by people, of the photographs that this file names (`meshcritic rank` writes it), "
        "instead of synthetic scenes. Without --memory the seed rules are used.",
    ),
]
OF_SCENES = (  # options that do not apply to --rankings
    "critic", "without", "without_tool", "images", "samples", "calibration", "motion", "ucb", "rules_per_case",
    "dry_run",
)  # fmt: skip


def critic_eval(
    critic: Critic = "agent",
    without: Without = None,
    without_tool: WithoutTool = None,
    images: Images = 100,
    samples: Annotated[int, typer.Option(min=3, max=MAX_GROUP, help="Hypotheses per group.")] = 20,
    calibration: Calibration = 128,
    motion: Motion = None,
    memory: MemoryOrExplore = None,
    ucb: Ucb = 0.5,
    rules_per_case: Annotated[int, typer.Option(min=1, help="Number of rules retrieved per group.")] = 16,
    detector: EvalDetector = None,
    backend: BackendSpecs = None,
    prices: Prices = None,
    rankings: RankingsFile = None,
    settings: CritiqueSets = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    policy: PolicyOrBase = None,
    base: BasePolicy = "shipped",
    device: Device = "cpu",
    body: SceneBodyFile = None,
    seed: Seed = 0,
    out: Out = Path("runs/critic-eval"),
    as_json: Json = False,
) -> None:
    """Measure how well critics rank hypotheses by their true errors, on synthetic scenes.

    `--critic peers` compares all critics, `--critic all` the ablations of the agent too; several `--backend` compare
    models; `--rankings` compares with people, on photographs.

    Example: `meshcritic critic-eval --backend embedded --backend openai:NAME@URL --images 50 --prices prices.yaml`
    """
    values = dict(locals())
    from eval.critics.ablations import AgentVariant
    from eval.critics.comparison import CriticEvalSettings

    critique_settings, options = critique_and_backends(
        backend, settings, dry_run, max_calls, record, reply_cache
    )
    removed = [name.strip() for name in (without or "").split(",") if name.strip()]
    eval_settings = CriticEvalSettings(
        critic=critic, ablation=AgentVariant(frozenset(removed), frozenset(without_tool or ())), images=images,
        samples=samples, calibration=calibration, seed=seed, motion=motion, body=body, memory=memory,
        ucb=ucb, detector=detector or "embedded", rules_per_case=rules_per_case, critique=critique_settings, base=base,
    )  # fmt: skip
    folder = policy_folder(policy, base)
    if rankings:
        _refuse_options_of_scenes(values)
        model = partial(_photo_policy, folder, device, detector, memory)
        _with_people(eval_settings, options, prices, rankings, model, out, as_json)
    elif dry_run:
        _print_estimates(eval_settings, options, folder, device, as_json)
    elif len(options) > 1 or prices:
        compared = _compare(eval_settings, options, prices, folder, device, out)
        _print_backends(compared, eval_settings, as_json)
        compared.require_scores()
    else:
        comparison, _ = _run(eval_settings, options[0], folder, device, out)
        _print_comparison(comparison, eval_settings, options[0].spec, as_json)


def _print_estimates(
    settings: CriticEvalSettings,
    options: Sequence[BackendOptions],
    policy: Path,
    device: str,
    as_json: bool,
) -> None:
    """What every backend would be asked; nothing stays on disk."""
    for each in options:
        with TemporaryDirectory() as unused:
            _, estimate = _run(settings, each, policy, device, Path(unused))
        print_estimate(cast("DryRun", estimate), as_json)


def _run(
    settings: CriticEvalSettings, options: BackendOptions, policy: Path, device: str, out: Path
) -> tuple[CriticComparison, DryRun | None]:
    from agent.vlm.options import open_backend
    from common.storage.versions import write_run
    from eval.critics.comparison import evaluate_critics
    from hmr.policy.checkpoint import load_policy

    with open_backend(options) as opened, single_run(out), report_lost_questions(), stages() as stage:
        model = load_policy(policy, device)
        comparison = evaluate_critics(model, opened.backend, settings, out, stage, workers=WORKERS)
        write_run(out, _run_settings(settings, [opened.backend.name]))
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
    from common.storage.versions import write_run
    from eval.critics.backends import evaluate_backends
    from eval.critics.files.prices import read_prices
    from hmr.policy.checkpoint import load_policy

    table = read_prices(prices) if prices else {}
    backends = {name: partial(open_backend, each) for name, each in _names(options).items()}
    with single_run(out), report_lost_questions(), stages() as stage:
        model = load_policy(policy, device)
        compared = evaluate_backends(model, backends, settings, out, stage, prices=table, workers=WORKERS)
        write_run(out, _run_settings(settings, [each.name for each in compared.backends.values()]))
        return compared


def _refuse_options_of_scenes(values: Mapping[str, object]) -> None:
    defaults = signature(critic_eval).parameters
    if given := [name for name in OF_SCENES if values[name] != defaults[name].default]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(
            f"--rankings scores the photographs of its file; {options} applies to synthetic scenes"
        )


def _photo_policy(folder: Path, device: str, detector: str | None, memory: Path | None) -> DiffusionPolicy:
    """With the detector that `critique` would use."""
    from cli.photos.detectors import choose_detector
    from hmr.policy.checkpoint import load_policy

    return load_policy(folder, device, choose_detector(detector, None, [], memory))


def _with_people(
    settings: CriticEvalSettings,
    options: Sequence[BackendOptions],
    prices: Path | None,
    rankings: Path,
    load_model: Callable[[], DiffusionPolicy],
    out: Path,
    as_json: bool,
) -> None:
    from agent.context import CritiqueSettings
    from agent.vlm.options import open_backend
    from cli.ranking.groups import read_group
    from common.storage.versions import write_run
    from eval.critics.files.prices import read_prices
    from eval.critics.table import backend_tables
    from eval.rankings.agreement import judges_sentence
    from eval.rankings.evaluation import evaluate_on_people
    from eval.rankings.file import read_rankings
    from hmr.body.model import load_body

    found, table = read_rankings(rankings), read_prices(prices) if prices else {}
    body = load_body(settings.body)
    groups = [read_group(group, body) for group in found.groups.values()]
    backends = {name: partial(open_backend, each) for name, each in _names(options).items()}
    with single_run(out), report_lost_questions(), stages() as stage:
        compared = evaluate_on_people(
            load_model(), body, backends, groups, found, out, stage, memory=settings.memory,
            settings=CritiqueSettings(seed=settings.seed, **settings.critique), prices=table,
        )  # fmt: skip
        names = [each.name for each in compared.backends.backends.values()]
        write_run(out, {**_run_settings(settings, names), "rankings": rankings.name})
    if as_json:
        print_json(compared.to_json())
    else:
        for each in backend_tables(compared.backends):
            console().print(each)
        print_message(judges_sentence(compared.judges))
    compared.backends.require_scores()


def _names(options: Sequence[BackendOptions]) -> dict[str, BackendOptions]:
    """By spec; the same spec with other settings gets a number. Raises ValueError for an unknown one, before the first
    is paid for."""
    from agent.vlm.registry import check_backend

    named: dict[str, BackendOptions] = {}
    for number, each in enumerate(options, start=1):
        check_backend(each.spec)
        named[each.spec if each.spec not in named else f"{each.spec} ({number})"] = each
    return named


def _settings_json(settings: CriticEvalSettings) -> dict[str, Any]:
    from hmr.body.model import body_fingerprint

    names = ("base", "images", "samples", "seed", "ucb", "detector", "rules_per_case", "critique")
    values = {name: getattr(settings, name) for name in names}
    motion = settings.motion.name if settings.motion else None
    return {**values, "motion": motion, **body_fingerprint(settings.body)}


def _run_settings(settings: CriticEvalSettings, backends: Sequence[str]) -> dict[str, Any]:
    """What run.json holds. backends: their names."""
    return {
        **_settings_json(settings),
        "critic": settings.critic,
        "ablation": settings.ablation.name,
        "calibration": settings.calibration,
        "memory": settings.memory and settings.memory.name,
        "backends": list(backends),
    }


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
