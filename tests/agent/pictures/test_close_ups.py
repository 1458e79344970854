"""Close-ups of uncertain hypotheses: the disputed part, its crop, and their number."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from agent.context import CritiqueSettings
from agent.pictures.close_ups import close_up_part, disputed_part, draw_close_ups, part_box
from agent.pictures.panels import PANEL_PX
from agent.tracing.records import Trace
from agent.vlm import Capabilities, EmbeddedCritic, Reply
from agent.vlm.wrappers.dry_run import DryRun
from hmr.render.raster import RasterRenderer
from hmr.types import JOINT_NAMES, BodyParams
from tests.agent.critique_case import group, make_agent, planted_fault, sample, spoiled_group
from tests.agent.tools.tool_case import case_of, standing

BLAMES = [
    {"parts": [["left shin", "head"], []]},
    {"parts": [["head"], []]},
    {"parts": [["left shin", "hat"], []]},
]


class Unsure(EmbeddedCritic):
    """Takes images, finds some labels uncertain, and records the captions of a revision."""

    def __init__(self, labels: str, max_images: int | None = None) -> None:
        self.capabilities = Capabilities(images=True, max_images=max_images)
        self.labels, self.shown = labels, []

    def generate(self, parts, schema, seed):
        if schema["title"] == "reflect":
            said = {
                label: {"uncertain": label in self.labels, "reason": "its left foot"}
                for label in schema["properties"]
            }
            return Reply(json.dumps(said))
        if schema["title"] == "revise":
            self.shown = [part.caption for part in parts if hasattr(part, "png")]
        return super().generate(parts, schema, seed)

    @property
    def again(self) -> list[str]:
        return [caption.split()[1] for caption in self.shown if " again: " in caption]


def tiles(png: bytes) -> int:
    """A row of tiles with a gap of 8 pixels between and about them."""
    return (Image.open(io.BytesIO(png)).width - 8) // (PANEL_PX + 8)


@pytest.mark.parametrize(
    ("reason", "comment", "part"),
    [
        # votes of the tools: left shin 1 + 0 + 1, head 1/2 + 1
        ("", "", "left shin"),
        ("The HEAD looks away.", "", "head"),
        ("", "Its head is off.", "head"),  # 1.5 and 1 for the comment
        ("", "Its left shin and its head are off.", "left shin"),
        ("It is ahead of the others.", "", "left shin"),
    ],
)
def test_the_part_in_dispute_is_named_or_blamed_most(reason, comment, part):
    assert disputed_part(BLAMES, 0, reason, comment) == part


def test_without_evidence_there_is_no_part_and_one_tile():
    case, renderer = case_of(BodyParams.stack([standing()])), RasterRenderer()
    assert disputed_part(BLAMES, 1, "its rank moves", "") is None
    plain = close_up_part(draw_close_ups(case, {0: None}, renderer)[0], "B")
    assert tiles(plain.png) == 1
    assert plain.caption == "hypothesis B again: the whole body from its other side (camera at right)"
    shin = close_up_part(draw_close_ups(case, {0: "left shin"}, renderer)[0], "B")
    assert tiles(shin.png) == 3
    assert "the left shin close up (photograph, overlay)" in shin.caption


def test_the_crop_contains_the_limb_as_posed_and_as_detected():
    case = case_of(BodyParams.stack([standing(), planted_fault()]))
    box = part_box(case, 1, "left shin")
    posed = case.hypotheses.camera.project(case.posed.joints_cam_m[1])
    ends = [JOINT_NAMES.index("left_knee"), JOINT_NAMES.index("left_ankle")]
    for x, y in [*posed[ends].tolist(), *case.detection.keypoints_px[ends].tolist()]:
        assert box.x0 < x < box.x1
        assert box.y0 < y < box.y1
    assert box.x1 - box.x0 == pytest.approx(box.y1 - box.y0)
    # a hand alone is smaller than 0.3 of the person's box
    assert part_box(case, 0, "left hand").side == pytest.approx(0.3 * case.sample.box.side)


def test_joints_far_outside_are_clipped_to_the_person():
    far = replace(standing(), transl=torch.tensor([1e6, -0.1, 4.0]))
    case = case_of(BodyParams.stack([standing(), far]))
    limit = 1.5 * 2 * case.sample.box.side  # the margin about twice the person's box
    assert part_box(case, 1, "left shin").side <= limit + 1e-3
    assert draw_close_ups(case, {1: "left shin"}, RasterRenderer())[0].tiles.any()


def test_several_close_ups_equal_single_ones():
    case, renderer = case_of(BodyParams.stack([standing(), planted_fault()])), RasterRenderer(threads=2)
    together = draw_close_ups(case, {1: "left shin", 0: None}, renderer)
    assert [(item.hypothesis, item.part) for item in together] == [(1, "left shin"), (0, None)]
    for item in together:
        [alone] = draw_close_ups(case, {item.hypothesis: item.part}, renderer)
        assert np.array_equal(item.tiles, alone.tiles)
    assert draw_close_ups(case, {}, renderer) == []


def test_the_other_side_is_not_the_first_one():
    case, renderer = case_of(BodyParams.stack([planted_fault()])), RasterRenderer()
    whole = draw_close_ups(case, {0: None}, renderer)[0].tiles
    assert (whole != whole[:, ::-1]).any(axis=-1).mean() > 0.01
    assert whole.shape == (PANEL_PX + 16, PANEL_PX + 16, 3)
    assert np.array_equal(whole, draw_close_ups(case, {0: None}, renderer)[0].tiles)


@pytest.mark.parametrize(
    ("max_images", "pictures", "close_ups", "shown"),
    [
        (None, "separate", 4, 3),
        (None, "separate", 1, 1),
        (None, "separate", 0, 0),
        (6, "separate", 4, 2),  # the photograph, three panels, and room for two
        (4, "separate", 4, 0),
        (3, "montage", 4, 1),  # the photograph, one sheet, one close-up
    ],
)
def test_as_many_as_settings_and_limit_allow(max_images, pictures, close_ups, shown):
    backend = Unsure("ABC", max_images)
    settings = CritiqueSettings(view_size_px=64, permutations=1, pictures=pictures, close_ups=close_ups)
    make_agent(backend, settings=settings).critique(sample(), group(spoiled_group()))
    assert len(backend.again) == shown
    assert len(backend.shown) <= (max_images or 99)
    assert set(backend.again) <= set("ABC")


def test_the_trace_names_the_close_ups_and_contains_no_image(tmp_path):
    with Trace(tmp_path / "trace.jsonl") as trace:
        critique = make_agent(Unsure("B"), trace=trace).critique(sample(), group(spoiled_group()))
    [revision] = critique.revisions
    assert revision.evidence_used[-1] == "h1: close-up of the left foot, other side"
    records = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    [drawn] = [record["outputs"]["close_ups"] for record in records if record["node"] == "reobserve"]
    assert list(drawn) == ["1"]
    assert len(drawn["1"]) == 16  # a content hash


def test_a_text_only_backend_gets_no_close_ups():
    backend = Unsure("AB")
    backend.capabilities = Capabilities()
    critique = make_agent(backend).critique(sample(), group(spoiled_group()))
    assert backend.shown == []
    assert not any("side" in item for item in critique.revisions[0].evidence_used)


def test_a_dry_run_counts_close_ups():
    def images(close_ups: int) -> int:
        counted = DryRun(Unsure(""))
        settings = CritiqueSettings(view_size_px=64, permutations=1, close_ups=close_ups)
        make_agent(counted, settings=settings).critique(sample(), group(spoiled_group()))
        return counted.images

    assert images(4) - images(0) == 4
