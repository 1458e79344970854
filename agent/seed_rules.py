"""The seed rules, written by hand in `seed_rules.json`, and the vectors of their sentences.

Each rule is a sentence with tags that say when it matters most, and a predicate over one tool's metric. A threshold of
0 penalises every value of the metric, a higher one only values above it. The weights are initial estimates that
exploration replaces. A rule over a metric that was not measured is not applied.

The vectors are those of the default sentence model, so that a start does not embed the same sentences again. After a
change of a sentence or of the model:

    python -m agent.seed_rules
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import as_file, files

import numpy as np
from jaxtyping import Float32
from safetensors import safe_open
from safetensors.numpy import save_file

from common.storage.fingerprint import json_digest
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RuleMemory
from memory.vectors.embed import TextEmbedder, load_text_embedder

__all__ = ["add_seed_rules", "load_seed_rules", "load_seed_vectors"]

VECTORS = "seed_rules.safetensors"


def load_seed_rules() -> list[Rule]:
    """The seed rules, already admitted."""
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


def add_seed_rules(rules: RuleMemory, embedder: TextEmbedder) -> None:
    """Add them to a memory without rules; embedder: the memory's."""
    if not len(rules):
        seeds = load_seed_rules()
        rules.add(seeds, vectors=load_seed_vectors(seeds, embedder))


def load_seed_vectors(rules: Sequence[Rule], embedder: TextEmbedder) -> Float32[np.ndarray, "rules dim"]:
    """Those of the file, or from the embedder if the file was written for other sentences or another model."""
    with (
        as_file(files("agent").joinpath(VECTORS)) as path,
        safe_open(path, "np") as file,
    ):
        if file.metadata()["digest"] == _digest(rules, embedder):
            return file.get_tensor("vectors")
    return embedder.embed([rule.text for rule in rules])


def _digest(rules: Sequence[Rule], embedder: TextEmbedder) -> str:
    return json_digest([embedder.name, embedder.revision, *(rule.text for rule in rules)])


def main() -> None:
    rules, embedder = load_seed_rules(), load_text_embedder()
    vectors = embedder.embed([rule.text for rule in rules])
    with as_file(files("agent").joinpath(VECTORS)) as path:
        save_file({"vectors": vectors}, path, {"digest": _digest(rules, embedder)})


if __name__ == "__main__":
    main()
