"""A preference group: the hypotheses of one image with the scores of a critic, and its form as a Parquet row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.types import BodyParams, Camera, Hypotheses

__all__ = [
    "ORIGIN",
    "PARAM_COLUMNS",
    "PreferenceGroup",
    "bodies_of_row",
    "body_columns",
    "checked_scores",
    "flattened",
]

ORIGIN = "origin"  # the column of a group that is not all sampled by the policy
PARAM_COLUMNS = {"global_orient": (3,), "body_pose": (23, 3), "betas": (10,), "transl": (3,)}


@dataclass(frozen=True)
class PreferenceGroup:
    """One image with its G hypotheses and their scores. It holds no ground truth.

    condition, geometry: one row of `hmr.policy.policy.Features`: the detection with the initial estimate, and the
        position of the crop. With them alignment needs neither the image nor the detector.
    uses_truth: whether the scorer reads the ground truth. Such a group is for controls, never for a result.
    policy_digest: identifies the weights that sampled the group.
    origins: where a proposer found each hypothesis (`rl.preferences.proposers`); None if the policy sampled all.
    """

    sample_id: str
    image_sha256: str
    hypotheses: Hypotheses
    condition: Float[Tensor, " channels"]
    geometry: Float[Tensor, "8"]
    scores: tuple[float | None, ...]
    scorer: str
    uses_truth: bool
    policy_digest: str
    origins: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        checked_scores(self.scorer, self.scores, len(self.hypotheses))
        if self.origins is not None and len(self.origins) != len(self.hypotheses):
            raise ValueError(
                f"the {len(self.hypotheses)} hypotheses of {self.sample_id!r} have {len(self.origins)} origins"
            )

    def to_row(self) -> dict[str, Any]:
        """One Parquet row of plain lists and numbers; arrays are flattened in C order."""
        return {
            "sample_id": self.sample_id,
            "image_sha256": self.image_sha256,
            **body_columns(self.hypotheses),
            "condition": flattened(self.condition),
            "geometry": flattened(self.geometry),
            "scores": list(self.scores),
            "scorer": self.scorer,
            "uses_truth": self.uses_truth,
            "policy_digest": self.policy_digest,
            **({} if self.origins is None else {ORIGIN: list(self.origins)}),
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> PreferenceGroup:
        """The inverse of `to_row`."""
        return PreferenceGroup(
            sample_id=row["sample_id"],
            image_sha256=row["image_sha256"],
            hypotheses=bodies_of_row(row),
            condition=_tensor(row["condition"]),
            geometry=_tensor(row["geometry"]),
            scores=tuple(row["scores"]),
            scorer=row["scorer"],
            uses_truth=row["uses_truth"],
            policy_digest=row["policy_digest"],
            origins=tuple(row[ORIGIN]) if ORIGIN in row else None,
        )


def checked_scores(scorer: str, scores: Sequence[float | None], count: int) -> list[float | None]:
    """The scores that a scorer of that name gave for a group of `count`. Raises ValueError if there are more or fewer,
    and if one is not finite."""
    if len(scores) != count:
        raise ValueError(
            f"{scorer!r} gave {len(scores)} scores for {count} hypotheses; it must give one per hypothesis"
        )
    if not all(score is None or math.isfinite(score) for score in scores):
        raise ValueError(f"{scorer!r} gave {list(scores)}; a score that failed is None, never NaN")
    return [None if score is None else float(score) for score in scores]


def body_columns(hypotheses: Hypotheses) -> dict[str, Any]:
    """The columns of a row that hold a group of SMPL bodies: `camera` and those of `PARAM_COLUMNS`, flattened."""
    camera, params = hypotheses.camera, hypotheses.params
    return {
        "camera": [camera.focal_px, camera.cx_px, camera.cy_px, float(camera.width), float(camera.height)],
        **{name: flattened(getattr(params, name)) for name in PARAM_COLUMNS},
    }


def bodies_of_row(row: Mapping[str, Any]) -> Hypotheses:
    """The inverse of `body_columns`; the row also needs `scores`, whose length is the size of the group."""
    focal_px, cx_px, cy_px, width, height = row["camera"]
    group = len(row["scores"])
    arrays = {name: _tensor(row[name]).reshape(group, *shape) for name, shape in PARAM_COLUMNS.items()}
    return Hypotheses(BodyParams(**arrays), Camera(focal_px, cx_px, cy_px, int(width), int(height)))


def flattened(tensor: Tensor) -> Float[np.ndarray, " length"]:
    """In C order, as a row holds it."""
    return tensor.detach().cpu().float().flatten().numpy()


def _tensor(values: Any) -> Float[Tensor, " length"]:
    return torch.as_tensor(values, dtype=torch.float32)
