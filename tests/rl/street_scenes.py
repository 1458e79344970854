"""Scenes of the street, and a detector that gives the detections stored with them."""

import numpy as np

from hmr.body.model import Body
from hmr.synthetic.recipe import STREET
from hmr.synthetic.scenes import SceneMaker
from hmr.types import Sample


def street_samples(body: Body) -> list[Sample]:
    return [scene.labelled.sample for scene in SceneMaker(body, STREET, seed=5).chunk(0, 3)]


class StoredDetections:
    """The detections that are stored with the scenes."""

    name = "simulated"

    def find(self, image: np.ndarray) -> list:
        return []

    def detect(self, sample: Sample):
        assert sample.detection is not None
        return sample.detection
