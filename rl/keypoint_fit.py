"""Alignment to keypoints: hypothesis 0 of each image is fitted to its detection, and the policy imitates the fits.

    OUT/bodies/labels.safetensors    the fitted bodies (`rl.labels.pseudo_labels`), and made_from.json
    OUT/policy                       the policy, as `rl.rounds.align_once` saves it

It needs neither labels nor a critic, and knows no more than the detections: where a policy does not use them fully,
for example in a domain that it was not trained on, this comes before alignment to scores, which then tell what
keypoints do not. A second run does only what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.progress import Stage
from common.storage.fingerprint import has_fingerprint, json_digest, remove_fingerprint, write_fingerprint
from hmr.body.model import Body
from hmr.detection.protocol import detector_digest
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Sample
from rl.config import RESAMPLE, GroupPreferenceConfig
from rl.imitation import groups_of_labels
from rl.labels.body_labels import BodyLabels
from rl.labels.pseudo_labels import fitted_to_keypoints
from rl.preferences.shards import image_sha256
from rl.rounds import Rounds, align_once, checked_alignment

__all__ = ["align_to_keypoints", "checked_fit"]

LABELS = "labels.safetensors"


def align_to_keypoints(
    policy: DiffusionPolicy,
    body: Body,
    samples: Sequence[Sample],
    out: Path,
    alignment: Mapping[str, Any],
    seed: int,
    stage: Stage,
) -> DiffusionPolicy:
    """The policy after imitation; `policy` itself does not change.

    alignment: fields of `GroupPreferenceConfig`. Raises what `checked_fit` and `align_once` raise.
    """
    fields = checked_fit(policy, alignment, len(samples))
    labels = _fitted(policy, body, samples, out / "bodies", stage)
    tick = stage(f"imitating fits to the keypoints of {len(samples)} images", fields["max_steps"])
    return align_once(policy, groups_of_labels(labels), out / "policy", fields, seed, tick)


def checked_fit(policy: DiffusionPolicy, alignment: Mapping[str, Any], images: int) -> dict[str, Any]:
    """The training arguments, checked before anything is fitted. Raises what `checked_alignment` raises, and ValueError
    for another loss than `resample`."""
    fields = checked_alignment(policy, alignment, Rounds(), images)
    if (loss := fields.get("loss_type", GroupPreferenceConfig.loss_type)) != RESAMPLE:
        raise ValueError(f"fits to keypoints are imitated with loss_type {RESAMPLE}, not {loss}")
    return fields


def _fitted(
    policy: DiffusionPolicy, body: Body, samples: Sequence[Sample], folder: Path, stage: Stage
) -> BodyLabels:
    """Those in the folder, if they are of this policy, its detector and these images; otherwise new ones."""
    made_from = {
        "policy": policy.digest(),
        "detector": detector_digest(policy.detector) or policy.detector.name,
        "images": json_digest([[sample.id, image_sha256(sample)] for sample in samples]),
    }
    if not has_fingerprint(folder, made_from):
        folder.mkdir(parents=True, exist_ok=True)
        remove_fingerprint(folder)
        tick = stage(f"fitting hypothesis 0 of {len(samples)} images to its keypoints", len(samples))
        fitted_to_keypoints(policy, body, samples, tick).save(folder / LABELS)
        write_fingerprint(folder, made_from)
    return BodyLabels.load(folder / LABELS)
