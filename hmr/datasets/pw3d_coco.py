"""3DPW in the COCO-style JSON of HybrIK, ScoreHypo and ADHMR.

    FOLDER/annotations/3DPW_{train,test}.json    (HybrIK: FOLDER/json)
    FOLDER/imageFiles/SEQUENCE/image_00000.jpg

Follows ScoreHypo's `lib/dataset/pw3d.py`. Its two loaders scale `smpl_joint_cam` differently: its train file is in mm,
its test file in metres; HybrIK reads both in metres, the unit of 3DPW's own files. Therefore the unit is inferred from
the body: the farthest joint is between 5 mm and 5 m from the pelvis. `h36m_joints` is always in metres, and used only
relative to its pelvis.

ScoreHypo and ADHMR report on every 10th record of the test file (`sampling.interval: 10`; ADHMR's
`test-3dpw-dpo.yaml` has 1), after removing boxes under 5 pixels: split `test-10th`. They crop with the box of the true
joints and give the true root depth and intrinsics to the network. This project does not, so its numbers are comparable
with theirs only in the choice of frames.

Left out: `smpl_param.trans`, whose unit also differs between files (the pelvis joint gives the position);
`angle_twist`; joints 24 to 28 of train files with 29.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.reading.validate import floats, members, numbers, read_json, records
from common.storage.files import PathLike
from hmr.datasets.annotation import (
    Annotation,
    Dropped,
    Joints,
    Keypoints,
    Placement,
    SmplFit,
    Source,
    annotated_or_dropped,
    box_of_xywh,
    gender_of,
    pinhole,
    size_of,
    tensor,
)
from hmr.datasets.joints import H36M17, SMPL24

__all__ = ["PW3D_COCO", "read_pw3d_coco"]

MIN_BOX_PX = 5  # inside the image; HybrIK removes smaller boxes
_FILES = {"train": "3DPW_train.json", "test": "3DPW_test.json", "test-10th": "3DPW_test.json"}
_IMAGE = {
    "id": int | str, "sequence": str, "file_name": str, "width": int | float, "height": int | float,
    "cam_param": dict,
}  # fmt: skip
_PERSON = {
    "id": int | str, "image_id": int | str, "bbox": list, "smpl_param": dict, "h36m_joints": list,
    "smpl_joint_cam": list, "smpl_joint_img": list,
}  # fmt: skip


def read_pw3d_coco(folder: PathLike, split: str) -> Iterator[Annotation | Dropped]:
    """Raises FileNotFoundError without the annotation file, and ValueError for a record of another layout."""
    folder = Path(folder)
    path = folder / "annotations" / _FILES[split]
    if not path.exists() and (folder / "json" / _FILES[split]).exists():
        path = folder / "json" / _FILES[split]
    content = read_json(path, ("images", "annotations"))
    images = {image["id"]: image for _, image in records(content, "images", "image", _IMAGE, path)}
    people = _people(content, images, path)
    return islice(people, 0, None, 10) if split == "test-10th" else people


def _people(content: dict[str, Any], images: dict[Any, Any], path: Path) -> Iterator[Annotation | Dropped]:
    for where, person in records(content, "annotations", "annotation", _PERSON, path):
        if person["image_id"] not in images:
            raise ValueError(f"{where} belongs to image {person['image_id']}, which the file does not list")
        record = annotated_or_dropped(_annotation, images[person["image_id"]], person, where)
        if record is not None:
            yield record


def _large_enough(bbox: Any, image: dict[str, Any], where: str) -> bool:
    x, y, width, height = numbers(bbox, (4,), f"bbox of {where}")
    image_width, image_height = size_of(image, f"the image of {where}")
    inside_x = min(x + width, image_width) - max(x, 0)
    inside_y = min(y + height, image_height) - max(y, 0)
    return bool(inside_x >= MIN_BOX_PX and inside_y >= MIN_BOX_PX)


def _annotation(image: dict[str, Any], person: dict[str, Any], where: str) -> Annotation | None:
    """None for a person with too small a box."""
    if not _large_enough(person["bbox"], image, where):
        return None
    lens = members(image["cam_param"], {"focal": list, "princpt": list}, f"cam_param of {where}")
    smpl_m = tensor(_smpl_joints_m(person["smpl_joint_cam"], where))
    h36m_m = numbers(person["h36m_joints"], (17, 3), f"h36m_joints of {where}")
    keypoints = floats(person["smpl_joint_img"], f"smpl_joint_img of {where}")
    if keypoints.ndim != 2 or keypoints.shape[0] < 24 or keypoints.shape[1] not in (2, 3):
        raise ValueError(f"smpl_joint_img of {where} has shape {keypoints.shape}, not (24, 2 or 3)")
    all_joints = torch.ones(24, dtype=torch.bool)
    return Annotation(
        image=f"imageFiles/{image['sequence']}/{image['file_name']}",
        person=str(person["id"]),
        box=box_of_xywh(person["bbox"], f"bbox of {where}"),
        camera=pinhole(
            numbers(lens["focal"], (2,), f"cam_param.focal of {where}"),
            numbers(lens["princpt"], (2,), f"cam_param.princpt of {where}"),
            size_of(image, f"the image of {where}"),
            where,
        ),
        smpl=_fit(person["smpl_param"], smpl_m[0], where),
        joints=(
            Joints(SMPL24, smpl_m, all_joints, "camera"),
            Joints(H36M17, tensor(h36m_m - h36m_m[0]), all_joints[:17], "root"),
        ),
        keypoints=(Keypoints(SMPL24, tensor(keypoints[:24, :2]), torch.ones(24)),),
    )


def _fit(param: dict[str, Any], pelvis_cam_m: torch.Tensor, where: str) -> SmplFit:
    members(param, {"shape": list, "pose": list}, f"smpl_param of {where}")
    pose = tensor(numbers(param["pose"], (24, 3), f"smpl_param.pose of {where}"))
    betas = tensor(numbers(param["shape"], (10,), f"smpl_param.shape of {where}"))
    gender = gender_of(param["gender"], f"smpl_param.gender of {where}") if "gender" in param else None
    return SmplFit("smpl", gender, pose[0], pose[1:], betas, Placement.of_pelvis(pelvis_cam_m))


def _smpl_joints_m(value: Any, where: str) -> np.ndarray:
    flat = floats(value, f"smpl_joint_cam of {where}").reshape(-1)
    joints = numbers(flat[: 24 * 3], (24, 3), f"smpl_joint_cam of {where}")
    extent = float(np.linalg.norm(joints - joints[0], axis=1).max())
    if 0.005 < extent < 5:
        return joints
    if 5 <= extent < 5000:
        return joints / 1000
    raise ValueError(
        f"smpl_joint_cam of {where} extends {extent:g} from its pelvis, which is neither metres nor mm"
    )


PW3D_COCO = Source(
    "3dpw-coco",
    tuple(_FILES),
    "HybrIK's and ScoreHypo's JSON of 3DPW; 14 of the regressor's 17 joints about its joint 0; test-10th: every "
    "10th record, as ScoreHypo and ADHMR report",
    read_pw3d_coco,
)
