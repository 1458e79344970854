"""What the page shows of a photograph: plain data, without viser.

The world is the frame of the photograph's camera: x right, y down, z forward, metres. Every source of bodies (a file,
or a policy) has a panel: the photograph on a plane behind the people, in the camera's frustum, and the bodies in front
of it, so that a viewer at the camera's centre sees the bodies over the photograph.

The panels of several sources show the surroundings of the selected person alone. They are turned about the camera's
vertical axis, so that from its centre they are beside each other, and bodies and photograph still lie over each other.
In a row the hypotheses of the selected person are beside each other, the selected one in its place, and the panels are
below each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float

from cli.photos.people import Person
from hmr.body.model import Body
from hmr.images.photographs import Photo
from hmr.render.overlay import CLAY, Color, score_color
from hmr.types import PARENTS, BodyParams, Box, Camera, Detection, Posed

__all__ = [
    "ARRANGEMENTS", "IN_A_ROW", "IN_PLACE", "Composer", "Label", "Mesh", "Panel", "Picture", "Selection",
    "ShownPerson", "ShownPhoto", "Source",
]  # fmt: skip

SELECTED, IN_PLACE, IN_A_ROW = "selected", "all in place", "all in a row"
ARRANGEMENTS = (SELECTED, IN_PLACE, IN_A_ROW)
FAINT = 0.25  # opacity of the hypotheses in the place of the selected one
THROUGH = 0.35  # opacity of a body whose skeleton is shown
OTHER_PEOPLE: Color = (0.72, 0.72, 0.70)
BEHIND_PEOPLE_M = 1.0  # from the furthest body's origin to the photograph
PANEL_GAP = 0.06  # between panels, relative to their width or height
SURROUNDINGS = 1.8  # of the picture of several sources: sides of the person's box
ROW_GAP_M = 0.2
LABEL_GAP_M = 0.15  # above the highest joint
MIN_VISIBILITY = 0.5  # of an observed point that is shown
POINT_SIZE = 0.018  # of an observed point, in sides of the person's box
IN_FRONT = 0.998  # observed points are at this share of the picture's depth, so that it does not hide them


@dataclass(frozen=True)
class Source:
    """Where bodies come from, and a person's group from there.

    steps: the estimates of the group (batch shape (G,)) after each step of the sampler, of which the last is the group;
    one entry if the bodies were read from a file.
    """

    label: str
    steps: tuple[BodyParams, ...]

    def at(self, step: int) -> BodyParams:
        """The group after a step, counted from 1; after the last one if there are fewer."""
        return self.steps[min(step, len(self.steps)) - 1]


@dataclass(frozen=True)
class ShownPerson:
    """A person with the groups of all sources, which have one size. Scores and comments are those of the first source;
    empty if the group has not been scored."""

    name: str  # of the files that are exported
    person: Person
    sources: tuple[Source, ...]
    scores: tuple[float | None, ...] = ()
    comments: tuple[str, ...] = ()

    @property
    def group_size(self) -> int:
        return len(self.person.hypotheses)

    @property
    def best(self) -> int:
        """The hypothesis with the best score, or 0 without scores."""
        known = [(score, -index) for index, score in enumerate(self.scores) if score is not None]
        return -max(known)[1] if known else 0


@dataclass(frozen=True)
class ShownPhoto:
    """A photograph with its people, who have the same sources."""

    photo: Photo
    people: tuple[ShownPerson, ...]

    @property
    def camera(self) -> Camera:
        """In pixels of `photo.image`."""
        return self.people[0].person.hypotheses.camera

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(source.label for source in self.people[0].sources)

    @property
    def num_steps(self) -> int:
        """Of the source with the most steps."""
        return max(len(source.steps) for one in self.people for source in one.sources)


@dataclass(frozen=True)
class Selection:
    """What the controls of the page are set to. step: counted from 1."""

    person: int
    hypothesis: int
    step: int
    arrangement: str = SELECTED
    photograph: bool = True
    skeleton: bool = False
    points: bool = False

    @staticmethod
    def first(shown: ShownPhoto) -> Selection:
        """The best hypothesis of the first person, after the last step."""
        return Selection(0, shown.people[0].best, shown.num_steps)


@dataclass(frozen=True)
class Mesh:
    vertices_m: Float[np.ndarray, "vertices 3"]
    color: Color
    opacity: float = 1.0


@dataclass(frozen=True)
class Label:
    text: str
    position_m: Float[np.ndarray, "3"]


@dataclass(frozen=True)
class Picture:
    """The rectangle that shows a part of the photograph, and the edges of its frustum."""

    region_px: Box
    center_m: Float[np.ndarray, "3"]
    size_m: tuple[float, float]
    edges_m: Float[np.ndarray, "segments 2 3"]

    @property
    def corners_m(self) -> Float[np.ndarray, "4 3"]:
        """Clockwise from the upper left."""
        return self.edges_m[4:, 0]


@dataclass(frozen=True)
class Panel:
    """The bodies of one source in the frame of the camera. All is turned to the right about the camera's vertical axis,
    and then displaced.

    meshes: of the selected person by hypothesis, `person N` for everybody else.
    """

    turn_rad: float
    offset_m: Float[np.ndarray, "3"]
    picture: Picture
    has_photograph: bool
    meshes: dict[str, Mesh]
    bones_m: Float[np.ndarray, "segments 2 3"]
    observed_m: Float[np.ndarray, "points 3"]
    observed_size_m: float
    labels: tuple[Label, ...]

    def placed_m(self, points_m: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
        """Points of the panel, turned and displaced."""
        sine, cosine = math.sin(self.turn_rad), math.cos(self.turn_rad)
        turn = np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
        return points_m @ turn.T + self.offset_m

    def bounds_m(self) -> Float[np.ndarray, "2 3"]:
        """The lowest and the highest coordinates of picture and bodies, turned and displaced."""
        parts = [self.picture.corners_m, *(mesh.vertices_m for mesh in self.meshes.values())]
        points = self.placed_m(np.concatenate(parts))
        return np.stack([points.min(axis=0), points.max(axis=0)])


class Composer:
    """Makes the panels of one photograph. The bodies of the latest selections are kept."""

    def __init__(self, shown: ShownPhoto, body: Body) -> None:
        self.shown, self.body = shown, body
        self._picture = lru_cache(lambda person: _picture(shown, person))
        self._posed = lru_cache(maxsize=64)(self._pose)

    def panels(self, selection: Selection) -> tuple[Panel, ...]:
        return tuple(self._panel(selection, number) for number in range(len(self.shown.labels)))

    def pelvis_m(self, selection: Selection) -> Float[np.ndarray, "3"]:
        """Of the selected hypothesis of the first source."""
        posed = self._posed(selection.person, 0, selection.step)
        return posed.joints_cam_m[selection.hypothesis, 0].numpy()

    @torch.no_grad()
    def _pose(self, person: int, source: int, step: int) -> Posed:
        return self.body(self.shown.people[person].sources[source].at(step))

    def _panel(self, selection: Selection, number: int) -> Panel:
        posed = self._posed(selection.person, number, selection.step)
        shifts_m = _shifts_m(posed, selection)
        vertices_m = posed.vertices_cam_m.numpy() + shifts_m[:, None]
        joints_m = posed.joints_cam_m.numpy() + shifts_m[:, None]
        visible = [selection.hypothesis] if selection.arrangement == SELECTED else list(range(len(joints_m)))
        own = {str(index): self._mesh(vertices_m[index], selection, number, index) for index in visible}
        named = visible if selection.arrangement == IN_A_ROW else [selection.hypothesis]
        person, picture = self.shown.people[selection.person].person, self._picture(selection.person)
        detection = person.detection if selection.points else None
        m_per_px = float(picture.center_m[2]) / self.shown.camera.focal_px
        return Panel(
            self._turn_rad(picture, selection, number),
            _offset_m(picture, selection, number),
            picture,
            selection.photograph,
            own | self._other_people(selection, number),
            _bones_m(joints_m[named] if selection.skeleton else joints_m[:0]),
            _observed_m(detection, self.shown.camera, picture),
            POINT_SIZE * person.sample.box.side * m_per_px,
            self._labels(selection, number, picture, {index: joints_m[index] for index in named}),
        )

    def _turn_rad(self, picture: Picture, selection: Selection, number: int) -> float:
        """Panels side by side, seen from the camera; their middle is where the picture is."""
        if selection.arrangement == IN_A_ROW:
            return 0.0
        left, right = (math.atan2(corner[0], corner[2]) for corner in picture.corners_m[:2])
        place = number - (len(self.shown.labels) - 1) / 2
        return place * (right - left) * (1 + PANEL_GAP)

    def _mesh(
        self, vertices_m: Float[np.ndarray, "vertices 3"], selection: Selection, source: int, index: int
    ) -> Mesh:
        """Only the first source has scores."""
        scores = self.shown.people[selection.person].scores
        color = score_color(scores[index]) if scores and source == 0 else CLAY
        if selection.arrangement == IN_PLACE and index != selection.hypothesis:
            return Mesh(vertices_m, color, FAINT)
        return Mesh(vertices_m, color, THROUGH if selection.skeleton else 1.0)

    def _other_people(self, selection: Selection, source: int) -> dict[str, Mesh]:
        """The best hypothesis of everybody else, but nobody beside a row."""
        others = [number for number in range(len(self.shown.people)) if number != selection.person]
        if selection.arrangement == IN_A_ROW:
            return {}
        return {
            f"person {number}": Mesh(
                self._posed(number, source, selection.step)
                .vertices_cam_m[self.shown.people[number].best]
                .numpy(),
                OTHER_PEOPLE,
            )
            for number in others
        }

    def _labels(
        self,
        selection: Selection,
        source: int,
        picture: Picture,
        joints_m: dict[int, Float[np.ndarray, "24 3"]],
    ) -> tuple[Label, ...]:
        """The name of the source over its picture if there are several, and the hypotheses of a row by number."""
        labels = []
        if len(self.shown.labels) > 1:
            middle = picture.corners_m[:2].mean(axis=0)
            labels.append(Label(self.shown.labels[source], middle))
        if selection.arrangement == IN_A_ROW:
            scores = self.shown.people[selection.person].scores if source == 0 else ()
            for index, joints in joints_m.items():
                top = np.array([joints[0, 0], joints[:, 1].min() - LABEL_GAP_M, joints[0, 2]])
                labels.append(Label(_caption(index, scores), top))
        return tuple(labels)


def _caption(index: int, scores: tuple[float | None, ...]) -> str:
    if not scores:
        return str(index)
    score = scores[index]
    return f"{index}: no score" if score is None else f"{index}: {score:.0f}"


def _picture(shown: ShownPhoto, person: int) -> Picture:
    """Of one source the whole photograph, behind everybody; of several the surroundings of a person, behind them."""
    is_whole, camera = len(shown.labels) == 1, shown.camera
    whole = Box(0.0, 0.0, float(camera.width), float(camera.height))
    region = (
        whole if is_whole else _within(shown.people[person].person.sample.box.square(SURROUNDINGS), whole)
    )
    groups = [
        source.steps[-1]
        for one in (shown.people if is_whole else [shown.people[person]])
        for source in one.sources
    ]
    depth_m = float(max(group.transl[:, 2].max() for group in groups)) + BEHIND_PEOPLE_M
    x, y = (
        np.array([region.x0, region.x1, region.x1, region.x0]),
        np.array([region.y0, region.y0, region.y1, region.y1]),
    )
    corners = _at_depth(camera, np.stack([x, y], axis=1), depth_m)
    rays = np.stack([np.zeros((4, 3)), corners], axis=1)
    sides = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    width_m, height_m = (corners[2] - corners[0])[:2].tolist()
    return Picture(region, corners.mean(axis=0), (width_m, height_m), np.concatenate([rays, sides]))


def _within(box: Box, whole: Box) -> Box:
    """The part of a box inside the image, to whole pixels."""
    x0, y0 = max(math.floor(box.x0), 0), max(math.floor(box.y0), 0)
    x1, y1 = min(math.ceil(box.x1), int(whole.x1)), min(math.ceil(box.y1), int(whole.y1))
    return Box(float(x0), float(y0), float(x1), float(y1))


def _at_depth(
    camera: Camera, points_px: Float[np.ndarray, "points 2"], depth_m: float
) -> Float[np.ndarray, "points 3"]:
    """The points of a depth that are seen at these pixels."""
    xy = (points_px - [camera.cx_px, camera.cy_px]) * depth_m / camera.focal_px
    return np.concatenate([xy, np.full((len(xy), 1), depth_m)], axis=1)


def _shifts_m(posed: Posed, selection: Selection) -> Float[np.ndarray, "group 3"]:
    """Displacements of the hypotheses: in a row to the right, spaced by the widest of them."""
    joints = posed.joints_cam_m.numpy()
    shifts = np.zeros((len(joints), 3), np.float32)
    if selection.arrangement == IN_A_ROW:
        left, right = joints[..., 0].min(axis=1), joints[..., 0].max(axis=1)
        spacing = float((right - left).max()) + ROW_GAP_M
        places = (np.arange(len(joints)) - selection.hypothesis) * spacing
        pelvis = joints[:, 0]
        shifts[:, 0] = pelvis[selection.hypothesis, 0] + places - pelvis[:, 0]
    return shifts


def _offset_m(picture: Picture, selection: Selection, number: int) -> Float[np.ndarray, "3"]:
    """Rows are below each other."""
    below_m = number * picture.size_m[1] * (1 + PANEL_GAP) if selection.arrangement == IN_A_ROW else 0.0
    return np.array([0.0, below_m, 0.0])


def _bones_m(joints_m: Float[np.ndarray, "bodies 24 3"]) -> Float[np.ndarray, "segments 2 3"]:
    parents = joints_m[:, list(PARENTS[1:])]
    return np.stack([parents, joints_m[:, 1:]], axis=2).reshape(-1, 2, 3)


def _observed_m(
    detection: Detection | None, camera: Camera, picture: Picture
) -> Float[np.ndarray, "points 3"]:
    """The points that a detector saw, on the photograph."""
    if detection is None:
        return np.zeros((0, 3))
    seen = (detection.observed & (detection.visibility >= MIN_VISIBILITY)).numpy()
    return _at_depth(camera, detection.points_px.numpy()[seen], float(picture.center_m[2]) * IN_FRONT)
