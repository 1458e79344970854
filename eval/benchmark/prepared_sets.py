"""Evaluates a policy on a prepared real data set (hmr/datasets): the errors of the set's protocol, and PCK.

| annotated joints                    | protocol                | the prediction's joints                         |
|-------------------------------------|-------------------------|-------------------------------------------------|
| SMPL's 24, or EMDB's fit            | `PW3D_24`, or `EMDB_24` | the body's own 24                               |
| H36M's 17, or SPIN's fit to 3DPW    | `H36M_14`               | the H36M regressor's, of SMPL's 6,890 vertices  |
| SPIN's 24, of Human3.6M             | `SPIN_H36M_14`          | the same                                        |
| HMR2's 44                           | `HMR2_14`               | J19's, as 4D-Humans has them                    |
| COCO's keypoints                    | PCK at .05 and .1       | SMPL's shoulders to ankles, estimated camera    |

If a record has an SMPL fit but no joints, the joints are those of the fitted body of its gender, without translation:
all errors are relative to a root, and SPIN's files have no translation. A person whose record lacks a joint of the
protocol is left out and counted, with the reason, as are records that cannot be used. Reductions over M hypotheses are
those of `eval/benchmark/protocol.py`. Left out: PVE, which would need the gendered meshes of the set.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.files import PathLike, write_text
from common.progress import Stage
from common.validate import FlawedRecord, read_json
from eval.benchmark.protocol import Policy, noise_generator
from hmr.body.model import Body
from hmr.datasets.annotated_set import read_annotations
from hmr.datasets.annotation import Annotation, Dropped, Keypoints, annotated_or_dropped
from hmr.datasets.flaws import Flaws, ignored_keypoints, usable
from hmr.datasets.joints import COCO17, COCO_LIMBS, H36M17, SMPL24, SMPL_FOR_COCO_LIMBS, Convention
from hmr.datasets.labelling import params_at_origin
from hmr.datasets.protocols import (
    EMDB_24,
    H36M_14,
    HMR2_14,
    PREDICTED_BY,
    PW3D_24,
    REGRESSOR_FILES,
    SPIN_H36M_14,
    JointProtocol,
    regress,
)
from hmr.metrics.errors import average_pose
from hmr.metrics.pck import PCK_THRESHOLDS, pck
from hmr.synthetic.store import read_samples
from hmr.types import BodyParams, Sample

__all__ = ["AnnotatedReport", "EvaluationBodies", "evaluate_annotated"]

PROTOCOLS = {
    "human36m": H36M_14, "3dpw": PW3D_24, "3dpw-coco": H36M_14, "hmr2": HMR2_14, "spin": SPIN_H36M_14,
    "emdb": EMDB_24,
}  # fmt: skip
PROTOCOLS_OF_FITS = {"spin": H36M_14}  # for sets without joints: SPIN's file of 3DPW


@dataclass(frozen=True)
class EvaluationBodies:
    """Body models: the prediction's, those of the set by gender, and a joint regressor for the protocol's joints."""

    body: Body
    by_gender: Mapping[str, Body]
    regressor: Float[Tensor, "joints vertices"] | None = None


@dataclass(frozen=True)
class AnnotatedReport:
    """Errors of 3D joints and PCK; `people` counts all, the others those who have what the metric needs."""

    protocol: str | None  # of the 3D joints; None without any
    errors_mm: Mapping[str, Mapping[str, float]]  # metric -> reduction -> mean over people
    pck: Mapping[str, float]  # of hypothesis 0, by threshold; empty without COCO keypoints
    people: int
    people_in_space: int  # with every joint of the protocol
    people_in_image: int  # with COCO keypoints
    flaws: Flaws  # of the people that are left out
    per_person: tuple[Mapping[str, Any], ...]  # one row per person that was compared, in the order of the set

    def to_json(self) -> dict[str, Any]:
        """Without the rows of the people."""
        left_out = ("flaws", "per_person")
        numbers = {name: value for name, value in vars(self).items() if name not in left_out}
        return {**numbers, **self.flaws.to_json()}

    def write(self, folder: Path, details: Mapping[str, Any]) -> None:
        """summary.json (`to_json` and `details`) and people.jsonl (one row per person)."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "people.jsonl", "".join(json.dumps(row) + "\n" for row in self.per_person))
        write_text(folder / "summary.json", json.dumps({**self.to_json(), **details}, indent=1))


