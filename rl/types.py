"""A group of hypotheses for one image, what a critic thought of them, and the advantages that follow.

| here               | symbol | equation                                                                     |
|--------------------|--------|------------------------------------------------------------------------------|
| scores             | s_i    | higher is better, any unit; None where judging failed                        |
| advantages.values  | A_i    | (s_i - mean_j s_j) / std_j s_j over the scored hypotheses of this one image  |

Group-relative advantages after GRPO (arXiv 2402.03300, section 4.1.2), std in its population form. They are
computed inside the group, so that centring over another image's hypotheses cannot be written. Left out:
advantages over the batch and un-normalised ones, which `rl/` learns with its study of normalisations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr.types import BodyParams, Camera, Hypotheses

__all__ = ["Advantages", "PreferenceGroup"]

ROUNDING = 1e-9  # a std below this share of the scores' size is rounding of equal scores
PARAM_COLUMNS = {"global_orient": (3,), "body_pose": (23, 3), "betas": (10,), "transl": (3,)}


@dataclass(frozen=True)
class Advantages:
    values: Float[Tensor, " group"]  # 0 wherever the mask is False
    mask: Bool[Tensor, " group"]  # True where there is something to learn


@dataclass(frozen=True)
class PreferenceGroup:
    """One image with its G hypotheses and their scores; all of it read from the image, nothing true in it.

    `condition` is what the frozen encoder made of the image and `geometry` where its crop lay
    (`hmr.policy.Features`, one row): with them alignment needs neither the image nor the encoder.
    """

    sample_id: str
    image_sha256: str
    hypotheses: Hypotheses
    condition: Float[Tensor, " channels"]
    geometry: Float[Tensor, "8"]
    scores: tuple[float | None, ...]
    scorer: str
    uses_truth: bool  # the scorer looked at the truth: an oracle run, never a result
    policy_digest: str  # the weights that sampled the group

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.hypotheses):
            raise ValueError(
                f"{self.scorer!r} gave {len(self.scores)} scores for the {len(self.hypotheses)} hypotheses "
                f"of {self.sample_id!r}; it must give one each"
            )

    def score_std(self) -> float | None:
        """Population standard deviation of the scores; None when fewer than two hypotheses have one."""
        known = torch.tensor([score for score in self.scores if score is not None], dtype=torch.float64)
        return known.std(correction=0).item() if len(known) > 1 else None

    def advantages(self, clip: float = 5.0, min_std: float = 0.0) -> Advantages:
        """Standardised scores, clamped to +-`clip`.

        A hypothesis without a score is masked. So is a whole group whose std is no more than `min_std` (in
        the scores' unit) or than rounding: dividing by it would turn the scorer's noise into advantages.
        """
        scored = torch.tensor([score is not None for score in self.scores])
        scores = torch.tensor([0.0 if score is None else score for score in self.scores], dtype=torch.float64)
        std = self.score_std()
        if std is None or std <= max(min_std, ROUNDING * scores.abs().max().item()):
            return Advantages(torch.zeros(len(scores)), torch.zeros_like(scored))
        standardised = (scores - scores[scored].mean()) / std
        return Advantages((standardised.clamp(-clip, clip) * scored).float(), scored)

    def to_row(self) -> dict[str, Any]:
        """Plain lists and numbers, one Parquet row; arrays are flattened in C order."""
        camera, params = self.hypotheses.camera, self.hypotheses.params
        arrays = {name: getattr(params, name) for name in PARAM_COLUMNS}
        arrays |= {"condition": self.condition, "geometry": self.geometry}
        return {
            "sample_id": self.sample_id,
            "image_sha256": self.image_sha256,
            "camera": [
                camera.focal_px,
                camera.cx_px,
                camera.cy_px,
                float(camera.width),
                float(camera.height),
            ],
            **{name: array.detach().cpu().flatten().numpy() for name, array in arrays.items()},
            "scores": list(self.scores),
            "scorer": self.scorer,
            "uses_truth": self.uses_truth,
            "policy_digest": self.policy_digest,
        }

    @staticmethod
    def from_row(row: dict[str, Any]) -> PreferenceGroup:
        """The inverse of `to_row`."""
        focal_px, cx_px, cy_px, width, height = row["camera"]
        group = len(row["scores"])
        arrays = {name: _tensor(row[name]).reshape(group, *shape) for name, shape in PARAM_COLUMNS.items()}
        return PreferenceGroup(
            sample_id=row["sample_id"],
            image_sha256=row["image_sha256"],
            hypotheses=Hypotheses(
                BodyParams(**arrays), Camera(focal_px, cx_px, cy_px, int(width), int(height))
            ),
            condition=_tensor(row["condition"]),
            geometry=_tensor(row["geometry"]),
            scores=tuple(row["scores"]),
            scorer=row["scorer"],
            uses_truth=row["uses_truth"],
            policy_digest=row["policy_digest"],
        )


def _tensor(values: Any) -> Float[Tensor, " length"]:
    return torch.as_tensor(values, dtype=torch.float32)
