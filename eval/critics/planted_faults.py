"""Groups with the true body and obvious faults, to check that a critic ranks the truth first.

Scenes are drawn from a separate recipe without occlusion and truncation. Each group has the true body and one body per
fault, all with the true camera, in random order:

| name          | change of the true body                                                                    |
|---------------|--------------------------------------------------------------------------------------------|
| `bent_limb`   | a knee or an elbow, in turn, bent backwards by 80 degrees                                  |
| `swapped`     | left and right limbs exchanged and the body turned by 180 degrees: the outline from the    |
|               | front is the same, but the person faces away                                               |
| `floating`    | lifted by 0.4 m                                                                            |
| `off_image`   | moved sideways by half of the image's width                                                |
| `wrong_pose`  | the pose and heading of the person in the next scene                                       |

A critic that ranks the truth below any fault is unusable. Passing the check does not show that a critic ranks the
hypotheses of a policy well, because their differences are much smaller (`eval/critics/agreement.py` measures that).
Left out: faults of shape, and several faults at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import roma
import torch
from jaxtyping import UInt8

from agent.pictures.panels import PANEL_PX, draw_views
from agent.scoring.degenerate import DEGENERACY_SENTENCES
from agent.types import Case, GroupCritique, QuestionCounts, QuestionFailure, lost_questions
from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.render.overlay import montage, panel, score_color
from hmr.synthetic.recipe import LAB
from hmr.synthetic.scenes import CHUNK, SceneMaker
from hmr.types import JOINT_NAMES, OTHER_SIDE, BodyParams, Hypotheses, Labelled, Renderer, Sample

__all__ = [
    "FAULTS",
    "TRUTH",
    "FaultReport",
    "PlantedGroup",
    "PlantedScores",
    "fault_report",
    "fault_sheet",
    "planted_groups",
]

Json = dict[str, Any]

RECIPE = dataclasses.replace(
    LAB,
    name="planted",
    version=1,
    image_size=320,
    elevation_deg=(-5.0, 15.0),
    roll_deg=(-3.0, 3.0),
    person_fraction=(0.6, 0.85),
    truncation=0.0,
    occluded=0.0,
)
SEED = 11
TRUTH = "truth"
BACKWARDS_DEG = 80
LIFT_M = 0.4
SIDE_SHIFT = 0.5  # of the image's width
# Joint, axis and sign of the rotation opposite to flexion (`hmr.body.joint_limits`): knees about x, elbows about y.
_LIMBS = (("left_knee", 0, -1), ("right_elbow", 1, -1), ("right_knee", 0, -1), ("left_elbow", 1, 1))


@dataclass(frozen=True)
class PlantedGroup:
    """A sample, its group, and the fault of each hypothesis."""

    sample: Sample
    hypotheses: Hypotheses
    names: tuple[str, ...]  # by hypothesis: "truth" or a fault


@dataclass(frozen=True)
class PlantedScores:
    """Scores and comments of one group by fault ("truth" for the true body); `reason`: why scores are missing."""

    sample_id: str
    scores: dict[str, float | None]
    comments: dict[str, str]
    reason: str
    questions: QuestionCounts
    failures: tuple[QuestionFailure, ...]
    degeneracy: str  # a sentence if the scores say nothing about the hypotheses, otherwise empty

    @staticmethod
    def of(group: PlantedGroup, critique: GroupCritique) -> PlantedScores:
        return PlantedScores(
            group.sample.id,
            dict(zip(group.names, critique.scores, strict=True)),
            dict(zip(group.names, critique.comments, strict=True)),
            "; ".join(dict.fromkeys(critique.reasons)),
            critique.questions,
            critique.failures,
            DEGENERACY_SENTENCES[critique.degeneracy],
        )

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """Names and scores from the best to the worst; empty if any score is missing."""
        known = [(name, score) for name, score in self.scores.items() if score is not None]
        return sorted(known, key=lambda item: -item[1]) if len(known) == len(self.scores) else []

    @property
    def first(self) -> str:
        """The name with the highest score; "" for a tie."""
        return _untied_first(self.ranking)

    @property
    def last(self) -> str:
        """The name with the lowest score; "" for a tie."""
        return _untied_first(self.ranking[::-1])

    def is_below_truth(self, name: str) -> bool:
        score, truth = self.scores[name], self.scores[TRUTH]
        return score is not None and truth is not None and score < truth

    def to_json(self) -> Json:
        return {
            "sample_id": self.sample_id,
            "scores": self.scores,
            "comments": self.comments,
            "reason": self.reason,
            "questions": self.questions.to_json(),
            "lost": lost_questions(self.questions, self.failures),
            "degeneracy": self.degeneracy,
            "ranking": [name for name, _ in self.ranking],
        }


def _untied_first(ranking: Sequence[tuple[str, float]]) -> str:
    if len(ranking) < 2 or ranking[0][1] == ranking[1][1]:
        return ""
    return ranking[0][0]


@dataclass(frozen=True)
class FaultReport:
    """Counts over the groups with all scores; a tie counts neither as first nor as last."""

    groups: int
    judged: int  # groups with all scores
    truth_first: int
    below_truth: dict[str, int]  # by fault
    last: dict[str, int]  # by fault, and the truth itself

    def to_json(self) -> Json:
        return dataclasses.asdict(self)


def planted_groups(body: Body, count: int) -> list[PlantedGroup]:
    """The first `count` groups of the fixed set; a smaller set is the beginning of a larger one.

    body: also of the people in the pictures; each body has a set of its own. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"the check needs at least 1 scene, not {count}")
    maker = SceneMaker(body, RECIPE, SEED)
    total = count + 1  # the pose of the last scene is the wrong pose of the one before it
    chunks = [maker.chunk(k, min(CHUNK, total - k * CHUNK)) for k in range(-(-total // CHUNK))]
    scenes = [scene.labelled for chunk in chunks for scene in chunk]
    return [_group(number, scenes[number], scenes[number + 1]) for number in range(count)]


def fault_report(groups: Sequence[PlantedScores]) -> FaultReport:
    """The counts over all groups; groups without a complete ranking count in `groups` only."""
    ranked = [group for group in groups if group.ranking]
    return FaultReport(
        groups=len(groups),
        judged=len(ranked),
        truth_first=sum(group.first == TRUTH for group in ranked),
        below_truth={name: sum(group.is_below_truth(name) for group in ranked) for name in FAULTS},
        last={name: sum(group.last == name for group in ranked) for name in (*FAULTS, TRUTH)},
    )


def _group(number: int, scene: Labelled, other: Labelled) -> PlantedGroup:
    fault = _Fault(number, scene, other.truth.params)
    bodies = {TRUTH: scene.truth.params, **{name: plant(fault) for name, plant in FAULTS.items()}}
    names = [str(name) for name in np.random.default_rng([SEED, number]).permutation(list(bodies))]
    params = BodyParams.stack([bodies[name] for name in names])
    return PlantedGroup(scene.sample, Hypotheses(params, scene.truth.camera), tuple(names))


@dataclass(frozen=True)
class _Fault:
    """Input of a fault."""

    number: int  # of the group
    scene: Labelled
    other: BodyParams  # the true body of the next scene

    @property
    def params(self) -> BodyParams:
        return self.scene.truth.params


def _bent_limb(fault: _Fault) -> BodyParams:
    name, axis, sign = _LIMBS[fault.number % len(_LIMBS)]
    pose = fault.params.body_pose.clone()
    row = JOINT_NAMES.index(name) - 1  # body_pose leaves the pelvis out
    pose[row] = 0.0
    pose[row, axis] = sign * math.radians(BACKWARDS_DEG)
    return replace(fault.params, body_pose=pose)


def _swapped(fault: _Fault) -> BodyParams:
    """The mirrored pose (x -> -x), turned by 180 degrees about the body's vertical axis: z -> -z."""
    others = torch.tensor(OTHER_SIDE[1:]) - 1
    pose = fault.params.body_pose[others] * torch.tensor([1.0, -1.0, -1.0])
    about = roma.rotvec_to_rotmat(torch.tensor([0.0, math.pi, 0.0]))
    orient = roma.rotmat_to_rotvec(roma.rotvec_to_rotmat(fault.params.global_orient) @ about)
    return replace(fault.params, global_orient=orient, body_pose=pose)


def _floating(fault: _Fault) -> BodyParams:
    return replace(fault.params, transl=fault.params.transl - torch.tensor([0.0, LIFT_M, 0.0]))


def _off_image(fault: _Fault) -> BodyParams:
    """Moved towards the nearer border, at the same depth."""
    camera = fault.scene.truth.camera
    pelvis_m, pelvis_px = fault.scene.truth.joints_cam_m[0], fault.scene.truth.keypoints_px[0]
    side = 1.0 if pelvis_px[0] > camera.width / 2 else -1.0
    moved_m = side * SIDE_SHIFT * camera.width * float(pelvis_m[2]) / camera.focal_px
    return replace(fault.params, transl=fault.params.transl + torch.tensor([moved_m, 0.0, 0.0]))


def _wrong_pose(fault: _Fault) -> BodyParams:
    return replace(fault.params, global_orient=fault.other.global_orient, body_pose=fault.other.body_pose)


FAULTS: dict[str, Callable[[_Fault], BodyParams]] = {
    "bent_limb": _bent_limb,
    "swapped": _swapped,
    "floating": _floating,
    "off_image": _off_image,
    "wrong_pose": _wrong_pose,
}


COLUMNS = 2


def fault_sheet(
    group: PlantedGroup, result: PlantedScores, body: Body, renderer: Renderer, margin: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Photograph, overlay and side view of each hypothesis with its score and name, the best first."""
    photo = crop_image(group.sample.image, group.sample.box.square(margin), PANEL_PX)
    views = dict(
        zip(group.names, draw_views(_case(group, body, renderer, margin), renderer, margin), strict=True)
    )
    names = [name for name, _ in result.ranking] or list(group.names)
    panels = []
    for name in names:
        score, view = result.scores[name], views[name]
        badge = "?" if score is None else f"{score:.0f}"
        panels.append(panel(photo, view.overlay, view.side, badge, name, score_color(score)))
    return montage(panels, COLUMNS)


def _case(group: PlantedGroup, body: Body, renderer: Renderer, margin: float) -> Case:
    view = group.hypotheses.camera.crop(group.sample.box.square(margin), PANEL_PX)
    return Case.of(group.sample, group.hypotheses, body, renderer, view)
