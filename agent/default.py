"""The agent a command builds: the embedded detector and embedder about one policy, any backend, a memory folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.agent import CritiqueAgent
from agent.context import CritiqueSettings
from agent.image_embedding import load_image_embedder
from agent.seed_rules import load_seed_rules
from agent.tools import load_tools
from agent.tracing.records import Trace
from agent.vlm import load_backend
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.encoder_cache import EncoderCache
from hmr.policy.policy import DiffusionPolicy
from hmr.render import load_renderer
from memory.embed import load_text_embedder
from memory.folder import Memory, open_memory

__all__ = ["default_agent", "open_default_memory"]


def open_default_memory(
    folder: Path, policy: DiffusionPolicy, frozen: bool, image_embedder: str = "policy"
) -> Memory:
    """The memory in `folder`; a new one is given the seed rules.

    `image_embedder` is `policy` or `clip:NAME`. Raises FileNotFoundError where a frozen one is not, ValueError where it
    was written with another embedder.
    """
    embedder = load_image_embedder(image_embedder, policy)
    memory = open_memory(folder, load_text_embedder(), embedder.name, embedder.dim, frozen=frozen)
    if not frozen and not len(memory.rules):
        memory.rules.add(load_seed_rules())
    return memory


def default_agent(
    policy: DiffusionPolicy,
    body: Body,
    memory: Memory,
    *,
    backend: str = "embedded",
    tools: Sequence[str] | None = None,
    renderer: str = "raster",
    settings: CritiqueSettings | None = None,
    trace: Trace | None = None,
    image_embedder: str = "policy",
) -> CritiqueAgent:
    """A frozen agent. Raises ValueError for an unknown backend, tool or renderer, with the known ones."""
    eyes = EncoderCache(policy)  # detector and embedder look at the same crop
    return CritiqueAgent(
        backend=load_backend(backend),
        tools=load_tools(tools),
        rules=memory.rules,
        prototypes=memory.prototypes,
        body=body,
        renderer=load_renderer(renderer),
        detector=EmbeddedDetector(policy, body, eyes),
        image_embedder=load_image_embedder(image_embedder, policy, eyes),
        settings=settings or CritiqueSettings(),
        trace=trace or Trace(),
    )
