"""Errors of what a search proposes, by origin and setting; no critic scores and no policy is trained.

    python -m benchmarks.alignment.search_proposals [--base studio] [--images 200] [--skip 0] [--out DIR]

The settings of `rl.preferences.search.SearchSettings` were chosen with it on the alignment split, whose truth is kept
for this measurement only. The detection is the embedded detector's, with the shipped policy's reading of 3D joints.
Columns are means over images of MPJPE in mm (docs/reference/measures.md): of all hypotheses, of the best, and of the
one nearest to the reading, which a critic without any other evidence would choose. `--out` keeps the scenes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from common.seeding import derive_generator
from hmr.body.model import load_body
from hmr.detection.loading import load_detector
from hmr.metrics.errors import mpjpe_mm
from hmr.policy.checkpoint import BASES, load_policy
from hmr.policy.guidance import GuidanceConfig
from hmr.policy.joints_3d import WithJoints3D
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import GAPS, draw_split
from hmr.synthetic.store import read_labelled
from hmr.types import Box, Detection, Labelled, Sample
from rl.preferences.search import Search, SearchSettings

GROUP = 10
JOINTS = (0.0, 1.0, 10.0)
SHARES = (0.25, 0.5, 0.8, 1.0)
Variant = tuple[str, str, SearchSettings]  # title, the origin that is measured or "" for all, settings


class Known:
    """The detections of a detector, each made once."""

    def __init__(self, detector: WithJoints3D, samples: Sequence[Sample]) -> None:
        self.name = detector.name
        self.detections = {sample.id: detector.detect(sample) for sample in samples}

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        return []

    def detect(self, sample: Sample) -> Detection:
        return self.detections[sample.id]

    def reading_m(self, sample: Sample) -> Float[Tensor, "24 3"]:
        joints_m = self.detections[sample.id].joints_root_m
        assert joints_m is not None
        return joints_m


def variants() -> list[Variant]:
    """The base's samples, then each origin alone, then the default group."""
    sampled = [
        (f"sampled, noise x {scale:g}", "sampled", SearchSettings(GROUP, 0, 0, 0, noise_scale=scale))
        for scale in (1.0, 1.3)
    ]
    guided = [
        (
            f"guided, joints {weight:g}",
            "guided",
            SearchSettings(0, GROUP, 0, 0, guidance=GuidanceConfig(joints=weight)),
        )
        for weight in JOINTS
    ]
    corrected = [
        (
            f"corrected, share {share:g}",
            "corrected",
            SearchSettings(GROUP, 0, GROUP, 0, least_share=share, largest_share=share),
        )
        for share in SHARES
    ]
    mirrored = ("mirrored", "mirrored", SearchSettings(GROUP, 0, 0, GROUP))
    return [*sampled, *guided, *corrected, mirrored, ("the default group of 20", "", SearchSettings())]


def errors_of(
    settings: SearchSettings, known: Known, policy: DiffusionPolicy, scenes: Sequence[Labelled], origin: str
) -> Float[Tensor, "images 3"]:
    """Mean, least and nearest-to-the-reading error of the hypotheses of an origin, by image."""
    search, rows = Search(settings, known, load_body()), []
    for scene in scenes:
        proposal = search.propose(policy, scene.sample, derive_generator(0, scene.sample.id))
        assert proposal.origins is not None
        wanted = torch.tensor([origin in ("", name) for name in proposal.origins])
        joints_cam_m = search.body.joints(proposal.hypotheses.params[wanted])
        errors = mpjpe_mm(joints_cam_m, scene.truth.joints_cam_m)
        nearest = mpjpe_mm(joints_cam_m, known.reading_m(scene.sample)).argmin()
        rows.append(torch.stack([errors.mean(), errors.min(), errors[nearest]]))
    return torch.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="studio", choices=list(BASES))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    policy, body, split = load_policy(BASES[options.base]), load_body(), GAPS[options.base].align
    detector = WithJoints3D(load_detector("embedded"), load_policy(), body)
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_split(split, options.out or Path(folder), options.skip + options.images, uses_truth=True)
        scenes = read_labelled(drawn)[options.skip :]
    known = Known(detector, [scene.sample for scene in scenes])
    readings = torch.stack([known.reading_m(scene.sample) for scene in scenes])
    truths = torch.stack([scene.truth.joints_cam_m for scene in scenes])
    print(f"policy {policy.digest()}, {len(scenes)} images of {split}; ", end="")
    print(f"the reading's own error is {mpjpe_mm(readings, truths).mean():.1f}\n")
    print("| hypotheses | mean | min | nearest to the reading |\n|---|---:|---:|---:|")
    for title, origin, settings in variants():
        errors = errors_of(settings, known, policy, scenes, origin).mean(dim=0)
        print(f"| {title} | {' | '.join(f'{error:.1f}' for error in errors)} |", flush=True)


if __name__ == "__main__":
    main()
