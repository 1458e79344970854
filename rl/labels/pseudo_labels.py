"""Bodies that are imitated in place of scored groups: one per image, in a policy's coordinates.

| labels     | body of an image                                                                                   |
|------------|----------------------------------------------------------------------------------------------------|
| `averaged` | the mean of the policy's group: self-training, as in noisy-student methods                         |
| `fit`      | hypothesis 0, fitted to the keypoints of the policy's own detection as in SMPLify (arXiv 1607.08128): |
|            | robust reprojection and a Gaussian prior, here about hypothesis 0, as SPIN starts from its regression |
|            | (arXiv 1909.12828); `hmr.policy.guidance`                                                          |
| `reading`  | the estimate of the shipped policy from the critic's detector, which gives the agent its 3D joints |
| truth      | of labelled scenes (`rl.labels.body_labels`)                                                            |

None of them has a critic; `reading` shows what scores add to the best evidence behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.detection.protocol import detect_all
from hmr.metrics.errors import average_pose
from hmr.policy.guidance import DetectionGuidance, GuidanceConfig
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import BodyParams, Detector, Sample
from rl.labels.body_labels import BodyLabels

__all__ = ["averaged_groups", "fitted_to_keypoints", "read_by"]

BATCH = 64
FIT = GuidanceConfig(iterations=100, silhouette=0.0)  # the simulated detector reports no mask
Progress = Callable[[int], None]


@torch.no_grad()
def averaged_groups(
    policy: DiffusionPolicy, samples: Sequence[Sample], size: int, seed: int, progress: Progress
) -> BodyLabels:
    """The means of the groups that `rl.preferences.build` samples with this seed."""
    conditions, x0 = [], []
    for done, sample in enumerate(samples, start=1):
        features = policy.encode([sample])
        group = policy.sample(features, size, derive_generator(seed, "group", sample.id))[0]
        conditions.append(features.condition.cpu())
        x0.append(_one_body(policy, average_pose(group.params), features))
        progress(done)
    return BodyLabels(torch.cat(conditions), torch.cat(x0), policy.initial_estimate_digest())


@torch.no_grad()
def fitted_to_keypoints(
    policy: DiffusionPolicy, body: Body, samples: Sequence[Sample], progress: Progress
) -> BodyLabels:
    """Hypothesis 0 of each image after gradient steps on the distance to the detected keypoints."""
    conditions, x0 = [], []
    for start in range(0, len(samples), BATCH):
        batch = list(samples[start : start + BATCH])
        detections = detect_all(policy.detector, batch)
        features = policy.encode(batch, detections)
        found = policy.sample(features, 1, torch.Generator())  # hypothesis 0 needs no noise
        begin = policy.to_x0(BodyParams.stack([group.params for group in found]), features)
        fitted = DetectionGuidance(policy, body, features, detections, FIT).guide(begin, steps_left=0)
        conditions.append(features.condition.cpu())
        x0.append(fitted[:, 0].cpu())
        progress(start + len(batch))
    return BodyLabels(torch.cat(conditions), torch.cat(x0), policy.initial_estimate_digest())


@torch.no_grad()
def read_by(
    reader: DiffusionPolicy,
    detector: Detector,
    policy: DiffusionPolicy,
    samples: Sequence[Sample],
    progress: Progress,
) -> BodyLabels:
    """The initial estimate of the reader for the detector's reports, in the coordinates of the policy."""
    conditions, x0 = [], []
    for start in range(0, len(samples), BATCH):
        batch = list(samples[start : start + BATCH])
        read = reader.regress(reader.encode(batch, detect_all(detector, batch)))
        features = policy.encode(batch)
        conditions.append(features.condition.cpu())
        x0.append(policy.to_x0(BodyParams.stack([group.params for group in read]), features)[:, 0].cpu())
        progress(start + len(batch))
    return BodyLabels(torch.cat(conditions), torch.cat(x0), policy.initial_estimate_digest())


def _one_body(policy: DiffusionPolicy, params: BodyParams, features: Features) -> Float[Tensor, "1 157"]:
    """The coordinates of a body of batch shape ()."""
    return policy.to_x0(BodyParams.stack([BodyParams.stack([params])]), features)[:, 0].cpu()