def evaluate_annotated(
    policy: Policy,
    folder: PathLike,
    bodies: EvaluationBodies,
    *,
    num_samples: int,
    seed: int,
    stage: Stage,
    limit: int | None = None,
) -> AnnotatedReport:
    """Evaluate on a set that `meshcritic data prepare` wrote; the policy gets the samples without annotations.

    Raises ValueError if the protocol needs a regressor or bodies that `bodies` lacks, or if no person has the joints or
    keypoints to compare with.
    """
    folder = Path(folder)
    annotations, samples = read_annotations(folder), list(itertools.islice(read_samples(folder), limit))
    protocol = _protocol(folder, annotations.values())
    tick = stage("people evaluated", len(samples))
    measured: list[_Measured] = []
    flaws = Flaws()
    for done, sample in enumerate(samples, start=1):
        truth = annotated_or_dropped(_truth, sample, annotations, protocol, bodies, flaws)
        if isinstance(truth, Dropped):
            flaws.drop(truth.reason)
        else:
            generator = noise_generator(seed, sample)
            params = policy.sample(policy.encode([sample]), num_samples, generator)[0].params
            measured.append(_measure(sample, truth, params, protocol, bodies))
        tick(done)
    if not measured:
        joints = "" if protocol is None else f"all joints of {protocol.name} or "
        reasons = "".join(f"; {line}" for line in flaws.lines())
        raise ValueError(f"no person in {folder} has {joints}COCO keypoints{reasons}")
    errors = [person.errors_mm for person in measured if person.errors_mm is not None]
    in_image = [person.limbs for person in measured if person.limbs is not None]
    return AnnotatedReport(
        protocol=protocol.name if protocol and errors else None,
        errors_mm=_mean(errors),
        pck=_pck(in_image),
        people=len(samples),
        people_in_space=len(errors),
        people_in_image=len(in_image),
        flaws=flaws,
        per_person=tuple(person.row() for person in measured),
    )


@dataclass(frozen=True)
class _Truth:
    """What a record has to compare with; at least one of `joints_m` and `limbs`."""

    image: str
    person: str
    joints_m: Float[Tensor, "joints 3"] | None  # in the protocol's convention
    limbs: Keypoints | None
    side_px: float


@dataclass(frozen=True)
class _Measured:
    """Errors of one person by metric and reduction, and the limbs in the image."""

    truth: _Truth
    errors_mm: dict[str, dict[str, float]] | None
    limbs: _ProjectedLimbs | None

    def row(self) -> dict[str, Any]:
        limbs = None if self.limbs is None else self.limbs.errors_px()
        return {
            "image": self.truth.image,
            "person": self.truth.person,
            "errors_mm": self.errors_mm,
            "limbs_px": limbs,
            "box_side_px": self.truth.side_px,
        }


def _truth(
    sample: Sample,
    annotations: Mapping[str, Annotation],
    protocol: JointProtocol | None,
    bodies: EvaluationBodies,
    flaws: Flaws,
) -> _Truth:
    """Raises FlawedRecord if the record cannot be used (sets of earlier versions have such records)."""
    if sample.id not in annotations:
        raise FlawedRecord(f"sample {sample.id} has no annotation", "no annotation of the sample")
    annotation = usable(annotations[sample.id], (sample.camera.width, sample.camera.height))
    flaws.ignored_keypoints += ignored_keypoints(annotations[sample.id].keypoints, annotation.keypoints)
    joints_m = None if protocol is None else _true_joints(annotation, protocol, bodies)
    limbs = _true_limbs(annotation)
    if joints_m is None and limbs is None:
        joints = "" if protocol is None else f"all joints of {protocol.name} or "
        raise FlawedRecord(
            f"{annotation.name} has nothing to compare with", f"without {joints}COCO keypoints"
        )
    return _Truth(annotation.image, annotation.person, joints_m, limbs, annotation.box.side)


def _measure(
    sample: Sample,
    truth: _Truth,
    params: BodyParams,
    protocol: JointProtocol | None,
    bodies: EvaluationBodies,
) -> _Measured:
    errors_mm = None
    if protocol is not None and truth.joints_m is not None:
        errors_mm = _errors(params, truth.joints_m, protocol, bodies)
    return _Measured(
        truth,
        errors_mm,
        None if truth.limbs is None else _in_image(sample, truth.limbs, truth.side_px, params, bodies.body),
    )


def _protocol(folder: Path, annotations: Iterable[Annotation]) -> JointProtocol | None:
    """The protocol for 3D joints of the set's source; None if it has none."""
    source = str(read_json(folder / "set.json", ("source",))["source"])
    if source in PROTOCOLS_OF_FITS and not any(annotation.joints for annotation in annotations):
        return PROTOCOLS_OF_FITS[source]
    return PROTOCOLS.get(source)


