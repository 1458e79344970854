"""Recorded motion in AMASS's layout (Mahmood et al., ICCV 2019; npz files of SMPL-H or SMPL-X parameters).

The frame rate is called `mocap_framerate` in SMPL-H files (as the notebooks of nghorbani/amass list them) and
`mocap_frame_rate` in SMPL-X's `*_stageii.npz`. The world of both is z-up and is rotated to the project's y-up world, by
-90 degrees about x: (x, y, z) -> (x, z, -y). The body's axes do not change (SMPL's: left +x, up +y, forward +z), and
`global_orient_world` maps them to the y-up world. Left out: hands, face and jaw (only the first 66 columns of `poses`
are read), gender (the default body has none) and `dmpls`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from common.reading.array_files import open_npz
from common.reading.validate import require
from common.storage.files import PathLike
from hmr.synthetic.poses import PoseBatch, remove_heading

__all__ = ["Motion", "load_amass"]

_RATE_KEYS = ("mocap_framerate", "mocap_frame_rate")  # SMPL-H files, SMPL-X files
_SUBJECT_FILES = ("shape.npz", "*_stagei.npz")  # of SMPL-H, of SMPL-X: female, male or neutral
_BODY_COLUMNS = 66  # root and 21 body joints
_YUP_FROM_ZUP = torch.tensor([-math.pi / 2, 0.0, 0.0])


@dataclass(frozen=True)
class Motion:
    """Frames of recorded motion, in a y-up world, hands at rest.

    `trans_m` is SMPL's translation, rotated with the world. SMPL rotates a body about its pelvis, not about the origin,
    so the motion differs from an exact change of frame by a constant shift, the same in all frames.
    """

    body_pose: Float[Tensor, "frames 23 3"]  # axis-angle
    global_orient_world: Float[Tensor, "frames 3"]  # axis-angle
    trans_m: Float[Tensor, "frames 3"]
    betas: Float[Tensor, "frames 10"]  # of the body model the file was fitted with

    def __len__(self) -> int:
        return self.body_pose.shape[0]

    def poses(self) -> PoseBatch:
        """The frames as independent poses that face +z, without position and shape."""
        recorded = torch.full((len(self),), -1)
        return PoseBatch(self.body_pose, remove_heading(self.global_orient_world), recorded)

    @staticmethod
    def cat(motions: Sequence[Motion]) -> Motion:
        columns = ([getattr(motion, name) for motion in motions] for name in Motion.__dataclass_fields__)
        return Motion(*map(torch.cat, columns))


def load_amass(folder_or_file: PathLike, fps: float | int | None = None) -> Motion:
    """One npz file, or all files under a folder in order of name, subsampled to about `fps` frames per second.

    `shape.npz` and `*_stagei.npz` of a folder (AMASS's subject files, without motion) are skipped. Raises
    FileNotFoundError if there is no such file or no npz file in the folder, and ValueError, with the expected and the
    found content, for a file of another layout or with values that are not finite.
    """
    path = Path(folder_or_file)
    if path.is_file():
        return _load_file(path, fps)
    files = [file for file in sorted(path.rglob("*.npz")) if not any(map(file.match, _SUBJECT_FILES))]
    if not files:
        raise FileNotFoundError(f"no AMASS npz file at {path}")
    return Motion.cat([_load_file(file, fps) for file in files])


def _load_file(path: Path, fps: float | int | None) -> Motion:
    arrays = _read_arrays(path)
    step = 1 if fps is None else max(1, round(_frame_rate(path, arrays) / fps))
    poses = torch.from_numpy(arrays["poses"][::step, :_BODY_COLUMNS].astype(np.float32)).unflatten(1, (22, 3))
    trans = torch.from_numpy(arrays["trans"][::step].astype(np.float32))
    betas = torch.from_numpy(arrays["betas"][:10].astype(np.float32))
    turn = _YUP_FROM_ZUP.expand(len(poses), 3)
    return Motion(
        body_pose=torch.cat([poses[:, 1:], torch.zeros(len(poses), 2, 3)], dim=1),
        global_orient_world=roma.rotvec_composition([turn, poses[:, 0]]),
        trans_m=torch.stack([trans[:, 0], trans[:, 2], -trans[:, 1]], dim=-1),
        betas=betas.expand(len(poses), 10),
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The required arrays, validated. Object arrays (`gender` of some files) are pickles and are not opened."""
    with open_npz(path) as archive:
        wanted = ("poses", "trans", "betas")
        require(archive.names, wanted, str(path))
        arrays = {key: archive.read(key) for key in (*wanted, *_RATE_KEYS) if key in archive.names}
    frames = len(np.atleast_1d(arrays["poses"]))
    expected = {
        "poses": f"({frames}, {_BODY_COLUMNS} or more)",
        "trans": f"({frames}, 3)",
        "betas": "(10 or more,)",
    }
    fits = {
        "poses": arrays["poses"].ndim == 2 and frames > 0 and arrays["poses"].shape[1] >= _BODY_COLUMNS,
        "trans": arrays["trans"].shape == (frames, 3),
        "betas": arrays["betas"].ndim == 1 and len(arrays["betas"]) >= 10,
    }
    for key in wanted:
        if not fits[key]:
            raise ValueError(f"{path}: {key} has shape {arrays[key].shape}, not {expected[key]}")
        if not np.isfinite(arrays[key]).all():
            raise ValueError(f"{path}: {key} has values that are not finite")
    return arrays


def _frame_rate(path: Path, arrays: dict[str, np.ndarray]) -> float:
    for key in _RATE_KEYS:
        if key in arrays:
            return float(arrays[key])
    raise ValueError(f"{path} lacks {' and '.join(_RATE_KEYS)}, so it cannot be subsampled to a frame rate")
