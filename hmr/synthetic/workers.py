"""Runs chunks of work in several processes and returns the results in order.

Workers return numpy arrays, bytes and plain values. Torch tensors would be passed as shared file descriptors, and tens
of thousands of them exceed the limit of a process.
"""

from __future__ import annotations

import functools
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from common.stopping import stoppable
from hmr.body.model import load_body
from hmr.synthetic.amass import load_amass
from hmr.synthetic.painting import Backdrops
from hmr.synthetic.recipe import SceneRecipe
from hmr.synthetic.scenes import SceneMaker

__all__ = ["in_order", "scene_maker"]

T = TypeVar("T")


def in_order(make: Callable[[int], T], chunks: int, workers: int) -> Iterator[T]:
    """`make(0) ... make(chunks - 1)`, by `workers` processes (1: this one), a few chunks ahead of the consumer."""
    workers = min(workers, chunks)
    if workers <= 1:
        yield from map(make, range(chunks))
        return
    with stoppable(
        ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=_start_worker)
    ) as pool:
        pending: deque[Future[T]] = deque()
        for chunk in range(chunks):
            pending.append(pool.submit(make, chunk))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _start_worker() -> None:
    torch.set_num_threads(1)
    # a terminal sends Ctrl-C to all processes of a command; the command ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@functools.lru_cache(maxsize=4)
def scene_maker(
    recipe: SceneRecipe,
    seed: int,
    motion: Path | None = None,
    backdrops: Path | None = None,
    body: Path | None = None,
) -> SceneMaker:
    """The `SceneMaker` of a process, cached between its chunks."""
    return SceneMaker(
        load_body(body),
        recipe,
        seed,
        load_amass(motion) if motion else None,
        Backdrops(backdrops, recipe.image_size) if backdrops else None,
    )
