"""The published protocols: the joints that each compares, the root they are relative to, and the two errors.

| protocol       | joints                                | relative to             | source                           |
|----------------|---------------------------------------|-------------------------|----------------------------------|
| `H36M_14`      | 14 of the regressor's 17, LSP's order | regressor joint 0       | SPIN `eval.py`, `constants.py`   |
| `SPIN_H36M_14` | 0 to 12 and 18 of SPIN's 24           | joint 14, MPII's pelvis | SPIN `constants.py` (J24_TO_J14) |
| `HMR2_14`      | 25 to 37 and 43 of HMR2's 44          | joint 39, MPII's pelvis | 4D-Humans `datasets_eval.yaml`   |
| `PW3D_24`      | SMPL's 24                             | joint 0                 | 3dpw-eval `evaluate.py`          |
| `EMDB_24`      | SMPL's 24                             | midpoint of the hips    | emdb `evaluation_metrics.py`     |

All but the last two compare joints that a regressor computes from the predicted vertices, as the authors do
(`PREDICTED_BY`): `J_regressor_h36m.npy` (17 x 6890, with SPIN's data) for `H36M_14` and `SPIN_H36M_14`, whose truth
comes from markers or a posed body; `SMPL_to_J19.pkl` (19 x 6890, with HMR2's data; 4D-Humans `models/smpl_wrapper.py`)
for `HMR2_14`, of whose 44 joints it gives the last 19. Neither file is shipped, and both require SMPL's vertices, which
the default body does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from common.reading.array_files import read_npy, restricted_array
from common.storage.files import PathLike
from hmr.datasets.joints import H36M17, H36M_EVAL_14, HMR2_44, J19, SMPL24, SPIN24, Convention
from hmr.metrics.errors import align_by_similarity, mean_distance_mm

__all__ = [
    "EMDB_24",
    "H36M_14",
    "HMR2_14",
    "J19_14",
    "PREDICTED_BY",
    "PW3D_24",
    "REGRESSOR_FILES",
    "SPIN_H36M_14",
    "JointProtocol",
    "load_regressor",
    "regress",
]


@dataclass(frozen=True)
class JointProtocol:
    """The compared joints of a convention, and the joints whose mean is the origin."""

    name: str
    convention: Convention
    joints: tuple[int, ...]
    root: tuple[int, ...]

    def mpjpe_mm(
        self,
        pred_m: Float[Tensor, "*#batch predicted 3"],
        true_m: Float[Tensor, "*#batch joints 3"],
        predicted_by: JointProtocol | None = None,
    ) -> Float[Tensor, "*#batch"]:
        """Mean distance of the joints of the protocol, each skeleton relative to its own root.

        Inputs are all joints of the convention. `predicted_by`: the protocol of the predicted joints, in the same
        order, if it is another one (`PREDICTED_BY`).
        """
        return mean_distance_mm((predicted_by or self)._about_root(pred_m), self._about_root(true_m))

    def pa_mpjpe_mm(
        self,
        pred_m: Float[Tensor, "*#batch predicted 3"],
        true_m: Float[Tensor, "*#batch joints 3"],
        predicted_by: JointProtocol | None = None,
    ) -> Float[Tensor, "*#batch"]:
        """The same after aligning the joints of the protocol by a similarity (Umeyama, TPAMI 1991)."""
        pred, true = torch.broadcast_tensors(
            (predicted_by or self)._about_root(pred_m), self._about_root(true_m)
        )
        return mean_distance_mm(align_by_similarity(pred, true), true)

    def _about_root(self, joints_m: Float[Tensor, "*batch joints 3"]) -> Float[Tensor, "*batch selected 3"]:
        if joints_m.shape[-2] != len(self.convention):
            raise ValueError(
                f"{self.name} selects from the {len(self.convention)} joints of {self.convention.name}, "
                f"not from {joints_m.shape[-2]}"
            )
        root = joints_m[..., list(self.root), :].mean(dim=-2, keepdim=True)
        return joints_m[..., list(self.joints), :] - root


_FOURTEEN_OF_24 = (*range(13), 18)
H36M_14 = JointProtocol("h36m-14", H36M17, H36M_EVAL_14, (0,))
SPIN_H36M_14 = JointProtocol("spin-h36m-14", SPIN24, _FOURTEEN_OF_24, (14,))
HMR2_14 = JointProtocol("hmr2-14", HMR2_44, tuple(25 + joint for joint in _FOURTEEN_OF_24), (39,))
PW3D_24 = JointProtocol("3dpw-24", SMPL24, tuple(range(24)), (0,))
EMDB_24 = JointProtocol("emdb-24", SMPL24, tuple(range(24)), (1, 2))

J19_14 = JointProtocol("j19-14", J19, _FOURTEEN_OF_24, (14,))
PREDICTED_BY = {H36M_14: H36M_14, SPIN_H36M_14: H36M_14, HMR2_14: J19_14}
REGRESSOR_FILES = {H36M17: "J_regressor_h36m.npy", J19: "SMPL_to_J19.pkl"}


def load_regressor(path: PathLike) -> Float[Tensor, "joints vertices"]:
    """One of `REGRESSOR_FILES`, which differ in the number of rows (17 or 19).

    Raises FileNotFoundError if there is no file, and ValueError if it is not a regressor.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no joint regressor at {path}")
    regressor = restricted_array(path) if path.suffix.lower() == ".pkl" else _read_npy(path)
    known = {len(joints): name for joints, name in REGRESSOR_FILES.items()}
    if regressor.ndim != 2 or len(regressor) not in known:
        allowed = " or ".join(f"({joints}, vertices) of {name}" for joints, name in known.items())
        raise ValueError(f"{path} has shape {regressor.shape}, not {allowed}")
    if regressor.dtype.kind not in "fiu" or not np.isfinite(regressor).all():
        raise ValueError(f"{path} holds {regressor.dtype} values that are not all finite numbers")
    return torch.from_numpy(regressor.astype(np.float32))


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        return read_npy(path)
    except ValueError as error:
        raise ValueError(f"{error}; a joint regressor is {' or '.join(REGRESSOR_FILES.values())}") from error


def regress(
    regressor: Float[Tensor, "joints vertices"], vertices_cam_m: Float[Tensor, "*batch vertices 3"]
) -> Float[Tensor, "*batch joints 3"]:
    """Joints as weighted sums of vertices."""
    return torch.einsum("jv,...vi->...ji", regressor, vertices_cam_m)
