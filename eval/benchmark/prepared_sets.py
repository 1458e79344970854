"""A policy on a prepared real data set (hmr/datasets): the errors that the set's protocol asks for, and PCK.

| annotated joints                    | protocol                | the prediction's joints                         |
|-------------------------------------|-------------------------|-------------------------------------------------|
| SMPL's 24, or EMDB's fit            | `PW3D_24`, or `EMDB_24` | the body's own 24                               |
| H36M's 17, or SPIN's fit to 3DPW    | `H36M_14`               | the H36M regressor's, of SMPL's 6,890 vertices  |
| SPIN's 24, of Human3.6M             | `SPIN_H36M_14`          | the same                                        |
| HMR2's 44                           | `HMR2_14`               | J19's, as 4D-Humans has them                    |
| COCO's keypoints                    | PCK at .05 and .1       | SMPL's shoulders to ankles, by a guessed camera |

A fit stands in for joints where a record has none: the body of its gender is posed where it stands at rest, since all
errors are about a root, and a file that places nobody (SPIN's) will do. A person whose record lacks a joint of the
protocol is left out of it, and counted. Reductions over M hypotheses are those of `eval/benchmark/protocol.py`. Left out: PVE,
which would need the set's own gendered meshes beside the prediction's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.progress import Stage
from common.validate import read_json
from eval.benchmark.protocol import Policy, noise_generator
from hmr.body.model import Body
from hmr.datasets.annotated_set import read_annotations
from hmr.datasets.annotation import Annotation, Keypoints
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

__all__ = ["AnnotatedReport", "Instruments", "evaluate_annotated"]

PROTOCOLS = {
    "human36m": H36M_14, "3dpw": PW3D_24, "3dpw-coco": H36M_14, "hmr2": HMR2_14, "spin": SPIN_H36M_14,
    "emdb": EMDB_24,
}  # fmt: skip
PROTOCOLS_OF_FITS = {"spin": H36M_14}  # where no record of the set has joints: SPIN's file of 3DPW


@dataclass(frozen=True)
class Instruments:
    """What turns parameters into joints: the prediction's body, the set's own bodies by gender, the regressor."""

    body: Body
    bodies: Mapping[str, Body]
    regressor: Float[Tensor, "joints vertices"] | None = None


@dataclass(frozen=True)
class AnnotatedReport:
    protocol: str | None  # of the joints in space; None where the set has none
    errors_mm: Mapping[str, Mapping[str, float]]  # metric -> reduction -> mean over people
    pck: Mapping[str, float]  # of hypothesis 0, by threshold; empty where the set has no COCO keypoints
    people: int
    people_in_space: int  # whose record has every joint of the protocol
    people_in_image: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self)}


def evaluate_annotated(
    policy: Policy,
    folder: Path,
    instruments: Instruments,
    *,
    num_samples: int,
    seed: int,
    stage: Stage,
    limit: int | None = None,
) -> AnnotatedReport:
    """Evaluate on a set that `meshcritic data prepare` wrote; the policy sees its samples alone.

    Raises ValueError where the protocol's joints need a regressor or bodies that `instruments` lacks, or where no
    person has anything to compare with.
    """
    annotations, samples = read_annotations(folder), list(itertools.islice(read_samples(folder), limit))
    protocol = _protocol(folder, annotations.values())
    tick = stage("people evaluated", len(samples))
    measured: list[dict[str, dict[str, float]]] = []
    in_image: list[_InImage] = []
    for done, sample in enumerate(samples, start=1):
        annotation = annotations[sample.id]
        true_m = None if protocol is None else _true_joints(annotation, protocol, instruments)
        limbs = _true_limbs(annotation)
        if true_m is not None or limbs is not None:
            generator = noise_generator(seed, sample)
            params = policy.sample(policy.encode([sample]), num_samples, generator)[0].params
            if protocol is not None and true_m is not None:
                measured.append(_errors(params, true_m, protocol, instruments))
            if limbs is not None:
                in_image.append(_in_image(sample, limbs, annotation.box.side, params, instruments.body))
        tick(done)
    if not measured and not in_image:
        joints = "" if protocol is None else f"all joints of {protocol.name} or "
        raise ValueError(f"nobody in {folder} has {joints}COCO keypoints to compare with")
    return AnnotatedReport(
        protocol.name if protocol and measured else None,
        _mean(measured),
        _pck(in_image),
        len(samples),
        len(measured),
        len(in_image),
    )


def _protocol(folder: Path, annotations: Iterable[Annotation]) -> JointProtocol | None:
    """What the set's source compares in space; None where it has a measure in the image, or none."""
    source = str(read_json(folder / "set.json", ("source",))["source"])
    if source in PROTOCOLS_OF_FITS and not any(annotation.joints for annotation in annotations):
        return PROTOCOLS_OF_FITS[source]
    return PROTOCOLS.get(source)


