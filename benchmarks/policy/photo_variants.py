"""How far a detector's people depend on the picture.

    python -m benchmarks.policy.photo_variants [--detector blazepose]

The test photograph, compressed again, resized, grey and mirrored. Prints how many people are found in each version, how
many of those of the original are among them (intersection over union above .5), and these people's confidences.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hmr.detection.loading import load_detector
from hmr.detection.protocol import detect_people
from hmr.types import Box, Camera, Detector

PHOTO = Path(__file__).parents[2] / "tests/data/photograph/basketball.jpg"
SAME = 0.5
Found = list[tuple[Box, float]]  # box and confidence


def _compressed(quality: int) -> Callable[[Image.Image], Image.Image]:
    def save_and_open(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return save_and_open


def _resized(scale: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )


VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "original": lambda image: image,
    **{f"JPEG quality {quality}": _compressed(quality) for quality in (98, 95, 90, 80)},
    **{f"resized x {scale:g}": _resized(scale) for scale in (0.8, 1.5, 2.0, 3.0)},
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def find(detector: Detector, image: Image.Image) -> Found:
    pixels = np.asarray(image)
    people = detect_people(detector, pixels, Camera.estimate(image.width, image.height))
    return [(sample.box, detection.confidence) for sample, detection in people]


def in_original(found: Found, image: Image.Image, scale: float, is_mirrored: bool) -> Found:
    """Boxes in pixels of the original."""

    def back(box: Box) -> Box:
        x0, x1 = (image.width - box.x1, image.width - box.x0) if is_mirrored else (box.x0, box.x1)
        return Box(*(corner / scale for corner in (x0, box.y0, x1, box.y1)))

    return [(back(box), confidence) for box, confidence in found]


def confidences(original: Found, found: Found) -> list[float | None]:
    """Of each person of the original among the people found; None for one who is not."""
    return [
        max((confidence for other, confidence in found if box.iou(other) > SAME), default=None)
        for box, _ in original
    ]


def row(name: str, count: int, known: Sequence[float | None]) -> str:
    cells = " | ".join("-" if value is None else f"{value:.2f}" for value in known)
    return f"| {name} | {count} | {sum(value is not None for value in known)} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detector", default="blazepose")
    detector, photo = load_detector(parser.parse_args().detector), Image.open(PHOTO).convert("RGB")
    original = find(detector, photo)
    print(f"| version | found | of the original | {' | '.join(map(str, range(len(original))))} |")
    print("|---" + "|---:" * (2 + len(original)) + "|")
    for name, change in VARIANTS.items():
        image = change(photo)
        found = in_original(find(detector, image), image, image.width / photo.width, name == "mirrored")
        print(row(name, len(found), confidences(original, found)), flush=True)


if __name__ == "__main__":
    main()
