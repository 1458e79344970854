"""What an alignment's gain in MPJPE consists of: the size of the body, where it faces, and its pose.

    python -m benchmarks.alignment.decomposition --policy DIR [--policy DIR ...] [--base studio] [--images 200]

Of hypothesis 0, each policy's difference from the base with its 95 % interval over images:

| column   | value                                                                                              |
|----------|----------------------------------------------------------------------------------------------------|
| MPJPE    | mm, pelvis-aligned                                                                                 |
| centred  | mm, with the joints' means in one place                                                            |
| scaled   | mm, centred and scaled onto the truth: without errors of size                                      |
| turned   | mm, centred and turned onto the truth: without errors of orientation                               |
| PA-MPJPE | mm, scaled and turned                                                                              |
| size     | %, absolute logarithm of the scale of the last column                                              |
| root     | degrees between the predicted and the true `global_orient`                                         |
| pose     | degrees between the predicted and the true rotations of `body_pose`, mean over joints              |

The truth is read for these figures alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from eval.benchmark.intervals import Interval, difference_interval
from hmr.body.model import Body, load_body
from hmr.policy.checkpoint import BASES, load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split, gap_of
from hmr.synthetic.store import read_labelled
from hmr.types import BodyParams, Labelled

Joints = Float[Tensor, "images 24 3"]
Parts = dict[str, Float[Tensor, " images"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--policy", type=Path, action="append", required=True, help="an aligned policy, repeatable"
    )
    parser.add_argument("--base", default="studio", choices=list(BASES))
    parser.add_argument("--images", type=int, default=200, help="of its test split")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = read_labelled(draw_split(gap_of(options.base).test, folder, options.images))
    body = load_body()
    base = measure(load_policy(BASES[options.base]), body, cases)
    print("| policy | " + " | ".join(base) + " |\n|---|" + "---:|" * len(base))
    print(_line("base", [f"{float(values.mean()):.1f}" for values in base.values()]))
    for folder in options.policy:
        parts = measure(load_policy(folder), body, cases)
        less = [difference_interval((parts[name] - base[name]).numpy()[None]) for name in base]
        print(
            _line(
                folder.name, [_cell(parts[name], interval) for name, interval in zip(base, less, strict=True)]
            )
        )


@torch.no_grad()
def measure(policy: DiffusionPolicy, body: Body, cases: Sequence[Labelled]) -> Parts:
    features = policy.encode([case.sample for case in cases])
    groups = policy.sample(features, 1, torch.Generator().manual_seed(0))
    params = BodyParams.stack([group.params[0] for group in groups])
    truth = BodyParams.stack([case.truth.params for case in cases])
    return {
        **decompose(body.joints(params), body.joints(truth)),
        "root": _angles_deg(params.global_orient, truth.global_orient),
        "pose": _angles_deg(params.body_pose, truth.body_pose).mean(dim=-1),
    }


def decompose(joints_m: Joints, true_m: Joints) -> Parts:
    """The columns in millimetres, and the size in per cent."""
    centred, true_centred = (joints - joints.mean(dim=1, keepdim=True) for joints in (joints_m, true_m))
    turns = [roma.rigid_points_registration(*pair)[0] for pair in zip(centred, true_centred, strict=True)]
    turned = centred @ torch.stack(turns).mT
    size = _scale(turned, true_centred)
    return {
        "MPJPE": _error_mm(joints_m - joints_m[:, :1], true_m - true_m[:, :1]),
        "centred": _error_mm(centred, true_centred),
        "scaled": _error_mm(_scale(centred, true_centred) * centred, true_centred),
        "turned": _error_mm(turned, true_centred),
        "PA-MPJPE": _error_mm(size * turned, true_centred),
        "size": 100 * size.flatten().log().abs(),
    }


def _scale(joints_m: Joints, true_m: Joints) -> Float[Tensor, "images 1 1"]:
    """The factor of least squared distance."""
    return ((joints_m * true_m).sum(dim=(1, 2)) / joints_m.square().sum(dim=(1, 2)))[:, None, None]


def _error_mm(joints_m: Joints, true_m: Joints) -> Float[Tensor, " images"]:
    return 1000 * (joints_m - true_m).norm(dim=-1).mean(dim=-1)


def _angles_deg(
    rotvec: Float[Tensor, "*batch 3"], true: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch"]:
    return roma.rotvec_geodesic_distance(rotvec, true).rad2deg()


def _cell(values: Float[Tensor, " images"], less: Interval | None) -> str:
    interval = "" if less is None else f", {less.mean:+.1f} ({less.low:.1f} to {less.high:.1f})"
    return f"{float(values.mean()):.1f}{interval}"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
