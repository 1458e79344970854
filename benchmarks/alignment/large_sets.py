"""Preference sets that are larger than the memory: `python -m benchmarks.alignment.large_sets --images 200000`.

A set is written by repeating real rows with changed numbers. A separate process opens it and trains on it, with the
code of `meshcritic align`. Its RLIMIT_DATA is 500 MB above its VmData after loading the policy; pages of files do not
count, but memory that is reserved and not used does, so it may use some hundred MB more. Its peak is that of RssAnon in
/proc/self/status (Linux), every 20 ms: memory that is not a page of a file. A second process tries the same with all
rows and tensors in memory. Then times are fitted: seconds = a * size ** exponent.

| what             | straightforward version                                                              |
|------------------|--------------------------------------------------------------------------------------|
| opening a set    | all rows in memory, each decoded by `PreferenceGroup.from_row`, one conversion, and   |
|                  | the digest of the printed rows                                                       |
| building a set   | a list of all rows, written as one file at the end                                   |
| alignment step   | see `benchmarks.performance.alignment_step`                                            |

Times are CPU seconds, which depend less on other processes, except where "wall" is named.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import TrainerCallback

from common.seeding import derive_generator
from common.storage.fingerprint import digest, stream_digest
from hmr.body.model import load_body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.synthetic.recipe import WILD
from hmr.synthetic.scenes import SceneMaker
from hmr.types import BodyParams, Hypotheses, Sample
from rl.config import GroupPreferenceConfig
from rl.preferences.build import build_preferences, load_preferences
from rl.preferences.shards import SHARD_PATTERN, image_sha256, read_shard, write_shard
from rl.preferences.tables import content_of
from rl.preferences.tensors import GroupTensors, features_of, tensors_from_preferences
from rl.scorers.rewards import RewardMix
from rl.trainer import GroupPreferenceTrainer
from rl.types import PreferenceGroup

__all__ = ["measure", "write_set"]

SHARD_ROWS = 64
MEMORY_MB = 500
STRAIGHTFORWARD_ROWS = 1024  # opened in the straightforward way
OPENED_ROWS = (2048, 4096, 8192, 16384)
STEP_IMAGES, STEP_GROUPS = (8, 16, 32, 64), (10, 20, 40, 80)
BUILT_IMAGES, BUILT_GROUPS = (4, 8, 16, 32), (10, 20, 40, 80)
STEP_SIZE, BUILT_SIZE, GROUP = 16, 8, 20  # images and hypotheses where the other size changes
Figures = dict[str, Any]


# -- the set ---------------------------------------------------------------------------------------------------------


def depth(*, hypotheses: Hypotheses, **kwargs: Any) -> list[float]:
    """A reward that costs nothing."""
    return (-hypotheses.params.transl[:, 2]).tolist()


def wild_samples(count: int) -> list[Sample]:
    return [scene.labelled.sample for scene in SceneMaker(load_body(), WILD, seed=0).chunk(0, count)]


def write_set(folder: Path, images: int, group: int, samples: Sequence[Sample]) -> None:
    """A preference set of `images` rows in whole shards: the rows of `samples` with noise on all numbers."""
    policy, rng = load_policy(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        real = read_shard(
            next(
                build_preferences(policy, RewardMix([depth]), samples, name, group_size=group).glob(
                    SHARD_PATTERN
                )
            )
        )
    rows = real.take(np.arange(SHARD_ROWS) % len(real)).combine_chunks()
    folder.mkdir(parents=True)
    for start in range(0, images, SHARD_ROWS):
        columns = [_changed(rows[name].chunk(0), name, start, rng) for name in rows.column_names]
        table = pa.table(columns, schema=rows.schema).slice(0, images - start)
        write_shard(table, folder / f"shard-{start // SHARD_ROWS:05d}.parquet")


def _changed(array: pa.Array, name: str, start: int, rng: np.random.Generator) -> pa.Array:
    if name == "sample_id":
        return pa.array([f"image-{start + row}" for row in range(len(array))])
    if not pa.types.is_fixed_size_list(array.type) or name in ("camera", "geometry"):
        return array
    values = array.flatten().to_numpy(zero_copy_only=False)
    noise = rng.standard_normal(len(values), dtype=np.float32) * 0.01
    return pa.FixedSizeListArray.from_arrays(pa.array((values + noise).astype(values.dtype)), type=array.type)


# -- memory and time ---------------------------------------------------------------------------------------------------


class AnonymousPeak:
    """The largest RssAnon of this process within the block."""

    def __init__(self) -> None:
        self.mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> AnonymousPeak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.mb = max(self.mb, status_mb("RssAnon"))
        self.mb = max(self.mb, status_mb("RssAnon"))


def status_mb(name: str) -> float:
    """A size in the status of this process: RssAnon is the resident memory without pages of files, VmData what
    RLIMIT_DATA limits."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


