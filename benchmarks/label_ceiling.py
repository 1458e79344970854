"""What the truth of the aligned images can teach a base policy: the upper bound of alignment on them.

    python -m benchmarks.label_ceiling [--base studio] [--images 1600] [--test 100] [--samples 100] [--out DIR]

The base is fine-tuned on the true bodies of the alignment split's images by the loss `resample`, whose group is then
the truth alone, with the settings of configs/align_resample.yaml. It reads the truth, so it is a bound and no result.
The base with less starting noise shows what narrowing alone does. Errors in mm, definitions in
docs/reference/measures.md. `--out` keeps the scenes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from cli.options import CONFIGS
from eval.benchmark.matched_spread import NoiseScaledPolicy
from eval.benchmark.protocol import Policy, evaluate_policy
from eval.pipelines.alignment import read_alignment
from hmr.body.model import load_body
from hmr.policy.checkpoint import BASES, load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import GAPS, draw_split
from hmr.synthetic.store import read_labelled
from hmr.types import Labelled
from rl.config import GroupPreferenceConfig, training_fields
from rl.preferences.tensors import GroupTensors
from rl.replay import replay_of
from rl.trainer import align

COLUMNS = ("mean", "hyp0", "averaged", "min20")
SCALES = (1.0, 0.85, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="studio", choices=list(BASES))
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    policy, gap = load_policy(BASES[options.base]), GAPS[options.base]
    with tempfile.TemporaryDirectory() as folder:
        root = options.out or Path(folder)
        tests = read_labelled(draw_split(gap.test, root, options.test))
        labelled = read_labelled(draw_split(gap.align, root, options.images, uses_truth=True))
        print(
            f"policy {policy.digest()}, {len(labelled)} images of {gap.align}, {len(tests)} of {gap.test}\n"
        )
        print(f"| policy | mean | h_0 | averaged | min 20 | min {options.samples} | spread |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for scale in SCALES:
            _print_row(f"base, noise x {scale:g}", NoiseScaledPolicy(policy, scale), tests, options.samples)
        _print_row("labels", _with_labels(policy, labelled, folder), tests, options.samples)


def _with_labels(policy: DiffusionPolicy, labelled: list[Labelled], folder: str) -> DiffusionPolicy:
    truth = replay_of(policy, labelled)
    count = len(truth)
    one = torch.ones(count, 1)
    groups = GroupTensors(truth.condition, truth.x0[:, None], torch.zeros(count, 1), one.bool(), one)
    fields = training_fields(read_alignment(CONFIGS / "align_resample.yaml"))
    args = GroupPreferenceConfig(output_dir=folder, use_cpu=True, save_strategy="no", **fields)
    return align(policy, groups, args)


def _print_row(name: str, policy: Policy, tests: list[Labelled], samples: int) -> None:
    report = evaluate_policy(policy, load_body(), tests, num_samples=samples, seed=0)
    errors = report.values["mpjpe_mm"]
    cells = [f"{errors[column].mean():.1f}" for column in (*COLUMNS, f"min{samples}")]
    print(f"| {name} | {' | '.join(cells)} | {report.spread_mm():.1f} |", flush=True)


if __name__ == "__main__":
    main()
