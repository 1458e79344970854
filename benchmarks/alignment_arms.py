"""The arms of the study of alignment (`benchmarks.alignment_study`), by the question that they answer.

| set       | asks                                                                                              |
|-----------|---------------------------------------------------------------------------------------------------|
| `finals`  | do the critic's scores move the policy, beyond its rivals and controls? Real critics, many seeds  |
| `screens` | what does each knob do, with the embedded agent's scores? One seed                                |
| `critics` | what does a better critic buy? The truth with noise, from an SRCC of .3 to the truth itself       |
| `oracle`  | what can perfect scores, or labels in their place, teach this policy at all?                      |
| `dpo`     | the rate and the beta that a rival is given before it is compared with; perfect scores, one seed  |
| `curves`  | how do healthy runs look, and sick ones?                                                          |

`noisy-truth` opens the truth: those rows say what could be, and are no results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["ARMS", "SETS", "Arm"]


@dataclass(frozen=True)
class Arm:
    """One alignment: who scores (`meshcritic align --critic`), how groups are drawn, and fields of
    `rl.config.GroupPreferenceConfig`."""

    alignment: Mapping[str, Any] = field(default_factory=dict)
    critic: str = "embedded"
    images: int = 400  # of wild-train, each one critique
    group_size: int = 20
    noise_scale: float = 1.0
    rounds: int = 1
    labels: str | None = (
        None  # a split whose truth is replayed, 1,000 scenes unless `labelled` says otherwise
    )
    labelled: int = 1000


STEADY = {"max_steps": 400, "learning_rate": 1e-4, "ema_decay": 0.995}
FAST = {"max_steps": 400, "learning_rate": 3e-4, "ema_decay": 0.99}
SLOW = {"max_steps": 400, "learning_rate": 3e-5, "ema_decay": 0.995}
SILENT = {
    "beta": 1e-6,
    "replay_weight": 1.0,
}  # a preference that is not heard: the replayed labels alone teach
WEIGHTED = {"loss_type": "weighted", "temperature": 0.3}
CLIP = {"loss_type": "clip"}
# of the rates and betas of `dpo` the one that lost nothing beside the base at its own spread (docs/alignment.md)
DPO = {"loss_type": "dpo", "beta": 200.0, "learning_rate": 3e-5, "max_steps": 400, "ema_decay": 0.995}
ADHMR = {
    **DPO,
    "beta": 100.0,
    "learning_rate": 5e-5,
}  # its own numbers; configs/align_adhmr.yaml has all of them
TRUTH = "noisy-truth:1"

OURS = Arm({**WEIGHTED, **STEADY})


def _ours(**changes: Any) -> Arm:
    """Ours with other training arguments."""
    return replace(OURS, alignment={**OURS.alignment, **changes})


FINALS = {
    "embedded, weighted": OURS,
    "embedded, clip": Arm({**CLIP, **STEADY}),
    "hmr-scorer, dpo": Arm(
        DPO, critic="hmr-scorer"
    ),  # ADHMR's critic and loss, at a rate that suits this policy
    "hmr-scorer, dpo, ADHMR's numbers": Arm(
        ADHMR, critic="hmr-scorer", group_size=50
    ),  # best and worst of 50
    "embedded, dpo": Arm(DPO),
    "embedded, sft": Arm({"loss_type": "sft", **STEADY}),
    "shuffled, weighted": replace(OURS, critic="shuffled"),
    "lab labels": Arm({**WEIGHTED, **STEADY, **SILENT}, labels="lab-train"),
    "embedded, weighted, 2 rounds": replace(OURS, rounds=2),
    "embedded, weighted, LoRA 16": _ours(lora_rank=16, learning_rate=1e-3),
}

SCREENS = {
    **{f"embedded, weighted, {n:,} images": replace(OURS, images=n) for n in (100, 200, 800, 1600)},
    **{f"embedded, weighted, G {size}": replace(OURS, group_size=size) for size in (4, 8, 50)},
    **{f"embedded, weighted, {steps:,} steps": _ours(max_steps=steps) for steps in (100, 1600)},
    **{f"embedded, weighted, rate {rate:g}": _ours(learning_rate=rate) for rate in (3e-5, 3e-4)},
    **{f"embedded, weighted, tau {tau:g}": _ours(temperature=tau) for tau in (0.1, 1.0)},
    **{f"embedded, clip, beta {beta:g}": Arm({**CLIP, **STEADY, "beta": beta}) for beta in (3.0, 30.0)},
    **{f"embedded, clip, epsilon {e:g}": Arm({**CLIP, **STEADY, "epsilon": e}) for e in (0.05, 0.8)},
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


def _oracle(alignment: Mapping[str, Any], pace: Mapping[str, Any] = FAST, **others: Any) -> Arm:
    return Arm({**pace, **alignment}, critic=TRUTH, **others)


def _labels(split: str, scenes: int) -> Arm:
    """Labels in the place of scores: what the truth itself can teach this denoiser, whatever the loss."""
    return _oracle({**WEIGHTED, **SILENT, "max_steps": 300}, SLOW, labels=split, labelled=scenes)


LARGE = 3200
ORACLE = {
    "labels of wild, 3,200 images": _labels("wild-train", LARGE),
    "labels of lab, 1,000 images": _labels("lab-train", 1000),
    **{f"truth, {name}": _oracle({"loss_type": name}) for name in ("clip", "quadratic", "kto", "sft")},
    "truth, dpo": _oracle({"loss_type": "dpo", "beta": 20.0}),
    "truth, weighted": _oracle(WEIGHTED),
    "truth, weighted, 1,500 steps, 3,200 images": _oracle({**WEIGHTED, "max_steps": 1500}, images=LARGE),
    "truth, weighted, slow": _oracle(WEIGHTED, SLOW),
    "truth, weighted, slow, 3,200 images": _oracle(WEIGHTED, SLOW, images=LARGE),
    "truth, clip, relative, slow, 3,200 images": _oracle(
        {**CLIP, "trust_region": "relative"}, SLOW, images=LARGE
    ),
    "truth, linear": _oracle({"loss_type": "linear", "learning_rate": 1e-4, "lr_scheduler_type": "constant"}),
    "truth, weighted, spread neutral": _oracle({**WEIGHTED, "spread_neutral": True}),
    "truth, weighted, spread penalty": _oracle({**WEIGHTED, "spread_weight": 2.0}),
    "truth, weighted, diversity": _oracle({**WEIGHTED, "diversity_weight": 0.5}),
    # what else might keep the spread, at the pace of the finals: beside "SRCC 1, weighted"
    "truth, weighted, lab replay": _oracle({**WEIGHTED, "replay_weight": 0.5}, STEADY, labels="lab-train"),
    "truth, weighted, LoRA 16": _oracle({**WEIGHTED, "lora_rank": 16}, {**STEADY, "learning_rate": 1e-3}),
    "truth, weighted, 4 rounds": _oracle(WEIGHTED, STEADY, rounds=4),
    "truth, weighted, wide groups of 50": _oracle(WEIGHTED, STEADY, group_size=50, noise_scale=1.5),
    "truth, weighted, high noise only": _oracle({**WEIGHTED, "min_timestep": 0.5}, STEADY),
}

RATES = {
    f"truth, dpo, beta {beta:g}, rate {rate:g}": _oracle(
        {"loss_type": "dpo", "beta": beta, "learning_rate": rate}, SLOW
    )
    for beta in (200.0, 2000.0)
    for rate in (1e-5, 3e-5, 1e-4)
}
RATES["truth, dpo, ADHMR's numbers"] = _oracle(ADHMR, group_size=50)

CURVES = {
    "embedded, linear": Arm({**STEADY, "loss_type": "linear", "lr_scheduler_type": "constant"}),
    "embedded, dpo, too fast": Arm({**FAST, "loss_type": "dpo", "beta": 20.0}),
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
