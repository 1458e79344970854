"""Runs the whole loop with the embedded defaults: exploration, critique, alignment, evaluation (`meshcritic demo`).

    calibration scenes with truth     -> exploration: the critic fills its memories, which are then frozen
    scenes to align on, without truth -> groups of hypotheses -> critique -> preferences -> alignment
    held-out scenes                   -> evaluation of the base policy, the aligned one and three bounds
    photographs                       -> the same with the shipped policy, in OUT/photographs (no truth, no bounds)

The base policy decides on the splits (`hmr.synthetic.splits.GAPS`). The bounds, by which the aligned policy is judged:

| variant    | policy                                                                                              |
|------------|-----------------------------------------------------------------------------------------------------|
| `narrowed` | the base with less starting noise, at the spread of the aligned one: what narrowing alone gains     |
| `shuffled` | aligned in the same way on the same scores, permuted at random within each group                    |
| `labels`   | the base after 16 passes over the truth of the images that were aligned on: what there is to gain   |

Every stage writes its result to the run's folder, and a later run skips finished stages. For a changed setting, policy
or memory, a stage uses another folder or raises an error. Only the bound `labels` reads the truth of the images to
align on, which is drawn for it into a folder of its own.
"""

from __future__ import annotations

import json
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from datasets import Dataset

from agent.agent import CritiqueAgent
from agent.default import default_agent, open_default_memory
from agent.exploration.record import DETECTOR, EXPLORED, READER
from agent.tracing.records import Trace
from agent.vlm.options import BackendOptions, open_backend
from common.progress import Stage
from common.reading.yaml_fields import checked_fields, read_fields
from common.seeding import derive_generator
from common.storage.files import PathLike
from common.storage.fingerprint import digest
from eval.benchmark.matched_spread import NoiseScaledPolicy, SpreadAtScale, matching_scale
from eval.benchmark.protocol import Policy, Report, evaluate_policy
from eval.benchmark.report_cache import load_report, save_report
from eval.critics.exploration import Exploration, detector_name, load_other_detector
from eval.pipelines.align_settings import AlignSettings
from eval.pipelines.photographs import Photographs, align_on_photographs
from eval.report.run import Progress
from hmr.body.model import Body, load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.checkpoint import BASES, load_policy, load_reader
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import Gap, calibration_parts, draw_split, gap_of
from hmr.synthetic.store import read_labelled, read_samples, set_digest
from hmr.types import Hypotheses, Labelled, Sample
from rl.config import RESAMPLE, GroupPreferenceConfig
from rl.imitation import groups_of_labels, steps_on_labels
from rl.labels.body_labels import true_labels
from rl.monitoring.training_log import Log, read_logs
from rl.preferences.build import build_preferences, load_preferences, shuffle_scores
from rl.preferences.tensors import GroupTensors
from rl.rounds import Rounds, align_once, finished_policy

__all__ = ["PHOTOGRAPHS", "TRACE", "VARIANTS", "Demo", "DemoResult", "DemoSettings", "read_demo_settings"]