@contextmanager
def timed(figures: Figures, name: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    figures[f"{name}_wall_s"], figures[f"{name}_cpu_s"] = (
        time.perf_counter() - wall,
        time.process_time() - cpu,
    )


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


# -- what the separate processes do ------------------------------------------------------------------------------------


def train(folder: str, run: str, steps: int, memory_mb: int, in_memory: bool) -> Figures:
    """Open the set and train; `in_memory`: with rows and tensors in memory."""
    policy = _sampler(Path(folder))
    limit = int((status_mb("VmData") + memory_mb) * 1e6)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    figures: Figures = {"anonymous_before_mb": status_mb("RssAnon")}
    with AnonymousPeak() as peak:
        try:
            _train(policy, Path(folder), run, steps, in_memory, figures)
        except (MemoryError, RuntimeError) as error:  # of torch and of Arrow
            figures["failure"] = " ".join(str(error).split())[:200]
    return {**figures, "anonymous_peak_mb": peak.mb}


def _train(
    policy: DiffusionPolicy, folder: Path, run: str, steps: int, in_memory: bool, figures: Figures
) -> None:
    with timed(figures, "load"):
        groups = rows_in_memory(folder) if in_memory else load_preferences(folder)
    with timed(figures, "digest"):
        stream_digest(content_of(groups))
    with timed(figures, "tensors"):
        tensors = tensors_from_preferences(policy, groups, folder=None if in_memory else run)
    figures["tensors_gb"] = sum(column.nbytes for column in tensors.columns().values()) / 1e9
    with timed(figures, "train"):
        figures["step_cpu_s"] = step_seconds(policy, tensors, STEP_SIZE, steps, run)


def _sampler(folder: Path) -> DiffusionPolicy:
    """The shipped policy, which must be the one that sampled the set."""
    policy = load_policy()
    [sampled_by] = read_shard(next(folder.glob(SHARD_PATTERN)), ["policy_digest"])["policy_digest"].unique()
    assert sampled_by.as_py() == policy.digest()
    return policy


def rows_in_memory(folder: Path) -> Dataset:
    return Dataset(pa.concat_tables([read_shard(shard) for shard in sorted(folder.glob(SHARD_PATTERN))]))


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.process_time())


def step_seconds(policy: DiffusionPolicy, groups: GroupTensors, images: int, steps: int, run: str) -> float:
    """The median CPU seconds of a training step of `images` groups; the first step is not counted."""
    clock = _Clock()
    args = GroupPreferenceConfig(
        output_dir=run,
        max_steps=steps + 1,
        per_device_train_batch_size=images,
        save_strategy="no",
        use_cpu=True,
    )
    GroupPreferenceTrainer(policy, args, groups, callbacks=[clock]).train()
    return float(np.median(np.diff(clock.ends)))


