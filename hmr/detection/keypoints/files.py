"""Reads the people of one photograph from a keypoint file (docs/reference/keypoint-file.md).

| format            | recognised by                          | a person                                          |
|-------------------|----------------------------------------|---------------------------------------------------|
| our own           | an object with `image_size`, `people`  | `points` by name, `bbox`, `confidence`            |
| OpenPose's output | an object with `people` alone          | `pose_keypoints_2d`: BODY_25 or COCO's 18         |
| COCO annotations  | an object with `images`, `annotations` | `keypoints` (17 or 133), `bbox`                   |
| COCO results      | a list                                 | `keypoints` (17 or 133), `score`, `bbox`          |

Positions are in pixels of the upright photograph. COCO's are indices of pixels, so half a pixel is added to get their
centres, as in `hmr.datasets.coco_keypoints`. A point without confidence is not observed; people without points are left
out, as are those of a detector whose box is smaller than a person, or outside of the photograph.

Left out: OpenPose's hands and face, COCO-WholeBody's annotations of them (`lefthand_kpts`), and keypoints in space.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.reading.validate import floats, members, numbers, parse_json, records
from common.storage.files import PathLike
from hmr.detection.keypoints.sets import (
    COCO,
    OPENPOSE_25,
    OPENPOSE_COCO,
    WHOLE_BODY,
    KeypointSet,
    deviations_px,
)
from hmr.images.photographs import check_box, photo_size
from hmr.types import POINT_NAMES, Box, Detection

__all__ = ["FilePerson", "read_annotations", "read_keypoints"]

FORMATS = (
    "our own (an object with image_size and people), OpenPose's (an object with people), COCO's annotations (an object "
    "with images and annotations) and COCO's results (a list)"
)
TO_PIXEL_CENTER = 0.5
LABELLED_HIDDEN, HIDDEN_VISIBILITY = (
    1,
    0.3,
)  # the position is known, so it has a weight where visibilities are weights
CERTAIN = 0.3  # visibility of the points that a box is made about
BOX_MARGIN = 0.08  # about the points, for skin and hair; of the longer side
PERSON_KEYS, FILE_KEYS = ("bbox", "points", "confidence"), ("image_size", "people")
_ANNOTATION = {"id": object, "image_id": int | str, "bbox": list, "keypoints": list}
_RESULT = {"image_id": int | str, "keypoints": list, "score": int | float}


@dataclass(frozen=True)
class FilePerson:
    """A person with what the file says of them, in pixels of the photograph's file."""

    box: Box
    detection: Detection


@dataclass(frozen=True)
class _Photograph:
    path: Path
    size: tuple[int, int]  # upright width and height


def read_keypoints(path: PathLike, photo: PathLike, size: tuple[int, int]) -> tuple[list[FilePerson], int]:
    """The people of a photograph of this (upright) size, in the order of the file, and how many were left out.

    Raises FileNotFoundError, and ValueError for a file of another format, for another photograph, or with a value that
    cannot be used.
    """
    content, photograph, path = parse_json(path, "keypoint"), _Photograph(Path(photo), size), Path(path)
    if isinstance(content, list):
        people = _of_results(content, photograph, path)
    elif isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        listed = _Annotations.read(content, path)
        people = _of_annotations(listed, listed.image_of(photograph.path), photograph)
    elif isinstance(content, dict) and "image_size" in content:
        people = _of_own(content, photograph, path)
    elif isinstance(content, dict) and "people" in content:
        people = _of_openpose(content, photograph, path)
    else:
        held = ", ".join(sorted(content)[:8]) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path} is no keypoint file: it holds {held or 'nothing'}; known formats are {FORMATS}"
        )
    found = [person for person in people if person is not None]
    return found, len(people) - len(found)


