"""`meshcritic evaluate`: a policy beside its baselines on scenes with truth."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from cli.console import console, say, stages
from cli.options import Device, Json, Out, PolicyDir, Seed

__all__ = ["evaluate"]


def evaluate(
    policy: PolicyDir = None,
    device: Device = "cpu",
    motion: Annotated[
        Path | None, typer.Option(help="Pose the scenes from a folder of AMASS npz files.")
    ] = None,
    backdrops: Annotated[
        Path | None, typer.Option(help="Put photographs without people from a folder behind the bodies.")
    ] = None,
    split: Annotated[str, typer.Option(help="wild-test or lab-test.")] = "wild-test",
    images: Annotated[int, typer.Option(min=1)] = 200,
    samples: Annotated[int, typer.Option(min=2, help="M, hypotheses an image.")] = 100,
    seed: Seed = 0,
    out: Out = Path("runs/evaluate"),
    as_json: Json = False,
) -> None:
    """A policy on scenes with truth: errors, spread and what the spread is worth, beside what it must beat.

    Example: `meshcritic evaluate --split wild-test --images 200 --samples 100`
    """
    from eval.benchmark.baselines import ANSWER_ONCE, evaluate_with_baselines
    from eval.benchmark.tables import baseline_table
    from eval.pipelines.demo_outputs import versions
    from hmr.policy.checkpoint import load_policy

    with stages() as stage:
        result = evaluate_with_baselines(
            load_policy(policy, device), split, images, samples, seed, out, stage, motion, backdrops,
            workers=os.cpu_count() or 1,
        )  # fmt: skip
    if as_json:
        asked = {"split": split, "images": images, "samples": samples, "seed": seed}
        folders = {"motion": motion and motion.name, "backdrops": backdrops and backdrops.name}
        print(json.dumps({**result.to_json(), **asked, **folders, "versions": versions()}))
        return
    console().print(baseline_table(result.reports, ANSWER_ONCE))
    say(f"benchmark {result.benchmark}, base policy {result.base_policy}")
