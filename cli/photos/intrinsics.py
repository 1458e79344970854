"""The camera that a user knows of a photograph: the options --focal, --center and --camera.

A camera file is JSON, in pixels of the upright photograph:

    {"focal_px": 1480.0, "cx_px": 960.0, "cy_px": 540.0}
    {"K": [[1480.0, 0.0, 960.0], [0.0, 1480.0, 540.0], [0.0, 0.0, 1.0]]}

Left out: unequal focal lengths, skew and lens distortion, which the camera model (`hmr.types.Camera`) does not have. A
file with any of them is refused rather than approximated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.reading.validate import numbers, read_json, require
from hmr.images.photographs import Photo
from hmr.types import Camera

__all__ = ["NO_INTRINSICS", "Intrinsics", "camera_line", "describe_camera", "parse_intrinsics"]

NUMBERS, MATRIX = ("focal_px", "cx_px", "cy_px"), "K"
FOCAL_TOLERANCE = 0.01  # of fx and fy; calibrations of square pixels differ by less
SKEW_TOLERANCE = 0.001  # relative to the focal length
# Relative to the longer side of a photograph; lenses from a fisheye to a telescope, and crops of their pictures
FOCAL_RANGE = (0.1, 100.0)
MAX_CENTER = 20.0


@dataclass(frozen=True)
class Intrinsics:
    """What is known of the camera, in pixels of the photograph's file; None is estimated."""

    focal_px: float | None = None
    center_px: tuple[float, float] | None = None

    def camera(self, photo: Photo) -> Camera:
        """The camera of a photograph, in pixels of its file. Raises ValueError for one that no photograph has."""
        self.check(*photo.file_size)
        estimate = Camera.estimate(*photo.file_size)
        cx, cy = self.center_px or (estimate.cx_px, estimate.cy_px)
        focal = estimate.focal_px if self.focal_px is None else self.focal_px
        return dataclasses.replace(estimate, focal_px=focal, cx_px=cx, cy_px=cy)

    def check(self, width: int, height: int) -> None:
        """Raises ValueError for a camera that no photograph of this size has."""
        longer = max(width, height)
        if self.focal_px is not None and not FOCAL_RANGE[0] <= self.focal_px / longer <= FOCAL_RANGE[1]:
            raise ValueError(
                f"a photograph of {width} x {height} pixels has a focal length from {FOCAL_RANGE[0] * longer:g} to "
                f"{FOCAL_RANGE[1] * longer:g} px, not {self.focal_px:g}; is it in millimetres?"
            )
        if self.center_px is not None and max(map(abs, self.center_px)) > MAX_CENTER * longer:
            x, y = self.center_px
            raise ValueError(
                f"the principal point {x:g}, {y:g} is far outside of the photograph of {width} x {height} pixels"
            )


NO_INTRINSICS = Intrinsics()


def describe_camera(camera_in_file: Camera, is_estimated: bool) -> dict[str, Any]:
    """The camera for JSON. `is_estimated` is about the focal length."""
    pixels = {key: round(getattr(camera_in_file, key), 1) for key in NUMBERS}
    return {**pixels, "focal_is_estimated": is_estimated}


def camera_line(camera: Mapping[str, Any]) -> str:
    """The result of `describe_camera` as text."""
    source = "estimated: the image diagonal" if camera["focal_is_estimated"] else "given"
    return (
        f"focal length {camera['focal_px']:g} px ({source}), principal point {camera['cx_px']:g}, "
        f"{camera['cy_px']:g}"
    )


def parse_intrinsics(focal: float | None, center: str | None, file: Path | None) -> Intrinsics:
    """From the values of --focal, --center and --camera.

    Raises FileNotFoundError if there is no such file, and ValueError for a value or a file that is not a camera.
    """
    if file is not None:
        if focal is not None or center is not None:
            raise ValueError(
                "--camera holds the whole camera; it cannot be combined with --focal or --center"
            )
        return _read_intrinsics(file)
    return Intrinsics(
        None if focal is None else _focal(focal, "--focal"), None if center is None else _parse_center(center)
    )


def _parse_center(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--center takes two numbers X,Y in pixels, not {text!r}") from error
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"--center takes two finite numbers X,Y in pixels, not {text!r}")
    return x, y


def _focal(value: float, where: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{where} must be a positive number of pixels, not {value:g}")
    return value


def _read_intrinsics(path: Path) -> Intrinsics:
    if not path.is_file():
        raise FileNotFoundError(f"there is no camera file at {path}")
    content = read_json(path, ())
    allowed = (MATRIX,) if MATRIX in content else NUMBERS
    if unknown := sorted(set(content) - set(allowed)):
        raise ValueError(
            f"{path} holds {', '.join(unknown)}; a camera file holds {', '.join(NUMBERS)}, or {MATRIX} alone"
        )
    if MATRIX in content:
        return _from_matrix(content[MATRIX], f"{MATRIX} of {path}")
    require(content, NUMBERS, str(path))
    focal, cx, cy = (float(numbers(content[key], (), f"{key} of {path}")) for key in NUMBERS)
    return Intrinsics(_focal(focal, f"focal_px of {path}"), (cx, cy))


def _from_matrix(value: Any, where: str) -> Intrinsics:
    K = numbers(value, (3, 3), where)
    if K[1, 0] != 0 or K[2].tolist() != [0, 0, 1]:
        raise ValueError(f"{where} must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], not {K.tolist()}")
    fx, fy = (_focal(float(K[axis, axis]), f"{name} of {where}") for axis, name in enumerate(("fx", "fy")))
    if abs(fx - fy) > FOCAL_TOLERANCE * min(fx, fy):
        raise ValueError(
            f"{where} has the focal lengths {fx:g} and {fy:g}; they may differ by {FOCAL_TOLERANCE:.0%}, so resize "
            "the photograph to square pixels"
        )
    if abs(K[0, 1]) > SKEW_TOLERANCE * fx:
        raise ValueError(f"{where} has the skew {K[0, 1]:g}; a camera without skew is required")
    return Intrinsics((fx + fy) / 2, (float(K[0, 2]), float(K[1, 2])))
