"""`meshcritic critic-eval`: how well critics rank groups whose errors are known."""

from __future__ import annotations

import json
import os
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
    split_settings,
)
from cli.console import console, say, say_estimate, stages
from cli.options import DetectorSpec, Json, Out, PolicyDir, Seed, Ucb

if TYPE_CHECKING:
    from agent.vlm.options import BackendOptions
    from agent.vlm.wrappers.dry_run import DryRun
    from eval.critics.comparison import CriticEval, CriticEvalSettings

__all__ = ["critic_eval"]


def critic_eval(
    critic: Annotated[
        str,
        typer.Option(help="agent, greedy, true-detections, hmr-scorer, ranknet, consensus, random, or all."),
    ] = "agent",
    without: Annotated[
        str | None, typer.Option(help="The agent without any of rules,prototypes,reflection.")
    ] = None,
    without_tool: Annotated[
        list[str] | None, typer.Option(help="The agent without this tool; repeatable.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Of wild-test.")] = 100,
    samples: Annotated[int, typer.Option(min=3, help="Hypotheses a group.")] = 20,
    calibration: Annotated[
        int, typer.Option(min=4, help="Lab scenes to learn from: half explored, a quarter to admit rules.")
    ] = 128,
    motion: Annotated[
        Path | None, typer.Option(help="Pose the wild scenes from a folder of AMASS npz files.")
    ] = None,
    memory: Annotated[
        Path | None, typer.Option(help="An explored memory; default: explore here first.")
    ] = None,
    ucb: Ucb = 0.5,
    rules_per_case: Annotated[int, typer.Option(min=1, help="Rules that are retrieved for a case.")] = 16,
    detector: DetectorSpec = "embedded",
    backend: BackendSpec = "embedded",
    settings: CritiqueSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    record: Record = None,
    reply_cache: ReplyCacheFile = None,
    policy: PolicyDir = None,
    seed: Seed = 0,
    out: Out = Path("runs/critic-eval"),
    as_json: Json = False,
) -> None:
    """Rank agreement of a critic with the truth on wild groups; with `--critic all` every critic and ablation.

    Example: `meshcritic critic-eval --critic all --images 100 --samples 20`
    """
    from agent.vlm.options import BackendOptions
    from eval.critics.ablations import AgentVariant
    from eval.critics.comparison import CriticEvalSettings

    of_the_critique, of_the_backend = split_settings(settings or ())
    ablation = AgentVariant(frozenset(_words(without)), frozenset(without_tool or ()))
    asked = CriticEvalSettings(
        critic, ablation, images, samples, calibration, seed, motion, memory, ucb,
        detector=detector, rules_per_case=rules_per_case, critique=of_the_critique,
    )  # fmt: skip
    options = BackendOptions(backend, of_the_backend, dry_run, max_calls, record, reply_cache)
    found, counted = _run(asked, options, policy, out)
    if counted:
        say_estimate(counted, as_json)
    else:
        _say_what_was_found(found, asked, backend, as_json)


def _run(
    asked: CriticEvalSettings, options: BackendOptions, policy: Path | None, out: Path
) -> tuple[CriticEval, DryRun | None]:
    """The figures, and the books of a dry run, whose memories are thrown away with their folder."""
    from agent.vlm.options import opened_backend
    from eval.critics.comparison import critic_eval as run
    from hmr.policy.checkpoint import load_policy

    with ExitStack() as stack:
        opened = stack.enter_context(opened_backend(options))
        if opened.dry_run:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stage = stack.enter_context(stages())
        found = run(load_policy(policy), opened.backend, asked, out, stage, workers=os.cpu_count() or 1)
        return found, opened.dry_run


def _say_what_was_found(found: CriticEval, asked: CriticEvalSettings, backend: str, as_json: bool) -> None:
    if as_json:
        told = ("images", "samples", "seed", "ucb", "detector", "rules_per_case", "critique")
        facts = {"backend": backend, "motion": asked.motion.name if asked.motion else None}
        print(json.dumps({**found.to_json(), **{name: getattr(asked, name) for name in told}, **facts}))
        return
    from eval.critics.table import critic_table

    console().print(critic_table(found))
    say(f"benchmark {found.benchmark}, base policy {found.base_policy}")


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
