"""The arms of the study of alignment (`eval.study.study`), by the question that they answer.

| set       | question                                                                                          |
|-----------|---------------------------------------------------------------------------------------------------|
| `finals`  | how much of the headroom do the critic's scores recover, beside baselines and controls?           |
| `fitted`  | what do scores add to a policy that has imitated a fit to its keypoints?                           |
| `critics` | what must a critic be: its SRCC, and errors that are independent of the policy's or shared with it |
| `ceilings` | how many passes over the labels help, before the images are memorised?                            |

All arms get as many images and groups of the same size. Those of `finals` and `critics` start from the base policy
`BASE` and have as many optimizer steps over the same images, but for the ceiling, which overfits with as many; an arm
in rounds divides both among its rounds, so that it has as many critiques. Those of `fitted` start from the policy of
another arm, whose steps come in addition, and have controls with as many. `noisy-truth`, `noisy-reading` and the
ceiling read the ground truth: those rows are upper bounds, not results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from common.storage.files import CONFIGS
from eval.pipelines.align_settings import AlignSettings, read_alignment
from rl.imitation import LABEL_EPOCHS, steps_on_labels
from rl.policy_gradient.config import PolicyGradientConfig, read_policy_gradient
from rl.preferences.search import SearchSettings

__all__ = ["ARMS", "BASE", "CEILING", "SETS", "Arm"]

BASE = "studio"  # of `hmr.policy.checkpoint.BASES`; `hmr.synthetic.splits.GAPS` has its splits


@dataclass(frozen=True)
class Arm:
    """One alignment: fields of `rl.config.GroupPreferenceConfig`, and what is learned from.

    critic: scores the groups (`meshcritic align --critic`); not used if bodies are imitated.
    imitates: one body per image instead of a scored group (`rl.labels.pseudo_labels`): the mean of the group, a fit to
        keypoints, the reading behind the agent's 3D joints, or the truth, either of the images (`align labels`) or of
        as many scenes of the base's own domain.
    penalties: subtracted from the agent's scores (`rl.scorers.penalties`).
    without_tools: that the agent lacks.
    search: what the critic scores instead of samples.
    policy_gradient: learns by it instead, from as many critiques; `alignment` and `rounds` then have no effect.
    after: starts from the policy of this arm, instead of the base; its steps and critiques come in addition.
    epochs: passes over the images, which decide on the steps instead of `alignment`.
    """

    alignment: Mapping[str, Any]
    critic: str = "embedded"
    penalties: Mapping[str, float] | None = None
    without_tools: tuple[str, ...] = ()
    imitates: Literal["averaged", "fit", "reading", "align labels", "train labels"] | None = None
    images: int = 1600  # of the split to align on, one critique each
    group_size: int = 20
    rounds: int = 1
    search: SearchSettings | None = None
    policy_gradient: PolicyGradientConfig | None = None
    after: Arm | None = None
    epochs: int | None = None

    def with_images(self, images: int) -> Arm:
        """The same on fewer or more images, with one critique each."""
        gradient = self.policy_gradient
        if gradient:
            size = min(gradient.images_per_update, images)
            gradient = replace(gradient, images_per_update=size, updates=images // size)
        after = self.after and self.after.with_images(min(images, self.after.images))
        alignment = self.alignment
        if self.epochs:
            batch_size = alignment["per_device_train_batch_size"]
            alignment = {**alignment, "max_steps": steps_on_labels(images, batch_size, self.epochs)}
        return replace(self, alignment=alignment, images=images, policy_gradient=gradient, after=after)

    def with_steps(self, steps: int) -> Arm:
        """The same with this number of optimizer steps, also before it, if it has no number of epochs."""
        after = self.after and self.after.with_steps(steps)
        alignment = self.alignment if self.epochs else {**self.alignment, "max_steps": steps}
        return replace(self, alignment=alignment, after=after)

    def inputs(self) -> dict[str, Any]:
        """Its fields as JSON, for the keys of results; without `after`, `penalties` and `without_tools` as before arms
        had them, so that their results are found again."""
        fields = dataclasses.asdict(self)
        for arm in (fields, fields["after"] or {}):
            for name in ("penalties", "without_tools"):
                if not arm.get(name):
                    arm.pop(name, None)
        return {name: value for name, value in fields.items() if (name, value) != ("after", None)}

    @property
    def uses_truth(self) -> bool:
        """Whether it reads the truth of the images that it is aligned on."""
        if self.after and self.after.uses_truth:
            return True
        if self.imitates:
            return self.imitates == "align labels"
        return AlignSettings(self.critic, base=BASE).uses_truth


RESAMPLE = read_alignment(CONFIGS / "align_resample.yaml")
STEPS = RESAMPLE["max_steps"]
DPO = {**read_alignment(CONFIGS / "align_adhmr.yaml"), "max_steps": STEPS}
BEST = {**RESAMPLE, "temperature": 0.01}  # the best-scored hypothesis of a group, nearly always

GRADIENT = replace(
    read_policy_gradient(CONFIGS / "align_policy_gradient.yaml"),
    updates=40,
    images_per_update=40,
    group_size=20,
)

# Methods to learn from scores, compared in all sets.
METHODS = {
    "resample": Arm(RESAMPLE, rounds=4),
    "search": Arm(read_alignment(CONFIGS / "align_search.yaml"), rounds=4, search=SearchSettings()),
    "policy-gradient": Arm(RESAMPLE, policy_gradient=GRADIENT),
}


def _scored_by(critic: str, label: str) -> dict[str, Arm]:
    """Every method with the scores of one critic."""
    return {f"{label}, {method}": replace(arm, critic=critic) for method, arm in METHODS.items()}


# In standard deviations of the group, where the agent's scores have 1.
PENALTIES = {
    "joint_limit_excess_deg": 0.3,
    "self_penetration_mm": 0.3,
    "imbalance_mm": 0.3,
    "reprojection_percent_of_box": 0.6,
}

CEILING = Arm(RESAMPLE, imitates="align labels", epochs=LABEL_EPOCHS).with_images(1600)
CEILINGS = {
    f"labels, {epochs} epochs": replace(CEILING, epochs=epochs).with_images(1600)
    for epochs in (4, 8, 16, 32, 64)
}
FIT = Arm(RESAMPLE, imitates="fit")

FINALS = {
    **_scored_by("embedded", "embedded"),
    "hmr-scorer, dpo": Arm(DPO, "hmr-scorer"),  # ADHMR's critic, loss, beta and rate
    "hmr-scorer, policy-gradient": replace(METHODS["policy-gradient"], critic="hmr-scorer"),
    # an agent that knows nothing of the shipped policy, whose estimate these tools read
    "embedded without reading, policy-gradient": replace(
        METHODS["policy-gradient"], without_tools=("depth_order", "pose_reading")
    ),
    "embedded, dpo": Arm(DPO),
    "embedded, sft": Arm(BEST),
    "pseudo-labels, averaged": Arm(RESAMPLE, imitates="averaged"),
    "pseudo-labels, fit": FIT,
    "pseudo-labels, reading": Arm(RESAMPLE, imitates="reading"),
    "studio labels": Arm(RESAMPLE, imitates="train labels"),
    "shuffled, resample": replace(METHODS["resample"], critic="shuffled"),
    **_scored_by("noisy-truth:1", "truth"),
}

# What scores add to a policy that has imitated a fit to its keypoints.
FITTED = {
    "pseudo-labels, fit": FIT,
    **{
        f"fit, then {name}": replace(arm, after=FIT)
        for name, arm in _scored_by("embedded", "embedded").items()
    },
    "fit, then embedded with penalties, policy-gradient": replace(
        METHODS["policy-gradient"], penalties=PENALTIES, after=FIT
    ),
    "fit, then fit": replace(FIT, after=FIT),
    "labels, then labels": replace(CEILING, after=CEILING),  # the ceiling with twice the steps
    "fit, then shuffled, policy-gradient": replace(METHODS["policy-gradient"], critic="shuffled", after=FIT),
    "fit, then truth, policy-gradient": replace(
        METHODS["policy-gradient"], critic="noisy-truth:1", after=FIT
    ),
}

CRITICS = {
    **_scored_by("embedded", "embedded"),
    **_scored_by("noisy-reading:1", "reading 1"),
    **{
        name: arm
        for srcc in (0.8, 0.6, 0.4)
        for kind, suffix in (("independent", ""), ("shared", ":shared"))
        for name, arm in _scored_by(f"noisy-reading:{srcc:g}{suffix}", f"reading {srcc:g} {kind}").items()
    },
}

SETS: dict[str, dict[str, Arm]] = {
    "finals": FINALS,
    "fitted": FITTED,
    "critics": CRITICS,
    "ceilings": CEILINGS,
}
ARMS = {name: arm for arms in SETS.values() for name, arm in arms.items()}
