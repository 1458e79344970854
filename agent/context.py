"""The runtime context of the critique graph: settings, and the objects that nodes use (models, memories, tensors).

LangGraph's tools show `CritiqueSettings`, which is plain data. They do not show `CritiqueResources`, because protocols
and tensors have no JSON schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import SkipJsonSchema

from agent.expected_error.error_model import ErrorModel
from agent.pictures.close_ups import CloseUp
from agent.pictures.panels import PICTURES, Views
from agent.tracing.records import Trace
from agent.types import Case, CritiqueTool, RetrievedPrototype, ReviewPoint
from agent.vlm.protocol import ImagePart, VLMBackend
from common.reading.yaml_fields import check_limits
from common.storage.fingerprint import digest
from hmr.body.model import Body
from hmr.types import BodyParams, Detection, Detector, Hypotheses, Renderer, Sample
from memory.prototype_memory import PrototypeMemory
from memory.rule_memory import RetrievedRule, RuleMemory

__all__ = ["MODES", "CritiqueContext", "CritiqueResources", "CritiqueSettings", "SampleEmbedder"]


MODES = ("fixed", "agentic")


@runtime_checkable
class SampleEmbedder(Protocol):
    """Embeds a photograph to look up similar prototypes; the default is the global feature of the embedded encoder."""

    @property
    def name(self) -> str: ...

    def __call__(self, sample: Sample) -> Float[np.ndarray, "dim"]: ...


# The least and the largest value of a setting; larger ones would ask a backend for days.
LIMITS = {
    "view_size_px": (16, 4096),
    "view_margin": (1, 10),
    "permutations": (1, 100),
    "rules_per_case": (1, 1000),
    "prototypes_per_case": (0, 1000),
    "max_revisions": (0, 20),
    "close_ups": (0, 1000),
    "max_tool_calls": (1, 1000),
}


@dataclass(frozen=True)
class CritiqueSettings:
    """The hyperparameters of a critique. The paper publishes none of them; these are ours."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")  # for those that come as JSON

    seed: int = 0
    view_size_px: int = 128  # side of the square crop that bodies are rendered in
    view_margin: float = 1.25  # side of that crop, relative to the side of the person's box
    permutations: int = 3  # label orders a group is scored in
    rules_per_case: int = 16
    prototypes_per_case: int = 10
    max_revisions: int = 1  # a second one does not improve the embedded critic
    dispersion_threshold: float = 2.5  # ranks; above it the rank of a hypothesis is uncertain
    close_ups: int = 4  # uncertain hypotheses of which a vision-capable backend gets a close-up
    pictures: str = "separate"  # or "montage": sheets of panels, for a backend that takes few images
    interrupt_on: tuple[str, ...] = ()  # where a person is asked (agent.types.ReviewPoint)
    mode: str = (
        "fixed"  # all evidence is collected first; "agentic": the model calls for the evidence it wants
    )
    max_tool_calls: int = 8  # of the agentic mode, per label order

    def __post_init__(self) -> None:
        check_limits(vars(self), LIMITS)
        if self.pictures not in PICTURES:
            raise ValueError(f"pictures must be one of {', '.join(PICTURES)}, not {self.pictures!r}")
        points = get_args(ReviewPoint)
        if isinstance(self.interrupt_on, str):
            raise ValueError(f"interrupt_on takes a tuple of names, such as ({self.interrupt_on!r},)")
        if unknown := [point for point in self.interrupt_on if point not in points]:
            raise ValueError(f"a person can be asked about {', '.join(points)}, not about {unknown[0]!r}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")


@dataclass
class CritiqueResources:
    """The objects of one critique, and the images and tensors that the state refers to by hash."""

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
    error_model: ErrorModel | None = None
    detection: Detection | None = None  # known before; None: the detector is run
    case: Case = field(init=False, repr=False)  # set by the node render_views, see is_prepared
    views: dict[str, Views] = field(default_factory=dict)
    photo: ImagePart | None = None  # None for a text-only backend
    close_ups: dict[str, CloseUp] = field(default_factory=dict)
    retrieved_rules: tuple[RetrievedRule, ...] = ()
    retrieved_prototypes: tuple[RetrievedPrototype, ...] = ()

    @property
    def is_prepared(self) -> bool:
        """Whether `case` is set."""
        return hasattr(self, "case")

    def case_key(self) -> str:
        """The content hash of this sample, this group, and what is known of the person before."""
        sample, known = self.sample, self.detection
        inputs = repr((sample.id, sample.box, sample.camera, self.hypotheses.camera))
        detected = () if known is None else (*_arrays(known), repr((known.mask_box, known.confidence)))
        return digest(inputs, sample.image.tobytes(), *_arrays(self.hypotheses.params), *detected)


def _arrays(value: BodyParams | Detection) -> Iterator[bytes]:
    """The contents of the tensors and arrays among a dataclass's fields, each after its name."""
    for name, column in vars(value).items():
        if isinstance(column, torch.Tensor | np.ndarray):
            yield name.encode() + torch.as_tensor(column).detach().cpu().contiguous().numpy().tobytes()


class CritiqueContext(BaseModel):
    """The runtime context of `agent.graph`. A model, because LangGraph's server gives it as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: CritiqueSettings = CritiqueSettings()
    resources: SkipJsonSchema[Any] = None  # a CritiqueResources
