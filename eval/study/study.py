"""Runs arms of the study of alignment: how much of the headroom of the benchmark each way to align recovers.

`eval.study.arms` holds the arms and the question of each set, `eval.study.study_table` prints the tables: every arm
between the base, the base at the arm's spread, and the ceiling, which is the base fine-tuned on the truth of the very
images. `python -m benchmarks.alignment.study` runs a set, `meshcritic tables` the arms of the paper's tables.

The seed determines everything in a run: the cases that the critic explores, the groups, the training steps, and the
noise of the evaluation, which all arms of a seed share with the base, on the same images. The critics of a seed are
opened once. Groups of arms of one round are scored once, in parts of 100 images: arms with equal sampling share them,
and an arm with more images starts with the parts of a smaller one. Results are cached in the folder `out` by their
inputs, so a killed run continues and a second run computes only what is new. Seeds can run in parallel, each process
with its own folder; if the folders are copied into one, a run of all seeds prints the whole study without computing
anything.

The images are those of `eval.study.images`: scenes of the open benchmark, or real data sets.
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
from eval.benchmark.measures.body_measures import FIRST
from eval.benchmark.protocol import Report
from eval.benchmark.report_cache import cached_report, load_report, save_report
from eval.pipelines.align_critics import agent_of, detector_of_search, open_scorer
from eval.pipelines.align_settings import AlignSettings
from eval.study.arms import BASE, CEILING, Arm, ArmId
from eval.study.images import Evaluation, SceneImages, StudyImages, StudyPolicy
from eval.study.runs import SCALES, StudyRuns
from hmr.policy.checkpoint import load_reader
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import GAPS
from hmr.types import Detector, Sample, Scorer
from rl.imitation import groups_of_labels
from rl.labels.body_labels import BodyLabels, true_labels
from rl.labels.pseudo_labels import averaged_groups, fitted_to_keypoints, read_by
from rl.policy_gradient.align import align_by_policy_gradient
from rl.preferences.build import build_preferences, load_preferences, shuffle_scores
from rl.rounds import Rounds, align_in_rounds, align_once
from rl.scorers.penalties import PenalisedAgent

__all__ = ["GAP", "VALIDATION", "Sizes", "policy_folder", "run_study"]

PART = 100  # images per stored part of the groups
PICKER = "embedded"  # the critic that picks 1 of 20 in the evaluation, for every arm
PICK_GROUP = 20
START = "start"  # the name of what arms start from, which they share
GAP = GAPS[BASE]
VALIDATION = "street-validation"  # in place of `GAP.test`, to choose settings


@dataclass(frozen=True)
class Sizes:
    test: int = 100  # held-out images
    samples: int = 100  # M
    calibration: int = 128  # scenes for the training of a critic
    align: int | None = None  # images to align on, at most; None: as the arms say
    steps: int | None = None  # optimizer steps; None: as the arms say
    picks: bool = True  # whether the critic picks among the first 20 hypotheses of each test image
    minima: tuple[int, ...] = ()  # further numbers of hypotheses over which the minimum is reported
    references: bool = True  # whether the base at smaller noise and the true bodies are measured too

    def fit(self, arm: Arm) -> Arm:
        """The arm with these images and steps."""
        images = arm.images if self.align is None else min(arm.images, self.align)
        sized = arm.with_images(images)
        return sized if self.steps is None else sized.with_steps(self.steps)


@dataclass(frozen=True)
class StudySeed:
    """The runs of one seed. Critics are opened at first use and closed with `opened`."""

    policy: DiffusionPolicy
    images: StudyImages
    sizes: Sizes
    to_align: int  # images, the largest number of any arm
    seed: int
    out: Path
    stage: Stage
    opened: ExitStack
    critics: dict[tuple[str, ...], Scorer] = field(default_factory=dict)

    def base(self, scale: float = 1.0) -> Report:
        """The base policy with its starting noise multiplied by `scale`; picks are made only at scale 1."""
        picks = self.sizes.picks and scale == 1
        return self._report(
            f"base x {scale:g}", {"scale": scale}, picks, lambda: NoiseScaledPolicy(self.policy, scale)
        )

    def scales(self, arms: Sequence[Report]) -> list[Report]:
        """The base, and, if the sizes ask for them, at decreasing scales of noise, until its spread is at most that of
        every arm."""
        reports = [self.base()]
        if not self.sizes.references:
            return reports
        narrowest_mm = min(report.spread_mm() for report in arms)
        for scale in SCALES[1:]:
            if reports[-1].spread_mm() <= narrowest_mm:
                break
            reports.append(self.base(scale))
        return reports

    def arm(self, which: ArmId, arm: Arm) -> Report:
        arm, name = self.sizes.fit(arm), which.name
        inputs = {"arm": arm.inputs()}
        return self._report(name, inputs, self.sizes.picks, lambda: self._aligned(name, arm))

    # -- evaluating ------------------------------------------------------------------------------------------

    def _report(
        self, name: str, inputs: Mapping[str, Any], picks: bool, policy_of: Callable[[], StudyPolicy]
    ) -> Report:
        """The cached report of the same inputs, or a new one."""
        key = {
            **inputs, "base": self.policy.digest(), "tests": self.images.digest(), "samples": self.sizes.samples,
            "seed": self.seed, "calibration": self.sizes.calibration, "picks": picks, "measured": FIRST,
            **({"minima": self.sizes.minima} if self.sizes.minima else {}),
        }  # fmt: skip
        path = self.out / "reports" / self.images.tests / f"{_slug(name)}-seed-{self.seed}.npz"
        return cached_report(path, key, lambda: self._evaluated(name, policy_of(), picks))

    def _evaluated(self, name: str, policy: StudyPolicy, picks: bool) -> Report:
        scorer = self._critic(PICKER) if picks else None
        group_size = min(PICK_GROUP, self.sizes.samples)
        evaluation = Evaluation(self.sizes.samples, group_size, self.seed, self.sizes.minima, scorer)
        return self.images.evaluate(
            policy, evaluation, lambda title, total: self.stage(f"seed {self.seed}, {name}: {title}", total)
        )

    # -- aligning --------------------------------------------------------------------------------------------

    def _aligned(self, name: str, arm: Arm) -> DiffusionPolicy:
        # training takes minutes, so it is not resumed
        alignment = {**arm.alignment, "save_strategy": "no"}
        folder = policy_folder(self.out, name, arm, self.sizes, self.seed)
        start = self._aligned(START, arm.after) if arm.after else self.policy
        if arm.rounds > 1 or arm.search or arm.policy_gradient:
            return self._with_newer_groups(start, arm, alignment, folder)
        if arm.imitates:
            groups, verb = groups_of_labels(self._labels(start, arm)), "imitating"
        else:
            groups, verb = self._groups(start, arm), "aligning"
        tick = self.stage(f"seed {self.seed}, {name}: {verb}", alignment["max_steps"])
        return align_once(start, groups, folder, alignment, self.seed, tick)

    def _with_newer_groups(
        self, start: DiffusionPolicy, arm: Arm, alignment: Mapping[str, Any], folder: Path
    ) -> DiffusionPolicy:
        """Aligned on groups that depend on the arm, because they are drawn by newer policies or by a search."""
        samples, scorer, detector = self._samples(arm), self._arms_critic(arm), None
        rescore = shuffle_scores if _settings(arm.critic).shuffled else None
        if arm.policy_gradient:
            return align_by_policy_gradient(
                start, scorer, samples, folder, arm.policy_gradient,
                seed=self.seed, stage=self.stage, rescore=rescore,
            )  # fmt: skip
        if arm.search:
            detector = detector_of_search(start, self.images.body, scorer, self._detector)
        rounds = Rounds(arm.rounds, arm.group_size, self.seed, search=arm.search)
        return align_in_rounds(
            start, scorer, samples, folder, alignment, rounds, self.stage, rescore=rescore, detector=detector
        )

    def _labels(self, policy: DiffusionPolicy, arm: Arm) -> BodyLabels:
        """The bodies that an arm imitates, in the coordinates of the policy, stored under `--out`."""
        kind = (
            f"{arm.imitates}-{arm.group_size}-seed-{self.seed}"
            if arm.imitates == "averaged"
            else arm.imitates
        )
        path = self.out / "labels" / f"{_slug(str(kind))}-{arm.images}-{policy.digest()}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._new_labels(policy, arm).save(path)
        return BodyLabels.load(path)

    def _new_labels(self, policy: DiffusionPolicy, arm: Arm) -> BodyLabels:
        if arm.imitates == "train labels":
            return true_labels(policy, self.images.home_labels(arm.images))
        if arm.imitates == "align labels":
            return true_labels(policy, self.images.labels(self.to_align)[: arm.images])
        samples = self.images.to_align(self.to_align)[: arm.images]
        tick = self.stage(f"seed {self.seed}: {arm.imitates} bodies of {len(samples)} images", len(samples))
        if arm.imitates == "averaged":
            return averaged_groups(policy, samples, arm.group_size, self.seed, tick)
        if arm.imitates == "reading":
            reader = load_reader(str(policy.device))
            return read_by(reader, self._detector, policy, samples, tick)
        return fitted_to_keypoints(policy, self.images.body, samples, tick)

    def _groups(self, policy: DiffusionPolicy, arm: Arm) -> Dataset:
        """The groups of an arm of one round, in parts that arms with the same start share."""
        scorer, samples, settings = self._arms_critic(arm), self._samples(arm), _settings(arm.critic)
        critic = f"{settings.base_critic}-{self.sizes.calibration}".replace(":", "-")
        folder = self.out / "groups" / f"{critic}-G{arm.group_size}-seed-{self.seed}"
        if arm.after:
            folder = folder.with_name(f"{folder.name}-{policy.digest()}")
        if arm.penalties:
            folder = folder.with_name(f"{folder.name}-{json_digest(arm.penalties, 8)}")
        if arm.without_tools:
            folder = folder.with_name("-without-".join((folder.name, *arm.without_tools)))
        tick = self.stage(f"seed {self.seed}: {len(samples)} groups in {folder.name}", len(samples))
        parts = []
        for start in range(0, len(samples), PART):
            part = samples[start : start + PART]
            part_folder = folder / f"{start}-{start + len(part)}"
            build_preferences(policy, scorer, part, part_folder, group_size=arm.group_size, seed=self.seed)
            parts.append(load_preferences(part_folder))
            tick(start + len(part))
        groups = concatenate_datasets(parts)
        return shuffle_scores(groups, self.seed) if settings.shuffled else groups

    def _arms_critic(self, arm: Arm) -> Scorer:
        """Its critic, with its penalties."""
        scorer = self._critic(arm.critic, arm.without_tools)
        if not arm.penalties:
            return scorer
        agent = agent_of(scorer)
        assert agent is not None, "only an agent has measurements to penalise"
        return PenalisedAgent(agent, arm.penalties)

    def _critic(self, critic: str, without_tools: tuple[str, ...] = ()) -> Scorer:
        """The critic, whose scores are shuffled later if its name says so."""
        settings = dataclasses.replace(
            _settings(critic),
            calibration=self.sizes.calibration,
            rounds=Rounds(group_size=PICK_GROUP, seed=self.seed),
            without_tools=without_tools,
        )
        key = (settings.base_critic, *without_tools)
        if key not in self.critics:
            self.critics[key] = open_scorer(
                self.policy, self.images.body, settings,
                scenes=self.images.scenes(self.to_align, settings.uses_truth), out=self.out / "critics",
                stage=self.stage, stack=self.opened, detector=self.images.detector,
                calibration=lambda: self.images.calibration(self.sizes.calibration),
            )  # fmt: skip
        return self.critics[key]

    @property
    def _detector(self) -> Detector:
        return self.images.detector or self.policy.detector

    def _samples(self, arm: Arm) -> Sequence[Sample]:
        return self.images.to_align(self.to_align, arm.uses_truth)[: arm.images]


def run_study(
    policy: DiffusionPolicy,
    arms: Mapping[ArmId, Arm],
    seeds: Sequence[int],
    sizes: Sizes,
    out: Path,
    stage: Stage,
    ceiling: Arm | None,
    images: StudyImages | None = None,
) -> StudyRuns:
    """Run the ceiling, unless it is None, and every arm with every seed, seed by seed.

    images: default: the scenes of the open benchmark, drawn in `out`.
    """
    images = images or SceneImages.of(policy, GAP, sizes.test, out / "scenes", stage)
    ceilings = [] if ceiling is None else [ceiling]
    to_align = max(sizes.fit(arm).images for arm in (*ceilings, *arms.values()))
    marked = frozenset(which for which, arm in arms.items() if arm.uses_truth)
    made_from = {"base policy": policy.digest(), "benchmark": images.digest(), "M": sizes.samples}
    runs = StudyRuns(
        {which: [] for which in arms},
        [],
        [],
        made_from,
        marked,
        _true_bodies(images, out, stage) if sizes.references else None,
    )
    for seed in seeds:
        with ExitStack() as opened:
            run = StudySeed(policy, images, sizes, to_align, seed, out, stage, opened)
            run.base()  # first, because it fails at once if the tests cannot be evaluated
            for which, arm in arms.items():
                runs.arms[which].append(run.arm(which, arm))
            runs.ceiling.extend(run.arm(CEILING, each) for each in ceilings)
            runs.bases.append(run.scales([reports[-1] for reports in runs.arms.values()]))
    return runs


def _true_bodies(images: StudyImages, out: Path, stage: Stage) -> Report | None:
    path = out / "reports" / images.tests / "true-bodies.npz"
    key = {"tests": images.digest(), "measured": FIRST}
    cached = load_report(path, key)
    if cached is None and (cached := images.true_bodies(stage)) is not None:
        save_report(path, cached, key)
    return cached


def policy_folder(out: Path, name: str, arm: Arm, sizes: Sizes, seed: int) -> Path:
    """Of the policies of an arm that has these sizes. Named by what the groups of its rounds depend on, so that a
    smaller study can share `out`."""
    inputs = {"arm": arm.inputs(), "calibration": sizes.calibration}
    return out / "policies" / f"{_slug(name)}-{json_digest(inputs, 8)}-seed-{seed}"


def _settings(critic: str) -> AlignSettings:
    return AlignSettings(critic, base=BASE)


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")
