"""Human3.6M in HybrIK's JSON (also ScoreHypo's and ADHMR's): joints in millimetres, SMPL fits, one person per image.

    FOLDER/annotations/Sample_5_train_Human36M_smpl_leaf_twist_protocol_2.json
    FOLDER/annotations/Sample_20_test_Human36M_smpl_protocol_2.json
    FOLDER/images/s_09_act_02_subact_01_ca_01/s_09_act_02_subact_01_ca_01_000001.jpg

Follows HybrIK's `hybrik/datasets/h36m_smpl.py` and ScoreHypo's `lib/dataset/h36m.py`: images and annotations are paired
by position, `h36m_joints` and `smpl_joints` are camera coordinates in mm (both are projected with `f`, `c`), and three
test sequences with drift in the motion capture are skipped. "Protocol 2" has two meanings, so there are two splits of
the test file:

- `test`: all records of the file, which contains every 20th frame (HybrIK). ScoreHypo uses every 10th of them:
  `meshcritic data prepare human36m ... --every 10`.
- `test-frontal`: protocol 2 of HMR and SPIN, S9 and S11, camera 60457274 only, frames 0, 5, 10 ... (SPIN
  `datasets/preprocess/h36m.py`), of which the file has one in four. The camera is `ca_04`, the fourth of the ids
  54138969, 55011271, 58860488, 60457274. HMR2's `h36m_val_p2.npz` has all frames (hmr/datasets/hmr2.py).

Left out: `angle_twist`, which is determined by `thetas`; joints 24 to 28 of files with 29, HybrIK's leaf joints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    Placement,
    SmplFit,
    Source,
    annotated_or_dropped,
    box_of_xywh,
    pinhole,
    size_of,
    tensor,
)
from hmr.datasets.joints import H36M17, SMPL24, Convention

__all__ = ["HUMAN36M", "read_human36m"]

M_PER_MM = 1e-3
_FILES = {
    "train": "Sample_5_train_Human36M_smpl_leaf_twist_protocol_2.json",
    "test": "Sample_20_test_Human36M_smpl_protocol_2.json",
    "test-frontal": "Sample_20_test_Human36M_smpl_protocol_2.json",
}
_DRIFTED = ("s_09_act_05_subact_02_ca", "s_09_act_10_subact_02_ca", "s_09_act_13_subact_01_ca")
_NAME = re.compile(r"s_(\d\d)_act_\d\d_subact_\d\d_ca_(\d\d)_(\d{6})\.jpg$")
_IMAGE = {"file_name": str, "width": int | float, "height": int | float, "cam_param": dict}
_PERSON = {
    "image_id": int | str, "bbox": list, "h36m_joints": list, "smpl_joints": list, "betas": list, "thetas": list,
}  # fmt: skip


def read_human36m(folder: PathLike, split: str) -> Iterator[Annotation | Dropped]:
    """Raises FileNotFoundError without the annotation file, and ValueError for a record of another layout."""
    path = Path(folder) / "annotations" / _FILES[split]
    content = read_json(path, ("images", "annotations"))
    images = [image for _, image in records(content, "images", "image", _IMAGE, path)]
    people = list(records(content, "annotations", "annotation", _PERSON, path))
    if len(images) != len(people):
        raise ValueError(
            f"{path} pairs {len(images)} images with {len(people)} annotations; it should be one to one"
        )
    for image, (where, person) in zip(images, people, strict=True):
        if image.get("id", person["image_id"]) != person["image_id"]:
            raise ValueError(f"{where} belongs to another image than the one at its position")
        if any(name in image["file_name"] for name in _DRIFTED):
            continue
        if split != "test-frontal" or _frontal(image["file_name"], str(path)):
            yield annotated_or_dropped(_annotation, image, person, where)


def _frontal(file_name: str, where: str) -> bool:
    """Subjects 9 and 11, camera 60457274, every fifth frame from the first, whose number in the file name is 1."""
    parts = _NAME.search(file_name)
    if parts is None:
        raise ValueError(f"{where} names the image {file_name}, not s_SS_act_AA_subact_BB_ca_CC_FFFFFF.jpg")
    subject, camera, frame = map(int, parts.groups())
    return subject in (9, 11) and camera == 4 and (frame - 1) % 5 == 0


def _annotation(image: dict[str, Any], person: dict[str, Any], where: str) -> Annotation:
    lens = members(image["cam_param"], {"f": list, "c": list}, f"cam_param of {where}")
    smpl_mm = floats(person["smpl_joints"], f"smpl_joints of {where}").reshape(-1)
    smpl_m = M_PER_MM * numbers(smpl_mm[: 3 * len(SMPL24)], (len(SMPL24), 3), f"smpl_joints of {where}")
    h36m_m = M_PER_MM * numbers(person["h36m_joints"], (len(H36M17), 3), f"h36m_joints of {where}")
    pose = tensor(numbers(person["thetas"], (24, 3), f"thetas of {where}"))
    betas = tensor(numbers(person["betas"], (10,), f"betas of {where}"))
    fit = SmplFit("smpl", "neutral", pose[0], pose[1:], betas, Placement.of_pelvis(tensor(smpl_m[0])))
    return Annotation(
        image=f"images/{image['file_name']}",
        person="0",
        box=box_of_xywh(person["bbox"], f"bbox of {where}"),
        camera=pinhole(
            numbers(lens["f"], (2,), f"cam_param.f of {where}"),
            numbers(lens["c"], (2,), f"cam_param.c of {where}"),
            size_of(image, f"the image of {where}"),
            where,
        ),
        smpl=fit,
        joints=(_joints(SMPL24, smpl_m), _joints(H36M17, h36m_m)),
    )


def _joints(convention: Convention, positions_m: np.ndarray) -> Joints:
    return Joints(convention, tensor(positions_m), torch.ones(len(convention), dtype=torch.bool), "camera")


HUMAN36M = Source(
    "human36m",
    tuple(_FILES),
    "HybrIK's JSON of Human3.6M; 14 of the regressor's 17 joints about its joint 0; test: its test file, every 20th "
    "frame; test-frontal: of those S9 and S11 before camera 60457274 (HMR's protocol 2)",
    read_human36m,
)
