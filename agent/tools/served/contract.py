"""The contract with a critique tool of an MCP server (docs/guides/mcp.md): the case as JSON, and its evidence.

Sent are numbers only: no photograph, no name of a file and no id. Whatever comes back is untrusted. Its texts
become part of prompts, so they are cut to a length and lose their control characters, and its metric gets a prefix, so
that it cannot take the place of another tool's.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from agent.tools.parts import MAX_PARTS, PART_NAMES
from agent.types import Case, Evidence
from hmr.types import JOINT_NAMES, POINT_NAMES, Detection

__all__ = ["PREFIX", "ToolServerError", "case_json", "cleaned", "read_evidence"]

Json = dict[str, Any]
VERSION = 1
PREFIX = "served_"  # of the names of tools and metrics
SENTENCE_CHARS = 240
METRIC_CHARS = 60
UNIT_CHARS = 12
PART_CHARS = 40
MAX_ANSWER_CHARS = 1_000_000


class ToolServerError(RuntimeError):
    """A tool server that failed, or an answer that breaks the contract; the message is one sentence."""


def case_json(case: Case) -> Json:
    """The argument `case` of a tool: joints in metres in the frame of the camera, and what the detector read."""
    camera, box = case.hypotheses.camera, case.sample.box
    return {
        "version": VERSION,
        "joint_names": list(JOINT_NAMES),
        "joints_m": _rounded(case.posed.joints_cam_m, 5),
        "camera": {
            "focal_px": camera.focal_px,
            "center_px": [camera.cx_px, camera.cy_px],
            "image_size": [camera.width, camera.height],
        },
        "box_xyxy": [box.x0, box.y0, box.x1, box.y1],
        "keypoints": _keypoints(case.detection) if case.detection else None,
        "part_names": sorted(set(PART_NAMES)),
    }


def _keypoints(detection: Detection) -> Json:
    """The points that the detector reports."""
    seen = detection.observed
    return {
        "names": [name for name, known in zip(POINT_NAMES, seen.tolist(), strict=True) if known],
        "points_px": _rounded(detection.points_px[seen], 2),
        "sigma_px": _rounded(detection.sigma_px[seen], 2),
        "visibility": _rounded(detection.visibility[seen], 3),
    }


def _rounded(tensor: Tensor, digits: int) -> Any:
    return tensor.double().round(decimals=digits).tolist()


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    metric: str
    unit: str
    values: list[float | None]
    sentences: list[str]
    parts: list[list[str]] | None = None


def read_evidence(tool: str, answer: object, count: int) -> Evidence:
    """The evidence in an answer, given as JSON or its text. Raises ToolServerError if it breaks the contract; numbers
    that are not finite are left to the check that every tool gets."""
    found = _parsed(answer)
    for name, size in (("values", len(found.values)), ("sentences", len(found.sentences))):
        if size != count:
            raise ToolServerError(f"gave {size} {name} for {count} hypotheses")
    parts = found.parts or [[]] * count
    if len(parts) != count:
        raise ToolServerError(f"gave parts for {len(parts)} of {count} hypotheses")
    metric = re.sub(r"[^A-Za-z0-9_]+", "_", found.metric)[:METRIC_CHARS]
    return Evidence(
        tool=tool,
        metric=PREFIX + metric,
        unit=cleaned(found.unit, UNIT_CHARS),
        values=tuple(found.values),
        parts=tuple(tuple(cleaned(part, PART_CHARS) for part in names[:MAX_PARTS]) for names in parts),
        sentences=tuple(cleaned(sentence, SENTENCE_CHARS) for sentence in found.sentences),
    )


def _parsed(answer: object) -> _Answer:
    if isinstance(answer, str):
        if len(answer) > MAX_ANSWER_CHARS:
            raise ToolServerError(f"answered with more than {MAX_ANSWER_CHARS} characters")
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError):
            raise ToolServerError("answered with text that is not JSON") from None
    try:
        return _Answer.model_validate(answer)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = cleaned(".".join(map(str, fault["loc"])) or "answer", PART_CHARS)
        raise ToolServerError(f"answered with a wrong {place}: {fault['msg']}") from None


def cleaned(text: str, limit: int) -> str:
    """One printable line of at most `limit` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
