"""Joint conventions: the names and order of joints in each data set, and the mappings between them.

| here         | joints | order from                                                                     |
|--------------|--------|--------------------------------------------------------------------------------|
| `SMPL24`     | 24     | SMPL's kinematic tree (hmr/types.py)                                           |
| `H36M17`     | 17     | the Human3.6M regressor (HybrIK `h36m_smpl.py`, `joints_name_17`)              |
| `LSP14`      | 14     | Leeds Sports Pose; `H36M_EVAL_14` selects them from `H36M17`                     |
| `COCO17`     | 17     | COCO keypoints (cocodataset.org, "Keypoint Detection")                         |
| `PW3D18`     | 18     | OpenPose's COCO model, `poses2d` of 3DPW                                       |
| `SPIN24`     | 24     | SPIN `constants.py`, ground-truth joints: LSP, MPII, Human3.6M, then the face  |
| `HMR2_44`    | 44     | ProHMR and HMR2: 25 of OpenPose's BODY_25, then the first 19 of `SPIN24`       |
| `J19`        | 19     | those 19 alone, regressed from vertices by HMR2's `SMPL_to_J19.pkl`             |

A name denotes the same landmark only within one convention: Human3.6M's hips are not SMPL's. Comments state where a
table maps one to the other. Left out: face and hands of HumanData's 190 joints (mmhuman3d `human_data.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from hmr.body.keypoint_orders import BODY_25, COCO_17, OPENPOSE_18
from hmr.types import JOINT_NAMES

__all__ = [
    "COCO17",
    "COCO_LIMBS",
    "CONVENTIONS",
    "H36M17",
    "H36M_EVAL_14",
    "HMR2_44",
    "HUMAN_DATA",
    "J19",
    "LSP14",
    "PW3D18",
    "SMPL24",
    "SMPL_FOR_COCO_LIMBS",
    "SPIN24",
    "Convention",
]


@dataclass(frozen=True)
class Convention:
    """Ordered joint names. `root`: the joints whose mean is the origin, if the convention has one."""

    name: str
    joints: tuple[str, ...]
    root: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.joints)


LSP14 = Convention(
    "lsp14",
    (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist",
        "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
    ),
)  # fmt: skip
SMPL24 = Convention("smpl24", JOINT_NAMES, root=(0,))
H36M17 = Convention(
    "h36m17",
    (
        "pelvis", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle", "torso", "neck",
        "nose", "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow",
        "right_wrist",
    ),
    root=(0,),
)  # fmt: skip
COCO17 = Convention("coco17", COCO_17)
PW3D18 = Convention("pw3d18", OPENPOSE_18)
_EXTRA_19 = (
    *LSP14.joints, "pelvis_mpii", "thorax_mpii", "spine_h36m", "jaw_h36m", "head_h36m",
)  # fmt: skip
SPIN24 = Convention(
    "spin24", (*_EXTRA_19, "nose", "left_eye", "right_eye", "left_ear", "right_ear"), root=(14,)
)
J19 = Convention("j19", _EXTRA_19, root=(14,))
HMR2_44 = Convention("hmr2_44", (*(f"openpose_{name}" for name in BODY_25), *_EXTRA_19), root=(39,))

CONVENTIONS = {c.name: c for c in (SMPL24, H36M17, LSP14, COCO17, PW3D18, SPIN24, HMR2_44)}

H36M_EVAL_14 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)  # of H36M17, in the order of LSP14

# SMPL's joints for COCO's keypoints from shoulders to ankles, in COCO's order. SMPL's hips are deeper in the body than
# COCO's annotated ones; nose, eyes and ears are points of the body's surface (hmr/body/surface_points.py).
COCO_LIMBS = tuple(range(5, 17))
SMPL_FOR_COCO_LIMBS = (16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8)

# For each joint of a convention, indices among HumanData's 190; the first one in the mask of the file is used. The
# second index is OpenPose's joint, which mmhuman3d also treats as the same landmark ("approximate").
HUMAN_DATA: dict[str, tuple[tuple[int, ...], ...]] = {
    "smpl24": tuple((index,) for index in (*range(22), 188, 189)),
    "h36m17": (
        (148,), (145,), (4,), (7,), (144,), (5,), (8,), (150,), (146,), (152,), (147,), (16,), (18,), (20,), (17,),
        (19,), (21,),
    ),
    "coco17": (
        (55, 153), (57, 169), (56, 168), (59, 171), (58, 170), (16, 158), (17, 155), (18, 159), (19, 156), (20, 160),
        (21, 157), (145, 165), (144, 162), (4, 166), (5, 163), (7, 167), (8, 164),
    ),
}  # fmt: skip