def open_straightforward(folder: str, rows: int) -> Figures:
    """The opening of `rows` rows, all at once."""
    policy = _sampler(Path(folder))
    shards = sorted(Path(folder).glob(SHARD_PATTERN))[: rows // SHARD_ROWS]
    figures: Figures = {"rows": len(shards) * SHARD_ROWS, "anonymous_before_mb": status_mb("RssAnon")}
    with AnonymousPeak() as peak:
        with timed(figures, "load"):
            groups = Dataset(pa.concat_tables([read_shard(shard) for shard in shards]))
        with timed(figures, "digest"):
            digest(repr(groups[:]))
        with timed(figures, "tensors"), torch.no_grad():
            decoded = [PreferenceGroup.from_row(cast(dict[str, Any], row)) for row in groups]
            features = features_of(groups)
            params = BodyParams.stack([group.hypotheses.params for group in decoded])
            x0 = policy.to_x0(params, Features(features.condition, features.geometry))
            GroupTensors.from_scores(features.condition, x0, [group.scores for group in decoded])
    return {**figures, "anonymous_peak_mb": peak.mb}


def open_sizes(folder: str, run: str) -> Figures:
    """CPU seconds to compute the tensors, by number of images."""
    policy, groups = _sampler(Path(folder)), load_preferences(folder)
    sizes = [size for size in OPENED_ROWS if size <= len(groups)]
    tensors_from_preferences(policy, groups.select(range(min(256, len(groups)))), folder=run)
    seconds: dict[int, float] = {}
    for size in sizes:
        figures: Figures = {}
        with timed(figures, "tensors"):
            tensors_from_preferences(policy, groups.select(range(size)), folder=run)
        seconds[size] = figures["tensors_cpu_s"]
    return fitted("images", seconds)


def step_sizes(run: str) -> Figures:
    """CPU seconds of a training step by number of images and by group size, on noise."""
    policy = load_policy()

    def seconds(images: int, group: int) -> float:
        generator = derive_generator(0, "large sets", images, group)
        channels, dim = policy.feature_size + policy.mean.shape[0], policy.mean.shape[0]
        condition = torch.randn(images, channels, generator=generator)
        x0 = torch.randn(images, group, dim, generator=generator)
        scores = torch.randn(images, group, generator=generator).tolist()
        return step_seconds(policy, GroupTensors.from_scores(condition, x0, scores), images, 4, run)

    return {
        **fitted("images", {images: seconds(images, GROUP) for images in STEP_IMAGES}),
        **fitted("group_size", {group: seconds(STEP_SIZE, group) for group in STEP_GROUPS}),
    }


def build_sizes(run: str) -> Figures:
    """CPU seconds to build a set by number of images and by group size, and both versions at the largest number."""
    policy, samples = load_policy(), wild_samples(max(BUILT_IMAGES))
    Path(run).mkdir(parents=True, exist_ok=True)
    build_preferences(policy, RewardMix([depth]), samples[:1], Path(run, "first"))

    def build(images: int, group: int, builder: Callable[..., object] = build_preferences) -> Figures:
        with (
            AnonymousPeak() as peak,
            timed(figures := {}, "build"),
            tempfile.TemporaryDirectory(dir=run) as out,
        ):
            builder(policy, RewardMix([depth]), samples[:images], out, group_size=group)
        return {**figures, "rows_per_cpu_s": images / figures["build_cpu_s"], "anonymous_peak_mb": peak.mb}

    by_images = {images: build(images, GROUP) for images in BUILT_IMAGES}
    by_group = {group: build(BUILT_SIZE, group) for group in BUILT_GROUPS}
    return {
        **fitted("images", {size: figures["build_cpu_s"] for size, figures in by_images.items()}),
        **fitted("group_size", {size: figures["build_cpu_s"] for size, figures in by_group.items()}),
        "largest": by_images[max(BUILT_IMAGES)],
        "straightforward": build(max(BUILT_IMAGES), GROUP, build_straightforward),
    }


def build_straightforward(
    policy: DiffusionPolicy, scorer: RewardMix, samples: Sequence[Sample], out: str, group_size: int
) -> None:
    rows = []
    for sample in samples:
        features = policy.encode([sample])
        [hypotheses] = policy.sample(features, group_size, derive_generator(0, "group", sample.id))
        scores = tuple(scorer.score(sample, hypotheses))
        identity = (sample.id, image_sha256(sample), hypotheses, features.condition[0], features.geometry[0])
        rows.append(PreferenceGroup(*identity, scores, scorer.name, False, policy.digest()).to_row())
    pq.write_table(pa.Table.from_pylist(rows), Path(out, "all.parquet"))


def fitted(size: str, seconds: Mapping[int, float]) -> Figures:
    return {
        f"cpu_s_by_{size}": dict(seconds),
        f"exponent_of_{size}": exponent(list(seconds), list(seconds.values())) if len(seconds) > 1 else None,
    }


TASKS = {task.__name__: task for task in (train, open_straightforward, open_sizes, step_sizes, build_sizes)}


def in_a_process(task: Callable[..., Figures], **arguments: Any) -> Figures:
    """The result of one of TASKS. Raises RuntimeError, with the end of its output, if the process fails."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.alignment.large_sets",
        "--task",
        task.__name__,
        json.dumps(arguments),
    ]
    # waiting threads that spin would count as CPU time, on busy cores many times over
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{task.__name__} failed: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


# -- the benchmark -----------------------------------------------------------------------------------------------------


def measure(
    images: int = 20_000, steps: int = 20, memory_mb: int = MEMORY_MB, folder: Path | None = None
) -> Figures:
    """All figures. The set, the run and their files are in a folder of their own in `folder`, and removed at the end;
    they need 33 KB per image."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        groups, run = Path(name, "groups"), str(Path(name, "run"))
        written: Figures = {}
        with timed(written, "write"):
            write_set(groups, images, GROUP, wild_samples(4))
        size_gb = sum(path.stat().st_size for path in groups.iterdir()) / 1e9
        training = {"folder": str(groups), "run": run, "steps": steps, "memory_mb": memory_mb}
        return {
            "images": images,
            "group_size": GROUP,
            "may_allocate_mb": memory_mb,
            "shards_gb": size_gb,
            "disk_free_gb": shutil.disk_usage(name).free / 1e9,
            **written,
            "files": in_a_process(train, in_memory=False, **training),
            "in_memory": in_a_process(train, in_memory=True, **training),
            "open_straightforward": in_a_process(
                open_straightforward, folder=str(groups), rows=STRAIGHTFORWARD_ROWS
            ),
            "open": in_a_process(open_sizes, folder=str(groups), run=run),
            "step": in_a_process(step_sizes, run=run),
            "build": in_a_process(build_sizes, run=run),
        }


def opened_per_s(figures: Mapping[str, Any], rows: int) -> str:
    parts = ("load", "digest", "tensors")
    cpu, wall = (rows / sum(figures[f"{part}_{clock}_s"] for part in parts) for clock in ("cpu", "wall"))
    return f"{cpu:,.0f} rows per CPU second, {wall:,.0f} by the wall clock"


def built_per_s(figures: Mapping[str, Any]) -> str:
    rows, peak_mb = figures["rows_per_cpu_s"], figures["anonymous_peak_mb"]
    return f"{rows:.2f} rows per CPU second, peak {peak_mb:.0f} MB"


def report(figures: Mapping[str, Any]) -> str:
    files, straight, build, step = (
        figures[name] for name in ("files", "open_straightforward", "build", "step")
    )
    taken_mb = straight["anonymous_peak_mb"] - straight["anonymous_before_mb"]
    lines = {
        "images": f"{figures['images']:,}, {figures['group_size']} hypotheses each",
        "on disk": f"{figures['shards_gb']:.2f} GB of shards, {files['tensors_gb']:.2f} GB of tensors",
        "may allocate": f"{figures['may_allocate_mb']} MB",
        "allocated": f"{files['anonymous_before_mb']:.0f} MB before, {files['anonymous_peak_mb']:.0f} MB at the peak",
        "all in memory": figures["in_memory"].get("failure", "trained as well"),
        "opening": opened_per_s(files, figures["images"]),
        "straightforward opening": opened_per_s(straight, straight["rows"])
        + f", {1e3 * taken_mb / straight['rows']:.0f} KB per row",
        "exponent": f"images {figures['open']['exponent_of_images']:.2f}",
        "training step": f"{STEP_SIZE / files['step_cpu_s']:.1f} rows per CPU second",
        "its exponents": exponents(step),
        "building": built_per_s(build["largest"]),
        "straightforward building": built_per_s(build["straightforward"]),
        "its exponents ": exponents(build),
    }
    return "\n".join(f"{name:<26}{line}" for name, line in lines.items())


def exponents(figures: Mapping[str, Any]) -> str:
    return f"images {figures['exponent_of_images']:.2f}, group size {figures['exponent_of_group_size']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=20, help="training steps on the set")
    parser.add_argument(
        "--memory",
        type=int,
        default=MEMORY_MB,
        metavar="MB",
        help="limit of the training process, above its VmData before",
    )
    parser.add_argument(
        "--folder", type=Path, help="on a disk with room for 33 KB per image; default: temporary"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        name, arguments = options.task
        print(json.dumps(TASKS[name](**json.loads(arguments))))
        return
    if options.images < 2 * OPENED_ROWS[0]:
        parser.error(f"--images must be at least {2 * OPENED_ROWS[0]}, not {options.images}")
    figures = measure(options.images, options.steps, options.memory, options.folder)
    print(json.dumps(figures) if options.json else report(figures))


if __name__ == "__main__":
    main()
