"""Runs arms of the study of alignment: how much of the headroom of the benchmark each way to align recovers.

`eval.study.arms` holds the arms and the question of each set, `eval.study.study_table` prints the tables: every arm
between the base, the base at the arm's spread, and the ceiling, which is the base fine-tuned on the truth of the very
images. `python -m benchmarks.alignment_study` runs a set, `meshcritic tables` the arms of the paper's tables.

The seed determines everything in a run: the cases that the critic explores, the groups, the training steps, and the
noise of the evaluation, which all arms of a seed share with the base, on the same images. The critics of a seed are
opened once. Groups of arms of one round are scored once, in parts of 100 images: arms with equal sampling share them,
and an arm with more images starts with the parts of a smaller one. Results are cached in the folder `out` by their
inputs, so a killed run continues and a second run computes only what is new. Seeds can run in parallel, each process
with its own folder; if the folders are copied into one, a run of all seeds prints the whole study without computing
anything.

Of the hypotheses only joints are posed, and the first ten of each image as meshes, for their plausibility and agreement
with the image; `meshcritic evaluate` has all metrics of errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from common.progress import Stage
from common.storage.fingerprint import json_digest
from eval.benchmark.matched_spread import NoiseScaledPolicy
from eval.benchmark.measures.body_measures import FIRST, BodyMeasures
from eval.benchmark.protocol import Policy, Report, evaluate_policy
from eval.benchmark.report_cache import cached_report
from eval.critics.exploration import load_other_detector
from eval.pipelines.align_critics import detector_of_search, open_scorer
from eval.pipelines.align_settings import AlignSettings
from eval.study.arms import BASE, CEILING, Arm
from eval.study.pseudo_labels import averaged_groups, fitted_to_keypoints, read_by
from eval.study.study_table import CEILING_NAME, SCALES, StudyRuns
from hmr.body.model import load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.policy.checkpoint import load_reader
from hmr.policy.policy import DiffusionPolicy
from hmr.render import load_renderer
from hmr.synthetic.splits import GAPS, draw_split
from hmr.synthetic.store import read_labelled, read_samples, set_digest
from hmr.types import BodyParams, Posed, Sample, Scorer
from rl.imitation import groups_of_labels
from rl.policy_gradient.align import align_by_policy_gradient
from rl.preferences.build import build_preferences, load_preferences, shuffle_scores
from rl.replay import Replay, replay_of
from rl.rounds import Rounds, align_in_rounds, align_once

__all__ = ["GAP", "Sizes", "StudySeed", "policy_folder", "run_study"]

PART = 100  # images per stored part of the groups
PICKER = "embedded"  # the critic that picks 1 of 20 in the evaluation, for every arm
PICK_GROUP = 20
GAP = GAPS[BASE]


@dataclass(frozen=True)
class Sizes:
    test: int = 100  # held-out images
    samples: int = 100  # M
    calibration: int = 128  # scenes for the training of a critic
    align: int | None = None  # images to align on, at most; None: as the arms say
    steps: int | None = None  # optimizer steps; None: as the arms say
    picks: bool = True  # whether the critic picks among the first 20 hypotheses of each test image
    minima: tuple[int, ...] = ()  # further numbers of hypotheses over which the minimum is reported
    narrows: bool = True  # whether the base is evaluated at smaller noise too

    def fit(self, arm: Arm) -> Arm:
        """The arm with these images and steps."""
        steps = {} if self.steps is None else {"max_steps": self.steps}
        images = arm.images if self.align is None else min(arm.images, self.align)
        return dataclasses.replace(arm.with_images(images), alignment={**arm.alignment, **steps})


@dataclass(frozen=True)
class StudySeed:
    """The runs of one seed. Critics are opened at first use and closed with `opened`."""

    policy: DiffusionPolicy
    measures: BodyMeasures
    sizes: Sizes
    images: int  # of the split to align on, the largest number of any arm
    seed: int
    out: Path
    stage: Stage
    opened: ExitStack
    critics: dict[str, Scorer] = field(default_factory=dict)
    drawn: dict[tuple[str, int, bool], Path] = field(default_factory=dict)

    def base(self, scale: float = 1.0) -> Report:
        """The base policy with its starting noise multiplied by `scale`; picks are made only at scale 1."""
        picks = self.sizes.picks and scale == 1
        return self._report(
            f"base x {scale:g}", {"scale": scale}, picks, lambda: NoiseScaledPolicy(self.policy, scale)
        )

    def narrowed(self, spread_mm: float) -> list[Report]:
        """The base at decreasing scales of noise, until its spread is at most `spread_mm`."""
        reports = [self.base()]
        for scale in SCALES[1:] if self.sizes.narrows else ():
            if reports[-1].spread_mm() <= spread_mm:
                break
            reports.append(self.base(scale))
        return reports

    def arm(self, name: str, arm: Arm) -> Report:
        arm = self.sizes.fit(arm)
        inputs = {"arm": dataclasses.asdict(arm)}
        return self._report(name, inputs, self.sizes.picks, lambda: self._aligned(name, arm))

    # -- evaluating ------------------------------------------------------------------------------------------

    def _report(
        self, name: str, inputs: Mapping[str, Any], picks: bool, policy_of: Callable[[], Policy]
    ) -> Report:
        """The cached report of the same inputs, or a new one."""
        key = {
            **inputs, "base": self.policy.digest(), "tests": set_digest(self.tests), "samples": self.sizes.samples,
            "seed": self.seed, "calibration": self.sizes.calibration, "picks": picks, "measured": FIRST,
            **({"minima": self.sizes.minima} if self.sizes.minima else {}),
        }  # fmt: skip
        path = self.out / "reports" / f"{_slug(name)}-seed-{self.seed}.npz"
        return cached_report(path, key, lambda: self._evaluated(name, policy_of(), picks))

    def _evaluated(self, name: str, policy: Policy, picks: bool) -> Report:
        tick = self.stage(f"seed {self.seed}, {name}: evaluating", self.sizes.test)
        return evaluate_policy(
            policy,
            self._skeleton,
            read_labelled(self.tests),
            num_samples=self.sizes.samples,
            group_size=min(PICK_GROUP, self.sizes.samples),
            seed=self.seed,
            minima=self.sizes.minima,
            scorer=self._critic(PICKER) if picks else None,
            measures=self.measures,
            progress=lambda done, total: tick(done),
        )

    @property
    def tests(self) -> Path:
        return self._scenes(GAP.test, self.sizes.test)

    def _skeleton(self, params: BodyParams) -> Posed:
        joints_cam_m = self.measures.body.joints(params)
        return Posed(joints_cam_m, joints_cam_m)

    # -- aligning --------------------------------------------------------------------------------------------

    def _aligned(self, name: str, arm: Arm) -> DiffusionPolicy:
        # training takes minutes, so it is not resumed
        alignment = {**arm.alignment, "save_strategy": "no"}
        folder = policy_folder(self.out, name, arm, self.sizes, self.seed)
        if arm.rounds > 1 or arm.search or arm.policy_gradient:
            return self._with_newer_groups(arm, alignment, folder)
        if arm.imitates:
            groups, verb = groups_of_labels(self._labels(arm)), "imitating"
        else:
            groups, verb = self._groups(arm), "aligning"
        tick = self.stage(f"seed {self.seed}, {name}: {verb}", alignment["max_steps"])
        return align_once(self.policy, groups, folder, alignment, self.seed, tick)

    def _with_newer_groups(self, arm: Arm, alignment: Mapping[str, Any], folder: Path) -> DiffusionPolicy:
        """Aligned on groups that depend on the arm, because they are drawn by newer policies or by a search."""
        samples, scorer, detector = self._samples(arm), self._critic(arm.critic), None
        rescore = shuffle_scores if _settings(arm.critic).shuffled else None
        if arm.policy_gradient:
            return align_by_policy_gradient(
                self.policy, scorer, samples, folder, arm.policy_gradient, self.seed, self.stage, rescore
            )
        if arm.search:
            detector = detector_of_search(self.policy, self.measures.body, scorer, self.measures.detector)
        rounds = Rounds(arm.rounds, arm.group_size, self.seed, search=arm.search)
        return align_in_rounds(
            self.policy, scorer, samples, folder, alignment, rounds, self.stage, rescore, detector
        )

    def _labels(self, arm: Arm) -> Replay:
        """The bodies that an arm imitates, stored under `--out`."""
        kind = (
            f"{arm.imitates}-{arm.group_size}-seed-{self.seed}"
            if arm.imitates == "averaged"
            else arm.imitates
        )
        path = self.out / "labels" / f"{_slug(str(kind))}-{arm.images}-{self.policy.digest()}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._new_labels(arm).save(path)
        return Replay.load(path)

    def _new_labels(self, arm: Arm) -> Replay:
        if arm.imitates == "train labels":
            return replay_of(self.policy, read_labelled(self._scenes(GAP.train, arm.images)))
        if arm.imitates == "align labels":
            labelled = read_labelled(self._scenes(GAP.align, self.images, truth=True))
            return replay_of(self.policy, labelled[: arm.images])
        samples = read_samples(self._scenes(GAP.align, self.images))[: arm.images]
        tick = self.stage(f"seed {self.seed}: {arm.imitates} bodies of {len(samples)} images", len(samples))
        if arm.imitates == "averaged":
            return averaged_groups(self.policy, samples, arm.group_size, self.seed, tick)
        if arm.imitates == "reading":
            reader = load_reader(str(self.policy.device))
            return read_by(reader, self.measures.detector, self.policy, samples, tick)
        return fitted_to_keypoints(self.policy, self.measures.body, samples, tick)

    def _groups(self, arm: Arm) -> Dataset:
        """The groups of an arm of one round, in parts that arms share."""
        scorer, samples, settings = self._critic(arm.critic), self._samples(arm), _settings(arm.critic)
        critic = f"{settings.base_critic}-{self.sizes.calibration}".replace(":", "-")
        folder = self.out / "groups" / f"{critic}-G{arm.group_size}-seed-{self.seed}"
        tick = self.stage(f"seed {self.seed}: {len(samples)} groups in {folder.name}", len(samples))
        parts = []
        for start in range(0, len(samples), PART):
            part = samples[start : start + PART]
            part_folder = folder / f"{start}-{start + len(part)}"
            build_preferences(
                self.policy, scorer, part, part_folder, group_size=arm.group_size, seed=self.seed
            )
            parts.append(load_preferences(part_folder))
            tick(start + len(part))
        groups = concatenate_datasets(parts)
        return shuffle_scores(groups, self.seed) if settings.shuffled else groups

    def _critic(self, critic: str) -> Scorer:
        """The critic, whose scores are shuffled later if its name says so."""
        rounds = Rounds(group_size=PICK_GROUP, seed=self.seed)
        settings = dataclasses.replace(_settings(critic), calibration=self.sizes.calibration, rounds=rounds)
        if settings.base_critic not in self.critics:
            self.critics[settings.base_critic] = open_scorer(
                self.policy, self.measures.body, settings,
                scenes=self._scenes(GAP.align, self.images, settings.uses_truth), out=self.out / "critics",
                stage=self.stage, stack=self.opened, detector=load_other_detector(settings.detector, self.policy),
            )  # fmt: skip
        return self.critics[settings.base_critic]

    def _samples(self, arm: Arm) -> Sequence[Sample]:
        return read_samples(self._scenes(GAP.align, self.images, arm.uses_truth))[: arm.images]

    def _scenes(self, split: str, count: int, truth: bool = False) -> Path:
        if (split, count, truth) not in self.drawn:
            tick = self.stage(f"seed {self.seed}: drawing {count} scenes of {split}", count)
            folder = draw_split(split, self.out / "scenes", count, uses_truth=truth, progress=tick)
            self.drawn[split, count, truth] = folder
        return self.drawn[split, count, truth]


def run_study(
    policy: DiffusionPolicy,
    arms: Mapping[str, Arm],
    seeds: Sequence[int],
    sizes: Sizes,
    out: Path,
    stage: Stage,
    ceiling: Arm | None = None,
) -> StudyRuns:
    """Run the ceiling (default: CEILING) and every arm with every seed, seed by seed."""
    ceiling = ceiling or CEILING
    images = max(sizes.fit(arm).images for arm in (ceiling, *arms.values()))
    measures = _measures(policy)
    marked = frozenset(name for name, arm in arms.items() if arm.uses_truth)
    runs = StudyRuns({name: [] for name in arms}, [], [], {"base policy": policy.digest()}, marked)
    for seed in seeds:
        with ExitStack() as opened:
            run = StudySeed(policy, measures, sizes, images, seed, out, stage, opened)
            for name, arm in arms.items():
                runs.arms[name].append(run.arm(name, arm))
            runs.ceiling.append(run.arm(CEILING_NAME, ceiling))
            runs.bases.append(run.narrowed(min(reports[-1].spread_mm() for reports in runs.arms.values())))
            runs.made_from.update(benchmark=set_digest(run.tests), M=sizes.samples)
    return runs


def _measures(policy: DiffusionPolicy) -> BodyMeasures:
    detector = load_other_detector(EmbeddedDetector.name, policy) or policy.detector
    return BodyMeasures(load_body(), load_renderer(), detector)


def policy_folder(out: Path, name: str, arm: Arm, sizes: Sizes, seed: int) -> Path:
    """Of the policies of an arm that has these sizes. Named by what the groups of its rounds depend on, so that a
    smaller study can share `out`."""
    inputs = {"arm": dataclasses.asdict(arm), "calibration": sizes.calibration}
    return out / "policies" / f"{_slug(name)}-{json_digest(inputs, 8)}-seed-{seed}"


def _settings(critic: str) -> AlignSettings:
    return AlignSettings(critic, base=BASE)


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")
