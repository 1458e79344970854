"""The public Python API. Everything that a plug-in or a script needs is imported from here.

    from meshcritic import CritiqueTool, Evidence, VLMBackend, load_body

A name is imported from its module at its first use, so that `import meshcritic` stays fast. The list of names and
modules is the `TYPE_CHECKING` block below, for type checkers and for `__getattr__` alike.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.agent import CritiqueAgent, critique_many
    from agent.arrangement.critique import critique_people
    from agent.arrangement.types import (
        Arrangement,
        ArrangementCritique,
        ArrangementEvidence,
        ArrangementTool,
        ArrangementVerdict,
        PeopleCritique,
        PlacedPeople,
    )
    from agent.checkpoints import open_checkpoints
    from agent.context import CritiqueSettings
    from agent.corrections import learn_corrections
    from agent.default import default_agent, open_default_memory
    from agent.events import (
        AnswerReceived,
        CritiqueEvent,
        CritiqueFinished,
        NodeFinished,
        NodeStarted,
        QuestionSent,
        ReviewRequested,
        ScoresRevised,
    )
    from agent.request import graph as critique_graph
    from agent.tools import load_tools
    from agent.tools.served.client import open_tool_servers
    from agent.tracing.records import Trace
    from agent.tracing.span_tree import Span
    from agent.types import Case, CritiqueTool, Evidence, GroupCritique, ReviewAnswer, ReviewRequest
    from agent.vlm import (
        CallPart,
        Capabilities,
        DataPart,
        ImagePart,
        MalformedReply,
        Part,
        Reply,
        TextPart,
        Unanswerable,
        VLMBackend,
        load_backend,
    )
    from agent.vlm.wrappers.budget import Budget, with_budget
    from agent.vlm.wrappers.cache import Cached, ReplyCache
    from cli.app import main
    from cli.photos.hypotheses_file import read_hypotheses, write_hypotheses
    from hmr.body.model import EMBEDDED_BODY, Body, load_body
    from hmr.datasets.annotated_set import prepare as prepare_dataset
    from hmr.datasets.annotated_set import read_annotations
    from hmr.datasets.annotation import Annotation, Keypoints
    from hmr.datasets.annotation import Source as DatasetSource
    from hmr.datasets.joints import COCO17, COCO_LIMBS, SMPL_FOR_COCO_LIMBS
    from hmr.detection.embedded import EmbeddedDetector
    from hmr.detection.feature_cache import FeatureCache
    from hmr.detection.loading import load_detector
    from hmr.detection.person_encoder import PersonEncoder, PersonEncoderConfig, load_encoder
    from hmr.images.photographs import read_photo, sample_of
    from hmr.metrics.pck import PCK_THRESHOLDS, box_sides_px, pck
    from hmr.policy.checkpoint import load_policy
    from hmr.policy.guidance import DetectionGuidance
    from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
    from hmr.synthetic.amass import load_amass
    from hmr.synthetic.recipe import LAB as LAB_SCENES
    from hmr.synthetic.scenes import SceneMaker
    from hmr.synthetic.store import read_samples
    from hmr.types import BodyParams, Box, Camera, Detection, Detector, Hypotheses, Sample, Scorer
    from rl.config import GroupPreferenceConfig
    from rl.policy_adapter import Draws, PolicyAdapter
    from rl.preferences.build import build_preferences, load_preferences
    from rl.preferences.ray_actors import RayActors, build_preferences_by_actors
    from rl.preferences.search import Search, SearchSettings
    from rl.scorers.penalties import PenalisedAgent
    from rl.scorers.rewards import RewardMix
    from rl.trainer import GroupPreferenceTrainer, align

__all__ = [
    "COCO17", "COCO_LIMBS", "EMBEDDED_BODY", "LAB_SCENES", "PCK_THRESHOLDS", "SMPL_FOR_COCO_LIMBS", "Annotation",
    "AnswerReceived", "Arrangement", "ArrangementCritique", "ArrangementEvidence", "ArrangementTool",
    "ArrangementVerdict", "Body", "BodyParams", "Box", "Budget", "Cached", "CallPart", "Camera", "Capabilities",
    "Case", "CritiqueAgent", "CritiqueEvent", "CritiqueFinished", "CritiqueSettings", "CritiqueTool", "DataPart",
    "DatasetSource", "Detection", "DetectionGuidance", "Detector", "DiffusionPolicy", "DiffusionPolicyConfig",
    "Draws", "EmbeddedDetector", "Evidence", "FeatureCache", "GroupCritique", "GroupPreferenceConfig",
    "GroupPreferenceTrainer", "Hypotheses", "ImagePart", "Keypoints", "MalformedReply", "NodeFinished",
    "NodeStarted", "Part", "PenalisedAgent", "PeopleCritique", "PersonEncoder", "PersonEncoderConfig",
    "PlacedPeople", "PolicyAdapter", "QuestionSent", "RayActors", "Reply", "ReplyCache", "ReviewAnswer",
    "ReviewRequest", "ReviewRequested", "RewardMix", "Sample", "SceneMaker", "Scorer", "ScoresRevised", "Search",
    "SearchSettings", "Span", "TextPart", "Trace", "Unanswerable", "VLMBackend", "align", "box_sides_px",
    "build_preferences", "build_preferences_by_actors", "critique_graph", "critique_many", "critique_people",
    "default_agent", "learn_corrections", "load_amass", "load_backend", "load_body", "load_detector",
    "load_encoder", "load_policy", "load_preferences", "load_tools", "main", "open_checkpoints",
    "open_default_memory", "open_tool_servers", "pck", "prepare_dataset", "read_annotations", "read_hypotheses",
    "read_photo", "read_samples", "sample_of", "with_budget", "write_hypotheses",
]  # fmt: skip


@functools.cache
def _public_imports() -> dict[str, tuple[str, str]]:
    """Public name to (module, name in that module), parsed from the imports at the top of this file."""
    tree = ast.parse(inspect.getsource(sys.modules[__name__]))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found = {
        alias.asname or alias.name: (str(node.module), alias.name) for node in imports for alias in node.names
    }
    return {name: found[name] for name in __all__}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, original = _public_imports()[name]
    return getattr(importlib.import_module(module), original)


def __dir__() -> list[str]:
    return __all__
