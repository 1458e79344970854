"""Whether the questions of a critique found somebody to answer them.

A reply that does not fit, and a question that cannot be answered (`Unanswerable`), say something of a group, whose
scores are None for that. A spent budget, a server that is down and whatever else a backend raises say nothing of it:
who keeps scores for good asks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.tracing.redaction import reason_of, told
from agent.vlm.protocol import MalformedReply, Part, Reply, Unanswerable, VLMBackend
from agent.vlm.wrappers.wrapper import Wrapper

__all__ = ["AvailabilityMonitor", "BackendUnavailable"]


class BackendUnavailable(ValueError):
    """A question of a critique found nobody to answer it; the message is the reason, fit to be printed (and so a
    ValueError: a command ends in that sentence).
    """


class AvailabilityMonitor(Wrapper):
    """Passes everything on, and remembers the last question that was not heard."""

    def __init__(self, inner: VLMBackend) -> None:
        super().__init__(inner)
        self.unheard = ""

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        try:
            return self.inner.generate(parts, schema, seed)
        except (MalformedReply, Unanswerable):
            raise
        except Exception as error:
            self.unheard = told(f"{self.name} failed: {reason_of(error)}")
            raise
