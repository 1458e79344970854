"""How accurate a policy is with better and worse detections: the embedded detector's, simulated and perfect ones.

    python -m benchmarks.policy.detections [--policy DIR] [--split wild-test] [--images 200] [--samples 100]
        [--motion DIR]

Simulated detections have the errors of one profile of `hmr.synthetic.detector_noise`; a surface point is visible
where the joint that moves it is. `perfect` reports every point and its depth, `perfect without depth` the positions
alone, hidden ones included. Errors are in mm, definitions in docs/reference/measures.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.seeding import derive_generator
from eval.benchmark.protocol import Policy, evaluate_policy
from hmr.body.model import load_body
from hmr.body.surface_points import POINT_JOINTS, BodyPoints
from hmr.policy.checkpoint import load_policy
from hmr.policy.condition import PointEstimates, condition_of
from hmr.policy.parametrization import box_features, geometry_of
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.synthetic.detector_noise import PROFILES, observe
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import Hypotheses, Labelled, Sample

PERFECT_SIGMA = 0.002  # crop units, and metres


@dataclass(frozen=True)
class TruePoints:
    """Of one scene; the batch has one row."""

    position: Float[Tensor, "1 41 2"]  # crop units
    depth_m: Float[Tensor, "1 41"]  # behind the pelvis
    visible: Bool[Tensor, "1 41"]
    units_per_m: Float[Tensor, "1"]
    generator: torch.Generator


Detect = Callable[[TruePoints], PointEstimates]


def perfect(points: TruePoints, with_depth: bool) -> PointEstimates:
    sigma = torch.full_like(points.depth_m, PERFECT_SIGMA)
    depth_sigma_m = sigma if with_depth else torch.full_like(sigma, torch.inf)
    return PointEstimates.from_sigma(
        points.position, sigma, torch.ones_like(sigma), points.depth_m, depth_sigma_m
    )


def simulated(points: TruePoints, profile: str) -> PointEstimates:
    reported = observe(
        points.position, points.depth_m, points.visible, points.units_per_m, points.generator, (profile,)
    )
    return PointEstimates.from_sigma(*reported)


class WithDetections:
    """The policy with detections made from the truth."""

    def __init__(self, policy: DiffusionPolicy, scenes: Sequence[Labelled], detect: Detect) -> None:
        self.policy, self.detect = policy, detect
        self.truths = {scene.sample.id: scene.truth for scene in scenes}
        self.points = BodyPoints().fit_to(load_body())

    def encode(self, samples: Sequence[Sample]) -> Features:
        squares = [self.policy.crop_box(sample.box) for sample in samples]
        geometry = geometry_of([sample.camera for sample in samples], squares)
        rows = [self.detect(self._points(sample)) for sample in samples]
        features = torch.cat(
            [condition_of(row, box_features(place[None])) for row, place in zip(rows, geometry, strict=True)]
        )
        return Features(self.policy.condition(features), geometry)

    def sample(self, features: Features, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        return self.policy.sample(features, num_samples, generator)

    def _points(self, sample: Sample) -> TruePoints:
        truth, square = self.truths[sample.id], self.policy.crop_box(sample.box)
        params = truth.params
        rotvecs = torch.cat([params.global_orient[None], params.body_pose])
        points_m = self.points(roma.rotvec_to_rotmat(rotvecs)[None], params.betas[None]).points_m[0]
        pelvis_m, half = truth.joints_cam_m[0], square.side / 2
        points_px = truth.camera.project(points_m + pelvis_m)
        return TruePoints(
            ((points_px - torch.tensor(square.center)) / half)[None],
            points_m[None, :, 2],
            truth.visible[list(POINT_JOINTS)][None],
            (truth.camera.focal_px / pelvis_m[2] / half)[None],
            derive_generator("simulated detection", sample.id),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--split", default="wild-test")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument(
        "--motion", type=Path, default=None, help="folder of AMASS npz files that poses the bodies"
    )
    options = parser.parse_args()
    policy = load_policy(options.policy)
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_split(options.split, Path(folder), options.images, motion=options.motion)
        scenes, digest = read_labelled(drawn), set_digest(drawn)
    print(f"policy {policy.digest()}, {len(scenes)} scenes of {options.split} ({digest})\n")
    print(f"| detections | mean | h_0 | averaged | min {options.samples} | calibration_80 | hidden / seen |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    _print_row("embedded detector", policy, scenes, options.samples)
    for profile in PROFILES:
        detect = lambda points, profile=profile: simulated(points, profile)  # noqa: E731
        _print_row(f"simulated `{profile}`", WithDetections(policy, scenes, detect), scenes, options.samples)
    for name, with_depth in (("perfect without depth", False), ("perfect", True)):
        detect = lambda points, with_depth=with_depth: perfect(points, with_depth)  # noqa: E731
        _print_row(name, WithDetections(policy, scenes, detect), scenes, options.samples)


def _print_row(name: str, policy: Policy, scenes: Sequence[Labelled], samples: int) -> None:
    report = evaluate_policy(policy, load_body(), scenes, num_samples=samples, seed=0)
    errors, uncertainty = report.values["mpjpe_mm"], report.uncertainty()
    cells = [f"{errors[column].mean():.1f}" for column in ("mean", "hyp0", "averaged", f"min{samples}")]
    ratios = [uncertainty["calibration_80"], uncertainty["spread_occluded_over_visible"]]
    cells += ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