SHARD_ROWS = 32
PHOTOGRAPHS = "photographs"  # folder in that of the run
PHOTO_DETECTOR = "blazepose"
TRACE = "trace.jsonl"
TITLES = {
    "aligned": "aligning on the scores",
    "shuffled": "aligning on shuffled scores",
    "labels": "the bound: imitating the truth",
}
VARIANTS = ("base", "narrowed", "aligned", "shuffled", "labels")
PICKED = ("base", "aligned")  # of which the critic picks a hypothesis; scoring takes most of an evaluation


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of a demo. `configs/demo.yaml` has those of `make demo`, which shows the loop, but is too small for
    conclusions."""

    base: str = "studio"  # a key of hmr.synthetic.splits.GAPS
    calibration_images: int = 64  # half are explored, a quarter admits rules (hmr.synthetic.splits)
    align_images: int = 160
    test_images: int = 64
    group_size: int = 20
    num_samples: int = 100
    seeds: tuple[int, ...] = (0,)
    backend: str = "embedded"
    shown_cases: int = 6
    alignment: dict[str, Any] = field(default_factory=dict)  # rl.config.GroupPreferenceConfig
    photos: Path | None = None  # folder of photographs; in a file, relative to that file
    photo_alignment: dict[str, Any] = field(default_factory=dict)  # as `alignment`

    def __post_init__(self) -> None:
        gap_of(self.base)
        for name in ("calibration_images", "align_images", "test_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.seeds:
            raise ValueError("seeds must name at least one seed")


def read_demo_settings(path: PathLike) -> DemoSettings:
    """Raises what `common.reading.yaml_fields.read_fields` raises."""
    kinds = {**typing.get_type_hints(DemoSettings), "photos": str}
    values = checked_fields(str(path), read_fields(Path(path), kinds), kinds)
    if "seeds" in values:
        values["seeds"] = tuple(values["seeds"])
    if "photos" in values:
        values["photos"] = Path(path).parent / values["photos"]
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
        self,
        out: PathLike,
        settings: DemoSettings,
        stage: Stage,
        policy: Path | None = None,
        workers: int = 1,
    ) -> None:
        self.out, self.settings, self.stage, self.workers = Path(out), settings, stage, workers
        self.body: Body = load_body()
        self.policy: DiffusionPolicy = load_policy(policy or BASES[settings.base])
        self.detector = load_other_detector(EmbeddedDetector.name, self.policy)  # of the critic
        self.agent: CritiqueAgent | None = None  # after the exploration
        self.scenes: dict[str, Path] = {}
        self.reports: dict[str, list[Report]] = {variant: [] for variant in VARIANTS}  # so far, one per seed
        self.aligned: list[DiffusionPolicy] = []  # by seed
        self.reused: list[str] = []
        self.seconds: dict[str, float] = {}
        self._open = ExitStack()
        self._begun = 0
        self._started: Callable[[Progress], None] = lambda progress: None

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def run(self, started: Callable[[Progress], None] = lambda progress: None) -> DemoResult:
        """started: called before each stage, when `agent`, `scenes`, `reports` and `logs` have what is known so far."""
        gap, self._started = self.gap, started
        self._begin("drawing the scenes")
        self.scenes = scenes = self._scenes()
        self.truth = self._draw(gap.align, self.settings.align_images, uses_truth=True)
        self._begin("exploring calibration scenes")
        self.agent = agent = self._explored(scenes[gap.calibration])
        for seed in self.settings.seeds:
            self._compare(agent, seed)
        self._align_on_photographs()
        return DemoResult(
            reports=self.reports,
            benchmark=self.benchmark,
            base_policy=self.policy.digest(),
            reused=tuple(self.reused),
            seconds=self.seconds,
        )

    @property
    def benchmark(self) -> str:
        """Content hash of every scene."""
        return digest(*(set_digest(folder) for folder in self.scenes.values()))

    def logs(self) -> dict[str, Log]:
        """The logs of the first seed's alignments that have ended, by variant."""
        seed = self.settings.seeds[0]
        return {
            name: log
            for variant in TITLES
            for name, log in read_logs(self._folder(variant, seed), variant).items()
        }

    def _begin(self, title: str) -> None:
        """Two stages, then for each seed the groups, the alignments and the evaluations, then the photographs."""
        per_seed = 1 + len(TITLES) + len(VARIANTS)
        count = 2 + per_seed * len(self.settings.seeds) + (self.settings.photos is not None)
        self._begun += 1
        self._started(Progress(self._begun, title, count))

    def _folder(self, variant: str, seed: int) -> Path:
        return self.out / "policy" / f"{variant}-seed-{seed}"

    @property
    def gap(self) -> Gap:
        return gap_of(self.settings.base)

    # -- stages ----------------------------------------------------------------------------------------------

    def _scenes(self) -> dict[str, Path]:
        settings, gap = self.settings, self.gap
        sizes = {
            gap.calibration: settings.calibration_images,
            gap.align: settings.align_images,
            gap.test: settings.test_images,
        }
        return {name: self._draw(name, count) for name, count in sizes.items()}

    def _draw(self, split: str, count: int, uses_truth: bool = False) -> Path:
        title = f"drawing {count} scenes of {split}" + " with their truth" * uses_truth
        finished = self.out / "scenes" / f"{split}-{count}{'-uses-truth' * uses_truth}" / "set.json"
        if finished.exists():
            self.reused.append(title)
        with self._timed("scenes"):
            tick = self.stage(title, count)
            return draw_split(
                split, self.out / "scenes", count, uses_truth=uses_truth, workers=self.workers, progress=tick
            )

    def _explored(self, folder: Path) -> CritiqueAgent:
        """A frozen agent with the memory explored on the calibration scenes."""
        settings, memory_folder = self.settings, self.out / "memory"
        trace = self._open.enter_context(Trace(self.out / TRACE))
        options = BackendOptions(settings.backend).keeping_replies_in(self.out)
        backend = self._open.enter_context(open_backend(options)).backend
        cases, parts = read_labelled(folder), calibration_parts(settings.calibration_images)
        exploration = Exploration(
            folder=memory_folder,
            fingerprint={
                "scenes": set_digest(folder),
                "policy": self.policy.digest(),
                "backend": settings.backend,
                READER: load_reader(str(self.policy.device)).digest(),
                DETECTOR: detector_name(None),
            },
            cases=[cases[row] for row in parts["explore"]],
            held_out=[cases[row] for row in parts["admit"]],
            propose=self._propose,
        )
        agent_with = partial(
            default_agent, self.policy, self.body, backend=backend, detector=self.detector, trace=trace
        )
        if exploration.saved_report() is not None:
            self.reused.append(exploration.title)
        else:
            with (
                self._timed("explore"),
                open_default_memory(
                    memory_folder, self.policy, frozen=False, detector=self.detector
                ) as memory,
            ):
                exploration.run(agent_with(memory), self.stage)
        memory = self._open.enter_context(open_default_memory(memory_folder, self.policy, frozen=True))
        return agent_with(memory)

    def _propose(self, sample: Sample) -> Hypotheses:
        """A group of the base policy, with noise that depends on the image alone."""
        generator = derive_generator("explore", sample.id)
        return self.policy.sample(self.policy.encode([sample]), self.settings.group_size, generator)[0]

    def _compare(self, agent: CritiqueAgent, seed: int) -> None:
        """Add the reports of all variants of one seed."""
        groups, labelled = self._groups(agent, seed), read_labelled(self.scenes[self.gap.test])
        policies = {
            "base": self.policy,
            "aligned": self._align("aligned", groups, seed),
            "shuffled": self._align("shuffled", shuffle_scores(groups, seed), seed),
            "labels": self._aligned_to_labels(seed),
        }
        self.aligned.append(policies["aligned"])
        found: dict[str, Report] = {}
        for variant, policy in policies.items():
            found[variant] = self._evaluated(agent, policy, variant, policy.digest(), seed)
            self.reports[variant].append(found[variant])
        narrowed = self._narrowed(labelled, found["base"].spread_mm(), found["aligned"].spread_mm(), seed)
        name = f"{self.policy.digest()} x {narrowed.noise_scale:.4f}"
        self.reports["narrowed"].append(self._evaluated(agent, narrowed, "narrowed", name, seed))

    def _narrowed(
        self, labelled: Sequence[Labelled], base_mm: float, aligned_mm: float, seed: int
    ) -> NoiseScaledPolicy:
        """The base policy at the spread of the aligned one."""
        with self._timed("evaluate"):
            spread_at = SpreadAtScale(self.policy, self.body, labelled, self.settings.num_samples, seed)
            return NoiseScaledPolicy(self.policy, matching_scale(spread_at, base_mm, aligned_mm))

    def _groups(self, agent: CritiqueAgent, seed: int) -> Dataset:
        """The critic's scores of the policy's own hypotheses on the images without labels."""
        settings, folder = self.settings, self.out / "preferences" / f"seed-{seed}"
        samples = read_samples(self.scenes[self.gap.align])
        title = f"seed {seed}: {len(samples)} groups of {settings.group_size} sampled and critiqued"
        self._begin(title)
        tick = self.stage(title, len(samples))
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            tick(done)

        if len(list(folder.glob("shard-*.parquet"))) * SHARD_ROWS >= len(samples):
            self.reused.append(title)
        with self._timed("preferences"):
            build_preferences(
                self.policy, agent, samples, folder,
                group_size=settings.group_size, seed=seed, shard_rows=SHARD_ROWS, progress=advance,
            )  # fmt: skip
        return load_preferences(folder)

    def _align(self, variant: str, groups: Dataset | GroupTensors, seed: int) -> DiffusionPolicy:
        folder, settings = self._folder(variant, seed), self.settings.alignment
        if variant == "labels":  # a group of one has no preference, it can only be imitated
            steps = steps_on_labels(len(groups), settings.get("per_device_train_batch_size", len(groups)))
            settings = {**settings, "loss_type": RESAMPLE, "max_steps": steps}
        title = f"seed {seed}: {TITLES[variant]}"
        self._begin(title)
        if (aligned := finished_policy(self.policy, groups, folder, settings)) is not None:
            self.reused.append(title)
            return aligned
        tick = self.stage(title, settings.get("max_steps", GroupPreferenceConfig.max_steps))
        with self._timed("align"):
            return align_once(self.policy, groups, folder, settings, seed, tick)

    def _aligned_to_labels(self, seed: int) -> DiffusionPolicy:
        """The base policy after training on the truth of the images."""
        labels = groups_of_labels(true_labels(self.policy, read_labelled(self.truth)))
        return self._align("labels", labels, seed)

    def _align_on_photographs(self) -> None:
        """With the shipped policy and the settings' backend; the page is OUT/photographs/photos.html."""
        settings = self.settings
        if settings.photos is None:
            return
        self._begin("aligning on photographs")
        run = AlignSettings(
            settings.backend,
            rounds=Rounds(group_size=settings.group_size, seed=settings.seeds[0]),
            alignment=settings.photo_alignment,
        )
        policy = load_policy(detector=PHOTO_DETECTOR)
        with self._timed("photographs"):
            align_on_photographs(
                policy, Photographs(settings.photos), run, self.out / PHOTOGRAPHS, self.stage
            )

    def _evaluated(
        self, agent: CritiqueAgent, policy: Policy, variant: str, policy_digest: str, seed: int
    ) -> Report:
        settings, folder = self.settings, self.scenes[self.gap.test]
        key = {
            "policy": policy_digest,
            "scenes": set_digest(folder),
            "seed": seed,
            "num_samples": settings.num_samples,
            "group_size": settings.group_size,
            "backend": settings.backend,
            "memory": json.loads((self.out / "memory" / EXPLORED).read_text())["made_from"],
        }
        path = self.out / "evaluations" / f"{variant}-seed-{seed}.npz"
        title = f"seed {seed}: evaluating {variant}"
        self._begin(title)
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
                scorer=agent if variant in PICKED else None,
                progress=lambda done, total: tick(done),
            )
        save_report(path, report, key)
        return report

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
