"""An upper bound for a critic: the gain if groups of the base policy are reweighted by its scores, without training.

    python -m benchmarks.critic.critic_bound --images 300 --out runs/bound

The optimum of the loss `weighted` is the base density times exp(A / tau) (`rl.losses`). A group with those weights is a
sample of it, so the errors that are lower there are the ones that an alignment with these scores can lower if the
policy could learn everything; no alignment on groups of this size can lower the others.

| column      | of a group                                                                        |
|-------------|-----------------------------------------------------------------------------------|
| SRCC        | Spearman's rho between scores and true errors                                     |
| mean        | weighted mean error of the hypotheses: the expected error of a random one         |
| averaged    | the error of the weighted average pose                                            |
| pick        | the error of the hypothesis with the best score                                   |

`true-detections` is the embedded agent with the true keypoints and mask as detections, `noisy-truth` the errors with
simulated noise. Both read the ground truth and show what a critic of that quality could gain.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from agent.agreement import group_spearman
from cli.console import stages
from common.progress import Stage
from eval.benchmark.intervals import Interval, bootstrap_mean
from eval.critics.ablations import AgentVariant
from eval.critics.groups import LabelledGroup, draw_groups, labelled_scenes
from eval.pipelines.align_critics import open_bench, open_scorer
from eval.pipelines.align_settings import AlignSettings
from hmr.body.model import Body, load_body
from hmr.metrics.errors import average_pose, mpjpe_mm, pick_of_errors
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import set_digest
from hmr.types import BodyParams, Scorer
from rl.advantages import group_advantages
from rl.rounds import Rounds

__all__ = ["COLUMNS", "CRITICS", "bound", "reweighted", "table"]

COLUMNS = ("SRCC", "mean", "averaged", "pick")
ERRORS = COLUMNS[1:]
TRUE_DETECTIONS = "true-detections"
CRITICS = (
    "hmr-scorer",
    "embedded",
    TRUE_DETECTIONS,
    *(f"noisy-truth:{srcc:g}" for srcc in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1)),
)
Row = dict[str, float]


def reweighted(body: Body, group: LabelledGroup, scores: Sequence[float | None], temperature: float) -> Row:
    """The columns above, and `mean before`, `averaged before` and `h_0` of the unweighted group."""
    errors_mm = torch.as_tensor(group.errors_mm["mpjpe_mm"])
    pick_mm = pick_of_errors(errors_mm, scores)
    rho = group_spearman(scores, errors_mm.tolist())
    weights, uniform = _weights(scores, temperature), torch.full((len(scores),), 1 / len(scores))
    return {
        "SRCC": np.nan if rho is None else rho,
        "mean": float(weights @ errors_mm.to(weights)),
        "averaged": _averaged_mm(body, group, weights),
        "pick": np.nan if pick_mm is None else float(pick_mm),
        "mean before": float(errors_mm.mean()),
        "averaged before": _averaged_mm(body, group, uniform),
        "h_0": float(errors_mm[0]),
    }


def _weights(scores: Sequence[float | None], temperature: float) -> Float[Tensor, " group"]:
    """exp(A / tau), normalised; 0 for a hypothesis without a score. All weights are equal if the group is masked."""
    found = group_advantages(scores)
    if not found.mask.any():
        return torch.full((len(scores),), 1 / len(scores))
    return (found.values / temperature).masked_fill(~found.mask, -torch.inf).softmax(dim=0)


def _averaged_mm(body: Body, group: LabelledGroup, weights: Float[Tensor, " group"]) -> float:
    pose = BodyParams.stack([average_pose(group.hypotheses.params, weights)])
    return float(mpjpe_mm(body.joints(pose), group.labelled.truth.joints_cam_m))


def bound(
    policy: DiffusionPolicy, critics: Sequence[str], images: int, calibration: int, temperature: float,
    out: Path, stage: Stage,
) -> tuple[dict[str, list[Row]], str]:  # fmt: skip
    """Rows by critic, one per image, and the digest of the scenes. Raises ValueError for an unknown critic."""
    if unknown := [name for name in critics if not (name in CRITICS or name.startswith("noisy-truth:"))]:
        raise ValueError(f"unknown critic {unknown[0]}; allowed are {', '.join(CRITICS)}")
    body = load_body()
    scenes = draw_split("wild-test", out / "scenes", images, progress=stage("drawing wild-test", images))
    labelled, tick = labelled_scenes(scenes), stage("groups of 20", images)
    groups = draw_groups(policy, body, labelled, size=20, seed=0, cache=out / "groups", progress=tick)
    rows = {}
    for critic in critics:
        settings = AlignSettings(critic, calibration=calibration, rounds=Rounds(group_size=20))
        with ExitStack() as opened:
            if critic == TRUE_DETECTIONS:
                agent_settings = replace(settings, critic="embedded")
                bench = open_bench(
                    policy, body, agent_settings, out=out / "critics", stage=stage, stack=opened, tests=groups
                )
                scorer = opened.enter_context(bench.agent(AgentVariant(true_detections=True)))
            else:
                scorer = open_scorer(
                    policy, body, settings, scenes=scenes, out=out / "critics", stage=stage, stack=opened
                )
            rows[critic] = _rows(body, scorer, groups, temperature, stage)
    return rows, set_digest(scenes)


def _rows(
    body: Body, scorer: Scorer, groups: Sequence[LabelledGroup], temperature: float, stage: Stage
) -> list[Row]:
    tick, rows = stage(f"scores of {scorer.name}", len(groups)), []
    for group in groups:
        scores = scorer.score(group.labelled.sample, group.hypotheses)
        rows.append(reweighted(body, group, scores, temperature))
        tick(len(rows))
    return rows


def table(rows: dict[str, list[Row]]) -> str:
    """Errors in millimetres; gains in per cent over hypothesis 0 and over the average pose of the unweighted group."""
    first = next(iter(rows.values()))
    before = {
        name: np.mean([row[name] for row in first]) for name in ("mean before", "averaged before", "h_0")
    }
    unweighted = ", ".join(f"{name} {value:.1f}" for name, value in before.items())
    lines = [
        unweighted,
        "",
        "| critic | SRCC | mean | averaged | pick | averaged, % lower | pick, % below h_0 |",
    ]
    lines.append("|---|" + "---:|" * 6)
    for critic, images in rows.items():
        values = {name: np.array([[row[name] for row in images]]) for name in images[0]}
        shown = [f"{np.nanmean(values['SRCC']):.3f}", *(f"{np.nanmean(values[name]):.1f}" for name in ERRORS)]
        gains = [_percent(values, "averaged", "averaged before"), _percent(values, "pick", "h_0")]
        lines.append("| " + " | ".join([critic, *shown, *map(_format_gain, gains)]) + " |")
    return "\n".join(lines)


def _percent(values: dict[str, Float[np.ndarray, "1 images"]], ours: str, theirs: str) -> Interval | None:
    baseline = values[theirs]
    return bootstrap_mean(100 * (1 - values[ours] / baseline), weights=baseline)


def _format_gain(gain: Interval | None) -> str:
    return "-" if gain is None else f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--critic", action="append", help=f"of {', '.join(CRITICS)}; default: all")
    parser.add_argument("--policy", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--images", type=int, default=300, help="of wild-test")
    parser.add_argument(
        "--calibration", type=int, default=160, help="lab scenes for the training of a critic"
    )
    parser.add_argument("--temperature", type=float, default=0.3, help="tau")
    parser.add_argument("--out", type=Path, default=Path("runs/bound"))
    options = parser.parse_args()
    policy = load_policy(options.policy)
    with stages() as stage:
        rows, scenes = bound(
            policy, options.critic or CRITICS, options.images, options.calibration, options.temperature,
            options.out, stage,
        )  # fmt: skip
    print(f"base policy {policy.digest()}, benchmark {scenes}, {options.images} groups of 20\n{table(rows)}")


if __name__ == "__main__":
    main()
