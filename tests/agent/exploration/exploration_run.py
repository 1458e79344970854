"""A small exploration on a memory in a folder that includes mining, admission and weight fitting.

As a program it stops before its n-th writing statement, prints that, and waits to be killed:
`python -m tests.agent.exploration.exploration_run FOLDER N`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.exploration.explore import ExplorationReport, ExplorationSettings, Progress, explore
from agent.seed_rules import load_seed_rules
from agent.vlm import EmbeddedCritic
from hmr.types import Hypotheses, Sample
from memory.prototype_memory import PrototypeMemory
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from tests.agent.critique_case import HashEmbedder, MeanColor, group, labelled, make_agent, spoiled_group

CASES = [labelled(f"explore-{number}") for number in range(5)]
HELD_OUT = [labelled("admit-0"), labelled("admit-1")]
SETTINGS = ExplorationSettings(batch=2, min_gain=-1.0)  # every tried rule is admitted
WRITES = ("BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT")


class Miner(EmbeddedCritic):
    """Mines a rule from every batch, even without a discrepancy; another discrepancy gives another rule."""

    @property
    def _tasks(self) -> dict[str, Callable[[Any, int], Any]]:
        return {**super()._tasks, "mine": lambda data, _: {"rules": [_mined(data["discrepancy"])]}}


def _mined(discrepancy: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(discrepancy, sort_keys=True).encode()).hexdigest()
    metric = sorted(discrepancy["metrics"])[int(digest, 16) % len(discrepancy["metrics"])]
    predicate = {"metric": metric, "comparison": ">", "threshold": 0.5, "weight": 0.7}
    return {"text": f"Mind {digest[:8]}.", "tags": ["pose:upright"], **predicate}


def propose(sample: Sample) -> Hypotheses:
    return group(spoiled_group(seed=len(sample.id) + sum(map(ord, sample.id))))


def run(
    folder: Path,
    on_write: Callable[[str], None] = lambda statement: None,
    on_case: Callable[[Progress], None] = lambda progress: None,
) -> ExplorationReport:
    with MemoryStore(folder / "memory.sqlite") as store:
        rules = RuleMemory(store, HashEmbedder())
        rules.add(load_seed_rules())
        memories = {"rules": rules, "prototypes": PrototypeMemory(store, MeanColor.dim, MeanColor.name, 3)}
        store._connection.set_trace_callback(
            lambda statement: on_write(statement) if statement.lstrip().startswith(WRITES) else None
        )
        return explore(make_agent(Miner(), **memories), CASES, HELD_OUT, propose, SETTINGS, on_case)


def main(folder: Path, stop_at: int) -> None:
    written = 0

    def stop(statement: str) -> None:
        nonlocal written
        written += 1
        if written == stop_at:
            print(f"stopped before {statement.split()[0]}", flush=True)
            sys.stdin.read()

    run(folder, stop, lambda progress: print(f"done {progress.done}", flush=True))
    print("finished", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