@torch.no_grad()
def _true_joints(
    annotation: Annotation, protocol: JointProtocol, bodies: EvaluationBodies
) -> Float[Tensor, "joints 3"] | None:
    """The record's joints in the protocol's convention, else those of its SMPL fit, else None."""
    needed = [*protocol.joints, *protocol.root]
    for joints in annotation.joints:
        if joints.convention == protocol.convention:
            return joints.positions_m if bool(joints.known[needed].all()) else None
    if annotation.smpl is None or protocol.convention not in (SMPL24, H36M17):
        return None
    params, body = params_at_origin(annotation, bodies.by_gender)
    return _joints(params, body, protocol.convention, bodies)


@torch.no_grad()
def _errors(
    params: BodyParams, true_m: Float[Tensor, "joints 3"], protocol: JointProtocol, bodies: EvaluationBodies
) -> dict[str, dict[str, float]]:
    with_average = BodyParams.cat([params, BodyParams.stack([average_pose(params)])])
    by = PREDICTED_BY.get(protocol, protocol)
    pred_m = _joints(with_average, bodies.body, by.convention, bodies)
    return {
        name: _reduced(error(pred_m, true_m, by))
        for name, error in (("mpjpe_mm", protocol.mpjpe_mm), ("pa_mpjpe_mm", protocol.pa_mpjpe_mm))
    }


def _joints(
    params: BodyParams, body: Body, convention: Convention, bodies: EvaluationBodies
) -> Float[Tensor, "*batch joints 3"]:
    """A body's joints in this convention: its own, or those of the regressor."""
    if convention == SMPL24:
        return body.joints(params)
    regressor = bodies.regressor
    if regressor is None or len(regressor) != len(convention):
        given = (
            "" if regressor is None else f"; the given one has {len(regressor)} joints, not {len(convention)}"
        )
        raise ValueError(
            f"the protocol needs the joints of {REGRESSOR_FILES[convention]}: give it with --regressor, and an SMPL "
            f"--body{given}"
        )
    vertices = len(body.model.v_template)
    if regressor.shape[1] != vertices:
        raise ValueError(
            f"the regressor is for a body of {regressor.shape[1]} vertices, not of {vertices}; give an SMPL --body"
        )
    return regress(regressor, body(params).vertices_cam_m)


def _reduced(errors_mm: Float[Tensor, " samples_and_average"]) -> dict[str, float]:
    hypotheses, averaged = errors_mm[:-1], errors_mm[-1]
    return {
        f"min{len(hypotheses)}": hypotheses.min().item(),
        "mean": hypotheses.mean().item(),
        "hyp0": hypotheses[0].item(),
        "averaged": averaged.item(),
    }


@dataclass(frozen=True)
class _ProjectedLimbs:
    """Limbs of one person, COCO's order."""

    pred_px: Float[Tensor, "limbs 2"]
    true_px: Float[Tensor, "limbs 2"]
    known: Tensor
    side_px: float

    def errors_px(self) -> list[float | None]:
        """The distance of each limb, None for those that are not annotated."""
        distances = (self.pred_px - self.true_px).norm(dim=-1).tolist()
        return [one if known else None for one, known in zip(distances, self.known.tolist(), strict=True)]


def _true_limbs(annotation: Annotation) -> Keypoints | None:
    """The record's COCO keypoints if it has any on the limbs, else None."""
    for keypoints in annotation.keypoints:
        if keypoints.convention == COCO17 and keypoints.confidence[list(COCO_LIMBS)].any():
            return keypoints
    return None


def _in_image(
    sample: Sample, true: Keypoints, side_px: float, params: BodyParams, body: Body
) -> _ProjectedLimbs:
    """Hypothesis 0 over the record's COCO keypoints."""
    limbs = list(COCO_LIMBS)
    joints_cam_m = body.joints(params[:1])[0][list(SMPL_FOR_COCO_LIMBS)]
    pred_px = sample.camera.project(joints_cam_m)
    return _ProjectedLimbs(pred_px, true.positions_px[limbs], true.confidence[limbs] > 0, side_px)


def _pck(people: Sequence[_ProjectedLimbs]) -> dict[str, float]:
    if not people:
        return {}
    pred, true, known = (
        torch.stack([getattr(person, name) for person in people]) for name in ("pred_px", "true_px", "known")
    )
    sides = torch.tensor([person.side_px for person in people])
    return {f"pck_{at:g}": pck(pred, true, known, sides, at).item() for at in PCK_THRESHOLDS}


def _mean(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    if not rows:
        return {}
    return {
        metric: {name: float(np.mean([row[metric][name] for row in rows])) for name in rows[0][metric]}
        for metric in rows[0]
    }
