"""The detector that a command uses for photographs: --detector, or the file of --keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.console import print_message
from hmr.detection.keypoints.file_detector import load_keypoint_file
from hmr.images.videos import VIDEO_SUFFIXES
from hmr.types import Detector

__all__ = ["DEFAULT_DETECTOR", "choose_detector"]

DEFAULT_DETECTOR = "blazepose"


def choose_detector(
    spec: str | None, keypoints: Path | None, inputs: Sequence[Path], explored: str | None = None
) -> str | Detector:
    """The spec of a detector, or the detector of a keypoint file. `explored`: the default instead of blazepose.
    Prints who of the file is left out.

    Raises ValueError if both are given, or a file for anything but one photograph, and what `load_keypoint_file`
    raises.
    """
    if keypoints is None:
        return spec or explored or DEFAULT_DETECTOR
    if spec is not None:
        raise ValueError(
            f"--keypoints takes the place of a detector; --detector {spec} cannot be combined with it"
        )
    if len(inputs) != 1 or inputs[0].suffix.lower() in VIDEO_SUFFIXES:
        found = f"the video {inputs[0]}" if len(inputs) == 1 else f"{len(inputs)} inputs"
        raise ValueError(f"--keypoints {keypoints} holds the people of one photograph, not of {found}")
    loaded = load_keypoint_file(keypoints, inputs[0])
    if said := loaded.left_out():
        print_message(said)
    return loaded
