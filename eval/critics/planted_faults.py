"""Faults that nobody can overlook, planted beside the truth: does a critic see them?

Scenes are drawn from a recipe of their own in which nothing hides or cuts off the person. Each group holds the true
body and one of each fault, all under the true camera, in an order of its own:

| name          | what is done to the true body                                                                     |
|---------------|---------------------------------------------------------------------------------------------------|
| `bent_limb`   | a knee or an elbow, in turn, bent backwards by 80 degrees                                          |
| `swapped`     | left and right exchanged: every limb does what the other side's did, and the body is turned about, |
|               | so that its outline from the front stays and its face is where its back was                       |
| `floating`    | lifted by 0.4 m                                                                                   |
| `off_image`   | moved sideways by half of the image's width                                                       |
| `wrong_pose`  | the pose and heading of the person in the next scene                                               |

A critic that ranks the truth below any of these has not seen what a child sees. The opposite does not follow: these
faults are far coarser than the differences within a policy's group, and no figure here says how well a critic ranks
those (`eval/critics/agreement.py` does). Left out: faults of shape, and several at once.
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
from agent.types import Case, GroupCritique
from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.policy.flip import OTHER_SIDE
from hmr.render.overlay import montage, panel, score_color
from hmr.synthetic.recipe import LAB
from hmr.synthetic.scenes import CHUNK, SceneMaker
from hmr.types import JOINT_NAMES, BodyParams, Hypotheses, Labelled, Renderer, Sample

__all__ = [
    "FAULTS",
    "TRUTH",
    "FaultReport",
    "Judged",
    "PlantedGroup",
    "fault_sheet",
    "planted_groups",
    "report",
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
ASIDE = 0.5  # of the image's width
# Away from the way the joint flexes (`hmr.body.joint_limits`): a knee about x, an elbow about y.
_LIMBS = (("left_knee", 0, -1), ("right_elbow", 1, -1), ("right_knee", 0, -1), ("left_elbow", 1, 1))


@dataclass(frozen=True)
class PlantedGroup:
    """A sample, the group to judge, and what each hypothesis really is."""

    sample: Sample
    hypotheses: Hypotheses
    names: tuple[str, ...]  # by hypothesis: "truth" or a fault


@dataclass(frozen=True)
class Judged:
    """One group as it was judged; without scores, the reason."""

    sample_id: str
    scores: dict[str, float | None]  # by what the hypothesis really is
    comments: dict[str, str]
    reason: str

    @staticmethod
    def of(group: PlantedGroup, critique: GroupCritique) -> Judged:
        return Judged(
            group.sample.id,
            dict(zip(group.names, critique.scores, strict=True)),
            dict(zip(group.names, critique.comments, strict=True)),
            "; ".join(dict.fromkeys(critique.reasons)),
        )

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """Names and scores from the best to the worst; empty where any score is missing."""
        known = [(name, score) for name, score in self.scores.items() if score is not None]
        return sorted(known, key=lambda item: -item[1]) if len(known) == len(self.scores) else []

    @property
    def first(self) -> str:
        """What was scored above all others; "" for a tie."""
        return _alone(self.ranking)

    @property
    def last(self) -> str:
        """What was scored below all others; "" for a tie."""
        return _alone(self.ranking[::-1])

    def is_below_truth(self, name: str) -> bool:
        score, truth = self.scores[name], self.scores[TRUTH]
        return score is not None and truth is not None and score < truth

    def to_json(self) -> Json:
        return {**dataclasses.asdict(self), "ranking": [name for name, _ in self.ranking]}


def _alone(ranking: Sequence[tuple[str, float]]) -> str:
    if len(ranking) < 2 or ranking[0][1] == ranking[1][1]:
        return ""
    return ranking[0][0]


@dataclass(frozen=True)
class FaultReport:
    """How often each kind of hypothesis came where, over the groups that were judged whole; a tie is no place."""

    groups: int
    judged: int
    truth_first: int
    below_truth: dict[str, int]  # by fault
    last: dict[str, int]  # by fault, and the truth itself

    def to_json(self) -> Json:
        return dataclasses.asdict(self)


def planted_groups(body: Body, count: int) -> list[PlantedGroup]:
    """The first `count` groups of the fixed set; a smaller set is the beginning of a larger one.

    Raises ValueError for a body that the scenes are not drawn with, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"a check needs at least 1 scene, not {count}")
    if body.name != "embedded":
        raise ValueError(f"planted faults are drawn with the embedded body, not with {body.name}")
    maker = SceneMaker(body, RECIPE, SEED)
    wanted = count + 1  # the last scene lends the one before it its pose
    chunks = [maker.chunk(k, min(CHUNK, wanted - k * CHUNK)) for k in range(-(-wanted // CHUNK))]
    scenes = [scene.labelled for chunk in chunks for scene in chunk]
    return [_group(number, scenes[number], scenes[number + 1]) for number in range(count)]


def report(judged: Sequence[Judged]) -> FaultReport:
    """The counts over all groups; those without a whole ranking count in `groups` alone."""
    whole = [item for item in judged if item.ranking]
    return FaultReport(
        groups=len(judged),
        judged=len(whole),
        truth_first=sum(item.first == TRUTH for item in whole),
        below_truth={name: sum(item.is_below_truth(name) for item in whole) for name in FAULTS},
        last={name: sum(item.last == name for item in whole) for name in (*FAULTS, TRUTH)},
    )


def _group(number: int, scene: Labelled, other: Labelled) -> PlantedGroup:
    fault = _Fault(number, scene, other.truth.params)
    bodies = {TRUTH: scene.truth.params, **{name: plant(fault) for name, plant in FAULTS.items()}}
    names = [str(name) for name in np.random.default_rng([SEED, number]).permutation(list(bodies))]
    params = BodyParams.stack([bodies[name] for name in names])
    return PlantedGroup(scene.sample, Hypotheses(params, scene.truth.camera), tuple(names))


@dataclass(frozen=True)
class _Fault:
    """What a fault is made from."""

    number: int  # of the group
    scene: Labelled
    other: BodyParams  # of somebody else

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
    """The mirrored pose (x -> -x) turned by half a turn about the body's own vertical: z -> -z."""
    others = torch.tensor(OTHER_SIDE[1:]) - 1
    pose = fault.params.body_pose[others] * torch.tensor([1.0, -1.0, -1.0])
    about = roma.rotvec_to_rotmat(torch.tensor([0.0, math.pi, 0.0]))
    orient = roma.rotmat_to_rotvec(roma.rotvec_to_rotmat(fault.params.global_orient) @ about)
    return replace(fault.params, global_orient=orient, body_pose=pose)


def _floating(fault: _Fault) -> BodyParams:
    return replace(fault.params, transl=fault.params.transl - torch.tensor([0.0, LIFT_M, 0.0]))


def _off_image(fault: _Fault) -> BodyParams:
    """Towards the nearer border, at the same depth."""
    camera = fault.scene.truth.camera
    pelvis_m, pelvis_px = fault.scene.truth.joints_cam_m[0], fault.scene.truth.keypoints_px[0]
    side = 1.0 if pelvis_px[0] > camera.width / 2 else -1.0
    moved_m = side * ASIDE * camera.width * float(pelvis_m[2]) / camera.focal_px
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
    group: PlantedGroup, judged: Judged, body: Body, renderer: Renderer, margin: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Photograph, overlay and side view of each hypothesis with its score and its name, the best first."""
    photo = crop_image(group.sample.image, group.sample.box.square(margin), PANEL_PX)
    views = dict(
        zip(group.names, draw_views(_case(group, body, renderer, margin), renderer, margin), strict=True)
    )
    names = [name for name, _ in judged.ranking] or list(group.names)
    panels = []
    for name in names:
        score, view = judged.scores[name], views[name]
        badge = "?" if score is None else f"{score:.0f}"
        panels.append(panel(photo, view.overlay, view.side, badge, name, score_color(score)))
    return montage(panels, COLUMNS)


def _case(group: PlantedGroup, body: Body, renderer: Renderer, margin: float) -> Case:
    with torch.no_grad():
        posed = body(group.hypotheses.params)
    view = group.hypotheses.camera.crop(group.sample.box.square(margin), PANEL_PX)
    frame = renderer.render(posed.vertices_cam_m.numpy(), body.faces.numpy(), view)
    return Case(group.sample, group.hypotheses, body, posed, view, frame, None)
