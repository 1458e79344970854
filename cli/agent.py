"""The agent that a command judges with, one of a kind a command: another judge, other eyes, a memory or none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.agent import CritiqueAgent
    from agent.context import CritiqueSettings
    from agent.vlm import VLMBackend
    from hmr.body.model import Body
    from hmr.policy.policy import DiffusionPolicy
    from hmr.types import Detector

__all__ = ["judging_agent"]


@contextmanager
def judging_agent(
    model: DiffusionPolicy,
    body: Body,
    backend: VLMBackend,
    memory: Path | None,
    trace: Path | None,
    *,
    detector: Detector | None = None,
    settings: CritiqueSettings | None = None,
) -> Iterator[CritiqueAgent]:
    """The default agent with another judge and perhaps other eyes; without a memory, on the seed rules alone.

    Raises FileNotFoundError where `memory` holds none.
    """
    from agent.default import default_agent, open_default_memory
    from agent.tracing.records import Trace

    with (
        tempfile.TemporaryDirectory() as fresh,
        Trace(trace) as records,
        open_default_memory(memory or Path(fresh), model, frozen=memory is not None) as opened,
    ):
        agent = default_agent(model, body, opened, settings=settings, trace=records)
        yield replace(agent, backend=backend, detector=detector or agent.detector)
