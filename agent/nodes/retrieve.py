"""Retrieval nodes: rules that are relevant to the image, and prototypes of similar images.

Tags are made from facts about the image before scoring (the detector's confidence, the position of the box, the group's
median pose): by the embedded critic with thresholds, by a language model together with the photograph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from langgraph.runtime import Runtime
from torch import Tensor

from agent.context import CritiqueContext, CritiqueResources
from agent.prompts.answers import TagAnswer
from agent.prompts.question import prototype_json, question, rule_json
from agent.scoring.ask import ask
from agent.state import CritiqueState
from agent.types import Case, RetrievedPrototype
from agent.vlm.protocol import DataPart
from hmr.types import JOINT_NAMES, Sample
from memory.rule_memory import RetrievedRule

__all__ = ["image_facts", "restore_retrieved", "retrieve_prototypes", "retrieve_rules"]


def retrieve_rules(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Tag the image, then retrieve the rules with the highest relevance and UCB."""
    resources, settings = runtime.context.resources, runtime.context.settings
    parts = [*question("tag", resources.photo), DataPart("image_facts", image_facts(resources.case))]
    answer = ask(resources.backend, "tag", parts, TagAnswer, settings.seed, runtime.stream_writer)
    tags = answer.value.tags if answer.value else []
    query = f"a person, {', '.join(tags)}"
    retrieved = resources.rules.retrieve(query, tags, settings.rules_per_case, frozen=resources.frozen)
    resources.retrieved_rules = tuple(retrieved)
    return {"tags": tags, "rules": [rule_json(item) for item in retrieved], **answer.to_update()}


def retrieve_prototypes(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Retrieve the explored cases with the most similar photographs."""
    resources, settings = runtime.context.resources, runtime.context.settings
    embedding = resources.image_embedder(resources.sample)
    nearest = resources.prototypes.nearest(embedding, settings.prototypes_per_case)
    resources.retrieved_prototypes = tuple(
        RetrievedPrototype(prototype, cosine) for prototype, cosine in nearest
    )
    return {"prototypes": [prototype_json(item) for item in resources.retrieved_prototypes]}


def restore_retrieved(state: Mapping[str, Any], resources: CritiqueResources) -> None:
    """What the nodes above retrieved in another process, from the terms in the state, which have four digits.

    Raises ValueError if a rule or prototype is no longer in the memory.
    """
    rules = {rule.rule_id: rule for rule in resources.rules.all()}
    prototypes = {prototype.prototype_id: prototype for prototype in resources.prototypes.all()}
    rows = (*state.get("rules", ()), *state.get("prototypes", ()))
    if lost := [row["id"] for row in rows if row["id"] not in {**rules, **prototypes}]:
        raise ValueError(f"the memory has changed since the checkpoint: {lost[0]} is no longer in it")
    resources.retrieved_rules = tuple(
        RetrievedRule(rules[row["id"]], *(row[term] for term in _RULE_TERMS))
        for row in state.get("rules", ())
    )
    resources.retrieved_prototypes = tuple(
        RetrievedPrototype(prototypes[row["id"]], row["similarity"]) for row in state.get("prototypes", ())
    )


_RULE_TERMS = ("similarity", "tag_overlap", "success_rate", "bonus", "psi")

LIMBS = {
    "legs": ("left_knee", "right_knee", "left_ankle", "right_ankle"),
    "arms": ("left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    "torso": ("pelvis", "spine2", "left_hip", "right_hip", "left_shoulder", "right_shoulder"),
    "head": ("neck", "head"),
}


def image_facts(case: Case) -> dict[str, Any]:
    """JSON: mean confidence by limb (empty without a detector), the box relative to the border, the median pose."""
    confidence = {}
    if case.detection is not None:
        by_joint = dict(zip(JOINT_NAMES, case.detection.keypoint_visibility.tolist(), strict=True))
        confidence = {
            limb: round(sum(by_joint[name] for name in names) / len(names), 3)
            for limb, names in LIMBS.items()
        }
    median = case.posed.joints_cam_m.median(dim=0).values
    return {"confidence": confidence, **_box_facts(case.sample), **_pose_facts(median)}


def _box_facts(sample: Sample) -> dict[str, Any]:
    box, (height, width) = sample.box, sample.image.shape[:2]
    outside = {
        "left": -box.x0 / (box.x1 - box.x0),
        "right": (box.x1 - width) / (box.x1 - box.x0),
        "top": -box.y0 / (box.y1 - box.y0),
        "bottom": (box.y1 - height) / (box.y1 - box.y0),
    }
    return {
        "outside": {side: round(max(0.0, share), 3) for side, share in outside.items()},
        "box_px": round(box.side, 1),
    }


def _pose_facts(joints_cam_m: Float[Tensor, "24 3"]) -> dict[str, Any]:
    joint: dict[str, Tensor] = dict(zip(JOINT_NAMES, joints_cam_m, strict=True))
    torso = joint["neck"] - joint["pelvis"]
    up = torch.tensor([0.0, -1.0, 0.0])
    thighs = [joint[f"{side}_knee"] - joint[f"{side}_hip"] for side in ("left", "right")]
    forward = torch.linalg.cross(joint["left_shoulder"] - joint["right_shoulder"], torso)
    above = [joint[f"{side}_shoulder"][1] - joint[f"{side}_wrist"][1] for side in ("left", "right")]
    return {
        "torso_tilt_deg": round(_angle_deg(torso, up), 1),
        "hip_flexion_deg": round(sum(_angle_deg(thigh, -torso) for thigh in thighs) / 2, 1),
        "facing_z": round(float(forward[2] / forward.norm().clamp_min(1e-6)), 2),  # -1: toward the camera
        "wrist_above_shoulder_mm": round(1000 * float(max(above))),
    }


def _angle_deg(a: Float[Tensor, "3"], b: Float[Tensor, "3"]) -> float:
    cosine = float(torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-6))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
