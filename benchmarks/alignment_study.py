"""Runs the study of alignment: every arm and seed, compared with the base policy and with the base at less noise.

    python -m benchmarks.alignment_study --set finals --seeds 5 --out runs/study
    python -m benchmarks.alignment_study --arm "embedded, weighted" --arm "hmr-scorer, dpo" --out runs/study

`benchmarks.alignment_arms` holds the arms and the question of each set, `benchmarks.alignment_table` prints the tables.
The seed determines everything in a run: the cases that the critic explores, the groups, the training steps, and the
noise of the evaluation, which all arms of a seed share with the base, on the same images. The critics of a seed are
opened once, and its groups are scored once, in parts of 100 images: arms with equal sampling share them, and an arm
with more images starts with the parts of a smaller one. Results are cached under `--out` by their inputs, so a killed
run continues and a second run computes only what is new. Seeds can run in parallel, each process with its own
`--first-seed` and `--out`; if the folders are copied into one, `--seeds` with all of them prints the whole study
without computing anything.

Only joints are posed, no vertices, so an arm takes minutes per seed; `meshcritic evaluate` has all metrics.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from benchmarks.alignment_arms import ARMS, SETS, Arm
from benchmarks.alignment_table import StudyRuns, markdown, to_json
from cli.console import stages
from common.progress import Stage
from eval.benchmark.matched_spread import NoiseScaledPolicy
from eval.benchmark.protocol import Policy, Report, evaluate_policy
from eval.benchmark.report_cache import cached_report
from eval.pipelines.alignment import AlignSettings, open_scorer
from eval.report.curves import write_alignment_curves
from hmr.body.model import Body, load_body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_labelled, read_samples, set_digest
from hmr.types import BodyParams, Posed, Sample, Scorer
from rl.monitoring.training_log import read_logs
from rl.preferences.build import build_preferences, load_preferences, shuffle_scores
from rl.replay import replay_of
from rl.rounds import Rounds, align_in_rounds, align_once

__all__ = ["Sizes", "StudySeed", "run_study"]

SCALES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)
PART = 100  # images per stored part of the groups
PICKER = "embedded"  # the critic that picks 1 of 20 in the evaluation, for every arm
PICK_GROUP = 20


@dataclass(frozen=True)
class Sizes:
    test: int = 100  # images of wild-test
    samples: int = 100  # M
    calibration: int = 128  # lab scenes for the training of a critic
    train: int = 400  # images of wild-train, the largest number of any arm
    picks: bool = True  # whether the critic picks among the first 20 hypotheses of each test image


@dataclass(frozen=True)
class StudySeed:
    """The runs of one seed. Critics are opened at first use and closed with `opened`."""

    policy: DiffusionPolicy
    body: Body
    sizes: Sizes
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
        for scale in SCALES[1:]:
            if reports[-1].spread_mm() <= spread_mm:
                break
            reports.append(self.base(scale))
        return reports

    def arm(self, name: str) -> Report:
        arm = ARMS[name]
        inputs = {"arm": dataclasses.asdict(arm)}
        return self._report(name, inputs, self.sizes.picks, lambda: self._aligned(name, arm))

    # -- evaluating ------------------------------------------------------------------------------------------

    def _report(
        self, name: str, inputs: Mapping[str, Any], picks: bool, policy_of: Callable[[], Policy]
    ) -> Report:
        """The cached report of the same inputs, or a new one."""
        key = {
            **inputs, "base": self.policy.digest(), "tests": set_digest(self.tests), "samples": self.sizes.samples,
            "seed": self.seed, "calibration": self.sizes.calibration, "picks": picks,
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
            scorer=self._critic(PICKER) if picks else None,
            progress=lambda done, total: tick(done),
        )

    @property
    def tests(self) -> Path:
        return self._scenes("wild-test", self.sizes.test)

    def _skeleton(self, params: BodyParams) -> Posed:
        joints_cam_m = self.body.joints(params)
        return Posed(joints_cam_m, joints_cam_m)

    # -- aligning --------------------------------------------------------------------------------------------

    def _aligned(self, name: str, arm: Arm) -> DiffusionPolicy:
        alignment, folder = dict(arm.alignment), _policy_folder(self.out, name, self.seed)
        alignment = {
            "save_strategy": "no",
            **alignment,
        }  # training takes a minute or two, so it is not resumed
        if arm.labels:
            alignment["replay_file"] = str(self._replay(arm.labels, arm.labelled))
        if arm.rounds > 1:
            rounds = Rounds(arm.rounds, arm.group_size, self.seed, arm.noise_scale)
            samples, scorer = self._samples(arm), self._critic(arm.critic)
            return align_in_rounds(self.policy, scorer, samples, folder, alignment, rounds, self.stage)
        groups = self._groups(arm)
        tick = self.stage(f"seed {self.seed}, {name}: aligning", alignment["max_steps"])
        return align_once(self.policy, groups, folder, alignment, self.seed, tick)

    def _groups(self, arm: Arm) -> Dataset:
        """The groups of an arm, in parts that arms share."""
        scorer, samples = self._critic(arm.critic), self._samples(arm)
        critic = f"{_unshuffled(arm.critic)}-{self.sizes.calibration}".replace(":", "-")
        folder = self.out / "groups" / f"{critic}-G{arm.group_size}-x{arm.noise_scale:g}-seed-{self.seed}"
        tick = self.stage(f"seed {self.seed}: {len(samples)} groups in {folder.name}", len(samples))
        parts = []
        for start in range(0, len(samples), PART):
            part = samples[start : start + PART]
            part_folder = folder / f"{start}-{start + len(part)}"
            build_preferences(
                self.policy, scorer, part, part_folder,
                group_size=arm.group_size, seed=self.seed, noise_scale=arm.noise_scale,
            )  # fmt: skip
            parts.append(load_preferences(part_folder))
            tick(start + len(part))
        groups = concatenate_datasets(parts)
        return shuffle_scores(groups, self.seed) if arm.critic == "shuffled" else groups

    def _critic(self, critic: str) -> Scorer:
        critic = _unshuffled(critic)
        if critic not in self.critics:
            rounds = Rounds(group_size=PICK_GROUP, seed=self.seed)
            settings = AlignSettings(critic, calibration=self.sizes.calibration, rounds=rounds)
            scenes = self._scenes("wild-train", self.sizes.train, settings.uses_truth)
            self.critics[critic] = open_scorer(
                self.policy, self.body, settings,
                scenes=scenes, out=self.out / "critics", stage=self.stage, stack=self.opened,
            )  # fmt: skip
        return self.critics[critic]

    def _samples(self, arm: Arm) -> Sequence[Sample]:
        truth = AlignSettings(arm.critic).uses_truth
        return read_samples(self._scenes("wild-train", self.sizes.train, truth))[: arm.images]

    def _replay(self, split: str, scenes: int) -> Path:
        path = self.out / f"replay-{split}-{scenes}-{self.policy.digest()}.safetensors"
        if not path.exists():
            replay_of(self.policy, read_labelled(self._scenes(split, scenes, truth=True))).save(path)
        return path

    def _scenes(self, split: str, count: int, truth: bool = False) -> Path:
        if (split, count, truth) not in self.drawn:
            tick = self.stage(f"seed {self.seed}: drawing {count} scenes of {split}", count)
            folder = draw_split(split, self.out / "scenes", count, uses_truth=truth, progress=tick)
            self.drawn[split, count, truth] = folder
        return self.drawn[split, count, truth]


def run_study(
    policy: DiffusionPolicy, names: Sequence[str], seeds: Sequence[int], sizes: Sizes, out: Path, stage: Stage
) -> StudyRuns:
    """Run every arm with every seed, seed by seed. Raises KeyError for an unknown arm."""
    sizes = dataclasses.replace(sizes, train=max(ARMS[name].images for name in names))
    body = load_body()
    runs = StudyRuns({name: [] for name in names}, [], {"base policy": policy.digest()})
    for index, seed in enumerate(seeds):
        with ExitStack() as opened:
            run = StudySeed(policy, body, sizes, seed, out, stage, opened)
            for name in names:
                runs.arms[name].append(run.arm(name))
            narrowest_mm = min(reports[index].spread_mm() for reports in runs.arms.values())
            runs.bases.append(run.narrowed(narrowest_mm))
            runs.made_from.update(benchmark=set_digest(run.tests), M=sizes.samples)
    return runs


def _unshuffled(critic: str) -> str:
    """The critic whose scores the control `shuffled` permutes; other critics unchanged."""
    return "embedded" if critic == "shuffled" else critic


def _policy_folder(out: Path, arm: str, seed: int) -> Path:
    return out / "policies" / f"{_slug(arm)}-seed-{seed}"


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--policy", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--set", choices=list(SETS), default="finals", help="default: finals")
    parser.add_argument(
        "--arm",
        action="append",
        choices=list(ARMS),
        help="an arm of any set, repeatable; default: all of the set",
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="default: 0")
    parser.add_argument("--images", type=int, default=100, help="of wild-test")
    parser.add_argument("--samples", type=int, default=100, help="M")
    parser.add_argument(
        "--calibration", type=int, default=128, help="lab scenes for the training of a critic"
    )
    parser.add_argument("--no-picks", action="store_true", help="no picks by the critic in the evaluation")
    parser.add_argument("--curves", type=Path, help="draw the first seed's logs into this SVG file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    options = parser.parse_args()
    sizes = Sizes(options.images, options.samples, options.calibration, picks=not options.no_picks)
    policy, names = load_policy(options.policy), options.arm or list(SETS[options.set])
    with stages() as stage:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        runs = run_study(policy, names, seeds, sizes, options.out, stage)
    print(json.dumps(to_json(runs), indent=1) if options.json else markdown(runs))
    if options.curves:
        logs = {}
        for name in names:
            logs |= read_logs(_policy_folder(options.out, name, options.first_seed), name)
        write_alignment_curves(options.curves, logs)


if __name__ == "__main__":
    main()
