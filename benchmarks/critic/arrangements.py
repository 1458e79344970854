"""How often the arrangement's score prefers the true arrangement of two people to a wrong one.

    python -m benchmarks.critic.arrangements [--pairs 200] [--seed 0] [--detections exact] [--bodies true] [--json]

Scenes and faults: `benchmarks.critic.people_scenes`. Of every scene the true arrangement and one per fault are
measured and scored as by `meshcritic critique`, without the scores of the people themselves. A rate is the share of
scenes in which the true one has the higher score (equal scores count as wrong), with a 95 % Wilson interval.

--detections: what is known of the photograph. `exact` (the rendered masks, joints visible where they are), `simulated`
    (points and visibilities with the errors of `hmr.synthetic.detector_noise`'s BlazePose, no masks), `embedded` and
    `blazepose` (the detectors themselves on the painted picture, given the boxes), `none`.
--bodies: `true`, or `policy`: the shipped policy's hypothesis 0 of each person, from the same detections and with the
    true camera. The faults are then applied to these bodies, and one that does not move them away from the true ones
    (their joints, in the camera's frame) is left out: an estimate may be improved by it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binomtest

from agent.arrangement.measure import TOOLS, measure, place
from agent.arrangement.scoring import penalty, score_evidence
from agent.arrangement.types import ArrangementTool, ArrangementVerdict
from benchmarks.critic.people_scenes import FAULTS, IMAGE_PX, PairScene, PairScenes
from common.seeding import derive_generator, derive_seed
from hmr.body.model import Body, load_body
from hmr.body.surface_points import POINT_JOINTS, BodyPoints
from hmr.detection.loading import load_detector
from hmr.detection.protocol import detect_all
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.render.raster import RasterRenderer
from hmr.synthetic.detector_noise import observe
from hmr.types import JOINT_NAMES, POINT_NAMES, BodyParams, Box, Detection, Detector, Posed, Sample

DETECTIONS = ("exact", "simulated", "embedded", "blazepose", "none")
BODIES = ("true", "policy")
EXACT_SIGMA_PX = 1.0


@dataclass(frozen=True)
class Rate:
    """Scenes in which the true arrangement is preferred, of those in which there is such a fault."""

    right: int
    count: int

    def to_json(self) -> dict[str, float | int]:
        if not self.count:
            return {"right": 0, "pairs": 0}
        interval = binomtest(self.right, self.count).proportion_ci(method="wilson")
        return {
            "right": self.right, "pairs": self.count, "rate": round(self.right / self.count, 4),
            "low": round(interval.low, 4), "high": round(interval.high, 4),
        }  # fmt: skip


class Observer:
    """What is known of the people of a scene, and the bodies that are arranged."""

    def __init__(self, scenes: PairScenes, detections: str, bodies: str) -> None:
        self.scenes, self.detections = scenes, detections
        self.points = BodyPoints().fit_to(scenes.body)
        self.detector: Detector | None = None
        if detections in ("embedded", "blazepose"):
            self.detector = load_detector(detections)
        self.policy: DiffusionPolicy | None = load_policy() if bodies == "policy" else None

    def detect(self, scene: PairScene) -> list[Detection | None]:
        if self.detections == "none":
            return [None, None]
        if self.detector is not None:
            return list(detect_all(self.detector, self._samples(scene)))
        if self.detections == "simulated":
            return [self._simulated(scene, row) for row in (0, 1)]
        return [self._exact(scene, row) for row in (0, 1)]

    def bodies(self, scene: PairScene, detections: Sequence[Detection | None]) -> Posed:
        if self.policy is None:
            return scene.posed
        known = [detection for detection in detections if detection is not None]
        samples = self._samples(scene)
        generator = derive_generator("people/policy", scene.name)
        groups = self.policy.sample(self.policy.encode(samples, known), 1, generator)
        return self.scenes.body(BodyParams.cat([group.params for group in groups]))

    def _samples(self, scene: PairScene) -> list[Sample]:
        image = np.zeros((IMAGE_PX, IMAGE_PX, 3), np.uint8)
        if self.detector is not None:
            image = self.scenes.picture(scene)
        return [
            Sample(f"{scene.name}/{row}", image, box, scene.camera) for row, box in enumerate(scene.boxes)
        ]

    def _exact(self, scene: PairScene, row: int) -> Detection:
        keypoints_px = scene.camera.project(scene.posed.joints_cam_m[row])
        return Detection.from_points(
            JOINT_NAMES,
            keypoints_px,
            torch.full((len(JOINT_NAMES),), EXACT_SIGMA_PX),
            _uncovered(keypoints_px, scene, row).float(),
            mask=scene.visible[row].astype(np.float32),
            mask_box=Box(0.0, 0.0, float(IMAGE_PX), float(IMAGE_PX)),
        )

    def _simulated(self, scene: PairScene, row: int) -> Detection:
        points_m, square = self.points.in_camera(scene.params[row]), scene.boxes[row].square(1.2)
        half, center, points_px = square.side / 2, torch.tensor(square.center), scene.camera.project(points_m)
        joints_seen = _uncovered(scene.camera.project(scene.posed.joints_cam_m[row]), scene, row)
        reported = observe(
            ((points_px - center) / half)[None],
            (points_m[:, 2] - points_m[0, 2])[None],
            joints_seen[list(POINT_JOINTS)][None],
            (scene.camera.focal_px / points_m[0, 2] / half)[None],
            derive_generator("people/detector", scene.name, row),
            ("blazepose",),
        )
        rows = reported.sigma[0].isfinite().nonzero()[:, 0].tolist()
        position, sigma, *others = (column[0, rows] for column in reported)
        names = [POINT_NAMES[point] for point in rows]
        return Detection.from_points(names, position * half + center, sigma * half, *others)


def _uncovered(points_px: torch.Tensor, scene: PairScene, row: int) -> torch.Tensor:
    """Whether points are in the image and not behind the other person. Self-occlusion does not count."""
    hidden = torch.from_numpy(scene.frame.mask[row] & ~scene.visible[row])
    columns, rows = points_px.floor().long().unbind(dim=-1)
    inside = (columns >= 0) & (columns < IMAGE_PX) & (rows >= 0) & (rows < IMAGE_PX)
    return inside & ~hidden[rows.clamp(0, IMAGE_PX - 1), columns.clamp(0, IMAGE_PX - 1)]


def judge(
    body: Body,
    scene: PairScene,
    posed: Posed,
    detections: Sequence[Detection | None],
    tools: Sequence[ArrangementTool],
) -> tuple[ArrangementVerdict, dict[str, float]]:
    """The verdict on one arrangement, and the penalty of each tool."""
    people = place(body, posed, scene.camera, RasterRenderer(threads=1), detections)
    evidence, missing = measure(people, (0, 1), tools)
    if missing:
        raise RuntimeError(f"{missing[0].tool}: {missing[0].reason}")
    return score_evidence(evidence), {item.tool: penalty(item) for item in evidence}


def run(
    pairs: int, seed: int, detections: str, bodies: str, tools: Sequence[ArrangementTool] = TOOLS
) -> dict[str, object]:
    """The rates by fault, of all, and of all where the people overlap in the image or do not."""
    body = load_body()
    scenes = PairScenes(body, seed)
    observer = Observer(scenes, detections, bodies)
    outcomes: list[tuple[str, bool, bool]] = []  # fault, overlap, right
    scores: dict[str, list[float]] = {name: [] for name in ("true", *FAULTS)}
    penalties: dict[str, list[dict[str, float]]] = {name: [] for name in ("true", *FAULTS)}
    for index in range(pairs):
        scene = scenes.draw(index)
        known = observer.detect(scene)
        with torch.no_grad():
            posed = observer.bodies(scene, known)
        truth, shares = judge(body, scene, posed, known, tools)
        scores["true"].append(truth.score)
        penalties["true"].append(shares)
        for name, fault in FAULTS.items():
            rng = np.random.default_rng(derive_seed("people/fault", name, seed, index))
            wrong = fault(posed, scene.up, rng)
            if wrong is None or _distance_m(wrong, scene.posed) <= _distance_m(posed, scene.posed):
                continue
            verdict, shares = judge(body, scene, wrong, known, tools)
            scores[name].append(verdict.score)
            penalties[name].append(shares)
            outcomes.append((name, scene.overlap, truth.score > verdict.score))
    return {
        "pairs": pairs, "seed": seed, "detections": detections, "bodies": bodies,
        "tools": [tool.name for tool in tools],
        "rates": {name: _rate([row for row in outcomes if row[0] == name]) for name in FAULTS},
        "all": _rate(outcomes),
        "overlapping": _rate([row for row in outcomes if row[1]]),
        "apart": _rate([row for row in outcomes if not row[1]]),
        "median_score": {name: round(float(np.median(column)), 1) for name, column in scores.items() if column},
        "mean_penalty": {name: _means(rows) for name, rows in penalties.items() if rows},
    }  # fmt: skip


def _distance_m(posed: Posed, truth: Posed) -> float:
    return float((posed.joints_cam_m - truth.joints_cam_m).norm(dim=-1).mean())


def _rate(outcomes: Sequence[tuple[str, bool, bool]]) -> dict[str, float | int]:
    return Rate(sum(right for _, _, right in outcomes), len(outcomes)).to_json()


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {tool: round(float(np.mean([row[tool] for row in rows])), 2) for tool in rows[0]}


def interpenetration_ms(pairs: int = 50) -> float:
    """CPU time of the interpenetration of one pair whose bodies meet, in milliseconds."""
    from agent.arrangement.interpenetration import Interpenetration

    body = load_body()
    scenes, met = PairScenes(body, 0), []
    for index in range(pairs):
        scene = scenes.draw(index)
        wrong = FAULTS["one into the other"](scene.posed, scene.up, np.random.default_rng(index))
        if wrong is not None:
            met.append(place(body, wrong, scene.camera, RasterRenderer(threads=1), (None, None)))
    tool = Interpenetration()
    tool.measure(met[0])  # fits the capsules of the body
    begun = time.process_time()
    for people in met:
        tool.measure(people)
    return 1000 * (time.process_time() - begun) / len(met)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--detections", choices=DETECTIONS, default="exact")
    parser.add_argument("--bodies", choices=BODIES, default="true")
    parser.add_argument("--without", default=None, help="a tool that is left out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.bodies == "policy" and options.detections == "none":
        parser.error("--bodies policy needs detections")
    tools = [tool for tool in TOOLS if tool.name != options.without]
    found = run(options.pairs, options.seed, options.detections, options.bodies, tools)
    found["interpenetration_ms"] = round(interpenetration_ms(), 2)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, rate in {**found["rates"], "all": found["all"]}.items():  # pyright: ignore
        print(f"{name:24} {rate}")
    print(f"interpenetration of a pair that meets: {found['interpenetration_ms']} ms")


if __name__ == "__main__":
    main()
