"""Fits the shipped model of errors in millimetres (`agent.expected_error`) and measures it on new scenes.

    python -m benchmarks.critic.error_model [--detector embedded] [--images 300] [--samples 12] [--test 100] [--write]

Fitted on lab-calibration; measured on lab-test and on wild-test, which is outside of the calibration. Another detector
than the embedded one sees nothing in rendered scenes, so its detections are simulated with the errors of its profile
(`hmr.synthetic.detector_noise`), and metrics of the mask are left out. By own groups
(the policy's hypotheses) and others (bodies of another person): mean error, mean expected error, mean absolute
relative error, share inside the interval, and share of groups reported as "none fits".
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import agent.expected_error
from agent.agent import CritiqueAgent
from agent.default import open_default_agent
from agent.expected_error import ErrorModel, MeasuredGroup
from agent.exploration.context import Propose
from agent.vlm import load_backend
from common.storage.files import write_text
from eval.benchmark.protocol import noise_generator
from eval.critics.error_calibration import calibrate_errors, measure_groups
from hmr.body.model import load_body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.detector_noise import PROFILES
from hmr.synthetic.splits import SPLITS, calibration_parts
from hmr.synthetic.store import make_scenes, read_labelled
from hmr.types import Hypotheses, Labelled, Sample

MODELS = Path(agent.expected_error.__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detector", default="embedded", choices=("embedded", *PROFILES))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="replace the shipped model")
    options = parser.parse_args()
    is_embedded = options.detector == "embedded"
    policy = load_policy(detector="embedded" if is_embedded else "simulated")
    profile = None if is_embedded else options.detector
    propose = _proposer(policy, options.samples)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_default_agent(policy, load_body(), None, backend=load_backend("embedded"), trace=None) as critic,
    ):
        model = _fitted(critic, _Scenes(Path(folder), profile), options.images, propose)
        model = replace(model, detector=options.detector)
        print(f"policy {policy.digest()}, detector {model.detector}, {model.groups} groups of the fit, ")
        print(f"coverage {model.coverage:.2f}, a body fits below {model.fits_below_mm:.0f} mm\n")
        print("| scenes | groups | error | expected | relative error | in the interval | none fits |")
        print("|---|---|---:|---:|---:|---:|---:|")
        for split in ("lab-test", "wild-test"):
            scenes = _Scenes(Path(folder), profile).draw(split, options.test)
            _print_rows(split, model, critic, scenes, propose)
    if options.write:
        write_text(MODELS / f"{model.detector}.json", json.dumps(model.to_json(), indent=1))


def _proposer(policy: DiffusionPolicy, samples: int) -> Propose:
    def propose(sample: Sample) -> Hypotheses:
        return policy.sample(policy.encode([sample]), samples, noise_generator(0, sample))[0]

    return propose


@dataclass(frozen=True)
class _Scenes:
    folder: Path
    profile: str | None  # of the simulated detector; None for scenes without detections

    def draw(self, split: str, count: int) -> list[Labelled]:
        recipe = replace(SPLITS[split].recipe, detector=self.profile)
        return read_labelled(make_scenes(self.folder / split, recipe, SPLITS[split].seed, count))


def _fitted(critic: CritiqueAgent, drawn: _Scenes, images: int, propose: Propose) -> ErrorModel:
    scenes, parts = drawn.draw("lab-calibration", images), calibration_parts(images)
    cases = [scenes[row] for part in ("explore", "admit") for row in parts[part]]
    return calibrate_errors(critic, cases, [scenes[row] for row in parts["report"]], propose)


def _print_rows(
    split: str, model: ErrorModel, critic: CritiqueAgent, scenes: Sequence[Labelled], propose: Propose
) -> None:
    groups = measure_groups(critic, scenes, propose)
    for name, is_own in (("own", True), ("others", False)):
        _print_row(f"{split} | {name}", model, [group for group in groups if group.is_own is is_own])


def _print_row(title: str, model: ErrorModel, groups: Sequence[MeasuredGroup]) -> None:
    estimates = [model.estimate(g.values, g.detection, len(g.errors_mm)) for g in groups]
    pairs = [(group, estimate) for group, estimate in zip(groups, estimates, strict=True) if estimate]
    errors = np.concatenate([group.errors_mm for group, _ in pairs])
    expected, low, high = (
        np.concatenate([getattr(estimate, name) for _, estimate in pairs])
        for name in ("expected_mm", "low_mm", "high_mm")
    )
    inside = ((errors >= low) & (errors <= high)).mean()
    none_fits = np.mean([estimate.none_fits for _, estimate in pairs])
    relative = np.abs(expected / errors - 1).mean()
    print(
        f"| {title} | {errors.mean():.0f} | {expected.mean():.0f} | {relative:.2f} | {inside:.2f} | {none_fits:.2f} |"
    )


if __name__ == "__main__":
    main()
