"""Coverage of recorded motion by the built-in poses: PA-MPJPE of each frame to its nearest sampled pose.

    python -m benchmarks.policy.pose_coverage --motion FOLDER [--count 100000] [--preset wild] [--every 1]

Both are posed on the default body with mean shape, 24 joints. FAISS returns the candidates whose torso-aligned joints
have the smallest squared distance, and exact Procrustes alignment chooses among them, so the errors are upper bounds;
a larger `--candidates` shows how tight they are.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import faiss
import numpy as np
import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hmr.body.model import load_body
from hmr.metrics.errors import pa_mpjpe_mm
from hmr.synthetic.activities import ACTIVITIES
from hmr.synthetic.amass import load_amass
from hmr.synthetic.poses import sample_poses
from hmr.types import BodyParams

TORSO = [0, 1, 2, 3, 6, 9, 12, 13, 14, 16, 17]


def posed_joints(body_pose: Float[Tensor, "count 23 3"]) -> Float[Tensor, "count 24 3"]:
    body, zeros = load_body(), torch.zeros(len(body_pose), 3)
    parts = [
        body.joints(BodyParams(zeros[rows], body_pose[rows], torch.zeros(len(rows), 10), zeros[rows]))
        for rows in torch.arange(len(body_pose)).split(10_000)
    ]
    return torch.cat(parts)


def torso_aligned(joints: Float[Tensor, "count 24 3"]) -> Float[Tensor, "count 72"]:
    """Joints rotated to align their torso with that of the first pose, centred on their mean."""
    reference = joints[:1, TORSO].expand(len(joints), -1, -1)
    rotation = roma.rigid_points_registration(joints[:, TORSO], reference)[0]
    assert isinstance(rotation, Tensor)  # it is a tuple only with weights or scaling
    aligned = joints @ rotation.mT
    return (aligned - aligned.mean(1, keepdim=True)).flatten(1)


def nearest(
    queries: Float[Tensor, "frames 24 3"], bank: Float[Tensor, "count 24 3"], candidates: int
) -> tuple[Float[Tensor, "frames"], Int[Tensor, "frames"]]:
    """PA-MPJPE (mm) to the nearest pose of the bank, and the index of that pose."""
    index = faiss.IndexFlatL2(72)
    keys = torso_aligned(torch.cat([bank, queries])).numpy()
    index.add(keys[: len(bank)])
    _, found = index.search(keys[len(bank) :], candidates)
    errors, choices = [], []
    for rows, ids in zip(queries.split(500), torch.from_numpy(found).split(500), strict=True):
        best = pa_mpjpe_mm(bank[ids], rows[:, None]).min(dim=1)
        errors.append(best.values)
        choices.append(ids.gather(1, best.indices[:, None])[:, 0])
    return torch.cat(errors), torch.cat(choices)


def line(name: str, errors: Float[Tensor, "frames"], used: Int[Tensor, "frames"]) -> str:
    names = list(ACTIVITIES)
    top = ", ".join(
        f"{names[i]} {100 * n / len(used):.0f}%" for i, n in Counter(used.tolist()).most_common(4)
    )
    return f"{name:<8}{len(errors):>7}{errors.median():>9.1f}{errors.quantile(0.9):>9.1f}   {top}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion", type=Path, required=True, help="folder of AMASS npz files")
    parser.add_argument("--count", type=int, default=100_000, help="sampled poses")
    parser.add_argument("--preset", choices=("lab", "wild"), default="wild")
    parser.add_argument("--every", type=int, default=1, help="use every n-th frame")
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    sampled = sample_poses(args.count, torch.Generator().manual_seed(args.seed), args.preset)
    files = sorted(args.motion.rglob("*.npz"))
    motions = [load_amass(file).body_pose[:: args.every] for file in files]
    clips = np.repeat([file.stem for file in files], [len(motion) for motion in motions])
    errors, choice = nearest(
        posed_joints(torch.cat(motions)), posed_joints(sampled.body_pose), args.candidates
    )
    used = sampled.activity[choice]

    print(
        f"{args.count} {args.preset} poses; PA-MPJPE to the nearest, mm\n"
        "clips    frames   median      p90   activities of the nearest"
    )
    print(line("all", errors, used))
    for subject in sorted({clip.split("_")[0] for clip in clips}):
        rows = torch.from_numpy(np.char.startswith(clips, subject + "_"))
        print(line(subject, errors[rows], used[rows]))
    for clip in sorted(set(clips)):
        rows = torch.from_numpy(clips == clip)
        print(line(clip, errors[rows], used[rows]))


if __name__ == "__main__":
    main()
