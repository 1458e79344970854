"""The time of a critique with a slow backend, and how much of the waiting concurrent groups share.

    python -m benchmarks.waiting [--groups 8] [--samples 8] [--reply-s 2]

The backend is the embedded critic with a delay of `--reply-s` per answer. The time of one group alone is its critical
path, because its label orders are sent at once; an uncertain group needs more requests, so the longest of three groups
counts. Several groups in flight should take little more. The cost of the graph itself is the critical path
of a group without delay, per hypothesis, also measured as CPU time for machines with other load. `--with-images`
accepts pictures, which adds the drawing of panels, and of close-ups where scores are uncertain. `--no-reflection`
leaves out the reflection; the difference is its cost.
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


class DelayedCritic(EmbeddedCritic):
    """The embedded critic with a delay, like a model on a busy server."""

    def __init__(self, reply_s: float, images: bool) -> None:
        self._reply_s = reply_s
        self.capabilities = Capabilities(images=images, concurrency=CONCURRENCY)

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
    parser.add_argument("--with-images", action="store_true", help="draw pictures for the backend")
    parser.add_argument("--no-reflection", action="store_true", help="no second round for uncertain scores")
    options = parser.parse_args()
    policy, body = load_policy(), load_body()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_default_memory(Path(folder), policy, frozen=False) as memory,
    ):
        settings = CritiqueSettings(max_revisions=0) if options.no_reflection else CritiqueSettings()
        slow, instant = (
            default_agent(
                policy, body, memory, backend=DelayedCritic(reply_s, options.with_images), settings=settings
            )
            for reply_s in (options.reply_s, 0.0)
        )
        groups = [
            _group(policy, scene.labelled.sample, options.samples) for scene in _scenes(body, options.groups)
        ]
        instant.critique(*groups[0])  # numba compiles once
        one_s = max(_seconds(lambda g=g: slow.critique(*_uncached(g))) for g in groups[:3])
        many_s = _seconds(lambda: list(critique_many(slow, map(_uncached, groups), options.groups)))
        own_s = median(_seconds(lambda g=g: instant.critique(*_uncached(g))) for g in groups)
        cpu_s = time.process_time()
        uncertain = sum(bool(instant.critique(*_uncached(g)).revisions) for g in groups)
        cpu_ms = (time.process_time() - cpu_s) / len(groups) / options.samples * 1e3
    print(f"one group {one_s:.2f} s, {options.groups} in flight {many_s:.2f} s, ratio {many_s / one_s:.2f}")
    print(
        f"cost of the graph itself {own_s / options.samples * 1e3:.1f} ms per hypothesis, median of the groups"
    )
    print(
        f"{cpu_ms:.1f} ms of CPU time per hypothesis on average, {uncertain} of {options.groups} groups uncertain"
    )


def _scenes(body: Body, count: int) -> list[Scene]:
    return SceneMaker(body, WILD, seed=11).chunk(0, count)


def _group(policy: DiffusionPolicy, sample: Sample, count: int) -> Group:
    drawn = policy.sample(policy.encode([sample]), count, derive_generator(0, "waiting", sample.id))[0]
    return sample, Hypotheses(drawn.params, sample.camera)


def _uncached(group: Group) -> Group:
    """A copy of the sample without cached encoder outputs (hmr.policy.encoder_cache)."""
    sample, hypotheses = group
    return replace(sample), hypotheses


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
