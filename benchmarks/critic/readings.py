"""Readings of 3D joints as evidence on a policy's groups: how accurate they are, and how independent of the policy.

    python -m benchmarks.critic.readings [--base studio] [--images 100] [--out DIR]

| column | value                                                                                                    |
|--------|----------------------------------------------------------------------------------------------------------|
| error  | MPJPE of the reading, mm                                                                                 |
| SRCC   | rank correlation of minus the distance to the reading with minus the true error, mean over groups of 20  |
| pick   | MPJPE of the hypothesis nearest to the reading, mm                                                       |
| cosine | of the reading's error with that of the group's mean: 1 where the reading errs as the policy does        |
| pixels | distance of the detector's points from the true joints, % of the box, over visible joints that the       |
|        | policy's own detector reports; robust as in `agent.tools.reprojection`                                    |

A reading is the initial estimate of a policy, the reader, for the reports of a detector (`hmr.policy.joints_3d`). The
default agent has that of the shipped policy from the embedded detector. The truth is read for these figures alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agent.agreement import group_spearman
from agent.tools.reprojection import robust_percent
from eval.benchmark.protocol import noise_generator
from hmr.body.model import Body, load_body
from hmr.detection.loading import load_detector
from hmr.metrics.errors import MM_PER_M, about_pelvis
from hmr.policy.checkpoint import BASES, load_policy, load_reader
from hmr.policy.joints_3d import WithJoints3D
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split, gap_of
from hmr.synthetic.store import read_labelled
from hmr.types import NUM_JOINTS, Detection, Labelled

GROUP = 20
Joints = Float[Tensor, "*batch 24 3"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="studio", choices=list(BASES))
    parser.add_argument("--images", type=int, default=100, help="of its test split")
    parser.add_argument("--out", type=Path, default=None, help="keeps the scenes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scenes = draw_split(gap_of(options.base).test, options.out or Path(temporary), options.images)
        cases = read_labelled(scenes)
        policy, body = load_policy(BASES[options.base]), load_body()
        _print_table(policy, body, cases)


def _print_table(policy: DiffusionPolicy, body: Body, cases: list[Labelled]) -> None:
    truth = torch.stack([about_pelvis(case.truth.joints_cam_m) for case in cases])
    groups = torch.stack([_group(policy, body, case) for case in cases])
    errors_mm = _distance_mm(groups, truth[:, None])
    print(f"policy {policy.digest()}: hypothesis 0 {errors_mm[:, 0].mean():.1f} mm, {len(cases)} images\n")
    reported = [load_detector(policy.detector.name, "cpu").detect(case.sample).observed for case in cases]
    print("| reader | detector | error | SRCC | pick | cosine | pixels |\n|---|---|---:|---:|---:|---:|---:|")
    samples = [case.sample for case in cases]
    for name, reader in (("its own", policy), ("shipped", load_reader("cpu"))):
        for detector in dict.fromkeys((policy.detector.name, "embedded")):
            found = WithJoints3D(load_detector(detector, "cpu"), reader, body).detect_batch(samples)
            read = torch.stack(
                [detection.joints_root_m for detection in found if detection.joints_root_m is not None]
            )
            cells = [
                *_cells(read, truth, groups, errors_mm),
                f"{_pixels_percent(found, cases, reported):.1f}",
            ]
            print(f"| {name} | `{detector}` | {' | '.join(cells)} |", flush=True)


def _group(policy: DiffusionPolicy, body: Body, case: Labelled) -> Joints:
    features = policy.encode([case.sample])
    group = policy.sample(features, GROUP, noise_generator(0, case.sample))[0]
    return about_pelvis(body.joints(group.params))


def _cells(
    read: Joints, truth: Joints, groups: Joints, errors_mm: Float[Tensor, "images group"]
) -> list[str]:
    distance_mm = _distance_mm(groups, read[:, None])
    pairs = zip((-distance_mm).tolist(), errors_mm.tolist(), strict=True)
    ranks = [rho for scores, errors in pairs if (rho := group_spearman(scores, errors)) is not None]
    pick_mm = errors_mm.gather(1, distance_mm.argmin(dim=1, keepdim=True))
    policys, readings = groups.mean(dim=1) - truth, read - truth
    cosine = torch.nn.functional.cosine_similarity(policys.flatten(1), readings.flatten(1))
    figures = (_distance_mm(read, truth).mean(), pick_mm.mean(), cosine.mean())
    error, pick, same = (float(figure) for figure in figures)
    return [f"{error:.1f}", f"{np.mean(ranks):.3f}", f"{pick:.1f}", f"{same:.2f}"]


def _pixels_percent(
    found: Sequence[Detection], cases: Sequence[Labelled], reported: Sequence[Bool[Tensor, "41"]]
) -> float:
    means = []
    for detection, case, known in zip(found, cases, reported, strict=True):
        distance_px = (detection.keypoints_px - case.truth.keypoints_px).norm(dim=-1)
        chosen = known[:NUM_JOINTS] & case.truth.visible
        means.append(robust_percent(distance_px * (100 / case.sample.box.side))[chosen].mean().item())
    return float(np.nanmean(means))  # an image without such a joint is left out


def _distance_mm(one: Joints, other: Joints) -> Float[Tensor, "*batch"]:
    return MM_PER_M * (one - other).norm(dim=-1).mean(dim=-1)


if __name__ == "__main__":
    main()
