"""Overlap of the rendered body with the detector's person mask.

With p the detector's probability of the person in a pixel and b the render (0 or 1), over the view's pixels
inside the image:

    covered = sum p b        missed = sum p (1 - b)        excess = sum w (1 - p) b
    value = 1 - covered / (covered + missed + excess)

Without w this is 1 - soft IoU. The two errors differ, hence Tversky's asymmetric index (1977): a visible pixel of the
person is part of the body, so a missed pixel counts fully; but an occluder such as a chair cuts the mask and not the
body, so a body pixel outside the mask is weighted by w, the detector's confidence that the part drawn there is visible.
w has a lower bound, because otherwise a body that covers the whole image would have no excess if all joints are hidden.
Pixels outside the image are ignored.

Left out: the depth order of several people (`agent.arrangement.occlusion_order`); skirts and hair, which a body model
without clothes cannot cover.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

from agent.tools.parts import PART_NAMES, capitalise, worst_parts
from agent.types import Case, Evidence, Need
from hmr.body.model import Body
from hmr.types import NUM_JOINTS, PARENTS, Camera, Detection

__all__ = ["Silhouette", "inside_photo", "mask_in_view", "person_probability", "pixel_centers_px"]

EXCESS_FLOOR = 0.2
MIN_PERSON_SHARE = 0.002  # of the view; below this the detector has found no person
FAULT_SHARE = 0.02  # of the person's pixels


class Silhouette:
    """One minus an asymmetric soft overlap of render and person mask: 0 is a perfect fit, 1 is none."""

    name = "silhouette"
    metric = "silhouette_mismatch"
    needs: frozenset[Need] = frozenset({"keypoints", "mask"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        probability, inside = person_probability(case, case.detection)
        person = float(probability.sum())
        if person < MIN_PERSON_SHARE * probability.size:
            return Evidence.unmeasured(
                self.name, self.metric, "1", len(case), "The detector saw no person to cover."
            )
        covered, excess = _overlap(case, probability, inside, _part_confidence(case.detection))
        values = 1 - covered / (person + excess.sum(axis=1))
        shares = torch.from_numpy(excess / person)
        missed = 1 - covered / person
        sentences = tuple(_sentence(float(m), row) for m, row in zip(missed, shares, strict=True))
        parts = worst_parts(shares, FAULT_SHARE)
        return Evidence(self.name, self.metric, "1", tuple(values.tolist()), parts, sentences)


def person_probability(
    case: Case, detection: Detection
) -> tuple[Float[np.ndarray, "size size"], Bool[np.ndarray, "size size"]]:
    """The detector's person probability in the view's pixels (0 outside the image), and which lie inside."""
    probability = mask_in_view(detection, case.view, case.hypotheses.camera)
    inside = inside_photo(case)
    return (probability * inside).numpy(), inside.numpy()


def mask_in_view(detection: Detection, view: Camera, camera: Camera) -> Float[Tensor, "rows columns"]:
    """The detector's person probability in the pixels of `view`, a crop of the photograph that `camera` took; 0 where
    the detector gives no mask."""
    assert detection.mask is not None
    assert detection.mask_box is not None
    (x_px, y_px), box = pixel_centers_px(view, camera), detection.mask_box
    x_grid = 2 * (x_px - box.x0) / box.side - 1
    y_grid = 2 * (y_px - box.y0) / box.side - 1
    grid = torch.stack(torch.meshgrid(x_grid, y_grid, indexing="xy"), dim=-1)
    mask = torch.tensor(detection.mask, dtype=torch.float32)
    return grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]


def _overlap(
    case: Case,
    probability: Float[np.ndarray, "size size"],
    inside: Bool[np.ndarray, "size size"],
    confidence: Float[np.ndarray, "24"],
) -> tuple[Float[np.ndarray, "group"], Float[np.ndarray, "group 24"]]:
    """Person pixels covered, and body pixels off the person for each part weighted by `confidence`."""
    group, row, column = np.nonzero(case.frame.mask & inside)
    p = probability[row, column]
    part = _part_of_face(case.body).numpy()[case.frame.face_ids[group, row, column]]
    covered = np.bincount(group, p, minlength=len(case)).astype(float)  # counts of nothing are integers
    outside = np.bincount(group * NUM_JOINTS + part, 1 - p, minlength=len(case) * NUM_JOINTS)
    return covered, outside.reshape(-1, NUM_JOINTS) * confidence


def _part_of_face(body: Body) -> Int[Tensor, "faces"]:
    return body.skin_weights.argmax(dim=1)[body.faces[:, 0].long()].cpu()


def _part_confidence(detection: Detection) -> Float[np.ndarray, "24"]:
    """Confidence that each part is visible: the mean over the joints at its ends, at least `EXCESS_FLOOR`."""
    ends = torch.eye(NUM_JOINTS)
    ends[PARENTS[1:], torch.arange(1, NUM_JOINTS)] = 1.0
    confidence = ends @ detection.keypoint_visibility.float().cpu() / ends.sum(dim=1)
    return confidence.clamp_min(EXCESS_FLOOR).numpy()


def _sentence(missed: float, excess_shares: Float[Tensor, "24"]) -> str:
    part = int(excess_shares.argmax())
    if excess_shares[part] > max(FAULT_SHARE, missed / 2):
        share = 100 * float(excess_shares[part])
        return capitalise(
            f"{PART_NAMES[part]} sticks out of the person's outline by {share:.0f} % of its area."
        )
    return f"The body leaves {100 * missed:.0f} % of the person's outline uncovered."


def pixel_centers_px(view: Camera, camera: Camera) -> tuple[Float[Tensor, "columns"], Float[Tensor, "rows"]]:
    """x of the view's columns and y of its rows, in pixels of the photograph that `camera` took."""
    zoom = view.focal_px / camera.focal_px
    x_px = (torch.arange(view.width) + 0.5 - view.cx_px) / zoom + camera.cx_px
    y_px = (torch.arange(view.height) + 0.5 - view.cy_px) / zoom + camera.cy_px
    return x_px, y_px


def inside_photo(case: Case) -> Bool[Tensor, "size size"]:
    """The view's pixels that are inside the photograph."""
    x_px, y_px = pixel_centers_px(case.view, case.hypotheses.camera)
    height, width = case.sample.image.shape[:2]
    return ((y_px > 0) & (y_px < height))[:, None] & ((x_px > 0) & (x_px < width))
