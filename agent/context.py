"""What a node may reach for besides the state: the settings, and a resources with everything that is alive.

`CritiqueSettings` is plain data and shows up in LangGraph's own tools; the resources (models, memories, tensors)
does not, because a schema of protocols cannot be written down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from pydantic.json_schema import SkipJsonSchema

from agent.pictures.close_ups import CloseUp
from agent.pictures.panels import PICTURES, Views
from agent.tracing.records import Trace
from agent.types import Case, CritiqueTool, RetrievedPrototype
from agent.vlm.protocol import ImagePart, VLMBackend
from hmr.body.model import Body
from hmr.types import Detector, Hypotheses, Renderer, Sample
from memory.prototypes import PrototypeMemory
from memory.rules import RetrievedRule, RuleMemory

__all__ = ["CritiqueContext", "CritiqueResources", "CritiqueSettings", "SampleEmbedder"]


@runtime_checkable
class SampleEmbedder(Protocol):
    """Where a photograph lies among the prototypes; the default is the policy encoder's global feature."""

    @property
    def name(self) -> str: ...

    def __call__(self, sample: Sample) -> Float[np.ndarray, "dim"]: ...


@dataclass(frozen=True)
class CritiqueSettings:
    """The numbers of a critique. The paper publishes none of them; these are ours."""

    seed: int = 0
    view_size_px: int = 128  # side of the square crop that bodies are rendered in
    view_margin: float = 1.25  # side of that crop over the side of the person's box
    permutations: int = 3  # label orders a group is scored in
    rules_per_case: int = 16
    prototypes_per_case: int = 10
    max_revisions: int = 1  # a second one gained the embedded critic nothing
    dispersion_threshold: float = 2.5  # ranks; above it a hypothesis' place is in doubt
    close_ups: int = 4  # hypotheses in doubt that a judge with eyes is shown again, close up
    pictures: str = "separate"  # or "montage": sheets of panels, for a judge that takes few pictures

    def __post_init__(self) -> None:
        for name, least in (
            ("view_size_px", 16),
            ("permutations", 1),
            ("rules_per_case", 1),
            ("max_revisions", 0),
            ("close_ups", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.pictures not in PICTURES:
            raise ValueError(f"pictures must be one of {', '.join(PICTURES)}, not {self.pictures!r}")


@dataclass
class CritiqueResources:
    """The live parts of one critique, and the heavy things the state only names by hash."""

    backend: VLMBackend
    tools: Sequence[CritiqueTool]
    rules: RuleMemory
    prototypes: PrototypeMemory
    body: Body
    renderer: Renderer
    detector: Detector | None
    image_embedder: SampleEmbedder
    trace: Trace
    sample: Sample
    hypotheses: Hypotheses
    frozen: bool
    cases: dict[str, Case] = field(default_factory=dict)
    views: dict[str, Views] = field(default_factory=dict)
    photo: ImagePart | None = None  # as a backend with eyes is shown it
    close_ups: dict[str, CloseUp] = field(default_factory=dict)
    retrieved_rules: tuple[RetrievedRule, ...] = ()
    retrieved_prototypes: tuple[RetrievedPrototype, ...] = ()

    def case_key(self) -> str:
        """The content hash of this sample and this group."""
        digest = hashlib.sha256(self.sample.id.encode())
        digest.update(self.sample.image.tobytes())
        params = self.hypotheses.params
        for column in (params.global_orient, params.body_pose, params.betas, params.transl):
            digest.update(column.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class CritiqueContext:
    """The runtime context of `agent.graph`."""

    settings: CritiqueSettings = CritiqueSettings()
    resources: SkipJsonSchema[Any] = None  # a CritiqueResources
