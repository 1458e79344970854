"""Converts a `Sample` and its `Annotation` to a `Labelled`. The annotation needs SMPL parameters with betas and a
placement, and a camera; the caller provides the body model of the parameters.

Betas of a gendered SMPL body are not valid for another body, so the model of the gender is required and the default
body is refused. No supported data set has masks or visibility, so both are computed from the posed body and ignore
occluders: `mask` is the silhouette of the body, and `visible` means inside the image. Train a mask head on them only if
people are rarely occluded (Human3.6M).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from common.reading.validate import FlawedRecord
from hmr.body.model import Body
from hmr.datasets.annotation import Annotation
from hmr.types import BodyParams, Labelled, Renderer, Sample, Truth

__all__ = ["body_params", "labelled_of", "params_at_origin"]


def labelled_of(
    sample: Sample, annotation: Annotation, bodies: Mapping[str, Body], renderer: Renderer
) -> Labelled:
    """`bodies`: SMPL models by gender ("female", "male", "neutral").

    Raises ValueError if the annotation or `bodies` is incomplete.
    """
    params, body = body_params(annotation, bodies)
    camera = annotation.camera
    if camera is None:
        raise ValueError(f"{annotation.name} has no camera, so its truth cannot be projected into the image")
    with torch.no_grad():
        posed = body(params)
    frame = renderer.render(posed.vertices_cam_m[None].numpy(), body.faces.numpy(), camera)
    keypoints_px = camera.project(posed.joints_cam_m)
    x, y = keypoints_px.unbind(-1)
    visible = (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height) & (posed.joints_cam_m[:, 2] > 0)
    truth = Truth(params, camera, posed.joints_cam_m, keypoints_px, visible, frame.mask[0])
    return Labelled(sample, truth)


def body_params(annotation: Annotation, bodies: Mapping[str, Body]) -> tuple[BodyParams, Body]:
    """The parameters of the annotation, with the translation in the camera frame, and their body model."""
    params, body = params_at_origin(annotation, bodies)
    if annotation.smpl is None or annotation.smpl.placement is None:
        raise ValueError(f"{annotation.name} has no position in the camera frame")
    transl = annotation.smpl.placement.transl_m(body.rest_joints(params.betas)[0])
    return dataclasses.replace(params, transl=transl), body


def params_at_origin(annotation: Annotation, bodies: Mapping[str, Body]) -> tuple[BodyParams, Body]:
    """The same with zero translation, for root-relative errors.

    Raises FlawedRecord if the annotation is incomplete, and ValueError if `bodies` lacks the model.
    """
    fit = annotation.smpl
    if fit is None or fit.betas is None:
        missing = "SMPL parameters" if fit is None else "betas"
        raise FlawedRecord(f"{annotation.name} has no {missing}", f"no {missing}")
    if fit.gender is None:
        missing = "the gender of the body that its betas belong to"
        raise FlawedRecord(f"{annotation.name} does not have {missing}", f"without {missing}")
    if fit.gender not in bodies:
        given = ", ".join(sorted(bodies)) or "none"
        raise ValueError(
            f"{annotation.name} needs a {fit.gender} {fit.model} body; given are {given} "
            f"(on the command line: --bodies {fit.gender}=FILE)"
        )
    body = bodies[fit.gender]
    if body.name != fit.model:
        raise ValueError(f"{annotation.name} has parameters of {fit.model}; the body given is {body.name}")
    return BodyParams(fit.global_orient, fit.body_pose, fit.betas, torch.zeros(3)), body
