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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Any, Literal

from common.storage.files import CONFIGS
from eval.pipelines.align_settings import AlignSettings, read_alignment
from rl.imitation import LABEL_EPOCHS, steps_on_labels
from rl.policy_gradient.config import PolicyGradientConfig, read_policy_gradient
from rl.preferences.search import SearchSettings

__all__ = [
    "ADHMR", "BASE", "CEILING", "DPO", "EMBEDDED", "NARROWED", "OURS", "SETS", "SFT", "UNALIGNED", "Arm", "ArmId",
    "Method", "all_arms", "ceiling_arm", "controls", "finals", "methods", "recipe",
]  # fmt: skip

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


class Method(StrEnum):
    """Ways to learn from scores, compared in all sets."""

    RESAMPLE = "resample"
    SEARCH = "search"
    POLICY_GRADIENT = "policy-gradient"


@dataclass(frozen=True)
class ArmId:
    """Which arm of a study, or which of its bounds; equal if the names are.

    name: of its results, in `--arm`, JSON, file names and the tables of the study: stored results are found by it.
    paper_title: in the paper's tables, if it is another one. is_control: methods are compared with it, if it was run.
    """

    name: str
    paper_title: str = field(default="", compare=False)
    is_control: bool = field(default=False, compare=False)

    @property
    def title(self) -> str:
        return self.paper_title or self.name


# The bounds.
UNALIGNED = ArmId("base")
NARROWED = ArmId("the base at its spread")
CEILING = ArmId("labels", "supervised on the same images' truth (ceiling)")

# The arms that are named elsewhere.
EMBEDDED = {
    Method.RESAMPLE: ArmId("embedded, resample", "ours: agent, resample in four rounds"),
    Method.SEARCH: ArmId("embedded, search", "ours: agent, search"),
    Method.POLICY_GRADIENT: ArmId("embedded, policy-gradient", "ours: agent, policy gradient"),
}
OURS = EMBEDDED[Method.POLICY_GRADIENT]
ADHMR = ArmId("hmr-scorer, dpo", "ADHMR's recipe: HMR-Scorer, DPO", is_control=True)
DPO = ArmId("embedded, dpo", "agent, DPO", is_control=True)
SFT = ArmId("pseudo-labels, averaged", "supervised on pseudo-labels (averaged groups)", is_control=True)
FIT = ArmId("pseudo-labels, fit", is_control=True)

# In standard deviations of the group, where the agent's scores have 1.
PENALTIES = {
    "joint_limit_excess_deg": 0.3,
    "self_penetration_mm": 0.3,
    "imbalance_mm": 0.3,
    "reprojection_percent_of_box": 0.6,
}


# -- recipes -----------------------------------------------------------------------------------------------------


@cache
def recipe(name: str) -> Mapping[str, Any]:
    """The fields of `configs/align_NAME.yaml`, with the steps of `resample`."""
    fields = read_alignment(CONFIGS / f"align_{name}.yaml")
    return fields if name == "resample" else {**fields, "max_steps": recipe("resample")["max_steps"]}


@cache
def _gradient() -> PolicyGradientConfig:
    published = read_policy_gradient(CONFIGS / "align_policy_gradient.yaml")
    return replace(published, updates=40, images_per_update=40, group_size=20)


def methods() -> dict[Method, Arm]:
    return {
        Method.RESAMPLE: Arm(recipe("resample"), rounds=4),
        Method.SEARCH: Arm(recipe("search"), rounds=4, search=SearchSettings()),
        Method.POLICY_GRADIENT: Arm(recipe("resample"), policy_gradient=_gradient()),
    }


def ceiling_arm() -> Arm:
    return Arm(recipe("resample"), imitates="align labels", epochs=LABEL_EPOCHS).with_images(1600)


def _fit() -> Arm:
    return Arm(recipe("resample"), imitates="fit")


# -- sets --------------------------------------------------------------------------------------------------------


def _scored_by(critic: str, label: str) -> dict[ArmId, Arm]:
    """Every method with the scores of one critic."""
    return {ArmId(f"{label}, {name}"): replace(arm, critic=critic) for name, arm in methods().items()}


def finals() -> dict[ArmId, Arm]:
    resample, gradient = recipe("resample"), methods()[Method.POLICY_GRADIENT]
    best = {**resample, "temperature": 0.01}  # the best-scored hypothesis of a group, nearly always
    return {
        **{EMBEDDED[method]: arm for method, arm in methods().items()},
        ADHMR: Arm(recipe("adhmr"), "hmr-scorer"),  # ADHMR's critic, loss, beta and rate
        ArmId("hmr-scorer, policy-gradient", is_control=True): replace(gradient, critic="hmr-scorer"),
        # an agent that knows nothing of the shipped policy, whose estimate these tools read
        ArmId("embedded without reading, policy-gradient", is_control=True): replace(
            gradient, without_tools=("depth_order", "pose_reading")
        ),
        DPO: Arm(recipe("adhmr")),
        ArmId("embedded, sft", is_control=True): Arm(best),
        SFT: Arm(resample, imitates="averaged"),
        FIT: _fit(),
        ArmId("pseudo-labels, reading", is_control=True): Arm(resample, imitates="reading"),
        ArmId("studio labels", is_control=True): Arm(resample, imitates="train labels"),
        ArmId("shuffled, resample", is_control=True): replace(methods()[Method.RESAMPLE], critic="shuffled"),
        **_scored_by("noisy-truth:1", "truth"),
    }


def fitted() -> dict[ArmId, Arm]:
    """What scores add to a policy that has imitated a fit to its keypoints."""
    fit, ceiling = _fit(), ceiling_arm()
    gradient = replace(methods()[Method.POLICY_GRADIENT], after=fit)
    return {
        FIT: fit,
        **{
            arm: replace(made, after=fit)
            for arm, made in _scored_by("embedded", "fit, then embedded").items()
        },
        ArmId("fit, then embedded with penalties, policy-gradient"): replace(gradient, penalties=PENALTIES),
        ArmId("fit, then fit", is_control=True): replace(fit, after=fit),
        ArmId("labels, then labels"): replace(ceiling, after=ceiling),  # the ceiling with twice the steps
        ArmId("fit, then shuffled, policy-gradient", is_control=True): replace(gradient, critic="shuffled"),
        ArmId("fit, then truth, policy-gradient"): replace(gradient, critic="noisy-truth:1"),
    }


def critics() -> dict[ArmId, Arm]:
    return {
        **{EMBEDDED[method]: arm for method, arm in methods().items()},
        **_scored_by("noisy-reading:1", "reading 1"),
        **{
            name: arm
            for srcc in (0.8, 0.6, 0.4)
            for kind, suffix in (("independent", ""), ("shared", ":shared"))
            for name, arm in _scored_by(f"noisy-reading:{srcc:g}{suffix}", f"reading {srcc:g} {kind}").items()
        },
    }


def ceilings() -> dict[ArmId, Arm]:
    return {
        ArmId(f"labels, {epochs} epochs"): replace(ceiling_arm(), epochs=epochs).with_images(1600)
        for epochs in (4, 8, 16, 32, 64)
    }


SETS: Mapping[str, Callable[[], dict[ArmId, Arm]]] = {
    "finals": finals,
    "fitted": fitted,
    "critics": critics,
    "ceilings": ceilings,
}


def all_arms() -> dict[ArmId, Arm]:
    return {name: arm for arms in SETS.values() for name, arm in arms().items()}


def controls() -> list[ArmId]:
    """What the methods are compared with, if it was run."""
    return [arm for arm in all_arms() if arm.is_control]
