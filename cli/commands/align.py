"""`meshcritic align`: a policy learns from what a critic thinks of its hypotheses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.backend_flags import CritiqueSet, DryRunFlag, MaxCalls, ReplyCacheFile, split_settings
from cli.console import say, say_estimate, stages
from cli.options import DetectorSpec, Json, PolicyDir, Seed, a_folder

if TYPE_CHECKING:
    from eval.pipelines.alignment import AlignSettings
    from hmr.policy.policy import DiffusionPolicy

__all__ = ["align"]

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
CriticSpec = Annotated[
    str,
    typer.Option(
        help="embedded (or another backend's spec), hmr-scorer, noisy-truth:SRCC, reward:FILE.py:NAME, "
        "shuffled[:CRITIC]."
    ),
]


def align(
    out: Annotated[
        Path,
        typer.Option(
            callback=a_folder("--out"), help="Folder for the aligned policy and all that led to it."
        ),
    ],
    critic: CriticSpec = "embedded",
    loss: Annotated[
        str | None, typer.Option(help="clip, weighted, quadratic, linear, dpo, kto or sft.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Sample, score and align so often, on one budget of critiques.")
    ] = 1,
    images: Annotated[int, typer.Option(min=2, help="Of wild-train, one critique each.")] = 200,
    group_size: Annotated[int, typer.Option(min=2, help="Hypotheses an image.")] = 20,
    calibration: Annotated[
        int, typer.Option(min=4, help="Lab scenes that the critic learns from, where it has no memory yet.")
    ] = 128,
    config: Annotated[
        Path | None, typer.Option(help="YAML of training arguments (rl/config.py); default: the demo's.")
    ] = None,
    motion: Annotated[
        Path | None, typer.Option(help="Pose the scenes from a folder of AMASS npz files.")
    ] = None,
    memory: Annotated[
        Path | None, typer.Option(help="An explored memory; default: explore here first.")
    ] = None,
    detector: DetectorSpec = "embedded",
    settings: CritiqueSet = None,
    dry_run: DryRunFlag = False,
    max_calls: MaxCalls = None,
    reply_cache: ReplyCacheFile = None,
    policy: PolicyDir = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Align a policy to a critic's scores of its own hypotheses on wild images, without 3D labels.

    Example: `meshcritic align --critic embedded --loss clip --rounds 2 --out runs/aligned`
    """
    from eval.pipelines.alignment import AlignSettings
    from hmr.policy.checkpoint import load_policy
    from rl.rounds import Rounds

    of_the_critique, of_the_backend = split_settings(settings or ())
    asked = AlignSettings(
        critic, images, calibration, Rounds(rounds, group_size, seed), _training(config, loss), motion, memory,
        detector=detector, max_calls=max_calls, reply_cache=reply_cache, backend=of_the_backend,
        critique=of_the_critique,
    )  # fmt: skip
    if dry_run:
        _estimate(load_policy(policy), asked, as_json)
    else:
        _align(load_policy(policy), asked, out, as_json)


def _training(config: Path | None, loss: str | None) -> dict[str, Any]:
    from eval.pipelines.alignment import read_alignment
    from eval.pipelines.demo_settings import read_settings

    if config is not None:
        alignment = read_alignment(config)
    else:  # the demo does its few steps again sooner than it would save them; here a killed run goes on
        alignment = {**read_settings(DEMO).alignment, "save_strategy": "steps"}
    return alignment if loss is None else {**alignment, "loss_type": loss}


def _estimate(base: DiffusionPolicy, settings: AlignSettings, as_json: bool) -> None:
    from eval.pipelines.alignment import count_calls

    with stages() as stage:
        asked = count_calls(base, settings, stage, workers=os.cpu_count() or 1)
    say_estimate(asked, as_json)


def _align(base: DiffusionPolicy, settings: AlignSettings, out: Path, as_json: bool) -> None:
    from eval.pipelines.alignment import run_alignment

    with stages() as stage:
        aligned = run_alignment(base, settings, out, stage, workers=os.cpu_count() or 1)
    told = (out / "alignment.json").read_text()
    if as_json:
        print(told)
        return
    counted = json.loads(told)
    say(f"{counted['unscored_groups']} of {counted['groups']} groups got no score from the critic")
    stamp = " (it looked at the truth: no result)" if settings.uses_truth else ""
    say(f"{out} holds policy {aligned.digest()}, aligned from {base.digest()}{stamp}")
    say(f"how it went: {out / 'curves.svg'}; what it is worth: meshcritic evaluate --policy {out}")
