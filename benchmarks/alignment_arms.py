"""The arms of the study of alignment (`benchmarks.alignment_study`), by the question that they answer.

| set       | question                                                                                          |
|-----------|---------------------------------------------------------------------------------------------------|
| `finals`  | do the critic's scores improve the policy beyond baselines and controls? Real critics, many seeds |
| `screens` | what is the effect of each setting, with the embedded agent's scores? One seed                    |
| `critics` | what does a better critic gain? The truth with noise, from an SRCC of .3 to the exact truth       |
| `oracle`  | what can exact scores, or labels in their place, teach this policy at most?                       |
| `dpo`     | which rate and beta suit the DPO baseline before it is compared? Exact scores, one seed           |
| `curves`  | what do the curves of healthy and of failing runs look like?                                      |

`noisy-truth` reads the ground truth: those rows are upper bounds, not results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["ARMS", "SETS", "Arm"]


@dataclass(frozen=True)
class Arm:
    """One alignment: the critic (`meshcritic align --critic`), the sampling of groups, and fields of
    `rl.config.GroupPreferenceConfig`."""

    alignment: Mapping[str, Any] = field(default_factory=dict)
    critic: str = "embedded"
    images: int = 400  # of wild-train, one critique each
    group_size: int = 20
    noise_scale: float = 1.0
    rounds: int = 1
    labels: str | None = None  # a split whose labelled scenes are replayed
    labelled: int = 1000  # number of those scenes


DEFAULT_PACE = {"max_steps": 400, "learning_rate": 1e-4, "ema_decay": 0.995}
FAST_PACE = {"max_steps": 400, "learning_rate": 3e-4, "ema_decay": 0.99}
SLOW_PACE = {"max_steps": 400, "learning_rate": 3e-5, "ema_decay": 0.995}
LABELS_ONLY = {"beta": 1e-6, "replay_weight": 1.0}  # the scores have no effect, only the replayed labels
WEIGHTED = {"loss_type": "weighted", "temperature": 0.3}
CLIP = {"loss_type": "clip"}
# the rate and beta of the set `dpo` that is not worse than the base at equal spread (docs/results/superseded.md)
DPO = {"loss_type": "dpo", "beta": 200.0, "learning_rate": 3e-5, "max_steps": 400, "ema_decay": 0.995}
ADHMR = {
    **DPO,
    "beta": 100.0,
    "learning_rate": 5e-5,
}  # published values; configs/align_adhmr.yaml has all of them
TRUTH = "noisy-truth:1"

OURS = Arm({**WEIGHTED, **DEFAULT_PACE})


def _ours(**changes: Any) -> Arm:
    """Our arm with other training arguments."""
    return replace(OURS, alignment={**OURS.alignment, **changes})


FINALS = {
    "embedded, weighted": OURS,
    "embedded, clip": Arm({**CLIP, **DEFAULT_PACE}),
    # ADHMR's critic and loss, at a rate that suits this policy, and at the published values
    "hmr-scorer, dpo": Arm(DPO, critic="hmr-scorer"),
    "hmr-scorer, dpo, ADHMR's numbers": Arm(ADHMR, critic="hmr-scorer", group_size=50),
    "embedded, dpo": Arm(DPO),
    "embedded, sft": Arm({"loss_type": "sft", **DEFAULT_PACE}),
    "shuffled, weighted": replace(OURS, critic="shuffled"),
    "lab labels": Arm({**WEIGHTED, **DEFAULT_PACE, **LABELS_ONLY}, labels="lab-train"),
    "embedded, weighted, 2 rounds": replace(OURS, rounds=2),
    "embedded, weighted, LoRA 16": _ours(lora_rank=16, learning_rate=1e-3),
}

SCREENS = {
    **{f"embedded, weighted, {n:,} images": replace(OURS, images=n) for n in (100, 200, 800, 1600)},
    **{f"embedded, weighted, G {size}": replace(OURS, group_size=size) for size in (4, 8, 50)},
    **{f"embedded, weighted, {steps:,} steps": _ours(max_steps=steps) for steps in (100, 1600)},
    **{f"embedded, weighted, rate {rate:g}": _ours(learning_rate=rate) for rate in (3e-5, 3e-4)},
    **{f"embedded, weighted, tau {tau:g}": _ours(temperature=tau) for tau in (0.1, 1.0)},
    **{f"embedded, clip, beta {beta:g}": Arm({**CLIP, **DEFAULT_PACE, "beta": beta}) for beta in (3.0, 30.0)},
    **{f"embedded, clip, epsilon {e:g}": Arm({**CLIP, **DEFAULT_PACE, "epsilon": e}) for e in (0.05, 0.8)},
    **{f"embedded, weighted, {k} times a step": _ours(timesteps_per_group=k) for k in (1, 4)},
    "embedded, weighted, high noise only": _ours(min_timestep=0.5),
    "embedded, weighted, spread neutral": _ours(spread_neutral=True),
    "embedded, weighted, wide groups": replace(OURS, noise_scale=1.5),
    "embedded, weighted, lab replay": replace(
        OURS, alignment={**OURS.alignment, "replay_weight": 0.5}, labels="lab-train"
    ),
    "embedded, weighted, 4 rounds": replace(OURS, rounds=4),
}

CRITICS = {
    f"SRCC {srcc:g}, weighted": replace(OURS, critic=f"noisy-truth:{srcc:g}")
    for srcc in (0.3, 0.5, 0.6, 0.8, 1.0)
}


def _oracle(alignment: Mapping[str, Any], pace: Mapping[str, Any] = FAST_PACE, **others: Any) -> Arm:
    return Arm({**pace, **alignment}, critic=TRUTH, **others)


def _labels(split: str, scenes: int) -> Arm:
    """Labels instead of scores: an upper bound for this denoiser, independent of the loss."""
    return _oracle({**WEIGHTED, **LABELS_ONLY, "max_steps": 300}, SLOW_PACE, labels=split, labelled=scenes)


LARGE = 3200
ORACLE = {
    "labels of wild, 3,200 images": _labels("wild-train", LARGE),
    "labels of lab, 1,000 images": _labels("lab-train", 1000),
    **{f"truth, {name}": _oracle({"loss_type": name}) for name in ("clip", "quadratic", "kto", "sft")},
    "truth, dpo": _oracle({"loss_type": "dpo", "beta": 20.0}),
    "truth, weighted": _oracle(WEIGHTED),
    "truth, weighted, 1,500 steps, 3,200 images": _oracle({**WEIGHTED, "max_steps": 1500}, images=LARGE),
    "truth, weighted, slow": _oracle(WEIGHTED, SLOW_PACE),
    "truth, weighted, slow, 3,200 images": _oracle(WEIGHTED, SLOW_PACE, images=LARGE),
    "truth, clip, relative, slow, 3,200 images": _oracle(
        {**CLIP, "trust_region": "relative"}, SLOW_PACE, images=LARGE
    ),
    "truth, linear": _oracle({"loss_type": "linear", "learning_rate": 1e-4, "lr_scheduler_type": "constant"}),
    "truth, weighted, spread neutral": _oracle({**WEIGHTED, "spread_neutral": True}),
    "truth, weighted, spread penalty": _oracle({**WEIGHTED, "spread_weight": 2.0}),
    "truth, weighted, diversity": _oracle({**WEIGHTED, "diversity_weight": 0.5}),
    # other ways to keep the spread, at the pace of the finals; compare with "SRCC 1, weighted"
    "truth, weighted, lab replay": _oracle(
        {**WEIGHTED, "replay_weight": 0.5}, DEFAULT_PACE, labels="lab-train"
    ),
    "truth, weighted, LoRA 16": _oracle(
        {**WEIGHTED, "lora_rank": 16}, {**DEFAULT_PACE, "learning_rate": 1e-3}
    ),
    "truth, weighted, 4 rounds": _oracle(WEIGHTED, DEFAULT_PACE, rounds=4),
    "truth, weighted, wide groups of 50": _oracle(WEIGHTED, DEFAULT_PACE, group_size=50, noise_scale=1.5),
    "truth, weighted, high noise only": _oracle({**WEIGHTED, "min_timestep": 0.5}, DEFAULT_PACE),
}

RATES = {
    f"truth, dpo, beta {beta:g}, rate {rate:g}": _oracle(
        {"loss_type": "dpo", "beta": beta, "learning_rate": rate}, SLOW_PACE
    )
    for beta in (200.0, 2000.0)
    for rate in (1e-5, 3e-5, 1e-4)
}
RATES["truth, dpo, ADHMR's numbers"] = _oracle(ADHMR, group_size=50)

CURVES = {
    "embedded, linear": Arm({**DEFAULT_PACE, "loss_type": "linear", "lr_scheduler_type": "constant"}),
    "embedded, dpo, too fast": Arm({**FAST_PACE, "loss_type": "dpo", "beta": 20.0}),
}

SETS: dict[str, dict[str, Arm]] = {
    "finals": FINALS,
    "screens": SCREENS,
    "critics": CRITICS,
    "oracle": ORACLE,
    "dpo": RATES,
    "curves": {**{name: FINALS[name] for name in ("embedded, weighted", "embedded, clip")}, **CURVES},
}
ARMS = {name: arm for arms in SETS.values() for name, arm in arms.items()}
