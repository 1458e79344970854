"""The effect of each loss on the predicted x_0: the second stage of pretraining, repeated with other weights.

    python -m benchmarks.loss_weights --policy DIR [--cache runs/cache] [--steps 1500] [--images 200]

Every row starts from a denoiser with zero output and uses the same batches; only the named weights differ. Errors are
those of `lab-test` and `wild-test`, 50 hypotheses per image, millimetres. It takes about half an hour on one core.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from eval.benchmark.protocol import evaluate_policy
from hmr.body.model import load_body
from hmr.policy.checkpoint import load_policy
from hmr.pretraining.crop_cache import CropCache, CropDataset, make_crops
from hmr.pretraining.losses import LossWeights, PoseLoss
from hmr.pretraining.training import FeatureDataset, PretrainConfig, read_config, run_stage
from hmr.synthetic.recipe import RECIPES
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_labelled
from hmr.types import Labelled

VARIANTS = {
    "denoising alone": {"x0_joints": 0.0, "reprojection": 0.0},
    "and joints, 5": {"x0_joints": 5.0, "reprojection": 0.0},
    "and joints, 20": {"x0_joints": 20.0, "reprojection": 0.0},
    "and joints, 20; reprojection, 0.5": {"x0_joints": 20.0, "reprojection": 0.5},
    "and joints, 20; reprojection, 2": {"x0_joints": 20.0, "reprojection": 2.0},
}
SAMPLES = 50
COLUMNS = {"mean": "mean", "hyp0": "h_0", "averaged": "averaged", "min20": "min 20"}


def main(
    policy: Annotated[Path, typer.Option(help="The policy whose encoder computes the features.")],
    config: Path = Path("configs/pretrain_tiny.yaml"),
    cache: Path = Path("runs/cache"),
    steps: int = 1500,
    scenes: int = 20_000,
    images: int = 200,
) -> None:
    settings = read_config(config)
    train, test = (
        _features(policy, settings, cache, seed, scenes)
        for seed in (settings.seed, settings.seed + 1_000_000)
    )
    with tempfile.TemporaryDirectory() as folder:
        tests = {
            split: read_labelled(draw_split(split, Path(folder), images))
            for split in ("lab-test", "wild-test")
        }
        table = Table(
            "",
            *(f"{split} {name}" for split in tests for name in (*COLUMNS.values(), "spread", "calibration")),
        )
        table.add_row("unchanged", *_errors(policy, tests))
        for name, weights in VARIANTS.items():
            out = Path(folder) / name
            refined = load_policy(policy).requires_grad_(True)
            refined.encoder.requires_grad_(False)
            refined.fit_initial_estimate(test.columns["features"], test.columns["vector"])
            losses = dataclasses.replace(LossWeights(), **weights)
            module = PoseLoss(refined, load_body(), losses, settings.times_per_image)
            arguments = {**settings.refining, "max_steps": steps}
            arguments |= {"eval_strategy": "no", "save_strategy": "no", "report_to": "none"}
            run_stage(module, settings, arguments, (train, test), out)
            refined.save_pretrained(out)
            table.add_row(name, *_errors(out, tests))
            Console(stderr=True).print(name)
    Console(width=200).print(table)


def _features(policy: Path, settings: PretrainConfig, cache: Path, seed: int, scenes: int) -> FeatureDataset:
    frozen = load_policy(policy)
    count = scenes if seed == settings.seed else settings.held_out
    crops = CropCache(
        RECIPES[settings.recipe], seed, count, frozen.config.crop_size, frozen.config.crop_scale
    )
    return FeatureDataset(frozen, CropDataset(make_crops(crops, cache)))


def _errors(folder: Path, tests: dict[str, list[Labelled]]) -> list[str]:
    cells: list[str] = []
    for labelled in tests.values():
        report = evaluate_policy(load_policy(folder), load_body(), labelled, num_samples=SAMPLES, seed=0)
        summary = report.summary()
        cells += [f"{summary['mpjpe_mm'][name]:.1f}" for name in COLUMNS]
        cells.append(f"{summary['spread_visible_mm']:.0f}")
        cells.append(f"{report.uncertainty()['calibration_80']:.2f}")
    return cells


if __name__ == "__main__":
    typer.run(main)
