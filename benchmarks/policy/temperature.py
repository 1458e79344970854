"""Finds the temperature of the starting noise at which the spread of a policy is calibrated.

    python -m benchmarks.policy.temperature [--policy DIR] [--images 100] [--samples 100]

Samples `lab-calibration` at several temperatures of the starting noise (`noise_temperature` in the config of a policy).
Choose the one whose `calibration_80` is nearest to the value that M draws from the true distribution would have
(hmr/metrics/calibration.py); `wild` scenes are not used. It is the idea of temperature scaling for classifiers (Guo et
al., ICML 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from eval.benchmark.protocol import evaluate_policy
from hmr.body.model import load_body
from hmr.metrics.calibration import LEVEL
from hmr.policy.checkpoint import load_policy
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_labelled, set_digest

TEMPERATURES = (1.0, 1.1, 1.2, 1.3, 1.4)


def main(
    policy: Annotated[Path | None, typer.Option(help="Default: the shipped one.")] = None,
    images: int = 100,
    samples: int = 100,
) -> None:
    model, body = load_policy(policy) if policy else load_policy(), load_body()
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_split("lab-calibration", Path(folder), images)
        scenes, digest = read_labelled(drawn), set_digest(drawn)
    print(f"policy {model.digest()}, {images} scenes of lab-calibration ({digest})")
    print(f"goal {LEVEL * (samples - 1) / (samples + 1):.3f}\n")
    print("| temperature | calibration_80 | mean | averaged | min 20 | min 100 | spread |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for temperature in TEMPERATURES:
        model.config.noise_temperature = temperature
        report = evaluate_policy(model, body, scenes, num_samples=samples, seed=0)
        errors = report.values["mpjpe_mm"]
        names = ("mean", "averaged", "min20", f"min{samples}")
        cells = [f"{errors[name].mean():.1f}" for name in names] + [f"{report.spread_mm():.1f}"]
        found = report.values["calibration_80"]["all"].mean()
        print(f"| {temperature} | {found:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