@torch.no_grad()
def _true_joints(
    annotation: Annotation, protocol: JointProtocol, instruments: Instruments
) -> Float[Tensor, "joints 3"] | None:
    """The record's joints in the protocol's convention, its fit's where it has those alone, or None."""
    needed = [*protocol.joints, *protocol.root]
    for joints in annotation.joints:
        if joints.convention == protocol.convention:
            return joints.positions_m if bool(joints.known[needed].all()) else None
    if annotation.smpl is None or protocol.convention not in (SMPL24, H36M17):
        return None
    params, body = params_at_origin(annotation, instruments.bodies)
    return _joints(params, body, protocol.convention, instruments)


@torch.no_grad()
def _errors(
    params: BodyParams, true_m: Float[Tensor, "joints 3"], protocol: JointProtocol, instruments: Instruments
) -> dict[str, dict[str, float]]:
    everyone = BodyParams.cat([params, BodyParams.stack([average_pose(params)])])
    by = PREDICTED_BY.get(protocol, protocol)
    pred_m = _joints(everyone, instruments.body, by.convention, instruments)
    return {
        name: _reduced(error(pred_m, true_m, by))
        for name, error in (("mpjpe_mm", protocol.mpjpe_mm), ("pa_mpjpe_mm", protocol.pa_mpjpe_mm))
    }


def _joints(
    params: BodyParams, body: Body, convention: Convention, instruments: Instruments
) -> Float[Tensor, "*batch joints 3"]:
    """A body's joints in this convention: its own, or the regressor's."""
    if convention == SMPL24:
        return body.joints(params)
    regressor = instruments.regressor
    if regressor is None or len(regressor) != len(convention):
        given = (
            "" if regressor is None else f"; the one given has {len(regressor)} joints, not {len(convention)}"
        )
        raise ValueError(
            f"the protocol compares the joints of {REGRESSOR_FILES[convention]}: give it with --regressor, and an "
            f"SMPL --body{given}"
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
class _InImage:
    """Limbs of one person, COCO's order."""

    pred_px: Float[Tensor, "limbs 2"]
    true_px: Float[Tensor, "limbs 2"]
    known: Tensor
    side_px: float


def _true_limbs(annotation: Annotation) -> Keypoints | None:
    """The record's COCO keypoints, where it has any on the limbs."""
    for keypoints in annotation.keypoints:
        if keypoints.convention == COCO17 and keypoints.confidence[list(COCO_LIMBS)].any():
            return keypoints
    return None


def _in_image(sample: Sample, true: Keypoints, side_px: float, params: BodyParams, body: Body) -> _InImage:
    """Hypothesis 0 over the record's COCO keypoints."""
    limbs = list(COCO_LIMBS)
    joints_cam_m = body.joints(params[:1])[0][list(SMPL_FOR_COCO_LIMBS)]
    pred_px = sample.camera.project(joints_cam_m)
    return _InImage(pred_px, true.positions_px[limbs], true.confidence[limbs] > 0, side_px)


def _pck(people: Sequence[_InImage]) -> dict[str, float]:
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
