"""Runs the study of alignment (`eval.study`) and prints its tables.

    python -m benchmarks.alignment.study --set finals --seeds 5 --out runs/study
    python -m benchmarks.alignment.study --arm "embedded, resample" --arm "hmr-scorer, dpo" --out runs/study

A killed run continues and a second one computes only what is new. Seeds can run in parallel, each process with its own
`--first-seed` and `--out`; if the folders are copied into one, `--seeds` with all of them prints the whole study
without computing anything.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from cli.console import stages
from eval.report.curves import write_alignment_curves
from eval.study.arms import BASE, SETS, all_arms, ceiling_arm
from eval.study.images import SceneImages
from eval.study.study import GAP, VALIDATION, Sizes, policy_folder, run_study
from eval.study.study_table import markdown, to_json
from hmr.policy.checkpoint import BASES, load_policy
from rl.monitoring.training_log import read_logs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--policy", type=Path, default=BASES[BASE], help=f"default: the base {BASE}")
    parser.add_argument("--set", choices=list(SETS), default="finals", help="default: finals")
    parser.add_argument(
        "--arm",
        action="append",
        choices=[arm.name for arm in all_arms()],
        help="an arm of any set, repeatable; default: all of the set",
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="default: 0")
    parser.add_argument("--images", type=int, default=100, help=f"of {GAP.test}")
    parser.add_argument("--samples", type=int, default=100, help="M")
    parser.add_argument(
        "--calibration", type=int, default=128, help=f"scenes of {GAP.calibration}, for critics"
    )
    parser.add_argument("--align-images", type=int, help=f"of {GAP.align}, at most; default: as the arms say")
    parser.add_argument("--steps", type=int, help="of the optimizer; default: as the arms say")
    parser.add_argument("--no-picks", action="store_true", help="no picks by the critic in the evaluation")
    parser.add_argument("--validation", action="store_true", help=f"report on {VALIDATION} instead")
    parser.add_argument(
        "--no-references", action="store_true", help="neither the base at smaller noise nor the true bodies"
    )
    parser.add_argument("--curves", type=Path, help="draw the first seed's logs into this SVG file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    return parser


def main() -> None:
    options = _parser().parse_args()
    sizes = Sizes(
        options.images, options.samples, options.calibration, options.align_images, options.steps,
        not options.no_picks, references=not options.no_references,
    )  # fmt: skip
    policy, arms = load_policy(options.policy), SETS[options.set]()
    if options.arm:
        known = {which.name: (which, arm) for which, arm in all_arms().items()}
        arms = dict(known[name] for name in options.arm)
    with stages() as stage:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        gap = replace(GAP, test=VALIDATION) if options.validation else GAP
        images = SceneImages.of(policy, gap, sizes.test, options.out / "scenes", stage)
        runs = run_study(policy, arms, seeds, sizes, options.out, stage, ceiling_arm(), images)
    print(json.dumps(to_json(runs), indent=1) if options.json else markdown(runs))
    if options.curves:
        logs = {}
        for which, arm in arms.items():
            folder = policy_folder(options.out, which.name, sizes.fit(arm), sizes, options.first_seed)
            logs |= read_logs(folder, which.name)
        write_alignment_curves(options.curves, logs)


if __name__ == "__main__":
    main()
