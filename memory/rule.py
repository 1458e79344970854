"""What a rule is: a sentence, its tags, perhaps a predicate that a program can test, a record and a history.

A rule never changes: its id is a hash of text, tags and predicate, so another weight makes another rule. What
does change is its state, and every change is kept with its reason and, where one was measured, the gain.

    quarantined --(rho on held-out cases rises)--> admitted --(keeps failing, or is replaced)--> retired
         '---------------(no gain in several trials)------------------------------------------------^
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from memory.text_limits import check_tags, check_text, normalise_tags

__all__ = ["Predicate", "Provenance", "Rule", "RuleState", "StateChange"]

RuleState = Literal["quarantined", "admitted", "retired"]


@dataclass(frozen=True)
class Predicate:
    """A fault that evidence can show: `metric comparison threshold`, such as `reprojection_px > 12`."""

    metric: str
    comparison: Literal[">", "<"]
    threshold: float  # in the metric's unit
    weight: float  # how much the fault counts, against the other rules'

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
    """Where a rule comes from."""

    kind: Literal["seed", "mined", "imported"]
    backend: str  # the VLM backend that proposed it; for seeds whatever wrote them
    case_id: str | None  # the exploration case it was mined from


@dataclass(frozen=True)
class StateChange:
    """One line of a rule's history: the state it has since then, and why."""

    state: RuleState
    reason: str
    gain: float | None = None  # rise of mean rho on held-out cases, where a trial measured it
    held_out: str | None = None  # which held-out cases, as a hash of their ids


@dataclass(frozen=True)
class Rule:
    """One critique rule with its record; `rule_id` is a hash of text, tags and predicate."""

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
        """A new rule: seeds enter service, everything else starts in quarantine unless `state` says
        otherwise.

        Raises ValueError for text that no memory accepts (`memory.text_limits`).
        """
        text, tags = text.strip(), normalise_tags(tags)
        content = [text, tags, asdict(predicate) if predicate else None]
        rule_id = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        default: RuleState = "admitted" if provenance.kind == "seed" else "quarantined"
        return Rule(rule_id, text, tags, predicate, provenance, state or default)
