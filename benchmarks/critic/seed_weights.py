"""Fits the weights of the seed rules to BlazePose's reports, and measures them on new scenes.

    python -m benchmarks.critic.seed_weights [--images 480] [--samples 20] [--test 300] [--write]

A critic of photographs cannot explore with BlazePose, which sees nobody in rendered scenes. Its reports are simulated
there with the errors of its profile (`hmr.synthetic.detector_noise`; only those with depth, as BlazePose's always have
it), and the mask is the embedded encoder's. Each scene of lab-calibration gives two groups:

| group | hypotheses                                                                                                  |
|-------|-------------------------------------------------------------------------------------------------------------|
| own   | those of the shipped policy, from the same report                                                           |
| other | the truth with errors, some shared by the group, as of another model: rotations of the joints, shape, place |

The weights are fitted as exploration does (`agent.exploration.learning`), on errors in the image's plane as well: the
pelvis of a hypothesis is moved along its ray to the true depth, so that a body beside the person is wrong. MPJPE does
not see that, and the weight of the reprojection error, fitted on it, would be 0.

The table has the mean Spearman's rho against minus MPJPE, with its 95 % interval over groups, for the agent with both
weights and for single readings: the distance from the shipped policy's initial estimate (`pose_reading`), and from the
depths that the detector reports. Those are what BlazePose's world landmarks hold beyond the points in the picture. The
policy is conditioned on them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from agent.agent import CritiqueAgent
from agent.agreement import group_spearman
from agent.default import default_agent, open_default_memory
from agent.exploration.learning import Explored, with_fitted_weights
from agent.prompts.question import Brief
from agent.seed_rules import load_seed_rules, write_seed_weights
from common.seeding import derive_generator
from eval.benchmark.intervals import bootstrap_mean
from eval.benchmark.protocol import noise_generator
from hmr.body.model import Body, load_body
from hmr.detection.loading import load_detector
from hmr.metrics.errors import MM_PER_M, about_pelvis, mean_distance_mm, mpjpe_mm
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import SPLITS
from hmr.synthetic.store import make_scenes, read_labelled
from hmr.types import NUM_JOINTS, BodyParams, Box, Detection, Detector, Hypotheses, Labelled, Sample

PROFILE = "blazepose"
DEPTH_WEIGHT = 0.25  # of the depth beside the reading; the best of .15, .25, .35 and .5 on lab-calibration
# of the errors of other groups: standard deviations, each multiplied by a number between 0 and 1 for every group
SHARED_RAD, OWN_RAD = 0.15, 0.2
SHARED_BETAS, OWN_BETAS = 0.5, 0.3
PLACE_M = (0.06, 0.06, 0.2)


@dataclass(frozen=True)
class Group:
    scene: Labelled
    hypotheses: Hypotheses


Critic = Callable[[Group], Sequence[float | None]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=480, help="of lab-calibration, before those without depth"
    )
    parser.add_argument("--samples", type=int, default=20, help="hypotheses per group")
    parser.add_argument("--test", type=int, default=300, help="images of wild-test, likewise")
    parser.add_argument("--write", action="store_true", help="replace the shipped weights")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    policy, body = load_policy(detector="simulated"), load_body()
    with tempfile.TemporaryDirectory() as folder:
        train, test = (
            _scenes(Path(folder), split, count)
            for split, count in (("lab-calibration", options.images), ("wild-test", options.test))
        )
    weights = fitted_weights(_agent(policy, body, None), _both_kinds(policy, train, options.samples))
    if options.write:
        write_seed_weights(PROFILE, weights)
    print(f"policy {policy.digest()}; fitted on {2 * len(train)} groups, measured on {2 * len(test)}\n")
    print("\n".join(f"{weight:6.3f}  {condition}" for condition, weight in weights.items()))
    print("\n| groups | critic | SRCC, MPJPE | less the first |\n|---|---|---:|---:|")
    critics: dict[str, Critic] = {
        "agent, weights written by hand": _scored_by(_agent(policy, body, None)),
        "agent, fitted weights": _scored_by(_agent(policy, body, weights)),
        **_single_readings(_agent(policy, body, None)),
    }
    for title, groups in (
        ("own", _own_groups(policy, test, options.samples)),
        ("other", _other_groups(test, options.samples)),
    ):
        _print_rows(title, body, groups, critics)


class _Reports:
    """The reports that are stored with scenes, with the masks of another detector."""

    name = f"{PROFILE}, simulated"

    def __init__(self, masks: Detector) -> None:
        self.masks = masks

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        return []  # a report belongs to a sample, not to its pixels

    def detect(self, sample: Sample) -> Detection:
        assert sample.detection is not None, "scenes are drawn with one"
        seen = self.masks.detect(replace(sample, detection=None))
        return replace(sample.detection, mask=seen.mask, mask_box=seen.mask_box)


def _agent(policy: DiffusionPolicy, body: Body, weights: Mapping[str, float] | None) -> CritiqueAgent:
    """The default one with the seed rules; weights: None for those written by hand."""
    memory = open_default_memory(None, policy, frozen=False)
    if weights is not None:
        for rule in load_seed_rules():
            memory.rules.set_state(rule.rule_id, "retired", "replaced by one of another weight")
        memory.rules.add(load_seed_rules(weights))
    return default_agent(policy, body, memory, detector=_Reports(load_detector("embedded", "cpu")))


def _scenes(folder: Path, split: str, images: int) -> list[Labelled]:
    """Scenes of the split whose report has depth."""
    recipe = replace(SPLITS[split].recipe, detector=PROFILE)
    scenes = read_labelled(make_scenes(folder / split, recipe, SPLITS[split].seed, images))
    return [scene for scene in scenes if scene.sample.detection and _has_depth(scene.sample.detection)]


def _has_depth(detection: Detection) -> bool:
    return bool(detection.depth_sigma_m[:NUM_JOINTS].isfinite().any())


def _both_kinds(policy: DiffusionPolicy, scenes: Sequence[Labelled], samples: int) -> list[Group]:
    return [*_own_groups(policy, scenes, samples), *_other_groups(scenes, samples)]


def _own_groups(policy: DiffusionPolicy, scenes: Sequence[Labelled], samples: int) -> list[Group]:
    groups = []
    for scene in scenes:
        noise = noise_generator(0, scene.sample)
        groups.append(Group(scene, policy.sample(policy.encode([scene.sample]), samples, noise)[0]))
    return groups


def _other_groups(scenes: Sequence[Labelled], samples: int) -> list[Group]:
    return [Group(scene, _with_errors(scene, samples)) for scene in scenes]


def _with_errors(scene: Labelled, samples: int) -> Hypotheses:
    truth, generator = scene.truth.params, derive_generator("other group", scene.sample.id)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shared_rad = SHARED_RAD * uniform(1, 1)
    own_rad = (
        OWN_RAD * uniform(1, 1) * (0.1 + 0.9 * uniform(samples, 1))
    )  # some hypotheses are better than others
    rotations = torch.cat([truth.global_orient[None], truth.body_pose])
    errors_rad = shared_rad * normal(1, 72) + own_rad * normal(samples, 72)
    turned = roma.rotvec_composition([rotations.expand(samples, 24, 3), errors_rad.reshape(samples, 24, 3)])
    betas = truth.betas + SHARED_BETAS * normal(1, 10) + OWN_BETAS * normal(samples, 10)
    place_m = truth.transl + uniform(1) * torch.tensor(PLACE_M) * normal(samples, 3)
    return Hypotheses(BodyParams(turned[:, 0], turned[:, 1:], betas, place_m), scene.sample.camera)


def fitted_weights(agent: CritiqueAgent, groups: Sequence[Group]) -> dict[str, float]:
    """By the condition of each seed rule."""
    fitted = with_fitted_weights(load_seed_rules(), [_explored(agent, group) for group in groups]).values()
    return {rule.predicate.condition: rule.predicate.weight for rule in fitted if rule.predicate}


def _explored(agent: CritiqueAgent, group: Group) -> Explored:
    sample = group.scene.sample
    case, evidence = agent.measure(sample, group.hypotheses)
    errors_mm = in_plane_mpjpe_mm(case.posed.joints_cam_m, group.scene.truth.joints_cam_m)
    brief = Brief([item.to_json() for item in evidence], [], [], [])
    return Explored(sample.id, brief, (None,) * len(case), tuple(errors_mm.tolist()))


def in_plane_mpjpe_mm(
    joints_cam_m: Float[Tensor, "group 24 3"], true_joints_cam_m: Float[Tensor, "24 3"]
) -> Float[Tensor, "group"]:
    """Mean distance of the joints after every pelvis was moved along its ray to the true pelvis' depth."""
    pelvis_m, true_pelvis_m = joints_cam_m[:, :1], true_joints_cam_m[0]
    moved_m = pelvis_m * (true_pelvis_m[2] / pelvis_m[..., 2:])
    return mean_distance_mm(joints_cam_m - pelvis_m + moved_m, true_joints_cam_m)


