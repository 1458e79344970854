"""People in photographs, by BlazePose (Bazarevsky et al., arXiv 2006.10204): a detector for photographs.

`find_people` searches the whole photograph: the finder on windows of several sizes, the landmark model on each
candidate, once more on a crop that is placed by the landmarks, and duplicates removed. `detect` reads the person in a
given box, `track_people` the people of the previous frame of a video.

BlazePose's hips and shoulders lie elsewhere than SMPL's joints; nothing is corrected here, so that a policy that is
trained on this detector's points sees them as they are. MediaPipe's smoothing over time is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from common.storage.fingerprint import digest
from hmr.assets.extract_blazepose import BLAZEPOSE_FOLDER
from hmr.detection.blazepose import people
from hmr.detection.blazepose.finder import Candidate, Finder, remove_near, sliding_windows
from hmr.detection.blazepose.landmarks import BATCH, LANDMARK_NAMES, LandmarkModel, Landmarks
from hmr.detection.blazepose.network import load_network
from hmr.detection.blazepose.regions import ImagePyramid, Region, region_of_box
from hmr.types import POINT_NAMES, Box, Detection, Sample

__all__ = ["MIN_CONFIDENCE", "BlazePoseDetector", "FoundPerson", "load_blazepose"]

MIN_CONFIDENCE = 0.25  # of a person who is found; below 0.5 they are called uncertain
MIN_SCORE = 0.1  # of a first reading that is worth a second one
CERTAIN = 0.9  # confidence of a first reading that makes further ones of the same person needless
STEEP = 1.0  # radians; the finder turns some upright people upside down, so they are read upright too
MASK_SIZE = 256
BOX_WINDOWS = (1.1, 1.6)  # sides of the finder's windows about a given box
BOX_SCALE = 1.25  # side of the crop for a box in which the finder finds nobody
BOX_CANDIDATES = 2  # of the finder, besides that crop
WHOLE = (1.0,)  # sizes of the finder's windows in a glance at a frame whose people are followed
LOST_WINDOWS = (1.6, 3.0)  # sides of those about the last box of somebody who is not seen there
MIN_MATCH = 0.2  # confidence times overlap with the given box, below which the crop of the box itself is read
DEPTH_SIGMA_M, HIDDEN_DEPTH_SIGMA_M = 0.1, 0.2
_REPORTED = [number for number, name in enumerate(LANDMARK_NAMES) if name in POINT_NAMES]
_HIPS = [LANDMARK_NAMES.index("left_hip"), LANDMARK_NAMES.index("right_hip")]


@dataclass(frozen=True)
class FoundPerson:
    """A person with everything that was read of them."""

    box: Box  # the visible part, inside the photograph
    confidence: float  # 0 to 1
    detection: Detection
    world_m: Float[
        Tensor, "33 3"
    ]  # all of BlazePose's landmarks (`LANDMARK_NAMES`) about the middle of the hips
    landmarks: Landmarks


class BlazePoseDetector:
    is_flip_tested = False

    def __init__(self, finder: Finder, model: LandmarkModel, name: str = "blazepose") -> None:
        self.finder, self.model, self.name = finder, model, name

    def digest(self) -> str:
        return digest(self.finder.network.digest(), self.model.network.digest())

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        """Boxes of people by decreasing confidence, those below MIN_CONFIDENCE left out."""
        return [person.box for person in self.find_people(image)]

    def find_people(
        self, image: UInt8[np.ndarray, "height width 3"], min_confidence: float = MIN_CONFIDENCE
    ) -> list[FoundPerson]:
        """People by decreasing confidence."""
        height, width = image.shape[:2]
        readings = self._search(ImagePyramid(image), sliding_windows(width, height))
        return _found(readings, width, height, min_confidence)

    def _search(
        self, pyramid: ImagePyramid, windows: Sequence[Region], known: Sequence[Landmarks] = ()
    ) -> list[Landmarks]:
        """Readings of the people in the windows, by decreasing confidence; one person may have several. `known`: people
        who are not read again."""
        candidates = remove_near([one for found in self.finder.find(pyramid, windows) for one in found])
        new = _not_on(known, _with_upright(candidates))
        return self._read_twice(pyramid, self._read_once(pyramid, new))

    def _read_once(self, pyramid: ImagePyramid, candidates: Sequence[Candidate]) -> list[Landmarks]:
        """A reading per candidate, by decreasing score of the finder; candidates on a person who has been read with
        certainty are left out."""
        readings: list[Landmarks] = []
        rest = sorted(candidates, key=lambda one: -one.score)
        while rest:
            batch, rest = rest[:BATCH], rest[BATCH:]
            read = self.model.read(pyramid, [one.region for one in batch])
            rest = _not_on([one for one in read if people.confidence(one) >= CERTAIN], rest)
            readings += read
        return readings

    def _read_twice(self, pyramid: ImagePyramid, first: Sequence[Landmarks]) -> list[Landmarks]:
        """For each person of the first readings the better of two, the second in the crop that the first one places; by
        decreasing confidence."""
        promising = people.remove_duplicates(_by_confidence([one for one in first if one.score >= MIN_SCORE]))
        second = self.model.read(pyramid, [one.next_region for one in promising])
        pairs = zip(promising, second, strict=True)
        return _by_confidence([max(pair, key=people.confidence) for pair in pairs])

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        """The person in each box: of the finder's candidates in and about the box and a crop of the box itself, the
        reading that fits the box best."""
        # samples of one photograph, such as those of test-time augmentation, share its reduced levels
        pyramids = {id(sample.image): ImagePyramid(sample.image) for sample in samples}
        readings = [self._read_box(sample, pyramids[id(sample.image)]) for sample in samples]
        return [
            _detection(reading, sample.box, sample.image.shape[1], sample.image.shape[0])
            for reading, sample in zip(readings, samples, strict=True)
        ]

    def _read_box(self, sample: Sample, pyramid: ImagePyramid) -> Landmarks:
        windows = [region_of_box(sample.box, scale) for scale in BOX_WINDOWS]
        found = remove_near([one for window in self.finder.find(pyramid, windows) for one in window])
        candidates = _with_upright(found[:BOX_CANDIDATES])
        regions = [region_of_box(sample.box, BOX_SCALE), *(one.region for one in candidates)]
        own, *others = self.model.read(pyramid, regions)
        best = max(others, key=lambda one: _match(one, sample), default=own)
        if _match(best, sample) < max(_match(own, sample), MIN_MATCH):
            best = own
        (again,) = self.model.read(pyramid, [best.next_region])
        return max(best, again, key=lambda one: _match(one, sample))

    def track_people(
        self,
        previous: Sequence[FoundPerson],
        image: UInt8[np.ndarray, "height width 3"],
        with_glance: bool = True,
    ) -> list[FoundPerson]:
        """The people of the previous frame of a video who are still seen, each read in the crop that the landmarks of
        that frame give, in the same order. After them who else is found about the place of somebody who is not seen
        there any more, and with a glance in the frame as a whole."""
        pyramid, (height, width) = ImagePyramid(image), image.shape[:2]
        readings = self.model.read(pyramid, [person.landmarks.next_region for person in previous])
        is_seen = [people.confidence(reading) >= MIN_CONFIDENCE for reading in readings]
        lost = [person for person, still in zip(previous, is_seen, strict=True) if not still]
        windows = [region_of_box(person.box, scale) for person in lost for scale in LOST_WINDOWS]
        seen = [reading for reading, still in zip(readings, is_seen, strict=True) if still]
        windows += sliding_windows(width, height, WHOLE) if with_glance else []
        others = self._search(pyramid, windows, seen) if windows else []
        return _found([*seen, *others], width, height, MIN_CONFIDENCE)


def _found(
    readings: Sequence[Landmarks], width: int, height: int, min_confidence: float
) -> list[FoundPerson]:
    """The people of sufficient confidence, each by the first of their readings."""
    sure = [reading for reading in readings if people.confidence(reading) >= min_confidence]
    found = [_person(reading, width, height) for reading in people.remove_duplicates(sure)]
    return [person for person in found if person is not None]


def _not_on(read: Sequence[Landmarks], candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without those on somebody who has been read."""
    return [one for one in candidates if not any(people.is_on(one.region, person) for person in read)]


