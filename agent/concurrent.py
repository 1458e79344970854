"""Several groups in flight: a backend that makes one wait is asked about the next ones meanwhile.

Threads, and as many groups as the backend takes requests at once; it limits the requests themselves. A backend that
takes one at a time, such as the embedded critic, gets its groups one after the other, because threads would only
make Python's work on them slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from agent.agent import CritiqueAgent
from agent.types import GroupCritique
from hmr.types import Hypotheses, Sample

__all__ = ["critique_many"]

GROUPS_IN_FLIGHT = 8


def critique_many(
    agent: CritiqueAgent,
    groups: Iterable[tuple[Sample, Hypotheses]],
    in_flight: int = GROUPS_IN_FLIGHT,
) -> Iterator[GroupCritique]:
    """The verdicts in the order of the groups, each as soon as it and those before it are there.

    Groups are drawn from the iterable as they are needed, at most twice `in_flight` ahead. Raises what
    `CritiqueAgent.critique` raises, when its turn comes.
    """
    workers = min(in_flight, agent.backend.capabilities.concurrency)
    if workers == 1:
        for sample, hypotheses in groups:
            yield agent.critique(sample, hypotheses)
        return
    pending: deque[Future[GroupCritique]] = deque()
    with ThreadPoolExecutor(workers, "critique") as pool:
        for sample, hypotheses in groups:
            pending.append(pool.submit(agent.critique, sample, hypotheses))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
