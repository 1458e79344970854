"""Errors in millimetres of hypotheses against the annotation of a real person.

| annotated joints                    | protocol                | the prediction's joints                         |
|-------------------------------------|-------------------------|-------------------------------------------------|
| SMPL's 24, or EMDB's fit            | `PW3D_24`, or `EMDB_24` | the body's own 24                               |
| H36M's 17, or SPIN's fit to 3DPW    | `H36M_14`               | the H36M regressor's, of SMPL's 6,890 vertices  |
| SPIN's 24, of Human3.6M             | `SPIN_H36M_14`          | the same                                        |
| HMR2's 44                           | `HMR2_14`               | J19's, as 4D-Humans has them                    |

If a record has an SMPL fit but no joints, the joints are those of the fitted body of its gender, without translation:
all errors are relative to a root, and SPIN's files have no translation.

PVE is the mean distance of the vertices of the fitted body and of the hypothesis, each relative to its own pelvis joint
(`pve_mm`). It needs the body model of the record's gender, with the same vertices as the hypotheses' body. A record
with a fit for which this is not given has no PVE, and the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.reading.validate import FlawedRecord, read_json
from eval.benchmark.protocol import BODIES_AT_ONCE
from hmr.body.model import Body
from hmr.datasets.annotation import Annotation
from hmr.datasets.joints import H36M17, SMPL24, Convention
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
from hmr.metrics.errors import min_of_errors, pick_of_errors, pve_mm
from hmr.types import BodyParams, Posed

__all__ = ["EvaluationBodies", "Truth3D", "annotated_errors_mm", "protocol_of", "truth_3d"]

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
class Truth3D:
    """What a record has in space."""

    joints_m: Float[Tensor, "joints 3"] | None  # in the protocol's convention
    fitted: Posed | None  # the body of its SMPL fit, if PVE can be computed
    without_pve: str | None  # why a record with a fit has none


def protocol_of(folder: Path, annotations: Iterable[Annotation]) -> JointProtocol | None:
    """The protocol for 3D joints of the set's source; None if it has none."""
    source = str(read_json(folder / "set.json", ("source",))["source"])
    if source in PROTOCOLS_OF_FITS and not any(annotation.joints for annotation in annotations):
        return PROTOCOLS_OF_FITS[source]
    return PROTOCOLS.get(source)


@torch.no_grad()
def truth_3d(annotation: Annotation, protocol: JointProtocol | None, bodies: EvaluationBodies) -> Truth3D:
    """Raises FlawedRecord if the joints are those of a fit that is incomplete, and ValueError if they need a body or a
    regressor that `bodies` lacks."""
    joints_m = None if protocol is None else _true_joints(annotation, protocol, bodies)
    if annotation.smpl is None:
        return Truth3D(joints_m, None, None)
    if reason := _no_pve(annotation, bodies):
        return Truth3D(joints_m, None, reason)
    params, body = params_at_origin(annotation, bodies.by_gender)
    return Truth3D(joints_m, body(params), None)


def _no_pve(annotation: Annotation, bodies: EvaluationBodies) -> str | None:
    fit = annotation.smpl
    assert fit is not None
    if fit.gender is not None and fit.gender not in bodies.by_gender:
        return f"needs a {fit.gender} {fit.model} body (--bodies {fit.gender}=FILE)"
    try:
        _, body = params_at_origin(annotation, bodies.by_gender)
    except FlawedRecord as flaw:
        return flaw.reason
    true, predicted = (len(each.model.v_template) for each in (body, bodies.body))
    if true != predicted:
        return f"{body.name} has {true} vertices, and the body of the hypotheses, {bodies.body.name}, {predicted}"
    return None


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
    return _joints(body(params), body, protocol.convention, bodies)


@torch.no_grad()
def annotated_errors_mm(
    params: BodyParams,
    truth: Truth3D,
    protocol: JointProtocol | None,
    bodies: EvaluationBodies,
    scores: Sequence[float | None] = (),
    minima: Sequence[int] = (),
) -> dict[str, dict[str, float]]:
    """Metric, then reduction, for the M hypotheses in `params`, which their average follows. Empty without a truth.

    minima: further numbers of hypotheses over which the minimum is reported, besides M.
    """
    posed = _pose(bodies.body, params) if truth.fitted or truth.joints_m is not None else None
    errors: dict[str, dict[str, float]] = {}
    if posed is not None and protocol is not None and truth.joints_m is not None:
        by = PREDICTED_BY.get(protocol, protocol)
        pred_m = _joints(posed, bodies.body, by.convention, bodies)
        for name, error in (("mpjpe_mm", protocol.mpjpe_mm), ("pa_mpjpe_mm", protocol.pa_mpjpe_mm)):
            errors[name] = _reduced(error(pred_m, truth.joints_m, by), scores, minima)
    if posed is not None and (fitted := truth.fitted) is not None:
        values = pve_mm(posed.vertices_cam_m, posed.joints_cam_m, fitted.vertices_cam_m, fitted.joints_cam_m)
        errors["pve_mm"] = _reduced(values, scores, minima)
    return errors


def _pose(body: Body, params: BodyParams) -> Posed:
    starts = range(0, params.batch_shape[0], BODIES_AT_ONCE)
    parts = [body(params[start : start + BODIES_AT_ONCE]) for start in starts]
    columns = zip(*((part.vertices_cam_m, part.joints_cam_m) for part in parts), strict=True)
    return Posed(*(torch.cat(column) for column in columns))


def _joints(
    posed: Posed, body: Body, convention: Convention, bodies: EvaluationBodies
) -> Float[Tensor, "*batch joints 3"]:
    """A body's joints in this convention: its own, or those of the regressor."""
    if convention == SMPL24:
        return posed.joints_cam_m
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
    return regress(regressor, posed.vertices_cam_m)


def _reduced(
    errors_mm: Float[Tensor, " samples_and_average"], scores: Sequence[float | None], minima: Sequence[int]
) -> dict[str, float]:
    hypotheses, averaged = errors_mm[:-1], errors_mm[-1]
    picked = pick_of_errors(hypotheses, scores)
    counts = sorted({*minima, len(hypotheses)})
    return {
        **{f"min{count}": min_of_errors(hypotheses, count).item() for count in counts},
        "mean": hypotheses.mean().item(),
        "hyp0": hypotheses[0].item(),
        "averaged": averaged.item(),
        **({} if picked is None else {f"pick{len(hypotheses)}": picked.item()}),
    }
