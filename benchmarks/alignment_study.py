"""What alignment can teach: every loss and knob on the true errors, beside the base made as narrow.

    python -m benchmarks.alignment_study --out runs/study [--arm NAME ...] [--seeds 5]

Scores are the truth's (or, for the curve of critics, the truth's with noise): each row is an oracle run, stamped
`uses_truth`, and no result. Arms that sample alike share their groups; what an arm gave is kept in `--out` and found
there again. "at its spread" is the base sampled with less noise until it is as narrow, from a few scales in between
which it is interpolated: lowering the mean below that is what narrowing does not explain.

Joints alone are posed (no vertices), so that an arm costs a minute or two; `meshcritic evaluate` has the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from eval.commands.console import stages
from eval.protocol import Policy, evaluate_policy
from eval.report_store import kept_report
from eval.spread_match import Quieter
from hmr.body import Body, load_body
from hmr.checkpoint import load_policy
from hmr.data.benchmark import draw_split
from hmr.data.store import read_labelled, set_digest
from hmr.policy import DiffusionPolicy
from hmr.progress import Stage
from hmr.types import BodyParams, Labelled, Posed, Scorer
from rl.preferences import build_preferences, load_preferences
from rl.replay import replay_of
from rl.rounds import Rounds, align_in_rounds, align_once
from rl.scorers import NoisyTruthScorer, TruthScorer

SCALES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)
COLUMNS = ("mean", "hyp0", "averaged", "min20", "min100")
FAST = {"max_steps": 400, "learning_rate": 3e-4, "save_strategy": "no"}
SLOW = {"learning_rate": 3e-5, "ema_decay": 0.995}
SILENT = {"beta": 1e-6}  # of a preference that must not be heard


@dataclass(frozen=True)
class Arm:
    """One alignment: how groups are drawn and scored, and fields of `rl.config.GroupPreferenceConfig`."""

    alignment: Mapping[str, Any] = field(default_factory=dict)
    srcc: float = 1.0  # of the critic; 1 is the truth itself
    images: int = 400
    group_size: int = 20
    noise_scale: float = 1.0
    rounds: int = 1
    labels: str | None = None  # a split whose truth is replayed


def _weighted(**others: Any) -> dict[str, Any]:
    return {"loss_type": "weighted", "temperature": 0.3, **others}


def _labels(split: str, images: int) -> Arm:
    """Labels in the place of scores: what the truth itself can teach this denoiser, whatever the loss."""
    return Arm(_weighted(max_steps=300, replay_weight=1.0, **SLOW, **SILENT), images=images, labels=split)


LARGE = 3200
ARMS: dict[str, Arm] = {
    "labels of wild, 3,200 images": _labels("wild-train", 3200),
    "labels of lab, 1,000 images": _labels("lab-train", 1000),
    "weighted": Arm(_weighted()),
    "weighted, 1,500 steps, 3,200 images": Arm(_weighted(max_steps=1500), images=LARGE),
    "weighted, slow": Arm(_weighted(**SLOW)),
    "weighted, slow, 3,200 images": Arm(_weighted(**SLOW), images=LARGE),
    "clip, slow, 3,200 images": Arm({"loss_type": "clip", **SLOW}, images=LARGE),
    "clip, relative, slow, 3,200 images": Arm(
        {"loss_type": "clip", "trust_region": "relative", **SLOW}, images=LARGE
    ),
    "weighted, slow, spread neutral, 3,200 images": Arm(_weighted(spread_neutral=True, **SLOW), images=LARGE),
    "weighted, slow, lab replay, 3,200 images": Arm(
        _weighted(replay_weight=0.5, **SLOW), labels="lab-train", images=LARGE
    ),
    "dpo, slow, 3,200 images": Arm({"loss_type": "dpo", **SLOW}, images=LARGE),
    "sft, slow, 3,200 images": Arm({"loss_type": "sft", **SLOW}, images=LARGE),
    **{name: Arm({"loss_type": name}) for name in ("clip", "quadratic", "dpo", "kto", "sft")},
    "linear": Arm({"loss_type": "linear", "learning_rate": 1e-4, "lr_scheduler_type": "constant"}),
    "weighted, tau 1": Arm(_weighted(temperature=1.0)),
    "weighted, high noise only": Arm(_weighted(min_timestep=0.5)),
    "weighted, spread penalty": Arm(_weighted(spread_weight=2.0)),
    "weighted, diversity": Arm(_weighted(diversity_weight=0.5)),
    "weighted, LoRA 16": Arm(_weighted(lora_rank=16, learning_rate=1e-3)),
    "weighted, 4 rounds": Arm(_weighted(), rounds=4),
    "weighted, wide groups": Arm(_weighted(), noise_scale=1.5),
    **{f"weighted, G {size}": Arm(_weighted(), group_size=size) for size in (4, 8, 50)},
    **{f"weighted, SRCC {srcc}": Arm(_weighted(), srcc=srcc) for srcc in (0.3, 0.45, 0.6, 0.8)},
}


@dataclass(frozen=True)
class Study:
    policy: DiffusionPolicy
    body: Body
    cases: tuple[Labelled, ...]  # of wild-test
    out: Path
    stage: Stage
    samples: int

    def base(self, scale: float, seed: int) -> dict[str, float]:
        return self._measured(f"base x {scale:g}", Quieter(self.policy, scale), {"scale": scale}, seed)

    def arm(self, name: str, seed: int) -> dict[str, float]:
        arm = ARMS[name]
        key = {"arm": dataclasses.asdict(arm)}
        kept = self.out / f"{name}-{seed}.json"
        if kept.exists() and (found := json.loads(kept.read_text()))["key"] == key:
            return found["figures"]
        figures = self._measured(name, self._aligned(name, arm, seed), key, seed)
        kept.write_text(json.dumps({"key": key, "figures": figures}, indent=1))
        return figures

    def _aligned(self, name: str, arm: Arm, seed: int) -> DiffusionPolicy:
        alignment, folder = {**FAST, **arm.alignment}, self.out / "policies" / f"{name}-{seed}"
        if arm.labels:
            alignment["replay_file"] = str(self._replay(arm.labels, arm.images))
        if arm.rounds > 1:
            rounds = Rounds(arm.rounds, arm.group_size, seed, arm.noise_scale)
            scorer, labelled = self._scorer(arm, seed)
            samples = [case.sample for case in labelled]
            return align_in_rounds(self.policy, scorer, samples, folder, alignment, rounds, self.stage)
        tick = self.stage(f"{name}, seed {seed}: aligning", alignment["max_steps"])
        return align_once(self.policy, self._groups(arm, seed), folder, alignment, seed, tick)

    def _groups(self, arm: Arm, seed: int) -> Dataset:
        scorer, labelled = self._scorer(arm, seed)
        told = f"{scorer.name}-{arm.images}x{arm.group_size}-{arm.noise_scale:g}-{seed}"
        folder = self.out / f"groups-{told.replace(':', '-')}"
        tick = self.stage(f"{folder.name} sampled", arm.images)
        done = itertools.accumulate(itertools.repeat(1))

        def advance(rows: int) -> None:
            for _ in range(rows):
                tick(next(done))

        build_preferences(
            self.policy, scorer, [case.sample for case in labelled], folder,
            group_size=arm.group_size, seed=seed, noise_scale=arm.noise_scale,
            progress=advance,
        )  # fmt: skip
        return load_preferences(folder)

    def _scorer(self, arm: Arm, seed: int) -> tuple[Scorer, list[Labelled]]:
        labelled = self._labelled("wild-train", arm.images)
        truths = {case.sample.id: case.truth for case in labelled}
        if arm.srcc < 1:
            return NoisyTruthScorer(self.body, truths.__getitem__, arm.srcc, seed), labelled
        return TruthScorer(self.body, truths.__getitem__), labelled

    def _labelled(self, split: str, images: int) -> list[Labelled]:
        tick = self.stage(f"drawing {images} scenes of {split}", images)
        scenes = draw_split(split, self.out / f"scenes-{images}", images, uses_truth=True, progress=tick)
        return list(read_labelled(scenes))

    def _replay(self, split: str, images: int) -> Path:
        path = self.out / f"replay-{split}-{images}-{self.policy.digest()}.safetensors"
        if not path.exists():
            replay_of(self.policy, self._labelled(split, images)).save(path)
        return path

    def _measured(self, name: str, policy: Policy, key: Mapping[str, Any], seed: int) -> dict[str, float]:
        tick = self.stage(f"{name}, seed {seed}: evaluating", len(self.cases))
        whole = {**key, "policy": self.policy.digest(), "images": len(self.cases), "samples": self.samples}
        report = kept_report(
            self.out / "reports" / f"{name}-{seed}.npz",
            {**whole, "seed": seed},
            lambda: evaluate_policy(
                policy, self._skeleton, self.cases, num_samples=self.samples,
                group_size=min(20, self.samples), seed=seed, progress=lambda done, total: tick(done),
            ),
        )  # fmt: skip
        summary = report.summary()
        errors = {name: summary["mpjpe_mm"][name] for name in COLUMNS if name in summary["mpjpe_mm"]}  # pyright: ignore
        spreads = {name: summary[name] for name in ("spread_visible_mm", "spread_occluded_mm")}
        return {**errors, **spreads, "spread": report.spread_mm(), **report.uncertainty()}  # pyright: ignore

    def _skeleton(self, params: BodyParams) -> Posed:
        joints_cam_m = self.body.joints(params)
        return Posed(joints_cam_m, joints_cam_m)


def at_spread(bases: list[dict[str, float]], spread: float, column: str) -> float:
    """Of the base at less noise, linearly between the scales around it."""
    known = sorted(bases, key=lambda base: base["spread"])
    return float(np.interp(spread, [base["spread"] for base in known], [base[column] for base in known]))


def table(figures: Mapping[str, list[dict[str, float]]], bases: list[list[dict[str, float]]]) -> str:
    """Means over seeds; the first row is the base."""
    head = (*COLUMNS, "spread seen", "hidden", "calibration_80", "mean at its spread", "min100 at its spread")
    lines = ["| | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for name, seeds in {"base": [some[0] for some in bases], **figures}.items():
        rows = [
            [run[column] for column in COLUMNS]
            + [run["spread_visible_mm"], run["spread_occluded_mm"], run["calibration_80"]]
            + [at_spread(bases[seed], run["spread"], column) for column in ("mean", "min100")]
            for seed, run in enumerate(seeds)
        ]
        means = np.mean(rows, axis=0)
        shown = [
            f"{value:.2f}" if column == "calibration_80" else f"{value:.1f}"
            for column, value in zip(head, means, strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--policy", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="default: all, in order")
    parser.add_argument("--images", type=int, default=100, help="of wild-test")
    parser.add_argument("--samples", type=int, default=100, help="M")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    with stages() as stage:
        tick = stage(f"drawing {asked.images} scenes of wild-test", asked.images)
        test = draw_split("wild-test", asked.out / "test", asked.images, progress=tick)
        policy, body = load_policy(asked.policy), load_body()
        study = Study(policy, body, tuple(read_labelled(test)), asked.out, stage, asked.samples)
        bases = [[study.base(scale, seed) for scale in SCALES] for seed in range(asked.seeds)]
        figures: dict[str, list[dict[str, float]]] = {}
        for name in asked.arm or ARMS:
            figures[name] = [study.arm(name, seed) for seed in range(asked.seeds)]
            (asked.out / "table.md").write_text(table(figures, bases) + "\n")
    print(f"base {policy.digest()}, wild-test {set_digest(test)}, {asked.seeds} seeds\n")
    print(table(figures, bases))


if __name__ == "__main__":
    main()
