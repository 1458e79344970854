"""A critique agent over real bodies and tools, with tiny fakes for text embedder and detector."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Float32

from agent.agent import CritiqueAgent
from agent.context import CritiqueSettings
from agent.seed_rules import load_seed_rules
from agent.tools import load_tools
from agent.types import Case, CritiqueTool
from agent.vlm import EmbeddedCritic
from hmr.render.raster import RasterRenderer
from hmr.types import BodyParams, Box, Detection, Hypotheses, Labelled, Sample, Truth
from memory.prototype_memory import PrototypeMemory
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from tests.agent.tools.tool_case import body, case_of, joint, standing

GROUP = 6
TOOLS = ("reprojection", "silhouette", "joint_limits", "group_consensus")


class HashEmbedder:
    """Gives equal sentences equal vectors, otherwise random ones."""

    name, revision, dim = "hash", "1", 16

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "batch dim"]:
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        vectors = np.stack([np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class MeanColor:
    """Embeds a photograph as its mean colour."""

    name, dim = "mean_color", 3

    def __call__(self, sample: Sample) -> Float[np.ndarray, "dim"]:
        return sample.image.reshape(-1, 3).mean(axis=0) + 1.0


@cache
def _standing_case() -> Case:
    return case_of(BodyParams.stack([standing()]))


class PerfectDetector:
    """Detects hypothesis 0 of the standing group in every image."""

    name = "perfect"

    def find(self, image: np.ndarray) -> list[Box]:
        return [self.detect(sample()).mask_box]

    def detect(self, sample: Sample) -> Detection:
        detection = _standing_case().detection
        assert detection is not None
        return detection


def sample(name: str = "case") -> Sample:
    rng = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    plain = _standing_case().sample
    return replace(plain, id=name, image=rng.integers(0, 255, plain.image.shape, dtype=np.uint8))


def spoiled_group(seed: int = 0, group: int = GROUP, worst_rad: float = 0.5) -> BodyParams:
    """The standing body with noise that increases from hypothesis 0 to the last."""
    generator = torch.Generator().manual_seed(seed)
    members = []
    for amount in torch.linspace(0.02, worst_rad, group):
        noise = torch.randn(23, 3, generator=generator) * amount
        members.append(replace(standing(), body_pose=standing().body_pose + noise))
    return BodyParams.stack(members)


def planted_fault() -> BodyParams:
    """A knee bent backwards by 80 degrees."""
    pose = standing().body_pose.clone()
    pose[joint("left_knee"), 0] = -math.radians(80)
    return replace(standing(), body_pose=pose)


def group(params: BodyParams) -> Hypotheses:
    return Hypotheses(params, sample().camera)


def labelled(name: str) -> Labelled:
    posed = body()(BodyParams.stack([standing()]))
    camera = sample().camera
    truth = Truth(
        params=standing(),
        camera=camera,
        joints_cam_m=posed.joints_cam_m[0],
        keypoints_px=camera.project(posed.joints_cam_m[0]),
        visible=torch.ones(24, dtype=torch.bool),
        mask=np.ones((camera.height, camera.width), bool),
    )
    return Labelled(sample(name), truth)


def make_agent(
    backend: object | None = None, tools: Sequence[CritiqueTool] | None = None, **overrides: object
) -> CritiqueAgent:
    """An agent with a memory in RAM that holds the seed rules."""
    store = MemoryStore(":memory:")
    rules = RuleMemory(store, HashEmbedder())
    rules.add(load_seed_rules())
    parts: dict = {
        "backend": backend or EmbeddedCritic(),
        "tools": load_tools(TOOLS) if tools is None else tools,
        "rules": rules,
        "prototypes": PrototypeMemory(store, MeanColor.dim, MeanColor.name),
        "body": body(),
        "renderer": RasterRenderer(),
        "detector": PerfectDetector(),
        "image_embedder": MeanColor(),
        "settings": CritiqueSettings(view_size_px=64),
    }
    return CritiqueAgent(**{**parts, **overrides})
