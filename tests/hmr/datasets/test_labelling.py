"""Conversion of annotations to `Labelled`, and the refusal of incomplete ones."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from hmr.body.model import Body
from hmr.datasets.annotation import Annotation, Placement, SmplFit
from hmr.datasets.labelling import body_params, labelled_of, params_at_origin
from hmr.render.raster import RasterRenderer
from hmr.types import BodyParams, Box, Camera, Sample

CAMERA = Camera(70.0, 32.0, 24.0, 64, 48)
SAMPLE = Sample("a", np.zeros((48, 64, 3), np.uint8), Box(10.0, 5.0, 30.0, 40.0), Camera.estimate(64, 48))


@pytest.fixture
def smpl(body: Body) -> Body:
    """The default body with the name of SMPL, whose file is licensed."""
    renamed = copy.copy(body)
    renamed.name = "smpl"
    return renamed


def annotation(**changes: object) -> Annotation:
    fit = SmplFit(
        "smpl",
        "female",
        torch.tensor([torch.pi, 0.0, 0.0]),
        torch.zeros(23, 3),
        torch.zeros(10),
        Placement.of_transl(torch.tensor([0.0, 0.3, 4.0])),
    )
    return Annotation("a.jpg", "0", Box(10.0, 5.0, 30.0, 40.0), CAMERA, dataclasses.replace(fit, **changes))


def test_truth_is_the_posed_body(smpl):
    labelled = labelled_of(SAMPLE, annotation(), {"female": smpl}, RasterRenderer())
    truth = labelled.truth
    assert labelled.sample is SAMPLE
    posed = smpl(
        BodyParams(
            torch.tensor([torch.pi, 0.0, 0.0]),
            torch.zeros(23, 3),
            torch.zeros(10),
            torch.tensor([0.0, 0.3, 4.0]),
        )
    )
    torch.testing.assert_close(truth.joints_cam_m, posed.joints_cam_m)
    torch.testing.assert_close(truth.keypoints_px, CAMERA.project(posed.joints_cam_m))
    row, column = (int(value) for value in truth.keypoints_px[0].flip(0))
    assert truth.mask[row, column]
    assert truth.mask.shape == (48, 64)
    assert truth.visible.all()


def test_joints_outside_the_image_are_not_visible(smpl):
    beside = Placement.of_transl(torch.tensor([1.8, 0.3, 4.0]))  # its middle at x = 70 * 1.8 / 4 + 32 = 63.5
    truth = labelled_of(SAMPLE, annotation(placement=beside), {"female": smpl}, RasterRenderer()).truth
    assert truth.visible.any()
    assert not truth.visible.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"betas": None}, "a.jpg#0 has no betas"),
        ({"placement": None}, "a.jpg#0 has no position in the camera frame"),
        ({"gender": None}, "does not have the gender"),
        ({"gender": "male"}, r"needs a male smpl body; given are female .*--bodies male=FILE"),
        ({"model": "smplx"}, "has parameters of smplx; the body given is smpl"),
    ],
)
def test_missing_parts_are_named(smpl, changes, message):
    with pytest.raises(ValueError, match=message):
        labelled_of(SAMPLE, annotation(**changes), {"female": smpl}, RasterRenderer())


def test_a_body_without_a_position_has_zero_translation(smpl):
    params, body = params_at_origin(annotation(placement=None), {"female": smpl})
    assert body is smpl
    placed, _ = body_params(annotation(), {"female": smpl})
    moved = smpl.joints(placed) - smpl.joints(params)
    torch.testing.assert_close(moved, torch.tensor([0.0, 0.3, 4.0]).expand(24, 3))


def test_annotations_without_parameters_or_camera_are_refused(smpl):
    whole = annotation()
    for lacking, message in (("smpl", "no SMPL parameters"), ("camera", "has no camera")):
        with pytest.raises(ValueError, match=message):
            labelled_of(
                SAMPLE, dataclasses.replace(whole, **{lacking: None}), {"female": smpl}, RasterRenderer()
            )


def test_the_default_body_is_refused_in_place_of_smpl(body):
    with pytest.raises(ValueError, match="the body given is embedded"):
        labelled_of(SAMPLE, annotation(), {"female": body}, RasterRenderer())
