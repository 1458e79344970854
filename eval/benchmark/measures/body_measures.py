"""Plausibility and agreement with the image of a policy's first hypotheses, as values of a `Report`.

They need posed and rendered meshes, so only the first `FIRST` hypotheses of each image are measured: about a tenth of a
second per image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float

from agent.types import Case
from eval.benchmark.measures.image_agreement import AGREEMENT, image_agreement
from eval.benchmark.measures.plausibility import PLAUSIBILITY, plausibility
from hmr.body.model import Body
from hmr.types import BodyParams, Detection, Detector, Hypotheses, Labelled, Renderer

__all__ = ["BODY_MEASURES", "FIRST", "BodyMeasures"]

BODY_MEASURES = (*PLAUSIBILITY, *AGREEMENT)
FIRST = 10


@dataclass(frozen=True)
class BodyMeasures:
    """Called with a labelled image and its hypotheses (`eval.benchmark.protocol.evaluate_policy`). Every image is
    detected once, for all policies that are compared."""

    body: Body
    renderer: Renderer
    detector: Detector  # not the policy's own
    detections: dict[str, Detection] = field(default_factory=dict)  # by sample id

    @torch.no_grad()
    def __call__(self, labelled: Labelled, params: BodyParams) -> dict[str, dict[str, float]]:
        """Means over the first hypotheses, by metric, under the name `first10`; NaN if none has a value."""
        sample, truth = labelled.sample, labelled.truth
        hypotheses = Hypotheses(params[:FIRST], sample.camera)
        if sample.id not in self.detections:
            self.detections[sample.id] = self.detector.detect(sample)
        whole_image = sample.camera
        case = Case.of(sample, hypotheses, self.body, self.renderer, whole_image, self.detections[sample.id])
        true = self.body(truth.params)
        true_vertices_m, faces = true.vertices_cam_m[None].numpy(), self.body.faces.numpy()
        true_body = self.renderer.render(true_vertices_m, faces, truth.camera).mask[0]
        values = plausibility(case, true) | image_agreement(case, truth, true_body)
        return _means(values)

    def of_truth(self, labelled: Labelled) -> dict[str, dict[str, float]]:
        """The same of the true body, in the true camera: what these metrics say of a perfect hypothesis."""
        sample = replace(labelled.sample, camera=labelled.truth.camera)
        return self(replace(labelled, sample=sample), BodyParams.stack([labelled.truth.params]))


def _means(values: Mapping[str, Float[np.ndarray, " group"]]) -> dict[str, dict[str, float]]:
    means = {}
    for metric in BODY_MEASURES:
        known = values[metric][~np.isnan(values[metric])]
        means[metric] = {f"first{FIRST}": float(known.mean()) if known.size else float("nan")}
    return means
