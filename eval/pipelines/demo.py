"""Runs the whole loop with the embedded defaults: exploration, critique, alignment, evaluation (`meshcritic demo`).

    lab scenes with truth      -> exploration: the critic fills its memories, which are then frozen
    wild scenes without labels -> groups of hypotheses -> critique -> preferences -> alignment
    held-out wild scenes       -> evaluation of the base policy, the aligned one and a control with shuffled scores

Every stage writes its result to the run's folder, and a later run skips finished stages. For a changed setting, policy
or memory, a stage uses another folder or raises an error. The truth of the wild training images is never written.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from datasets import Dataset

from agent.agent import CritiqueAgent
from agent.default import default_agent, open_default_memory
from agent.tracing.records import Trace
from common.files import PathLike
from common.fingerprint import digest
from common.progress import Stage
from common.seeding import derive_generator
from common.yaml_fields import read_fields
from eval.benchmark.protocol import Report, evaluate_policy
from eval.benchmark.report_cache import load_report, save_report
from eval.benchmark.tables import VARIANTS
from eval.critics.exploration import EXPLORED, Exploration
from hmr.body.model import Body, load_body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import calibration_parts, draw_split
from hmr.synthetic.store import read_labelled, read_samples, set_digest
from hmr.types import Hypotheses, Sample
from rl.config import GroupPreferenceConfig
from rl.preferences.build import build_preferences, load_preferences, shuffle_scores
from rl.rounds import align_once, finished_policy

__all__ = ["Demo", "DemoResult", "DemoSettings", "read_demo_settings"]

SHARD_ROWS = 32


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of a demo. `configs/demo.yaml` has those of `make demo`, which takes a quarter of an hour on two cores and
    shows the loop, but is too small for conclusions."""

    calibration_images: int = 128  # half are explored, a quarter admits rules (hmr.synthetic.splits)
    train_images: int = 160
    test_images: int = 64
    group_size: int = 20
    num_samples: int = 100
    seeds: tuple[int, ...] = (0, 1, 2)
    backend: str = "embedded"
    shown_cases: int = 6
    alignment: dict[str, Any] = field(default_factory=dict)  # rl.config.GroupPreferenceConfig

    def __post_init__(self) -> None:
        for name in ("calibration_images", "train_images", "test_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.seeds:
            raise ValueError("seeds must name at least one seed")


def read_demo_settings(path: PathLike) -> DemoSettings:
    """Raises what `common.yaml_fields.read_fields` raises."""
    values = read_fields(Path(path), [item.name for item in dataclasses.fields(DemoSettings)])
    if "seeds" in values:
        values["seeds"] = tuple(values["seeds"])
    return DemoSettings(**values)


@dataclass(frozen=True)
class DemoResult:
    """The evaluations of a demo and the digests of its inputs."""

    reports: dict[str, list[Report]]  # variant -> one per seed
    benchmark: str  # content hash of every scene
    base_policy: str  # content hash of its weights
    reused: tuple[str, ...]  # stages that an earlier run had done
    seconds: dict[str, float]  # by stage


class Demo:
    """One run in one folder; its memory and trace are open inside the `with` block."""

    def __init__(
        self, out: PathLike, settings: DemoSettings, stage: Stage, policy: Path | None = None
    ) -> None:
        self.out, self.settings, self.stage = Path(out), settings, stage
        self.body: Body = load_body()
        self.policy: DiffusionPolicy = load_policy(policy)
        self.scenes: dict[str, Path] = {}
        self.reused: list[str] = []
        self.seconds: dict[str, float] = {}
        self._open = ExitStack()

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def run(self) -> DemoResult:
        self.scenes = scenes = self._scenes()
        self.agent = agent = self._explored(scenes["lab-calibration"])
        reports: dict[str, list[Report]] = {variant: [] for variant in VARIANTS}
        for seed in self.settings.seeds:
            policies = {"base": self.policy, **self._aligned(agent, scenes["wild-train"], seed)}
            for variant, policy in policies.items():
                reports[variant].append(self._evaluated(agent, policy, scenes["wild-test"], variant, seed))
        return DemoResult(
            reports=reports,
            benchmark=digest(*(set_digest(folder) for folder in scenes.values())),
            base_policy=self.policy.digest(),
            reused=tuple(self.reused),
            seconds=self.seconds,
        )

    # -- stages ----------------------------------------------------------------------------------------------

    def _scenes(self) -> dict[str, Path]:
        settings = self.settings
        sizes = {
            "lab-calibration": settings.calibration_images,
            "wild-train": settings.train_images,
            "wild-test": settings.test_images,
        }
        folders = {}
        for name, count in sizes.items():
            title = f"drawing {count} scenes of {name}"
            if (self.out / "scenes" / f"{name}-{count}" / "set.json").exists():
                self.reused.append(title)
            with self._timed("scenes"):
                folders[name] = draw_split(
                    name, self.out / "scenes", count, progress=self.stage(title, count)
                )
        return folders

    def _explored(self, folder: Path) -> CritiqueAgent:
        """A frozen agent with the memory explored on the lab scenes."""
        settings, memory_folder = self.settings, self.out / "memory"
        trace = self._open.enter_context(Trace(self.out / "trace.jsonl"))
        cases, parts = read_labelled(folder), calibration_parts(settings.calibration_images)
        exploration = Exploration(
            folder=memory_folder,
            fingerprint={
                "scenes": set_digest(folder),
                "policy": self.policy.digest(),
                "backend": settings.backend,
            },
            cases=[cases[row] for row in parts["explore"]],
            held_out=[cases[row] for row in parts["admit"]],
            propose=self._propose,
        )
        if exploration.saved_report() is not None:
            self.reused.append(exploration.title)
        else:
            with (
                self._timed("explore"),
                open_default_memory(memory_folder, self.policy, frozen=False) as memory,
            ):
                agent = default_agent(self.policy, self.body, memory, backend=settings.backend, trace=trace)
                exploration.run(agent, self.stage)
        memory = self._open.enter_context(open_default_memory(memory_folder, self.policy, frozen=True))
        return default_agent(self.policy, self.body, memory, backend=settings.backend, trace=trace)

    def _propose(self, sample: Sample) -> Hypotheses:
        """A group of the base policy, with noise that depends on the image alone."""
        generator = derive_generator("explore", sample.id)
        return self.policy.sample(self.policy.encode([sample]), self.settings.group_size, generator)[0]

    def _aligned(self, agent: CritiqueAgent, folder: Path, seed: int) -> dict[str, DiffusionPolicy]:
        """The policy aligned to the critic's scores of its own groups, and to the same scores shuffled."""
        settings, groups_folder = self.settings, self.out / "preferences" / f"seed-{seed}"
        samples = read_samples(folder)
        title = f"seed {seed}: {len(samples)} groups of {settings.group_size} sampled and critiqued"
        tick = self.stage(title, len(samples))
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            tick(done)

        if len(list(groups_folder.glob("shard-*.parquet"))) * SHARD_ROWS >= len(samples):
            self.reused.append(title)
        with self._timed("preferences"):
            build_preferences(
                self.policy,
                agent,
                samples,
                groups_folder,
                group_size=settings.group_size,
                seed=seed,
                shard_rows=SHARD_ROWS,
                progress=advance,
            )
        groups = load_preferences(groups_folder)
        return {
            "aligned": self._align("aligned", groups, seed),
            "shuffled": self._align("shuffled", shuffle_scores(groups, seed), seed),
        }

    def _align(self, variant: str, groups: Dataset, seed: int) -> DiffusionPolicy:
        folder, settings = self.out / "policy" / f"{variant}-seed-{seed}", self.settings.alignment
        title = f"seed {seed}: aligning on {'the' if variant == 'aligned' else 'shuffled'} scores"
        if (aligned := finished_policy(self.policy, groups, folder, settings)) is not None:
            self.reused.append(title)
            return aligned
        tick = self.stage(title, settings.get("max_steps", GroupPreferenceConfig.max_steps))
        with self._timed("align"):
            return align_once(self.policy, groups, folder, settings, seed, tick)

    def _evaluated(
        self, agent: CritiqueAgent, policy: DiffusionPolicy, folder: Path, variant: str, seed: int
    ) -> Report:
        settings = self.settings
        key = {
            "policy": policy.digest(),
            "scenes": set_digest(folder),
            "seed": seed,
            "num_samples": settings.num_samples,
            "group_size": settings.group_size,
            "backend": settings.backend,
            "memory": json.loads((self.out / "memory" / EXPLORED).read_text())["made_from"],
        }
        path = self.out / "evaluations" / f"{variant}-seed-{seed}.npz"
        title = f"seed {seed}: evaluating {variant}"
        if (report := load_report(path, key)) is not None:
            self.reused.append(title)
            return report
        labelled = read_labelled(folder)
        tick = self.stage(title, len(labelled))
        with self._timed("evaluate"):
            report = evaluate_policy(
                policy,
                self.body,
                labelled,
                num_samples=settings.num_samples,
                group_size=settings.group_size,
                seed=seed,
                scorer=agent,
                progress=lambda done, total: tick(done),
            )
        save_report(path, report, key)
        return report

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
