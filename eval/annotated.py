"""A policy on a prepared real data set (hmr/datasets): the errors that the set's protocol asks for, and PCK.

| annotated joints      | protocol                | the prediction's joints                                |
|-----------------------|-------------------------|--------------------------------------------------------|
| SMPL's 24, or a fit   | `PW3D_24`, or `EMDB_24` | the body's own 24                                      |
| the H36M regressor's  | `H36M_14`               | the same regressor's, of SMPL's 6,890 vertices         |
| SPIN's 24, HMR2's 44  | their 14                | the H36M regressor's 14, as SPIN and 4D-Humans do      |
| COCO's keypoints      | PCK at .05 and .1       | SMPL's shoulders to ankles through the guessed camera  |

A person whose record lacks a joint of the protocol is left out of it, and counted. Reductions over M hypotheses are
those of `eval/protocol.py`. Left out: PVE, which would need the set's own gendered meshes beside the prediction's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eval.protocol import Policy, noise_generator
from hmr.body import Body
from hmr.data.store import read_samples
from hmr.datasets.annotated_set import read_annotations
from hmr.datasets.annotation import Annotation
from hmr.datasets.joints import COCO_LIMBS, SMPL24, SMPL_FOR_COCO_LIMBS
from hmr.datasets.labelling import body_params
from hmr.datasets.protocols import EMDB_24, H36M_14, HMR2_14, PW3D_24, SPIN_H36M_14, JointProtocol, regress
from hmr.metrics import average_pose
from hmr.pck import PCK_THRESHOLDS, pck
from hmr.progress import Stage
from hmr.types import BodyParams, Sample

__all__ = ["AnnotatedReport", "Instruments", "evaluate_annotated"]

PROTOCOLS = {
    "human36m": H36M_14, "3dpw": PW3D_24, "3dpw-coco": H36M_14, "hmr2": HMR2_14, "spin": SPIN_H36M_14,
    "emdb": EMDB_24,
}  # fmt: skip


@dataclass(frozen=True)
class Instruments:
    """What turns parameters into joints: the prediction's body, the set's own bodies by gender, the regressor."""

    body: Body
    bodies: Mapping[str, Body]
    regressor: Float[Tensor, "17 vertices"] | None = None


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
    protocol = PROTOCOLS.get(json.loads((folder / "set.json").read_text())["source"])
    tick = stage("people evaluated", len(samples))
    measured: list[dict[str, dict[str, float]]] = []
    in_image: list[_InImage] = []
    for done, sample in enumerate(samples, start=1):
        annotation = annotations[sample.id]
        params = policy.sample(policy.encode([sample]), num_samples, noise_generator(seed, sample))[0].params
        true_m = None if protocol is None else _true_joints(annotation, protocol, instruments)
        if protocol is not None and true_m is not None:
            measured.append(_errors(params, true_m, protocol, instruments))
        in_image += _in_image(sample, annotation, params, instruments.body)
        tick(done)
    if not measured and not in_image:
        raise ValueError(f"nobody in {folder} has joints or COCO keypoints to compare with")
    return AnnotatedReport(
        protocol.name if protocol and measured else None,
        _mean(measured),
        _pck(in_image),
        len(samples),
        len(measured),
        len(in_image),
    )


def _true_joints(
    annotation: Annotation, protocol: JointProtocol, instruments: Instruments
) -> Float[Tensor, "joints 3"] | None:
    """The record's joints in the protocol's convention, its fit's where it has those alone, or None."""
    needed = [*protocol.joints, *protocol.root]
    for joints in annotation.joints:
        if joints.convention == protocol.convention:
            return joints.positions_m if bool(joints.known[needed].all()) else None
    if annotation.smpl is None or protocol.convention != SMPL24:
        return None
    params, body = body_params(annotation, instruments.bodies)
    return body.joints(params)


@torch.no_grad()
def _errors(
    params: BodyParams, true_m: Float[Tensor, "joints 3"], protocol: JointProtocol, instruments: Instruments
) -> dict[str, dict[str, float]]:
    everyone = BodyParams.cat([params, BodyParams.stack([average_pose(params)])])
    posed = instruments.body(everyone)
    by = protocol if protocol.convention == SMPL24 else H36M_14
    pred_m = posed.joints_cam_m
    if by is H36M_14:
        pred_m = regress(_regressor(instruments, protocol), posed.vertices_cam_m)
    return {
        name: _reduced(error(pred_m, true_m, by))
        for name, error in (("mpjpe_mm", protocol.mpjpe_mm), ("pa_mpjpe_mm", protocol.pa_mpjpe_mm))
    }


def _regressor(instruments: Instruments, protocol: JointProtocol) -> Float[Tensor, "17 vertices"]:
    regressor, vertices = instruments.regressor, len(instruments.body.model.v_template)
    if regressor is None:
        raise ValueError(
            f"{protocol.name} compares the joints of J_regressor_h36m.npy: give it with --regressor, and an SMPL --body"
        )
    if regressor.shape[1] != vertices:
        raise ValueError(
            f"the regressor is for a body of {regressor.shape[1]} vertices, not of {vertices}; give an SMPL --body"
        )
    return regressor


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


def _in_image(sample: Sample, annotation: Annotation, params: BodyParams, body: Body) -> list[_InImage]:
    """Hypothesis 0 over the record's COCO keypoints; empty where it has none on the limbs."""
    for keypoints in annotation.keypoints:
        if keypoints.convention.name != "coco17":
            continue
        limbs = list(COCO_LIMBS)
        known = keypoints.confidence[limbs] > 0
        if not known.any():
            return []
        joints_cam_m = body.joints(params[:1])[0][list(SMPL_FOR_COCO_LIMBS)]
        pred_px = sample.camera.project(joints_cam_m)
        return [_InImage(pred_px, keypoints.positions_px[limbs], known, annotation.box.side)]
    return []


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
