"""Agreement of the capsules of `agent.tools.self_contact` with an exact test of the skin, by libigl.

    pip install -e ".[bench]"
    python -m benchmarks.critic.self_contact [--poses 160] [--noise-rad 0.15] [--every 10] [--seed 7]

Reference: a skin point of one part is inside another part if the generalised winding number of the faces of that part
(Jacobson et al., SIGGRAPH 2013; it accepts open surfaces, which parts are) exceeds 0.5, and its depth is the distance
to the nearest of those faces. The penetration of a pair of parts is that of its deepest point, that of a body the sum
over the pairs that the tool tests. Neither soft tissue nor an allowed overlap is subtracted. Poses come from the
built-in sampler, every second one with noise at each joint; the body has mean shape.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import igl
import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import mannwhitneyu, spearmanr

from agent.tools.self_contact import FAULT_MM, penetration_mm, tested_pairs
from eval.benchmark.intervals import Interval
from hmr.body.model import Body, load_body
from hmr.synthetic.poses import sample_poses
from hmr.types import NUM_BETAS, NUM_JOINTS, BodyParams

INSIDE = 0.5  # winding number
BATCH = 16  # bodies at a time


@dataclass(frozen=True)
class Skin:
    """Faces and tested skin points of every part."""

    faces: list[np.ndarray]
    points: list[np.ndarray]  # vertex indices

    @classmethod
    def of(cls, body: Body, every: int) -> Skin:
        part_of = body.skin_weights.argmax(dim=1).numpy()
        faces = body.faces.numpy().astype(np.int64)
        owner = np.median(part_of[faces], axis=1)  # a face belongs to the part of most of its corners
        tested = np.arange(0, len(part_of), every)
        parts = range(NUM_JOINTS)
        return cls(
            [faces[owner == part] for part in parts], [tested[part_of[tested] == part] for part in parts]
        )


def exact_depth_mm(
    vertices_m: Float[np.ndarray, "vertices 3"], skin: Skin, pairs: Int[np.ndarray, "pairs 2"]
) -> float:
    """Depth of the deepest point of each pair of parts, summed over the pairs."""
    deepest = [
        max(_depth_m(vertices_m, skin, a, b), _depth_m(vertices_m, skin, b, a)) for a, b in pairs.tolist()
    ]
    return 1000 * sum(deepest)


def _depth_m(vertices_m: np.ndarray, skin: Skin, of: int, within: int) -> float:
    points, faces = vertices_m[skin.points[of]], skin.faces[within]
    corners = vertices_m[np.unique(faces)]
    near = ((points >= corners.min(axis=0)) & (points <= corners.max(axis=0))).all(axis=1)
    points = points[near]
    if len(points):
        points = points[igl.winding_number(vertices_m, faces, points) > INSIDE]
    if not len(points):
        return 0.0
    return float(igl.point_mesh_squared_distance(points, vertices_m, faces)[0].max() ** 0.5)


def posed(body: Body, params: BodyParams) -> Float[torch.Tensor, "count vertices 3"]:
    rows = torch.arange(len(params.body_pose)).split(BATCH)
    return torch.cat(
        [body(BodyParams(*(column[row] for column in vars(params).values()))).vertices_cam_m for row in rows]
    )


def poses(count: int, noise_rad: float, seed: int) -> BodyParams:
    generator = torch.Generator().manual_seed(seed)
    drawn = sample_poses(count, generator)
    noise = noise_rad * torch.randn(drawn.body_pose.shape, generator=generator)
    noise[::2] = 0
    zeros = torch.zeros(count, 3)
    return BodyParams(zeros, drawn.body_pose + noise, torch.zeros(count, NUM_BETAS), zeros)


def interval(exact: np.ndarray, proxy: np.ndarray, draws: int = 1000) -> Interval:
    """Spearman's rho with a 95 % bootstrap interval over the poses."""
    generator = np.random.default_rng(0)
    rows = generator.integers(0, len(exact), (draws, len(exact)))
    low, high = np.quantile([spearmanr(exact[row], proxy[row]).statistic for row in rows], (0.025, 0.975))
    return Interval(float(spearmanr(exact, proxy).statistic), float(low), float(high))


@dataclass(frozen=True)
class SelfContactAgreement:
    """The capsules against the exact test. auc: of telling penetrations deeper than `FAULT_MM`, a share `deep`."""

    rho: Interval
    deep: float
    auc: float
    proxy_ms: float  # CPU time per body
    exact_ms: float


def compare(body: Body, skin: Skin, options: argparse.Namespace) -> SelfContactAgreement:
    """Both tests on the same bodies."""
    pairs = tested_pairs(body)[0].numpy()
    vertices = posed(body, poses(options.poses, options.noise_rad, options.seed))
    penetration_mm(body, vertices[:1])  # what is computed once per body
    begun = time.process_time()
    proxy = torch.cat([penetration_mm(body, part).sum(dim=1) for part in vertices.split(BATCH)]).numpy()
    proxy_ms = 1000 * (time.process_time() - begun) / options.poses
    begun = time.process_time()
    exact = np.array([exact_depth_mm(one, skin, pairs) for one in vertices.double().numpy()])
    exact_ms = 1000 * (time.process_time() - begun) / options.poses
    deep = exact > FAULT_MM
    auc = mannwhitneyu(proxy[deep], proxy[~deep]).statistic / (deep.sum() * (~deep).sum())
    return SelfContactAgreement(interval(exact, proxy), float(deep.mean()), float(auc), proxy_ms, exact_ms)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--poses", type=int, default=160)
    parser.add_argument("--noise-rad", type=float, default=0.15)
    parser.add_argument("--every", type=int, default=10, help="test every n-th skin point")
    parser.add_argument("--seed", type=int, default=7)
    return parser


def main() -> None:
    options = parser().parse_args()
    body = load_body()
    skin = Skin.of(body, options.every)
    found = compare(body, skin, options)
    pairs = len(tested_pairs(body)[0])
    print(f"{options.poses} poses, {sum(map(len, skin.points))} skin points, {pairs} pairs of parts")
    print(f"Spearman's rho {found.rho.mean:.2f} [{found.rho.low:.2f}, {found.rho.high:.2f}]")
    print(f"{found.deep:.0%} deeper than {FAULT_MM:.0f} mm; detected with an AUC of {found.auc:.2f}")
    print(f"per body: {found.proxy_ms:.2f} ms by capsules, {found.exact_ms:.0f} ms by libigl (CPU time)")


if __name__ == "__main__":
    main()
