"""Search: groups with better hypotheses than the policy samples, for the critic to find and the policy to imitate.

Imitation of a policy's own samples can only select among them. As in expert iteration (Anthony et al., NeurIPS 2017,
arXiv 1705.08439), a search proposes more, and the policy learns from what its critic ranks first.

| origin      | hypotheses                                                                                             |
|-------------|--------------------------------------------------------------------------------------------------------|
| `sampled`   | samples of the policy from `noise_scale` times its noise                                               |
| `guided`    | the same from other noise, guided by a detection (ScoreHMR, arXiv 2403.09623; `hmr.policy.guidance`)   |
| `corrected` | sampled ones whose bones are turned towards the detection's 3D joints, by equally spaced shares        |
| `mirrored`  | sampled ones with one limb mirrored in depth, which one image hardly shows (`hmr.body.bones`)          |

The detection is the critic's, not the policy's: the policy already knows its own. Without 3D joints nothing is
corrected, and as many more are mirrored. The group is in a random order, so that neither the critic nor its label
orders can tell the origins; a row stores them in its column `origin`.

Left out: search in several steps, in which the critic's scores decide what is proposed next.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from hmr.body.bones import bones_of, mirror_in_depth, turn_bones
from hmr.body.model import Body
from hmr.detection.protocol import detector_digest
from hmr.metrics.errors import about_pelvis
from hmr.policy.guidance import DetectionGuidance, GuidanceConfig
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import JOINT_NAMES, BodyParams, Detection, Detector, Hypotheses, Sample, Scorer
from rl.policy_adapter import PolicyAdapter
from rl.preferences.proposers import Proposal, SamplingPolicy

__all__ = ["Search", "SearchSettings", "check_policy_of_search", "search_for"]

ORIGINS = ("sampled", "guided", "corrected", "mirrored")
LIMBS = tuple(
    tuple(JOINT_NAMES.index(f"{side}_{joint}") for joint in limb)
    for limb in (("shoulder", "elbow"), ("hip", "knee"))
    for side in ("left", "right")
)


@dataclass(frozen=True)
class SearchSettings:
    """Numbers of hypotheses by origin, and how they are made. Raises ValueError for numbers that make no group.

    Chosen on 400 images of `street-align`, never on `street-test`.
    """

    sampled: int = 6
    guided: int = 4
    corrected: int = 8
    mirrored: int = 2
    noise_scale: float = 1.3
    least_share: float = 0.5  # of the way from a sampled body to the detection's 3D joints
    largest_share: float = 1.0
    guidance: GuidanceConfig = field(default_factory=lambda: GuidanceConfig(joints=10.0))

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ORIGINS}
        if wrong := [f"{name}={number}" for name, number in numbers.items() if number < 0]:
            raise ValueError(f"search takes numbers of hypotheses from 0 on, not {', '.join(wrong)}")
        if not self.sampled and self.corrected + self.mirrored:
            raise ValueError("search changes sampled bodies by rule, so sampled must be at least 1, not 0")
        if not 0 <= self.least_share <= self.largest_share <= 1:
            raise ValueError(
                "0 <= least_share <= largest_share <= 1 is required, "
                f"not {self.least_share:g} and {self.largest_share:g}"
            )

    @property
    def group_size(self) -> int:
        return sum(getattr(self, name) for name in ORIGINS)

    @staticmethod
    def of_size(group_size: int) -> SearchSettings:
        """A group of another size in about the same proportions. Raises ValueError below 4."""
        if group_size < len(ORIGINS):
            raise ValueError(f"a group of search has at least {len(ORIGINS)} hypotheses, not {group_size}")
        guided, corrected, mirrored = (max(1, group_size * part // 10) for part in (2, 4, 1))
        return SearchSettings(group_size - guided - corrected - mirrored, guided, corrected, mirrored)


class Search:
    """A `rl.preferences.proposers.Proposer` for a `DiffusionPolicy`; the detector reads the images."""

    def __init__(self, settings: SearchSettings, detector: Detector, body: Body) -> None:
        self.settings, self.detector, self.body = settings, detector, body

    @property
    def group_size(self) -> int:
        return self.settings.group_size

    def describe(self) -> dict[str, Any]:
        detector = {"detector": self.detector.name, "detector_digest": detector_digest(self.detector)}
        search = {**dataclasses.asdict(self.settings), **detector, "body": self.body.name}
        return {"group_size": self.group_size, "search": search}

    def propose(
        self, policy: SamplingPolicy | PolicyAdapter, sample: Sample, generator: torch.Generator
    ) -> Proposal:
        """Raises ValueError for a policy that is no `DiffusionPolicy`: only that one can be guided."""
        policy = check_policy_of_search(policy)
        features, detection = policy.encode([sample]), self.detector.detect(sample)
        found = self._by_origin(policy, features, detection, generator)
        origins = [origin for origin, params in found for _ in range(len(params.betas))]
        order = torch.randperm(self.group_size, generator=generator)
        params = BodyParams.cat([params for _, params in found])[order]
        shuffled = tuple(origins[index] for index in order.tolist())
        return Proposal(Hypotheses(params, sample.camera), features, shuffled)

    def _by_origin(
        self, policy: DiffusionPolicy, features: Features, detection: Detection, generator: torch.Generator
    ) -> list[tuple[str, BodyParams]]:
        settings, found = self.settings, []
        guidance = DetectionGuidance(policy, self.body, features, [detection], settings.guidance)
        for origin, number, guide in (
            ("sampled", settings.sampled, None),
            ("guided", settings.guided, guidance),
        ):
            if number:
                drawn = policy.sample(features, number, generator, settings.noise_scale, guide)[0]
                found.append((origin, drawn.params))
        reads_joints = detection.joints_root_m is not None
        corrected = settings.corrected if reads_joints else 0
        mirrored = settings.mirrored + settings.corrected - corrected
        if corrected:
            found.append(("corrected", self._corrected(found[0][1], corrected, detection)))
        if mirrored:
            found.append(("mirrored", self._mirrored(found[0][1], mirrored, generator)))
        return found

    def _corrected(self, sampled: BodyParams, number: int, detection: Detection) -> BodyParams:
        """Shares of the way to the detection's joints, equally spaced; of a single body the largest."""
        params = sampled[torch.arange(number) % self.settings.sampled]
        joints_m, reading_m = about_pelvis(self.body.joints(params)), detection.joints_root_m
        assert reading_m is not None
        shares = torch.linspace(self.settings.largest_share, self.settings.least_share, number)[:, None, None]
        return turn_bones(
            params, self.body, bones_of(torch.lerp(joints_m, reading_m.expand_as(joints_m), shares))
        )

    def _mirrored(self, sampled: BodyParams, number: int, generator: torch.Generator) -> BodyParams:
        """One limb of each body, or its outer half, chosen at random."""
        params = sampled[torch.randint(self.settings.sampled, (number,), generator=generator)]
        joints_m = self.body.joints(params)
        bones_m = mirror_in_depth(bones_of(joints_m), joints_m)
        limbs = torch.randint(len(LIMBS), (number,), generator=generator).tolist()
        firsts = torch.randint(2, (number,), generator=generator).tolist()
        one = (
            turn_bones(params[index : index + 1], self.body, bones_m[index : index + 1], LIMBS[limb][first:])
            for index, (limb, first) in enumerate(zip(limbs, firsts, strict=True))
        )
        return BodyParams.cat(list(one))


def check_policy_of_search(policy: object) -> DiffusionPolicy:
    """The policy. Raises ValueError if it is no `DiffusionPolicy`, such as one behind an adapter."""
    if not isinstance(policy, DiffusionPolicy):
        raise ValueError(f"search needs a DiffusionPolicy, not {type(policy).__name__}")
    return policy


@runtime_checkable
class _ReadsImages(Protocol):
    """The attributes of `agent.agent.CritiqueAgent` that a search shares."""

    body: Body
    detector: Detector | None


def search_for(
    policy: DiffusionPolicy,
    scorer: Scorer,
    settings: SearchSettings,
    body: Body,
    detector: Detector | None = None,
) -> Search:
    """A search by `detector`; None: by the critic's, or by the policy's for scorers that have none. body: of the
    hypotheses, for scorers that have none."""
    if isinstance(scorer, _ReadsImages):
        body, detector = scorer.body, detector or scorer.detector
    return Search(settings, detector or policy.detector, body)
