"""COCO's person keypoints (Lin et al., ECCV 2014): real photographs with 17 keypoints and no 3D.

    FOLDER/annotations/person_keypoints_val2017.json    (or train2017, or any other name of a split)
    FOLDER/val2017/000000000139.jpg

Follows cocodataset.org, "Data format": `keypoints` is 17 times (x, y, v), v = 0 for not labelled, 1 for labelled
but hidden, 2 for visible; `bbox` is (x, y, width, height) from the image's corner. Keypoints are indices of pixels,
so half a pixel is added to get their centres, as in Detectron2 (`detectron2/data/datasets/coco.py`). People without
keypoints and crowds (`iscrowd`, which many converted files lack) are skipped. The metric is PCK at .05, .1 and .2 of
the box's longer side (hmr/metrics/pck.py, eval/benchmark/annotated/keypoint_accuracy.py).

Left out: segmentations, and OKS and AP, which rank detections by a score that a pose does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from common.reading.validate import FlawedRecord, members, numbers, read_json, records
from common.storage.files import PathLike
from hmr.datasets.annotation import (
    Annotation,
    Dropped,
    Keypoints,
    Source,
    annotated_or_dropped,
    box_of_xywh,
    tensor,
)
from hmr.datasets.joints import COCO17

__all__ = ["COCO_KEYPOINTS", "read_coco_keypoints"]

TO_PIXEL_CENTER = 0.5
_IMAGE = {"id": int | str, "file_name": str}
_PERSON = {"id": int | str, "image_id": int | str, "bbox": list}


def read_coco_keypoints(folder: PathLike, split: str) -> Iterator[Annotation | Dropped]:
    """Raises FileNotFoundError without the annotation file, and ValueError for a record of another layout."""
    path = Path(folder) / "annotations" / f"person_keypoints_{split}.json"
    content = read_json(path, ("images", "annotations"))
    images = {image["id"]: image for _, image in records(content, "images", "image", _IMAGE, path)}
    for where, person in records(content, "annotations", "annotation", _PERSON, path):
        if person["image_id"] not in images:
            yield Dropped("image that the file does not list")
            continue
        if "iscrowd" in person:
            members(person, {"iscrowd": int}, where)
        record = annotated_or_dropped(_annotation, images[person["image_id"]], person, split, where)
        if record is not None:
            yield record


def _annotation(image: dict[str, Any], person: dict[str, Any], split: str, where: str) -> Annotation | None:
    """None for a crowd and for a person without keypoints."""
    if "keypoints" not in person:
        raise FlawedRecord(f"{where} has no keypoints", "annotation without keypoints")
    xyv = numbers(person["keypoints"], (17, 3), f"keypoints of {where}")
    if person.get("iscrowd") or not xyv[:, 2].any():
        return None
    flag = tensor(xyv[:, 2])
    keypoints = Keypoints(
        COCO17,
        tensor(xyv[:, :2] + TO_PIXEL_CENTER),
        confidence=(flag > 0).to(torch.float32),
        visible=flag == 2,
    )
    return Annotation(
        image=f"{split}/{image['file_name']}",
        person=str(person["id"]),
        box=box_of_xywh(person["bbox"], f"bbox of {where}"),
        keypoints=(keypoints,),
        image_size=(image["width"], image["height"]) if {"width", "height"} <= image.keys() else None,
    )


COCO_KEYPOINTS = Source(
    "coco",
    (),
    "COCO's person keypoints, people with at least one; PCK at .05, .1 and .2 of the box's longer side, as HMR2 has it",
    read_coco_keypoints,
)
