"""The people that a detector found in one photograph, as a safetensors file without pixels of the photograph.

    N.box, N.confidence, N.points_px ...    of person N: the box, and the fields of `hmr.types.Detection` that it has

Masks are stored in half precision, a quarter of a percent at most from what the detector reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.storage.files import PathLike, atomic_path
from hmr.types import Box, Detection

__all__ = ["read_people", "save_people"]

COLUMNS = ("points_px", "sigma_px", "visibility", "depth_m", "depth_sigma_m")
COUNT = "people"  # in the metadata, because a photograph may show nobody


def save_people(path: PathLike, people: Sequence[tuple[Box, Detection]]) -> None:
    """Replaces the file in one step."""
    tensors = {
        f"{number}.{name}": value.clone().contiguous()
        for number, person in enumerate(people)
        for name, value in _columns(*person).items()
    }
    with atomic_path(path) as partial:
        save_file(tensors, partial, {COUNT: str(len(people))})


def read_people(path: PathLike) -> list[tuple[Box, Detection]]:
    """Raises ValueError for a file that `save_people` did not write."""
    try:
        with safe_open(path, "pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
            count = int(file.metadata()[COUNT])
        return [_person(stored, f"{number}.") for number in range(count)]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no detections of people ({error!r}); remove it") from error


def _columns(box: Box, detection: Detection) -> dict[str, Tensor]:
    columns = {name: getattr(detection, name) for name in COLUMNS}
    columns |= {"box": _corners(box), "confidence": torch.tensor(detection.confidence, dtype=torch.float64)}
    if detection.joints_root_m is not None:
        columns["joints_root_m"] = detection.joints_root_m
    if detection.mask is not None and detection.mask_box is not None:
        mask = torch.from_numpy(np.array(detection.mask, np.float16))
        columns |= {"mask": mask, "mask_box": _corners(detection.mask_box)}
    return columns


def _person(stored: Mapping[str, Tensor], prefix: str) -> tuple[Box, Detection]:
    mask, mask_box = stored.get(prefix + "mask"), stored.get(prefix + "mask_box")
    detection = Detection(
        *(stored[prefix + name] for name in COLUMNS),
        mask=None if mask is None else mask.float().numpy(),
        mask_box=None if mask_box is None else Box(*mask_box.tolist()),
        joints_root_m=stored.get(prefix + "joints_root_m"),
        confidence=float(stored[prefix + "confidence"]),
    )
    return Box(*stored[prefix + "box"].tolist()), detection


def _corners(box: Box) -> Float[Tensor, "4"]:
    return torch.tensor([box.x0, box.y0, box.x1, box.y1], dtype=torch.float64)