def _by_confidence(readings: Sequence[Landmarks]) -> list[Landmarks]:
    return sorted(readings, key=people.confidence, reverse=True)


def _with_upright(candidates: Sequence[Candidate]) -> list[Candidate]:
    steep = [one for one in candidates if abs(one.region.roll) > STEEP]
    return [*candidates, *(replace(one, region=replace(one.region, roll=0.0)) for one in steep)]


def _match(reading: Landmarks, sample: Sample) -> float:
    """Confidence times the overlap with the given box."""
    height, width = sample.image.shape[:2]
    box = people.person_box(reading, width, height)
    return 0.0 if box is None else people.confidence(reading) * box.iou(sample.box)


def _person(reading: Landmarks, width: int, height: int) -> FoundPerson | None:
    box = people.person_box(reading, width, height)
    if box is None:
        return None
    detection = _detection(reading, box, width, height)
    return FoundPerson(box, detection.confidence, detection, reading.world_m, reading)


def _detection(reading: Landmarks, box: Box, width: int, height: int) -> Detection:
    """The reported points, with a mask over a square that contains the crop and the box."""
    visibility = people.seen(reading, width, height)
    hidden = 1 - visibility
    square = _square_around(reading.region.bounds, box)
    return Detection.from_points(
        [LANDMARK_NAMES[number] for number in _REPORTED],
        reading.points_px[_REPORTED],
        people.sigma_px(reading)[_REPORTED],
        visibility[_REPORTED],
        (reading.world_m[:, 2] - reading.world_m[_HIPS, 2].mean())[_REPORTED],
        (DEPTH_SIGMA_M + (HIDDEN_DEPTH_SIGMA_M - DEPTH_SIGMA_M) * hidden)[_REPORTED],
        mask=reading.upright_mask(square, MASK_SIZE),
        mask_box=square,
        confidence=people.confidence(reading),
    )


def _square_around(a: Box, b: Box) -> Box:
    return Box(min(a.x0, b.x0), min(a.y0, b.y0), max(a.x1, b.x1), max(a.y1, b.y1)).square()


def load_blazepose(variant: str = "full", device: torch.device | str = "cpu") -> BlazePoseDetector:
    """`full`, which ships; `heavy`, which `python -m hmr.assets.extract_blazepose --variant heavy` fetches; or the path
    of a landmark model that it wrote. Raises ValueError for a file that is missing."""
    path = (
        Path(variant)
        if variant.endswith(".safetensors")
        else BLAZEPOSE_FOLDER / f"landmarks_{variant}.safetensors"
    )
    if not path.is_file():
        raise ValueError(
            f"BlazePose has no landmark model {variant!r} at {path}; known are full, heavy (to fetch it: python -m "
            "hmr.assets.extract_blazepose --variant heavy) and the path of a .safetensors file"
        )
    finder = Finder(load_network(BLAZEPOSE_FOLDER / "finder.safetensors", device))
    name = "blazepose" if variant == "full" else f"blazepose:{variant}"
    return BlazePoseDetector(finder, LandmarkModel(load_network(path, device)), name)
