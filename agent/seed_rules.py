"""The seed rules, written by hand in `seed_rules.json`, their weights by detector, and the vectors of their sentences.

Each rule is a sentence with tags that say when it matters most, and a predicate over one tool's metric. A threshold of
0 penalises every value of the metric, a higher one only values above it. The weights are initial estimates that
exploration replaces. Nobody can explore with a detector that sees no rendered people, so weights for BlazePose are
fitted to its simulated reports (`python -m benchmarks.critic.seed_weights --write`) and kept in `seed_weights.json`. A
rule over a metric that was not measured is not applied.

The vectors are those of the default sentence model, so that a start does not embed the same sentences again. After a
change of a sentence or of the model:

    python -m agent.seed_rules
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import safe_open
from safetensors.numpy import save_file

from common.storage.files import write_text
from common.storage.fingerprint import json_digest
from memory.rule import Predicate, Provenance, Rule
from memory.rule_memory import RuleMemory
from memory.vectors.embed import TextEmbedder, load_text_embedder

__all__ = [
    "add_seed_rules",
    "load_seed_rules",
    "load_seed_vectors",
    "load_seed_weights",
    "write_seed_weights",
]

VECTORS, WEIGHTS = "seed_rules.safetensors", "seed_weights.json"
Weights = Mapping[str, float]  # by the condition of a rule, such as "imbalance_mm > 50"


def load_seed_rules(weights: Weights | None = None) -> list[Rule]:
    """The seed rules, already admitted; weights: None for those written by hand. Raises KeyError if one is missing."""
    rows = json.loads(files("agent").joinpath("seed_rules.json").read_text(encoding="utf-8"))
    provenance = Provenance(kind="seed", backend="person", case_id=None)
    rules = []
    for row in rows:
        predicate = Predicate(row["metric"], ">", row["threshold"], row["weight"])
        if weights is not None:
            predicate = replace(predicate, weight=weights[predicate.condition])
        rules.append(Rule.create(row["text"], row["tags"], provenance, predicate))
    return rules


def load_seed_weights(detector: str) -> Weights | None:
    """The weights that were fitted to what this detector reports, or another variant of it (`blazepose:heavy`); None if
    there are none."""
    found: Weights | None = _all_weights().get(detector.partition(":")[0])
    return found


def write_seed_weights(detector: str, weights: Weights) -> None:
    """Replace the weights for a detector."""
    with as_file(files("agent").joinpath(WEIGHTS)) as path:
        write_text(Path(path), json.dumps({**_all_weights(), detector: weights}, indent=1) + "\n")


def _all_weights() -> dict[str, Weights]:
    return dict(json.loads(files("agent").joinpath(WEIGHTS).read_text(encoding="utf-8")))


def add_seed_rules(rules: RuleMemory, embedder: TextEmbedder, detector: str) -> None:
    """Add them to a memory without rules, with the weights for the detector that will measure, if there are any;
    embedder: the memory's."""
    if not len(rules):
        seeds = load_seed_rules(load_seed_weights(detector))
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
