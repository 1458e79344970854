"""`meshcritic evaluate`: compares a policy with baselines on synthetic scenes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import console, print_json, print_message, stages
from cli.options import (
    DETECTORS,
    MAX_SAMPLES,
    MODELS,
    WORKERS,
    BasePolicy,
    Device,
    Json,
    Motion,
    Out,
    PolicyOrBase,
    SceneBodyFile,
    Seed,
    policy_folder,
)
from common.storage.files import write_text
from common.storage.locks import single_run

if TYPE_CHECKING:
    pass

__all__ = ["evaluate"]

RESULT = "evaluation.json"
SIMULATED = "simulated"  # the detector of the policy `studio`


def evaluate(
    policy: PolicyOrBase = None,
    base: BasePolicy = "shipped",
    detector: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            rich_help_panel=MODELS,
            help=f"{DETECTORS} Default: the one that the policy was trained for.",
        ),
    ] = None,
    device: Device = "cpu",
    body: SceneBodyFile = None,
    sampling: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            rich_help_panel=MODELS,
            help="Setting of the sampler, such as start=distribution or num_inference_steps=4; repeatable "
            "(docs/guides/sampling.md).",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split of synthetic scenes: wild-test, lab-test, street-test or studio-test.")
    ] = "wild-test",
    images: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 200,
    samples: Annotated[int, typer.Option(min=2, max=MAX_SAMPLES, help="Hypotheses per image.")] = 100,
    motion: Motion = None,
    backdrops: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Use photographs without people from this folder as backgrounds. Default: generated backgrounds.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=MODELS,
            help="Another policy, such as the one before alignment: a folder, shipped or studio. Differences are "
            "paired by image.",
        ),
    ] = None,
    seed: Seed = 0,
    out: Out = Path("runs/evaluate"),
    as_json: Json = False,
) -> None:
    """Evaluate a policy and its baselines on synthetic scenes with ground truth.

    Reports joint errors in mm (best and mean of the hypotheses), the spread of the hypotheses and its calibration.

    Example: `meshcritic evaluate --base studio --policy runs/street --against studio --split street-test`
    """
    from common.storage.versions import versions
    from eval.benchmark.baselines import DETERMINISTIC, OTHER, evaluate_with_baselines
    from eval.benchmark.intervals import MIN_IMAGES
    from eval.benchmark.tables import baseline_table, rich_table
    from hmr.body.model import body_fingerprint
    from hmr.policy.checkpoint import BASES, load_policy

    model = load_policy(policy_folder(policy, base), device, detector)
    sampler = _set_sampler(model, sampling)
    _check_detections(model, split)
    other = None
    if against is not None:
        other = load_policy(BASES.get(against, Path(against)), device, model.detector)
        _set_sampler(other, sampling)
    with single_run(out), stages() as stage:
        result = evaluate_with_baselines(
            model, split, images=images, samples=samples, seed=seed, out=out, stage=stage,
            motion=motion, backdrops=backdrops, body=body, workers=WORKERS, against=other,
        )  # fmt: skip
        answer = {
            **result.to_json(),
            "split": split, "images": images, "samples": samples, "seed": seed, "detector": model.detector.name,
            "sampler": asdict(sampler), "motion": motion and motion.name,
            "backdrops": backdrops and backdrops.name, **body_fingerprint(body), "versions": versions(),
        }  # fmt: skip
        write_text(out / RESULT, json.dumps(answer, indent=1))
    if as_json:
        print_json(answer)
        return
    name = OTHER if against is None or against in result.reports else against
    reports = {name if key == OTHER else key: report for key, report in result.reports.items()}
    console().print(baseline_table(reports, DETERMINISTIC))
    if rows := result.rows_against_other(name):
        console().print(rich_table(rows))
        if images < MIN_IMAGES:
            print_message(f"differences have intervals from {MIN_IMAGES} images on; there are {images}")
    print_message(f"benchmark {result.benchmark}, policy {result.base_policy}; also in {out / RESULT}")


def _set_sampler(policy: DiffusionPolicy, given: Sequence[str] | None) -> SamplingSettings:
    """The settings of the policy's sampler, with the given ones in place of its own."""
    from agent.vlm.settings import parse_settings, read_settings
    from hmr.policy.config import SamplingSettings

    fields = asdict(SamplingSettings.of(policy.config)) | parse_settings(given or ())
    sampler = read_settings(SamplingSettings, "the sampler", fields)
    sampler.apply_to(policy.config)
    return sampler


def _check_detections(policy: DiffusionPolicy, split: str) -> None:
    """Raises ValueError, before anything is drawn, for scenes that the detector of the policy cannot read."""
    if policy.detector.name == SIMULATED and not split.startswith(("studio-", "street-")):
        raise ValueError(
            f"only scenes of studio and street hold detections of the simulated detector, not those of {split}: give "
            "--split street-test, or --detector embedded"
        )
