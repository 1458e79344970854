"""Crops of rendered people on disk: the encoder's input and the truth of each, as memory-mapped arrays.

    FOLDER/crops.npy     uint8 (N, S, S, 3)      FOLDER/targets.npz    everything else, see `CropTargets`

One scene gives one crop. The name of the folder contains a hash of everything that determines its content, and
`make_crops` writes it only once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.utils.data import Dataset

from common.storage.files import PathLike, atomic_path
from common.storage.fingerprint import json_digest
from hmr.body.model import Body, body_fingerprint
from hmr.images.crops import crop_image
from hmr.policy.parametrization import geometry_of, vector_from_params
from hmr.synthetic.recipe import SceneRecipe
from hmr.synthetic.scenes import CHUNK
from hmr.synthetic.store import folder_fingerprint
from hmr.synthetic.workers import in_order, scene_maker
from hmr.types import OTHER_SIDE, BodyParams, Box, Labelled

__all__ = ["CropCache", "CropDataset", "CropTargets", "Progress", "counting", "make_crops"]


ENCODER_TARGETS = ("keypoints", "depth_m", "visible", "mask")


@dataclass(frozen=True)
class CropTargets:
    """Ground truth of one scene; positions in crop units (-1 to 1 from border to border)."""

    keypoints: Float[Tensor, "24 2"]
    depth_m: Float[Tensor, "24"]  # behind the pelvis
    pose_m: Float[Tensor, "24 3"]  # joints of the upright mean body in this pose, pelvis at the origin
    visible: Bool[Tensor, "24"]
    vector: Float[Tensor, "157"]  # the body, as the policy predicts it (`hmr.policy.parametrization`)
    geometry: Float[Tensor, "8"]  # of the crop under the camera that the policy is given
    mask: UInt8[np.ndarray, "mask mask"]  # 255: visible person; 128: outside the image, unknown


def targets_of(labelled: Labelled, body: Body, crop_box: Box, mask_size: int) -> CropTargets:
    truth, camera = labelled.truth, labelled.sample.camera
    mask = np.repeat(truth.mask[..., None].astype(np.uint8) * 255, 3, axis=-1)
    upright = BodyParams(
        torch.zeros(3), truth.params.body_pose, torch.zeros_like(truth.params.betas), torch.zeros(3)
    )
    pose_m = body.joints(upright)
    return CropTargets(
        (truth.keypoints_px - torch.tensor(crop_box.center)) * 2 / crop_box.side,
        truth.joints_cam_m[:, 2] - truth.joints_cam_m[0, 2],
        pose_m - pose_m[:1],
        truth.visible,
        vector_from_params(truth.params, truth.joints_cam_m[0], geometry_of([truth.camera], [crop_box])[0]),
        geometry_of([camera], [crop_box])[0],
        crop_image(mask, crop_box, mask_size)[..., 0],
    )


@dataclass(frozen=True)
class CropCache:
    """Everything that determines the content of a cache folder."""

    recipe: SceneRecipe
    seed: int
    count: int
    crop_size: int
    crop_scale: float
    motion: Path | None = None  # a folder of AMASS npz files in place of the built-in poses
    backdrops: Path | None = None  # a folder of photographs without people in place of painted walls
    body: Path | None = None  # file of the body model that people are drawn with; None: the embedded one

    @property
    def mask_size(self) -> int:
        return self.crop_size // 4

    def digest(self) -> str:
        """Folders and body models are identified by their files. Raises FileNotFoundError for a missing one."""
        fields = {
            **dataclasses.asdict(self),
            "recipe": self.recipe.to_json(),
            "targets": [field.name for field in dataclasses.fields(CropTargets)],
        }
        for name in ("motion", "backdrops"):
            if (folder := fields.pop(name)) is not None:
                fields[name] = folder_fingerprint(folder)
        fields |= body_fingerprint(fields.pop("body"))
        return json_digest(fields, length=12)


Progress = Callable[[str, int, int], None]  # a title, the number of scenes done and their total


def counting(progress: Progress | None, title: str, total: int) -> Callable[[int], None] | None:
    """Reports the number of scenes done under a title."""
    return (lambda done: progress(title, done, total)) if progress else None


def make_crops(
    cache: CropCache,
    root: PathLike,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """The folder of this cache under `root`, written if it is not complete. Only one process may call it at a time.

    progress: receives the number of crops written. Raises FileNotFoundError if `motion`, `backdrops` or `body` is
    missing, and ValueError if it holds no files.
    """
    folder = Path(root) / f"person-crops-{cache.recipe.name}-{cache.digest()}"
    if (folder / "targets.npz").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    side = cache.crop_size
    crops = open_memmap(folder / "crops.npy", mode="w+", dtype=np.uint8, shape=(cache.count, side, side, 3))
    chunks: list[dict[str, np.ndarray]] = []
    done = 0
    for images, targets in in_order(functools.partial(_crop_chunk, cache), -(-cache.count // CHUNK), workers):
        crops[done : done + len(images)] = images
        chunks.append(targets)
        done += len(images)
        if progress is not None:
            progress(done)
    crops.flush()
    columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    # last, because its presence means that the folder is complete
    with atomic_path(folder / "targets.npz") as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **columns)
    return folder


def _crop_chunk(
    cache: CropCache, chunk: int
) -> tuple[UInt8[np.ndarray, "scenes side side 3"], dict[str, np.ndarray]]:
    maker = scene_maker(cache.recipe, cache.seed, cache.motion, cache.backdrops, cache.body)
    images, rows = [], []
    for scene in maker.chunk(chunk, min(CHUNK, cache.count - chunk * CHUNK)):
        box = scene.labelled.sample.box.square(cache.crop_scale)
        images.append(crop_image(scene.labelled.sample.image, box, cache.crop_size))
        rows.append(targets_of(scene.labelled, maker.body, box, cache.mask_size))
    columns = {
        field.name: np.stack([np.asarray(getattr(row, field.name)) for row in rows])
        for field in dataclasses.fields(CropTargets)
    }
    return np.stack(images), columns


class CropDataset(Dataset[dict[str, Tensor]]):
    """Rows of a crop cache as tensors; images stay on disk. `mirrored`: followed by the mirror images of all rows."""

    def __init__(self, folder: PathLike, mirrored: bool = False) -> None:
        folder = Path(folder)
        self.crops = np.load(folder / "crops.npy", mmap_mode="r", allow_pickle=False)
        self.mirrored = mirrored
        with np.load(folder / "targets.npz", allow_pickle=False) as targets:
            self.targets = {name: torch.from_numpy(targets[name]) for name in targets.files}

    def __len__(self) -> int:
        return len(self.crops) * (2 if self.mirrored else 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index >= len(self.crops):
            return _mirror_row(self._row(index - len(self.crops)))
        return self._row(index)

    def _row(self, index: int) -> dict[str, Tensor]:
        row = {name: self.targets[name][index] for name in ENCODER_TARGETS}
        return {"crops": torch.from_numpy(np.array(self.crops[index])), **row}

    @property
    def poses_m(self) -> Float[Tensor, "rows 24 3"]:
        """`CropTargets.pose_m` of all rows."""
        poses = self.targets["pose_m"]
        return torch.cat([poses, _mirrored(poses)]) if self.mirrored else poses


def _mirrored(joints_m: Float[Tensor, "*batch 24 3"]) -> Float[Tensor, "*batch 24 3"]:
    return joints_m[..., OTHER_SIDE, :] * torch.tensor([-1.0, 1.0, 1.0])


def _mirror_row(row: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mirror image of a row."""
    return {
        "crops": row["crops"].flip(1),
        "keypoints": row["keypoints"][OTHER_SIDE] * torch.tensor([-1.0, 1.0]),
        "depth_m": row["depth_m"][OTHER_SIDE],
        "visible": row["visible"][OTHER_SIDE],
        "mask": row["mask"].flip(1),
    }