def _scored_by(agent: CritiqueAgent) -> Critic:
    return lambda group: agent.score(group.scene.sample, group.hypotheses)


def _single_readings(agent: CritiqueAgent) -> dict[str, Critic]:
    def scored(reading_weight: float, depth_weight: float) -> Critic:
        def critic(group: Group) -> Sequence[float]:
            reading_mm, depth_mm = _distances_mm(agent, group)
            return (-reading_weight * reading_mm - depth_weight * depth_mm).tolist()

        return critic

    return {
        "pose_reading alone": scored(1, 0),
        "depth alone": scored(0, 1),
        "pose_reading and depth": scored(1, DEPTH_WEIGHT),
    }


def _distances_mm(
    agent: CritiqueAgent, group: Group
) -> tuple[Float[Tensor, "group"], Float[Tensor, "group"]]:
    """From the initial estimate, and in depth from the detector, weighted by its precision."""
    case = agent.case(group.scene.sample, group.hypotheses)
    detection, joints_m = case.detection, about_pelvis(case.posed.joints_cam_m)
    assert detection is not None
    assert detection.joints_root_m is not None, "the default agent adds them"
    precision = detection.depth_sigma_m[:NUM_JOINTS] ** -2  # 0 for a joint without depth
    gaps_m = (joints_m[..., 2] - detection.depth_m[:NUM_JOINTS]).abs()
    depth_mm = MM_PER_M * gaps_m @ (precision / precision.sum())
    return mean_distance_mm(joints_m, detection.joints_root_m), depth_mm


def _print_rows(title: str, body: Body, groups: Sequence[Group], critics: Mapping[str, Critic]) -> None:
    errors = [
        mpjpe_mm(body.joints(group.hypotheses.params), group.scene.truth.joints_cam_m).tolist()
        for group in groups
    ]
    first = None
    for name, critic in critics.items():
        found = [group_spearman(critic(group), e) for group, e in zip(groups, errors, strict=True)]
        rhos = np.array([[np.nan if rho is None else rho for rho in found]])
        difference = "-" if first is None else _interval(rhos - first)
        first = rhos if first is None else first
        print(f"| {title} | {name} | {_interval(rhos)} | {difference} |", flush=True)


def _interval(values: Float[np.ndarray, "1 groups"]) -> str:
    interval = bootstrap_mean(values)
    return "-" if interval is None else f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main()
