"""Keypoint files of every format, each of one standing person in a photograph of 200 x 160 pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hmr.body.keypoint_orders import COCO_17
from hmr.detection.keypoints.sets import OPENPOSE_25, OPENPOSE_COCO, WHOLE_BODY

__all__ = ["BOX", "PHOTO", "SIZE", "UNSEEN", "WRITERS", "place", "save"]

PHOTO, SIZE = "photo.png", (200, 160)
BOX = (60.0, 40.0, 110.0, 120.0)
UNSEEN = "left_ear"  # without confidence in every file


def place(name: str) -> tuple[float, float]:
    """Somewhere in the box, in the corner-based pixels of our own format; by the characters of the name."""
    code = sum(index * ord(letter) for index, letter in enumerate(name, start=1))
    return 62.0 + code % 46, 42.0 + code % 75


def _flat(order: tuple[str, ...], shift: tuple[float, float], half: float) -> list[float]:
    numbers: list[float] = []
    for name in order:
        x, y = place(name)
        numbers += [0.0, 0.0, 0.0] if name == UNSEEN else [x + shift[0] - half, y + shift[1] - half, 0.8]
    return numbers


def _xywh(shift: tuple[float, float]) -> list[float]:
    x0, y0, x1, y1 = BOX
    return [x0 + shift[0], y0 + shift[1], x1 - x0, y1 - y0]


def own(shift: tuple[float, float], size: tuple[int, int]) -> Any:
    points = {name: [place(name)[0] + shift[0], place(name)[1] + shift[1], None, 0.8] for name in COCO_17}
    points[UNSEEN][3] = 0
    x, y, width, height = _xywh(shift)
    person = {"points": points, "bbox": [x, y, x + width, y + height], "confidence": 0.9}
    return {"image_size": list(size), "people": [person]}


def openpose(shift: tuple[float, float], size: tuple[int, int]) -> Any:
    return {"version": 1.3, "people": [{"pose_keypoints_2d": _flat(OPENPOSE_25.order, shift, 0.0)}]}


def openpose_coco(shift: tuple[float, float], size: tuple[int, int]) -> Any:
    return {"version": 1.3, "people": [{"pose_keypoints_2d": _flat(OPENPOSE_COCO.order, shift, 0.0)}]}


def annotations(shift: tuple[float, float], size: tuple[int, int]) -> Any:
    """Flags are 2 for visible points, 1 for the labelled right knee."""
    numbers = _flat(COCO_17, shift, 0.5)
    numbers[2::3] = [2 * (flag > 0) for flag in numbers[2::3]]
    numbers[3 * COCO_17.index("right_knee") + 2] = 1
    image = {"id": 7, "file_name": f"val/{PHOTO}", "width": size[0], "height": size[1]}
    person = {"id": 1, "image_id": 7, "bbox": _xywh(shift), "keypoints": numbers, "iscrowd": 0}
    return {"images": [image, {"id": 8, "file_name": "other.png"}], "annotations": [person]}


def results(shift: tuple[float, float], size: tuple[int, int]) -> Any:
    return [{"image_id": 7, "category_id": 1, "keypoints": _flat(COCO_17, shift, 0.5), "score": 0.7}]


def whole_body_results(shift: tuple[float, float], size: tuple[int, int]) -> Any:
    numbers = _flat(WHOLE_BODY.order, shift, 0.5)
    return [{"image_id": 7, "keypoints": numbers, "score": 0.7, "bbox": _xywh(shift)}]


Writer = Callable[[tuple[float, float], tuple[int, int]], Any]
WRITERS: dict[str, Writer] = {
    writer.__name__: writer
    for writer in (own, openpose, openpose_coco, annotations, results, whole_body_results)
}


def save(content: Any, path: Path) -> Path:
    path.write_text(json.dumps(content))
    return path
