"""Critique rules: a sentence, its tags, an optional predicate that a program can test, counts and a history.

A rule is immutable: its id is a hash of text, tags and predicate, so a rule with another weight is another rule. Only
its state changes, and each change is recorded with its reason and, if it was measured, the gain.

    quarantined --(rho on held-out cases rises)--> admitted --(fails too often, or is replaced)--> retired
         '---------------(no gain in several trials)--------------------------------------------------^
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from common.storage.fingerprint import json_digest
from memory.text_limits import check_tags, check_text, normalise_tags

__all__ = ["Predicate", "Provenance", "Rule", "RuleState", "StateChange"]

RuleState = Literal["quarantined", "admitted", "retired"]


_PREDICATE = re.compile(
    r"\s*(?P<metric>[A-Za-z]\w{0,99})\s*(?P<comparison>[<>])\s*(?P<threshold>[-+]?\d{1,20}(?:\.\d{0,20})?)\s*"
)


@dataclass(frozen=True)
class Predicate:
    """A test of a metric, `metric comparison threshold`, which is true for a fault: `reprojection_px > 12`."""

    metric: str
    comparison: Literal[">", "<"]
    threshold: float  # in the metric's unit
    weight: float  # relative to the weights of the other rules

    @staticmethod
    def parse(text: str, weight: float = 1.0) -> Predicate:
        """From `reprojection_px > 12`. Raises ValueError for another text."""
        if (found := _PREDICATE.fullmatch(text)) is None:
            raise ValueError(
                f"a predicate is a metric, > or <, and a number, such as 'reach_mm > 30', not {text!r}"
            )
        comparison = found["comparison"]
        assert comparison in (">", "<")
        return Predicate(found["metric"], comparison, float(found["threshold"]), weight)

    @property
    def condition(self) -> str:
        """The text that `parse` takes."""
        return f"{self.metric} {self.comparison} {self.threshold:g}"

    def __post_init__(self) -> None:
        if self.comparison not in (">", "<"):
            raise ValueError(f"a predicate compares by '>' or '<', not {self.comparison!r}")
        if not math.isfinite(self.threshold) or not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                "a predicate needs a finite threshold and a finite weight of at least 0, "
                f"not {self.threshold} and {self.weight}"
            )


@dataclass(frozen=True)
class Provenance:
    """The origin of a rule."""

    kind: Literal["seed", "mined", "imported", "person"]
    backend: str  # the VLM backend that proposed it; for seed rules their source
    case_id: str | None  # the exploration case it was mined from


@dataclass(frozen=True)
class StateChange:
    """An entry of a rule's history: the new state and the reason."""

    state: RuleState
    reason: str
    gain: float | None = None  # increase of the mean rho on held-out cases, if a trial measured it
    held_out: str | None = None  # hash of the ids of the held-out cases


@dataclass(frozen=True)
class Rule:
    """A critique rule with its counts; `rule_id` is a hash of text, tags and predicate."""

    rule_id: str
    text: str
    tags: tuple[str, ...]
    predicate: Predicate | None
    provenance: Provenance
    state: RuleState
    uses: int = 0
    successes: int = 0

    def __post_init__(self) -> None:
        check_text("a rule", self.text)
        check_tags("a rule", self.tags)

    @staticmethod
    def create(
        text: str,
        tags: Sequence[str],
        provenance: Provenance,
        predicate: Predicate | None = None,
        state: RuleState | None = None,
    ) -> Rule:
        """A new rule with its id. Without `state`, seed rules are admitted and all others start in quarantine.

        Raises ValueError for invalid text (`memory.text_limits`).
        """
        text, tags = text.strip(), normalise_tags(tags)
        content = [text, tags, asdict(predicate) if predicate else None]
        default: RuleState = "admitted" if provenance.kind == "seed" else "quarantined"
        return Rule(json_digest(content), text, tags, predicate, provenance, state or default)