def read_annotations(path: PathLike, photos: Sequence[Path]) -> dict[Path, list[FilePerson]]:
    """The people of those of the photographs that a file of COCO's annotations lists, by the photograph's name.

    Raises FileNotFoundError, and ValueError for another format, which does not name its images, for a photograph of
    another size, and for a value that cannot be used.
    """
    content, path = parse_json(path, "keypoint"), Path(path)
    if not (isinstance(content, dict) and {"images", "annotations"} <= content.keys()):
        raise ValueError(
            f"{path} holds no COCO annotations (an object with images and annotations), the only format that names "
            "the photographs of several people"
        )
    listed = _Annotations.read(content, path)
    found, photo_of = {}, {}
    for photo in (photo for photo in photos if photo.name in listed.images):
        image = listed.image_of(photo)
        if (other := photo_of.setdefault(image["id"], photo)) != photo:
            raise ValueError(
                f"{path} lists {image['file_name']} once, and both {other} and {photo} have its name"
            )
        people = _of_annotations(listed, image, _Photograph(photo, photo_size(photo)))
        found[photo] = [person for person in people if person is not None]
    return found


# -- our own -----------------------------------------------------------------------------------------------------


def _of_own(content: Mapping[str, Any], photo: _Photograph, path: Path) -> list[FilePerson | None]:
    _check_keys(content, FILE_KEYS, str(path))
    members(content, {"people": list}, str(path))
    _check_size(numbers(content["image_size"], (2,), f"image_size of {path}"), photo, str(path))
    return [
        _own_person(person, photo, where) for where, person in records(content, "people", "person", {}, path)
    ]


def _own_person(person: Mapping[str, Any], photo: _Photograph, where: str) -> FilePerson:
    _check_keys(person, PERSON_KEYS, where)
    given = members(person, {"points": dict}, where)["points"]
    if unknown := [name for name in given if name not in POINT_NAMES]:
        raise ValueError(f"{where} has the point {unknown[0]!r}; the points are {', '.join(POINT_NAMES)}")
    rows = {name: _own_point(value, f"{name} of {where}") for name, value in given.items()}
    seen = {name: row for name, row in rows.items() if row[3] > 0}
    box = _box(person["bbox"], f"bbox of {where}") if "bbox" in person else None
    confidence = _share(person.get("confidence", 1.0), f"confidence of {where}")
    found = _person([*seen], np.array([*seen.values()]).reshape(-1, 4), box, confidence, photo, where)
    if found is None:
        raise ValueError(
            f"{where} has {len(seen)} seen points; a person needs one, and two if there is no bbox"
        )
    return found


def _own_point(value: Any, what: str) -> tuple[float, float, float, float]:
    """x, y, deviation (NaN for the usual one) and visibility."""
    if not isinstance(value, list) or not 2 <= len(value) <= 4:
        raise ValueError(f"{what} must be [x, y], [x, y, sigma_px] or [x, y, sigma_px, visibility]")
    x, y, sigma, visibility = [*value, *(None, 1.0)[len(value) - 2 :]]
    if sigma is not None and not (sigma := float(numbers(sigma, (), f"the deviation of {what}"))) > 0:
        raise ValueError(f"the deviation of {what} must be positive, not {sigma:g}")
    position = numbers([x, y], (2,), f"the position of {what}")
    visible = _share(visibility, f"the visibility of {what}")
    return float(position[0]), float(position[1]), np.nan if sigma is None else sigma, visible


