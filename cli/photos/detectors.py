"""The detector that a command uses for photographs: --detector, or the file of --keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.exploration.record import explored_detector
from cli.console import print_message
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.keypoints.file_detector import load_keypoint_file
from hmr.images.videos import VIDEO_SUFFIXES
from hmr.types import Detector

__all__ = ["DEFAULT_DETECTOR", "choose_detector"]

DEFAULT_DETECTOR = "blazepose"


def choose_detector(
    spec: str | None, keypoints: Path | None, inputs: Sequence[Path], memory: Path | None = None
) -> str | Detector:
    """The spec of a detector, or the detector of a keypoint file. Prints who of the file is left out.

    memory: the detector with which it was explored is the default, if that one reads photographs.

    Raises ValueError if both are given, or a file for anything but one photograph, and what `load_keypoint_file`
    raises.
    """
    if keypoints is None:
        return spec or _explored_on_photographs(memory) or DEFAULT_DETECTOR
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


def _explored_on_photographs(memory: Path | None) -> str | None:
    """The detector of the memory; None for the embedded one, which reads rendered people only."""
    explored = explored_detector(memory) if memory else None
    return None if explored == EmbeddedDetector.name else explored
