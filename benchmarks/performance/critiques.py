"""The time of a critique with a slow backend, and how much of the waiting concurrent groups share.

    python -m benchmarks.performance.critiques [--groups 8] [--samples 8] [--reply-s 2]

The backend is the embedded critic with a delay of `--reply-s` per answer. The time of one group alone is its critical
path, because its label orders are sent at once; an uncertain group needs more requests, so the longest of three groups
counts. Several groups in flight should take little more. The cost of the graph itself is the critical path
of a group without delay, per hypothesis, also measured as CPU time for machines with other load. `--with-images`
accepts pictures, which adds the drawing of panels, and of close-ups where scores are uncertain. `--no-reflection`
leaves out the reflection; the difference is its cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from agent.agent import critique_many
from agent.context import CritiqueSettings
from agent.default import default_agent, open_default_memory
from agent.vlm import Capabilities, EmbeddedCritic, Part, Reply
from benchmarks.performance.figure import Figure, Goal, at_most
from benchmarks.performance.groups import uncached, wild_groups
from hmr.body.model import load_body
from hmr.policy.checkpoint import load_policy

CONCURRENCY = 32
WORKERS = (1, 2, 4, 8)
GROUP, REPLY_S = 20, 2.0


class DelayedCritic(EmbeddedCritic):
    """The embedded critic with a delay, like a model on a busy server."""

    def __init__(self, reply_s: float, images: bool) -> None:
        self._reply_s = reply_s
        self.capabilities = Capabilities(images=images, concurrency=CONCURRENCY)

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        time.sleep(self._reply_s)
        return super().generate(parts, schema, seed)


@dataclass(frozen=True)
class CritiqueTimes:
    """one_s, many_s: groups with delayed replies, alone and all in flight. own_s, own_cpu_s: of a group without delay.

    rates: groups per second without delay, by the number of groups in flight.
    """

    one_s: float
    many_s: float
    own_s: float
    own_cpu_s: float
    uncertain: int
    rates: Mapping[int, float]


def measure(
    count: int, samples: int, reply_s: float, images: bool = False, reflection: bool = True
) -> CritiqueTimes:
    policy, body = load_policy(), load_body()
    settings = CritiqueSettings() if reflection else CritiqueSettings(max_revisions=0)
    groups = wild_groups(policy, body, count, samples)
    with open_default_memory(None, policy, frozen=False) as memory:
        slow, instant = (
            default_agent(policy, body, memory, backend=DelayedCritic(delay_s, images), settings=settings)
            for delay_s in (reply_s, 0.0)
        )

        def rate(workers: int) -> float:
            return count / _seconds(lambda: list(critique_many(instant, map(uncached, groups), workers)))

        instant.critique(*groups[0])  # numba compiles once
        one_s = max(_seconds(lambda g=g: slow.critique(*uncached(g))) for g in groups[:3])
        many_s = _seconds(lambda: list(critique_many(slow, map(uncached, groups), count)))
        own_s = median(_seconds(lambda g=g: instant.critique(*uncached(g))) for g in groups)
        cpu_s = time.process_time()
        uncertain = sum(bool(instant.critique(*uncached(g)).revisions) for g in groups)
        own_cpu_s = (time.process_time() - cpu_s) / count
        return CritiqueTimes(one_s, many_s, own_s, own_cpu_s, uncertain, {n: rate(n) for n in WORKERS})


def figures() -> list[Figure]:
    times = measure(16, GROUP, REPLY_S)
    return [
        Figure("the graph's own cost, per hypothesis", times.own_s / GROUP * 1e3, "ms", goal=at_most(15.0),
               note=f"groups of {GROUP}, all reobserved"),
        Figure("16 groups in flight, replies of 2 s", times.many_s, "s", "one group alone", times.one_s,
               Goal("ratio", "at least", 1 / 1.25)),
        *(
            Figure(f"groups per second, {workers} in flight, no delay", rate, "groups/s")
            for workers, rate in times.rates.items()
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--reply-s", type=float, default=REPLY_S)
    parser.add_argument("--with-images", action="store_true", help="draw pictures for the backend")
    parser.add_argument("--no-reflection", action="store_true", help="no second round for uncertain scores")
    options = parser.parse_args()
    count, samples = options.groups, options.samples
    times = measure(count, samples, options.reply_s, options.with_images, not options.no_reflection)
    ratio = times.many_s / times.one_s
    print(f"one group {times.one_s:.2f} s, {count} in flight {times.many_s:.2f} s, ratio {ratio:.2f}")
    print(
        f"cost of the graph itself {times.own_s / samples * 1e3:.1f} ms per hypothesis, median of the groups"
    )
    cpu_ms = times.own_cpu_s / samples * 1e3
    print(
        f"{cpu_ms:.1f} ms of CPU time per hypothesis on average, {times.uncertain} of {count} groups uncertain"
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