def _check_keys(found: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    if unknown := sorted(set(found) - set(allowed)):
        raise ValueError(f"{where} holds {', '.join(unknown)}; allowed are {', '.join(allowed)}")


def _share(value: Any, what: str) -> float:
    share = float(numbers(value, (), what))
    if not 0 <= share <= 1:
        raise ValueError(f"{what} must be from 0 to 1, not {share:g}")
    return share


# -- OpenPose ----------------------------------------------------------------------------------------------------


def _of_openpose(content: Mapping[str, Any], photo: _Photograph, path: Path) -> list[FilePerson | None]:
    people = []
    for where, person in records(content, "people", "person", {"pose_keypoints_2d": list}, path):
        what = f"pose_keypoints_2d of {where}"
        keypoints, values = _triples(person["pose_keypoints_2d"], (OPENPOSE_25, OPENPOSE_COCO), what)
        seen = values[:, 2] > 0
        confidence = float(values[seen, 2].mean()) if seen.any() else 0.0  # OpenPose has none of the person
        people.append(_of_set(keypoints, values, None, confidence, photo, where))
    return people


# -- COCO --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Annotations:
    """The records of one file of annotations, read once for all of its photographs."""

    path: Path
    images: Mapping[str, list[dict[str, Any]]]  # by the name of the file
    people: Mapping[
        int | str, list[tuple[str, dict[str, Any]]]
    ]  # by the image's id, each with its place in the file

    @staticmethod
    def read(content: Mapping[str, Any], path: Path) -> _Annotations:
        images, people = defaultdict(list), defaultdict(list)
        for _, image in records(content, "images", "image", {"id": int | str, "file_name": str}, path):
            images[Path(image["file_name"]).name].append(image)
        for where, person in records(content, "annotations", "annotation", {"image_id": int | str}, path):
            people[person["image_id"]].append((where, person))
        return _Annotations(path, dict(images), dict(people))

    def image_of(self, photo: Path) -> dict[str, Any]:
        """The record with the photograph's name; of several the one whose folders are the photograph's too."""
        named = self.images.get(photo.name, [])
        if len(named) > 1:
            parts = [Path(image["file_name"]).parts for image in named]
            same = [photo.resolve().parts[-len(own) :] == own for own in parts]
            named = [image for image, is_same in zip(named, same, strict=True) if is_same] or named
        if len(named) != 1:
            known = [image["file_name"] for images in self.images.values() for image in images]
            listed = ", ".join(sorted([image["file_name"] for image in named] or known)[:5]) or "none"
            raise ValueError(
                f"{self.path} lists {len(named)} images with the name {photo.name}, not one; its images are {listed}"
                f"{' ...' if len(named or known) > 5 else ''}"
            )
        return named[0]


def _of_annotations(
    listed: _Annotations, image: Mapping[str, Any], photo: _Photograph
) -> list[FilePerson | None]:
    """The people of an image; annotations without keypoints are of things, or of crowds."""
    if "width" in image and "height" in image:
        what = f"width and height of {image['file_name']} in {listed.path}"
        _check_size(numbers([image["width"], image["height"]], (2,), what), photo, str(listed.path))
    people = []
    for where, person in listed.people.get(image["id"], ()):
        if person.get("iscrowd") or "keypoints" not in person:
            continue
        members(person, _ANNOTATION, where)
        keypoints, values = _triples(person["keypoints"], (COCO, WHOLE_BODY), f"keypoints of {where}")
        values[values[:, 2] == LABELLED_HIDDEN, 2] = HIDDEN_VISIBILITY
        values[:, :2] += TO_PIXEL_CENTER
        xywh = numbers(person["bbox"], (4,), f"bbox of {where}")
        people.append(_of_set(keypoints, values, xywh, 1.0, photo, where))
    return people


def _of_results(content: list[Any], photo: _Photograph, path: Path) -> list[FilePerson | None]:
    """Of a list with several images those whose id is the photograph's name, or its number."""
    results = list(records({"results": content}, "results", "result", _RESULT, path))
    images = {str(result["image_id"]) for _, result in results}
    stem = photo.path.stem
    names = images if len(images) <= 1 else images & {stem, photo.path.name, stem.lstrip("0")}
    if len(names) != 1 and results:
        raise ValueError(
            f"{path} holds results of {len(images)} images, and no image_id is the photograph's name {stem}; ids are "
            f"{', '.join(sorted(images)[:5])}"
        )
    people = []
    for where, result in results:
        if str(result["image_id"]) in names:
            keypoints, values = _triples(result["keypoints"], (COCO, WHOLE_BODY), f"keypoints of {where}")
            values[:, :2] += TO_PIXEL_CENTER
            xywh = numbers(result["bbox"], (4,), f"bbox of {where}") if "bbox" in result else None
            score = float(numbers(result["score"], (), f"score of {where}"))
            people.append(_of_set(keypoints, values, xywh, min(max(score, 0.0), 1.0), photo, where))
    return people


# -- a person ----------------------------------------------------------------------------------------------------


def _of_set(
    keypoints: KeypointSet,
    values: Float[np.ndarray, "keypoints 3"],
    xywh: Float[np.ndarray, "4"] | None,
    confidence: float,
    photo: _Photograph,
    where: str,
) -> FilePerson | None:
    """values: x, y and confidence, which some detectors let exceed 1. None without points, and for a box that cannot be
    used: detectors report people of a few pixels, and people outside of the photograph."""
    shares = values[:, 2].clip(0, 1)
    rows = keypoints.reported(torch.from_numpy(shares))
    columns = (values[rows, 0], values[rows, 1], np.full(len(rows), np.nan), shares[rows])
    names, confidence = [keypoints.order[row] for row in rows], min(confidence, 1.0)
    try:
        box = None if xywh is None else Box(xywh[0], xywh[1], xywh[0] + xywh[2], xywh[1] + xywh[3])
        return _person(names, np.stack(columns, -1), box, confidence, photo, where)
    except ValueError:
        return None


def _person(
    names: Sequence[str],
    values: Float[np.ndarray, "points 4"],
    box: Box | None,
    confidence: float,
    photo: _Photograph,
    where: str,
) -> FilePerson | None:
    """values: x, y, deviation (NaN for the usual one) and visibility. None without points, or without a box."""
    table = torch.from_numpy(values).float()
    if not len(names):
        return None
    if box is not None:
        check_box(box, photo.size, where)
    elif (box := _box_about(table, photo, where)) is None:
        return None
    sigma_px, visibility = table[:, 2], table[:, 3]
    sigma_px = torch.where(sigma_px.isnan(), deviations_px(names, visibility, box), sigma_px)
    return FilePerson(
        box, Detection.from_points(names, table[:, :2], sigma_px, visibility, confidence=confidence)
    )


def _box_about(table: Float[Tensor, "points 4"], photo: _Photograph, where: str) -> Box | None:
    """The box of the visible points, or else of all, inside the photograph; None if they are fewer than two places."""
    certain = table[:, 3] >= CERTAIN
    points_px = table[certain if certain.sum() >= 2 else slice(None), :2]
    if len(points_px) < 2 or not (points_px != points_px[:1]).any():
        return None
    (x0, y0), (x1, y1) = points_px.amin(dim=0).tolist(), points_px.amax(dim=0).tolist()
    margin = BOX_MARGIN * max(x1 - x0, y1 - y0)
    around = Box(x0 - margin, y0 - margin, x1 + margin, y1 + margin)
    check_box(around, photo.size, where)
    width, height = photo.size
    return Box(
        max(around.x0, 0.0), max(around.y0, 0.0), min(around.x1, float(width)), min(around.y1, float(height))
    )


def _triples(
    value: Any, sets: Sequence[KeypointSet], what: str
) -> tuple[KeypointSet, Float[np.ndarray, "keypoints 3"]]:
    """The set that has this many keypoints, and x, y and confidence of each."""
    count = floats(value, what).size
    for keypoints in sets:
        if count == 3 * len(keypoints):
            return keypoints, numbers(value, (len(keypoints), 3), what)
    allowed = " or ".join(f"{3 * len(keypoints)} ({keypoints.name})" for keypoints in sets)
    raise ValueError(f"{what} has {count} numbers, not {allowed}")


def _box(value: Any, what: str) -> Box:
    x0, y0, x1, y1 = numbers(value, (4,), what).tolist()
    if not (x1 > x0 and y1 > y0):
        raise ValueError(
            f"{what} must be x0, y0, x1, y1 with x1 > x0 and y1 > y0, not {x0:g}, {y0:g}, {x1:g}, {y1:g}"
        )
    return Box(x0, y0, x1, y1)


def _check_size(size: Float[np.ndarray, "2"], photo: _Photograph, where: str) -> None:
    width, height = photo.size
    if size.tolist() != [width, height]:
        raise ValueError(
            f"{where} belongs to an image of {size[0]:g} x {size[1]:g} pixels; {photo.path} has {width} x {height} "
            "upright (after its EXIF rotation)"
        )
