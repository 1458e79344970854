"""The rules a new memory starts with, written by hand: `seed_rules.json`, a list a person can read and
extend.

Every rule is a sentence with tags that say when it matters most, and a predicate over one tool's metric. A
threshold of 0 prices the metric from the start, a higher one only what exceeds it. The weights are guesses
that exploration replaces; a rule over a metric that no tool measured is not applied.
"""

from __future__ import annotations

import json
from importlib.resources import files

from memory.rules import Predicate, Provenance, Rule

__all__ = ["load_seed_rules"]


def load_seed_rules() -> list[Rule]:
    """The seed rules, admitted from the start."""
    rows = json.loads(files("agent").joinpath("seed_rules.json").read_text(encoding="utf-8"))
    provenance = Provenance(kind="seed", backend="person", case_id=None)
    return [
        Rule.create(
            text=row["text"],
            tags=row["tags"],
            provenance=provenance,
            predicate=Predicate(row["metric"], ">", row["threshold"], row["weight"]),
        )
        for row in rows
    ]
