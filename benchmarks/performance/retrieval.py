"""Speed and recall of the retrieval from the memories: `python -m benchmarks.performance.retrieval`.

Both memories are written to a folder. A separate process opens them, queries them, and reports its times, its results
and its memory use (Linux), so that the data of the benchmark do not count. Latency is that of one query without its
embedding; recall is relative to the top k of an exact search over all vectors in numpy.

Vectors imitate embeddings of photographs and sentences: clusters around a few hundred themes in a space of low
intrinsic dimension. Independent Gaussian vectors, which no encoder produces, are the hard case for a graph index;
`--indices` shows them, and the size from which on the graph is faster than exact search.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.performance.figure import Figure, at_most, median_ms, peak_mib, times_faster
from memory.prototype_memory import Prototype, PrototypeMemory
from memory.rule import Provenance, Rule
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from memory.vectors.embed import load_text_embedder
from memory.vectors.index import VectorIndex, normalised

QUERIES = 200
RULES_K, PROTOTYPES_K = 8, 10
TEXT_DIM = 384  # MiniLM's
IMAGE_DIM = 512  # CLIP ViT-B's
TAGS = ("knee", "foot", "hand", "head", "back", "arm", "leg", "ground")
TARGETS = {"median ms": "< 5", "recall": ">= 0.95", "open s": "< 2", "peak MiB": "< 1024"}


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


# -- writing -------------------------------------------------------------------------------------------------


def write_rules(folder: Path, count: int, generator: np.random.Generator) -> float:
    """Returns the seconds to write and index the rules; also saves the queries and the exact results by Psi."""
    vectors = embeddings(count + QUERIES, TEXT_DIM, generator)
    tags = [sorted(generator.choice(TAGS, 3, replace=False).tolist()) for _ in range(count)]
    start = time.perf_counter()
    with MemoryStore(folder / "memory.sqlite") as store:
        rules = RuleMemory(store, Lookup(vectors))
        seed = Provenance("seed", "benchmark", None)
        ids = rules.add([Rule.create(str(row), tags[row], seed) for row in range(count)])
        for case in range(500):
            rules.record_case(str(case), generator.choice(ids, 8, replace=False).tolist(), case % 3 > 0)
        rules.save_index()
        known = rules.all()
    seconds = time.perf_counter() - start
    shared = np.array([len(set(rule.tags) & set(TAGS[:3])) / 3 for rule in known])
    rates = np.array([rule.successes / max(rule.uses, 1) for rule in known])
    psi = vectors[count:] @ vectors[:count].T + shared + rates
    expected = [[known[place].rule_id for place in row] for row in top(psi, RULES_K)]
    save_queries(folder, vectors[count:], expected)
    return seconds


def write_prototypes(folder: Path, count: int, dim: int, generator: np.random.Generator) -> float:
    """The same for prototypes; their case ids are row numbers."""
    vectors = embeddings(count + QUERIES, dim, generator)
    start = time.perf_counter()
    _fill_prototypes(folder, vectors[:count])
    seconds = time.perf_counter() - start
    cosines = vectors[count:] @ vectors[:count].T
    save_queries(
        folder, vectors[count:], [[str(place) for place in row] for row in top(cosines, PROTOTYPES_K)]
    )
    return seconds


def _fill_prototypes(folder: Path, vectors: np.ndarray) -> None:
    with MemoryStore(folder / "memory.sqlite") as store:
        memory = PrototypeMemory(store, vectors.shape[1], "benchmark", capacity=len(vectors))
        entries = (Prototype.create(str(row), "seen", 50.0, [], {}, {}) for row in range(len(vectors)))
        memory.add([(entry, vectors[row]) for row, entry in enumerate(entries)])
        memory.save_index()


def top(values: np.ndarray, k: int) -> list[list[int]]:
    return np.argpartition(-values, k, axis=1)[:, :k].tolist()


def save_queries(folder: Path, queries: np.ndarray, expected: list[list[str]]) -> None:
    np.save(folder / "queries.npy", queries)
    (folder / "expected.json").write_text(json.dumps(expected))


# -- measuring -----------------------------------------------------------------------------------------------


def measure(folder: Path, dim: int) -> None:
    """Runs in a separate process and prints one JSON object."""
    queries = np.load(folder / "queries.npy")
    expected = json.loads((folder / "expected.json").read_text())
    start, busy = time.perf_counter(), time.process_time()
    with MemoryStore(folder / "memory.sqlite", frozen=True) as store:
        recall = recall_from(store, queries, dim)
        recall(0)
        opened, opening = time.perf_counter() - start, time.process_time() - busy
        found, times, busy = [], [], time.process_time()
        for number in range(len(queries)):
            start = time.perf_counter()
            found.append(recall(number))
            times.append((time.perf_counter() - start) * 1e3)
        busy = (time.process_time() - busy) * 1e3 / len(queries)
    hits = [len(set(some) & set(true)) / len(true) for some, true in zip(found, expected, strict=True)]
    row = {
        "median ms": float(np.median(times)),
        "p95 ms": float(np.percentile(times, 95)),
        "cpu ms": busy,
        "recall": float(np.mean(hits)),
        "open s": opened,
        "open cpu s": opening,
        "peak MiB": peak_mib(),
    }
    print(json.dumps(row))


def recall_from(store: MemoryStore, queries: np.ndarray, dim: int) -> Callable[[int], list[str]]:
    """A function from the number of a query to the ids that the memory returns, rules or prototypes."""
    if store.meta("text_embedder"):
        rules = RuleMemory(store, Lookup(queries))
        return lambda number: [
            found.rule.rule_id for found in rules.retrieve(str(number), TAGS[:3], RULES_K, frozen=True)
        ]
    prototypes = PrototypeMemory(store, dim, "benchmark")
    return lambda number: [found.case_id for found, _ in prototypes.nearest(queries[number], PROTOTYPES_K)]


def measured(folder: Path, dim: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.performance.retrieval",
        "--measure",
        str(folder),
        "--dim",
        str(dim),
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def index_row(
    count: int, dim: int, exact: bool, clustered: bool, generator: np.random.Generator
) -> list[str]:
    """The index alone, to choose `memory.vectors.index.EXACT_UP_TO`."""
    vectors = embeddings(count + QUERIES, dim, generator, clustered)
    queries, index = vectors[count:], VectorIndex(dim, count if exact else 0)
    start = time.perf_counter()
    index.add(np.arange(count, dtype=np.int64), vectors[:count])
    built = time.perf_counter() - start
    times, hits = [], []
    for query, true in zip(queries, top(queries @ vectors[:count].T, PROTOTYPES_K), strict=True):
        start = time.perf_counter()
        found, _ = index.search(query, PROTOTYPES_K)
        times.append((time.perf_counter() - start) * 1e3)
        hits.append(len(set(found.tolist()) & set(true)) / PROTOTYPES_K)
    name = f"{'exact' if exact else 'graph'} index x {count:,} x {dim}{'' if clustered else ', Gaussian'}"
    figures = (np.median(times), np.percentile(times, 95), np.mean(hits), built)
    return [name, *(f"{value:.2f}" for value in figures)]


def figures() -> list[Figure]:
    """A query among N prototypes against one matrix product in numpy, and among rules against embedding all of them."""
    generator = np.random.default_rng(0)
    prototypes = [_prototype_figure(count, generator) for count in (1_000, 10_000, 100_000)]
    return [*prototypes, *_rule_figures(1_000)]


def _prototype_figure(count: int, generator: np.random.Generator) -> Figure:
    vectors = embeddings(count + QUERIES, IMAGE_DIM, generator)
    queries, entries = vectors[count:], vectors[:count]

    def exact() -> None:
        for query in queries:
            np.argpartition(-(entries @ query), PROTOTYPES_K)

    with tempfile.TemporaryDirectory() as name:
        _fill_prototypes(Path(name), entries)
        with MemoryStore(Path(name) / "memory.sqlite", frozen=True) as store:
            memory = PrototypeMemory(store, IMAGE_DIM, "benchmark")
            ours_ms = median_ms(lambda: [memory.nearest(query, PROTOTYPES_K) for query in queries])
    goal = at_most(5.0) if count == 100_000 else None
    title = f"one query among {count:,} prototypes"
    return Figure(title, ours_ms / QUERIES, "ms", "numpy, exact", median_ms(exact) / QUERIES, goal)


def _rule_figures(count: int) -> list[Figure]:
    """Sentences of a real model: stored vectors against embedding every rule at every call."""
    embedder = load_text_embedder()
    sentences = [
        f"The {TAGS[row % 8]} stays within {row} millimetres of the outline." for row in range(count)
    ]
    with MemoryStore(":memory:") as store:
        rules = RuleMemory(store, embedder)
        seed = Provenance("seed", "benchmark", None)
        rules.add([Rule.create(sentence, TAGS[:3], seed) for sentence in sentences])
        ours_ms = median_ms(
            lambda: rules.retrieve("the knee is bent too far", TAGS[:3], RULES_K, frozen=True)
        )
    others = [sentence.replace("within", "under") for sentence in sentences]  # what was embedded is kept
    start = time.perf_counter()
    embedder.embed(others)
    embedding_ms = (time.perf_counter() - start) * 1e3
    name = f"{RULES_K} of {count:,} rules, with the embedding of the query"
    return [Figure(name, ours_ms, "ms", "embedding at every call", embedding_ms, times_faster(10.0))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--prototypes", type=int, default=100_000)
    parser.add_argument(
        "--dim", type=int, default=IMAGE_DIM, help="of an image embedding; CLIP ViT-B has 512"
    )
    parser.add_argument("--indices", action="store_true", help="also measure the index alone, by size")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.dim)
        return
    generator, console = np.random.default_rng(0), Console(width=130)
    columns = ("median ms", "p95 ms", "cpu ms", "recall", "open s", "open cpu s", "peak MiB")
    table = Table("what", *columns, "build s")
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / "rules", Path(name) / "prototypes"]
        for folder in folders:
            folder.mkdir()
        seconds = [
            write_rules(folders[0], arguments.rules, generator),
            write_prototypes(folders[1], arguments.prototypes, arguments.dim, generator),
        ]
        titles = [f"{arguments.rules:,} rules", f"{arguments.prototypes:,} prototypes x {arguments.dim}"]
        for title, folder, built in zip(titles, folders, seconds, strict=True):
            row = measured(folder, arguments.dim)
            table.add_row(title, *(f"{row[column]:.3g}" for column in columns), f"{built:.0f}")
    table.add_row("target", *(TARGETS.get(column, "") for column in columns), "")
    console.print(table)
    if arguments.indices:
        indices = Table("what", "median ms", "p95 ms", "recall@10", "build s")
        for count in (10_000, 20_000, 40_000):
            for exact in (True, False):
                indices.add_row(*index_row(count, arguments.dim, exact, True, generator))
        indices.add_row(*index_row(20_000, arguments.dim, False, False, generator))
        console.print(indices)


if __name__ == "__main__":
    main()
