"""Builds the default agent: the embedded backend, detector and image embedder of one policy, or any replacements.

A new memory starts with the seed rules (`agent.seed_rules`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.agent import CritiqueAgent
from agent.context import CritiqueSettings, SampleEmbedder
from agent.expected_error import error_model_for
from agent.image_embedding import load_image_embedder
from agent.seed_rules import add_seed_rules
from agent.tools import load_tools
from agent.tracing.parts import PARTS
from agent.tracing.records import Trace
from agent.types import CritiqueTool
from agent.vlm import VLMBackend, load_backend
from common.storage.files import PathLike
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.encoder_cache import EncoderCache
from hmr.policy.checkpoint import load_reader
from hmr.policy.joints_3d import WithJoints3D
from hmr.policy.policy import DiffusionPolicy
from hmr.render import load_renderer
from hmr.types import Detector, Renderer
from memory.folder import Memory, open_memory, store_path
from memory.vectors.embed import TextEmbedder, load_text_embedder

__all__ = ["default_agent", "open_default_agent", "open_default_memory"]


def open_default_memory(
    folder: PathLike | None,
    policy: DiffusionPolicy,
    frozen: bool,
    image_embedder: str = "embedded",
    *,
    text_embedder: TextEmbedder | None = None,
    ucb: float = 0.5,
    detector: Detector | None = None,
) -> Memory:
    """The memory in `folder`, or one in RAM if that is None. A new one gets the seed rules.

    image_embedder: `embedded` or `clip:NAME`.
    text_embedder: None for the default one.
    ucb: C of `memory.rule_memory`, the weight of the UCB bonus.
    detector: that of the agent, for which the seed rules are weighed; None for the policy's own.

    Raises FileNotFoundError for a frozen memory that does not exist, ValueError if the memory was written with another
    embedder.
    """
    embedder = load_image_embedder(image_embedder, _encoder_cache(policy.detector), str(policy.device))
    text_embedder = text_embedder or load_text_embedder()
    folder = None if folder is None else Path(folder)
    memory = open_memory(folder, text_embedder, embedder.name, embedder.dim, ucb, frozen)
    if not frozen:
        add_seed_rules(memory.rules, text_embedder, (detector or policy.detector).name)
    return memory


def _encoder_cache(*detectors: Detector) -> EncoderCache | None:
    """The cache of the first embedded one of the detectors: detection and retrieval then share one pass of the
    encoder."""
    embedded = (detector for detector in detectors if isinstance(detector, EmbeddedDetector))
    return next((detector.encoder_cache for detector in embedded), None)


def default_agent(
    policy: DiffusionPolicy,
    body: Body,
    memory: Memory,
    *,
    backend: str | VLMBackend = "embedded",
    detector: Detector | None = None,
    reader: DiffusionPolicy | None = None,
    tools: Sequence[str | CritiqueTool] | None = None,
    renderer: str | Renderer = "raster",
    image_embedder: str | SampleEmbedder = "embedded",
    settings: CritiqueSettings | None = None,
    trace: Trace | None = None,
) -> CritiqueAgent:
    """A frozen agent. Backend, tools, renderer and image embedder are names or objects. Errors in millimetres are
    estimated by the memory's model, or by the shipped one, if there is one for the detector.

    detector: None for the policy's own.
    reader: the policy whose initial estimate gives the detections their 3D joints; None for the shipped one.
    tools: None for all built-in and installed ones.

    Raises ValueError, with the known names, for an unknown backend, tool, renderer or image embedder.
    """
    detector = detector or policy.detector
    if isinstance(image_embedder, str):
        image_embedder = load_image_embedder(
            image_embedder, _encoder_cache(policy.detector, detector), str(policy.device)
        )
    if tools is None:
        loaded = load_tools()
    else:
        loaded = [load_tools([tool])[0] if isinstance(tool, str) else tool for tool in tools]
    return CritiqueAgent(
        backend=load_backend(backend) if isinstance(backend, str) else backend,
        tools=loaded,
        rules=memory.rules,
        prototypes=memory.prototypes,
        body=body,
        renderer=load_renderer(renderer) if isinstance(renderer, str) else renderer,
        detector=WithJoints3D(detector, reader or load_reader(str(policy.device)), body),
        image_embedder=image_embedder,
        settings=settings or CritiqueSettings(),
        trace=trace or Trace(),
        error_model=error_model_for(detector.name, memory.folder),
    )


@contextmanager
def open_default_agent(
    policy: DiffusionPolicy,
    body: Body,
    memory: PathLike | None,
    *,
    backend: VLMBackend,
    trace: Path | None,
    detector: Detector | None = None,
    tools: Sequence[str | CritiqueTool] | None = None,
    settings: CritiqueSettings | None = None,
    learns: bool = False,
) -> Iterator[CritiqueAgent]:
    """A default agent with its memory and its trace, which are closed at the end.

    memory: the folder of an explored one, which must exist; None for the seed rules in RAM.
    learns: whether corrections may be written to it.
    trace: the file to write; None for no file. The folder `parts` beside it gets the texts and the pictures of all
        questions.

    Raises FileNotFoundError if there is no memory in the folder.
    """
    parts = trace and trace.with_name(PARTS)
    if memory is not None and not store_path(memory).is_file():
        raise FileNotFoundError(f"{memory}: there is no memory here")
    with (
        Trace(trace, parts=parts) as records,
        open_default_memory(
            memory, policy, frozen=memory is not None and not learns, detector=detector
        ) as known,
    ):
        yield default_agent(
            policy, body, known,
            backend=backend, detector=detector, tools=tools, settings=settings, trace=records,
        )  # fmt: skip
