"""How fast and how exactly the memories recall: `python -m benchmarks.retrieval`.

Latency is of one query, its embedding apart; recall is against exact cosine search. Vectors are made to look
like embeddings of photographs and sentences: clusters around a few hundred themes in a space of low
intrinsic dimension. Independent Gaussian vectors, which no encoder gives, are the hard case for a graph and
are shown beside them.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from memory.index import VectorIndex, normalised
from memory.prototypes import Prototype, PrototypeMemory
from memory.rules import Provenance, Rule, RuleMemory
from memory.store import MemoryStore

QUERIES = 200
TAGS = ("knee", "foot", "hand", "head", "back", "arm", "leg", "ground")


class Lookup:
    """A sentence model whose sentences are row numbers of a matrix."""

    name, revision = "lookup", "1"

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        self.dim = rows.shape[1]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._rows[[int(text) for text in texts]]


def embeddings(count: int, dim: int, generator: np.random.Generator, clustered: bool = True) -> np.ndarray:
    if not clustered:
        return normalised(generator.normal(size=(count, dim)))
    themes = generator.normal(size=(500, 32))
    latent = themes[generator.integers(0, len(themes), count)] + 0.5 * generator.normal(size=(count, 32))
    return normalised(latent @ generator.normal(size=(32, dim)) + 0.1 * generator.normal(size=(count, dim)))


def milliseconds(call: Callable[[int], object]) -> list[str]:
    """Median, 95th percentile and processor time a query, after one to warm up."""
    call(0)
    times, busy = [], time.process_time()
    for query in range(QUERIES):
        start = time.perf_counter()
        call(query)
        times.append((time.perf_counter() - start) * 1e3)
    busy = (time.process_time() - busy) * 1e3 / QUERIES
    return [f"{value:.2f}" for value in (np.median(times), np.percentile(times, 95), busy)]


def rule_rows(count: int, folder: Path, generator: np.random.Generator) -> list[str]:
    vectors = embeddings(count + QUERIES, 384, generator)
    seed = Provenance("seed", "benchmark", None)
    path = folder / "rules" / "memory.sqlite"
    with MemoryStore(path) as store:
        rules = RuleMemory(store, Lookup(vectors))
        tags = [generator.choice(TAGS, 3, replace=False).tolist() for _ in range(count)]
        ids = rules.add([Rule.create(str(row), tags[row], seed) for row in range(count)])
        for case in range(500):
            rules.record_case(str(case), generator.choice(ids, 8, replace=False).tolist(), case % 3 > 0)
        rules.save_index()
    start = time.perf_counter()
    with MemoryStore(path, frozen=True) as store:
        rules = RuleMemory(store, Lookup(vectors))
        rules.retrieve(str(count), TAGS[:3], 8, frozen=True)
        opened = time.perf_counter() - start
        latency = milliseconds(lambda query: rules.retrieve(str(count + query), TAGS[:3], 8, frozen=True))
    exact = "all, exact" if count <= 10_000 else "nearest 10,000"
    return [
        f"rules x {count:,}, Psi over {exact}",
        *latency,
        "1.000",
        f"{opened:.2f}",
        "",
    ]


def prototype_rows(count: int, dim: int, folder: Path, generator: np.random.Generator) -> list[str]:
    vectors = embeddings(count + QUERIES, dim, generator)
    queries, path = vectors[count:], folder / "prototypes" / "memory.sqlite"
    start = time.perf_counter()
    with MemoryStore(path) as store:
        memory = PrototypeMemory(store, dim, "benchmark", capacity=count)
        entries = (Prototype.create(str(row), "seen", 50.0, [], {}, {}) for row in range(count))
        memory.add([(entry, vectors[row]) for row, entry in enumerate(entries)])
        memory.save_index()
    built, start = time.perf_counter() - start, time.perf_counter()
    with MemoryStore(path, frozen=True) as store:
        memory = PrototypeMemory(store, dim, "benchmark", capacity=count)
        memory.nearest(queries[0], 10)
        opened = time.perf_counter() - start
        latency = milliseconds(lambda query: memory.nearest(queries[query], 10))
        found = [{int(entry.case_id) for entry, _ in memory.nearest(query, 10)} for query in queries]
    recall = overlap(found, queries, vectors[:count])
    return [
        f"prototypes x {count:,} x {dim}",
        *latency,
        f"{recall:.3f}",
        f"{opened:.2f}",
        f"{built:.0f}",
    ]


def index_rows(
    count: int, dim: int, exact: bool, clustered: bool, generator: np.random.Generator
) -> list[str]:
    vectors = embeddings(count + QUERIES, dim, generator, clustered)
    queries, index = vectors[count:], VectorIndex(dim, count if exact else 0)
    start = time.perf_counter()
    index.add(np.arange(count, dtype=np.int64), vectors[:count])
    built = time.perf_counter() - start
    latency = milliseconds(lambda query: index.search(queries[query], 10))
    recall = overlap(
        [set(index.search(query, 10)[0].tolist()) for query in queries], queries, vectors[:count]
    )
    name = f"{'exact' if exact else 'graph'} index x {count:,} x {dim}{'' if clustered else ', Gaussian'}"
    return [name, *latency, f"{recall:.3f}", "", f"{built:.0f}"]


def overlap(found: list[set[int]], queries: np.ndarray, vectors: np.ndarray) -> float:
    """Mean share of the ten truly nearest that were found."""
    truth = [set(np.argpartition(-(vectors @ query), 10)[:10].tolist()) for query in queries]
    return float(np.mean([len(hits & true) / 10 for hits, true in zip(found, truth, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--prototypes", type=int, default=100_000)
    parser.add_argument(
        "--dim", type=int, default=512, help="length of an image embedding; CLIP ViT-B has 512"
    )
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    table = Table("what", "median ms", "p95 ms", "cpu ms", "recall@10", "open s", "build s")
    with tempfile.TemporaryDirectory() as folder:
        table.add_row(*rule_rows(arguments.rules, Path(folder), generator))
        table.add_row(*prototype_rows(arguments.prototypes, arguments.dim, Path(folder), generator))
        for count in (10_000, 20_000, 40_000):
            for exact in (True, False):
                table.add_row(*index_rows(count, arguments.dim, exact, True, generator))
        table.add_row(*index_rows(20_000, arguments.dim, False, False, generator))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Console(width=110).print(table, f"peak memory {peak_mib:.0f} MiB, benchmark data included")


if __name__ == "__main__":
    main()
