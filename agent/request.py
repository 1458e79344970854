"""Critiques of a request that names everything by path or specification, for LangGraph's server and Studio.

`graph` is the critique graph (`agent/graph.py`); it accepts

    {"photo": "photo.jpg", "box": [214, 18, 330, 345], "samples": 8, "backend": "embedded"}

Photograph, models and memory are opened at the first node and kept for the following ones. In another process, after a
checkpoint, they are opened again from the request in the state.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from agent.agent import CritiqueAgent
from agent.context import CritiqueResources
from agent.default import default_agent, open_default_memory
from agent.graph import build_critique_graph
from agent.state import CritiqueInput
from agent.vlm import load_backend
from agent.vlm.options import announce_host
from common.seeding import derive_generator
from hmr.body.model import load_body
from hmr.detection.protocol import detect_all, detect_people
from hmr.images.photographs import Photo, check_box, load_photo, sample_of
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box, Camera, Detection, Hypotheses, Sample

__all__ = ["graph", "open_request"]

SAMPLES = 8
MAX_SAMPLES = 200
AGENTS_KEPT = 2
CRITIQUES_KEPT = 8  # of which the pictures and bodies stay in memory

Version = tuple[tuple[str, int, int], ...]  # path, time of the last change and size of files


def open_request(request: CritiqueInput, trace_id: str) -> CritiqueResources:
    """The resources of a critique, which is one run; equal requests of unchanged files share models, photograph and
    hypotheses.

    Raises ValueError for a missing or invalid field and if there is nobody in the photograph, FileNotFoundError for a
    file that does not exist, and what the loaders of policy, detector, backend and memory raise.
    """
    if not request.get("photo"):
        known = ", ".join(sorted(CritiqueInput.__annotations__))
        raise ValueError(f"the request has no photo, the path of a photograph; its fields are {known}")
    versions = tuple(_version(request.get(name)) for name in ("photo", "memory", "policy"))
    return _resources(json.dumps({**request, "trace_id": ""}, sort_keys=True), versions, trace_id)


def _version(path: object) -> Version:
    """Changes if the file does, or one in the folder; the reader of a path that does not exist reports it."""
    if not path:
        return ()
    if not isinstance(path, str):
        raise ValueError(f"photo, memory and policy are paths, not {path!r}")
    files = sorted(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]
    return tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists())


@lru_cache(maxsize=CRITIQUES_KEPT)
def _resources(request_json: str, versions: tuple[Version, ...], trace_id: str) -> CritiqueResources:
    """Nodes fill it, so every run has its own."""
    agent, sample, hypotheses, detection = _opened(request_json, versions)
    return agent.resources(sample, hypotheses, detection)


@lru_cache(maxsize=CRITIQUES_KEPT)
def _opened(
    request_json: str, versions: tuple[Version, ...]
) -> tuple[CritiqueAgent, Sample, Hypotheses, Detection]:
    request: Mapping[str, Any] = json.loads(request_json)
    names = [str(request.get(name) or "") for name in ("backend", "memory", "policy", "detector")]
    agent, policy = _agent(*names, versions=versions[1:])
    photo = load_photo(request["photo"])
    sample, detection = _person(policy, photo, request)
    count = _number(request, "samples", SAMPLES, 2, MAX_SAMPLES)
    generator = derive_generator(_number(request, "seed", 0, 0, 2**31 - 1), "photo", sample.id)
    group = policy.sample(policy.encode([sample], [detection]), count, generator)[0]
    return agent, sample, Hypotheses(group.params, sample.camera), detection


@lru_cache(maxsize=AGENTS_KEPT)
def _agent(
    backend: str, memory: str, policy_folder: str, detector: str, versions: tuple[Version, ...]
) -> tuple[CritiqueAgent, DiffusionPolicy]:
    policy = load_policy(policy_folder or None, detector=detector or "blazepose")
    known = open_default_memory(Path(memory) if memory else None, policy, frozen=bool(memory))
    opened = load_backend(backend or "embedded")
    announce_host(opened, _print_once)
    return default_agent(policy, load_body(None), known, backend=opened), policy


@cache
def _print_once(line: str) -> None:
    """On stderr, once per process: a server opens a backend again when a memory or a policy has changed."""
    print(line, file=sys.stderr)


def _person(policy: DiffusionPolicy, photo: Photo, request: Mapping[str, Any]) -> tuple[Sample, Detection]:
    """The person in the box, or the one with the largest box."""
    where, camera = request["photo"], photo.camera_in_image(Camera.estimate(*photo.file_size))
    if request.get("box"):
        box = _box(request["box"], photo, where)
        sample = sample_of(photo.image, photo.box_in_image(box), camera)
        return sample, detect_all(policy.detector, [sample])[0]
    people = detect_people(policy.detector, photo.image, camera)
    if not people:
        raise ValueError(f"{where}: the detector {policy.detector.name} found nobody; give the person's box")
    return max(people, key=lambda person: person[0].box.side)


def _box(corners: object, photo: Photo, where: str) -> Box:
    given = corners if isinstance(corners, list | tuple) else []
    numbers = [float(corner) for corner in given if isinstance(corner, int | float) and math.isfinite(corner)]
    if len(numbers) != 4 or len(given) != 4:
        raise ValueError(f"box takes four numbers x0, y0, x1, y1 in pixels, not {corners!r}")
    box = Box(*numbers)
    check_box(box, photo.file_size, where)
    return box


def _number(request: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = request.get(name, default)
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return value


graph = build_critique_graph(open_request=open_request)
