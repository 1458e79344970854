"""Exported files hold what is selected."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from cli.photos.hypotheses_file import read_hypotheses
from cli.viewer.contents import Selection
from cli.viewer.exports import EXPORTS, export
from hmr.body.model import Body
from hmr.body.skeleton import UPRIGHT
from tests.cli.viewer.shown_photo import CAMERA, make_shown

STARTS = {"npz": b"PK", "obj": b"#", "glb": b"glTF", "bvh": b"HIERARCHY"}
SHOWN = make_shown()
SELECTION = Selection(person=1, hypothesis=2, step=1)


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_file_is_named_after_the_selection(body: Body, kind: str):
    name, content = export(kind, SHOWN, SELECTION, 1, body)
    assert name == f"photo-1-policy-1-step1-h2.{kind}"
    assert content.startswith(STARTS[kind])


def test_the_last_step_of_a_single_source_has_the_shortest_name(body: Body):
    name, _ = export("obj", make_shown(sources=1), dataclasses.replace(SELECTION, step=2), 0, body)
    assert name == "photo-1-h2.obj"


def test_a_mesh_is_the_selected_body(body: Body):
    _, content = export("obj", SHOWN, SELECTION, 1, body)
    mesh = trimesh.load(io.BytesIO(content), file_type="obj", process=False)
    params = SHOWN.people[1].sources[1].steps[0][2]
    np.testing.assert_allclose(mesh.vertices, body(params).vertices_cam_m @ UPRIGHT, atol=1e-5)


def test_an_npz_is_the_selected_group(body: Body, tmp_path: Path):
    name, content = export("npz", SHOWN, SELECTION, 1, body)
    (tmp_path / name).write_bytes(content)
    ((box, found),) = read_hypotheses(tmp_path / name, (CAMERA.width, CAMERA.height))
    assert torch.equal(found.params.body_pose, SHOWN.people[1].sources[1].steps[0].body_pose)
    assert (box, found.camera) == (SHOWN.people[1].person.sample.box, CAMERA)
