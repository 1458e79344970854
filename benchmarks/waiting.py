"""What a critique costs while its judge makes it wait, and how much of the wait groups share:

    python -m benchmarks.waiting [--groups 8] [--samples 8] [--reply-s 2]

A judge without eyes or weights (the embedded critic, delayed) takes `--reply-s` for every answer. One group alone has
its label orders asked at once; its critical path is what it then takes, and a group in doubt is asked more often than
one that is not: the longest of three counts. Several groups in flight should take little more. The graph's own cost is
a group's critical path with no wait at all, by hypothesis, and the same in time of the processor, for machines that do
other work as well. A judge with eyes costs the drawing of panels besides (`--eyes`), and where scores are in doubt that
of close-ups. `--one-look` leaves reflection out: the difference is its price.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from agent.agent import critique_many
from agent.context import CritiqueSettings
from agent.default import default_agent, open_default_memory
from agent.vlm import Capabilities, EmbeddedCritic, Part, Reply
from common.seeding import derive_generator
from hmr.body.model import Body, load_body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import WILD
from hmr.synthetic.scenes import Scene, SceneMaker
from hmr.types import Hypotheses, Sample

CONCURRENCY = 32
Group = tuple[Sample, Hypotheses]


class Slow(EmbeddedCritic):
    """The embedded critic, as far away as a model on a busy server."""

    def __init__(self, reply_s: float, eyes: bool) -> None:
        self._reply_s = reply_s
        self.capabilities = Capabilities(images=eyes, concurrency=CONCURRENCY)

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        time.sleep(self._reply_s)
        return super().generate(parts, schema, seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--reply-s", type=float, default=2.0)
    parser.add_argument("--eyes", action="store_true")
    parser.add_argument("--one-look", action="store_true", help="no reflection: what doubts cost is left out")
    asked = parser.parse_args()
    policy, body = load_policy(), load_body()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_default_memory(Path(folder), policy, frozen=False) as memory,
    ):
        settings = CritiqueSettings(max_revisions=0) if asked.one_look else CritiqueSettings()
        slow, instant = (
            default_agent(policy, body, memory, backend=Slow(reply_s, asked.eyes), settings=settings)
            for reply_s in (asked.reply_s, 0.0)
        )
        groups = [
            _group(policy, scene.labelled.sample, asked.samples) for scene in _scenes(body, asked.groups)
        ]
        instant.critique(*groups[0])  # numba compiles once
        one_s = max(_seconds(lambda g=g: slow.critique(*_anew(g))) for g in groups[:3])
        many_s = _seconds(lambda: list(critique_many(slow, map(_anew, groups), asked.groups)))
        own_s = median(_seconds(lambda g=g: instant.critique(*_anew(g))) for g in groups)
        busy_s = time.process_time()
        doubted = sum(bool(instant.critique(*_anew(g)).revisions) for g in groups)
        busy_ms = (time.process_time() - busy_s) / len(groups) / asked.samples * 1e3
    print(f"one group {one_s:.2f} s, {asked.groups} in flight {many_s:.2f} s: {many_s / one_s:.2f} of it")
    print(f"the graph's own cost {own_s / asked.samples * 1e3:.1f} ms a hypothesis, median of the groups")
    print(
        f"{busy_ms:.1f} ms of processor a hypothesis on average, {doubted} of {asked.groups} groups in doubt"
    )


def _scenes(body: Body, count: int) -> list[Scene]:
    return SceneMaker(body, WILD, seed=11).chunk(0, count)


def _group(policy: DiffusionPolicy, sample: Sample, count: int) -> Group:
    drawn = policy.sample(policy.encode([sample]), count, derive_generator(0, "waiting", sample.id))[0]
    return sample, Hypotheses(drawn.params, sample.camera)


def _anew(group: Group) -> Group:
    """A sample that nobody has looked at: what was seen of a sample is remembered (hmr.policy.encoder_cache)."""
    sample, hypotheses = group
    return replace(sample), hypotheses


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
