"""A `Labelled` from a `Sample` and its `Annotation`, where the annotation carries enough: SMPL parameters with a
shape and a place, a camera, and at hand the body model that the parameters belong to.

Nothing is guessed: betas of a gendered SMPL body mean nothing to another body, so the model is asked for by gender
and the default body is refused. Two things follow from the posed body because no data set here has them, and both
know nothing of what stands in front of the person: `mask` is the body's own silhouette, `visible` is what lies
inside the image. Train a mask head on them only where people are seldom hidden (Human3.6M).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from hmr.body.model import Body
from hmr.datasets.annotation import Annotation
from hmr.types import BodyParams, Labelled, Renderer, Sample, Truth

__all__ = ["body_params", "labelled_of", "params_at_origin"]


def labelled_of(
    sample: Sample, annotation: Annotation, bodies: Mapping[str, Body], renderer: Renderer
) -> Labelled:
    """`bodies` by gender ("female", "male", "neutral"), each loaded from its SMPL file.

    Raises ValueError that names what the annotation or `bodies` lacks.
    """
    params, body = body_params(annotation, bodies)
    camera = annotation.camera
    if camera is None:
        raise ValueError(f"{annotation.name} has no camera, so its truth cannot be placed in the image")
    with torch.no_grad():
        posed = body(params)
    frame = renderer.render(posed.vertices_cam_m[None].numpy(), body.faces.numpy(), camera)
    keypoints_px = camera.project(posed.joints_cam_m)
    x, y = keypoints_px.unbind(-1)
    visible = (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height) & (posed.joints_cam_m[:, 2] > 0)
    truth = Truth(params, camera, posed.joints_cam_m, keypoints_px, visible, frame.mask[0])
    return Labelled(sample, truth)


def body_params(annotation: Annotation, bodies: Mapping[str, Body]) -> tuple[BodyParams, Body]:
    """The annotation's parameters with its translation in the camera's frame, and their body model."""
    params, body = params_at_origin(annotation, bodies)
    if annotation.smpl is None or annotation.smpl.placement is None:
        raise ValueError(f"{annotation.name} has no place in the camera's frame")
    transl = annotation.smpl.placement.transl_m(body.rest_joints(params.betas)[0])
    return dataclasses.replace(params, transl=transl), body


def params_at_origin(annotation: Annotation, bodies: Mapping[str, Body]) -> tuple[BodyParams, Body]:
    """The same without a place, which errors about each skeleton's own root do not need."""
    fit = annotation.smpl
    if fit is None or fit.betas is None:
        raise ValueError(f"{annotation.name} has no {'SMPL parameters' if fit is None else 'betas'}")
    if fit.gender is None:
        raise ValueError(f"{annotation.name} does not say the gender of the body that its betas belong to")
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
