"""The tables at the smallest sizes: every arm with two images and two steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.study.arms import Arm, ArmId, Method, methods
from eval.study.study import Sizes
from eval.tables import run
from eval.tables.alignment import arms_of
from eval.tables.sizes import TableSizes
from eval.tables.variants import variant_arms

__all__ = ["SIZES", "use_small_arms"]

STEPS = {"max_steps": 2, "per_device_train_batch_size": 2, "warmup_steps": 0}
STUDY = Sizes(test=2, samples=4, calibration=8, steps=2, picks=False, minima=(2,), references=False)
SIZES = TableSizes(STUDY, align=2, more=4, critic_images=3, seeds=(0,))


def use_small_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of tables 1 and 2 with the embedded critic, because HMR-Scorer takes a minute to learn."""

    def of_the_paper(sizes: TableSizes) -> dict[ArmId, Arm]:
        return {which: replace(arm, critic="embedded") for which, arm in _small(arms_of(sizes)).items()}

    monkeypatch.setattr(run, "arms_of", of_the_paper)
    monkeypatch.setattr(
        run, "variant_arms", lambda sizes, with_truth: _small(variant_arms(sizes, with_truth))
    )
    ceiling = replace(methods()[Method.RESAMPLE], rounds=1, group_size=3, imitates="align labels")
    monkeypatch.setattr(run, "ceiling_arm", lambda: ceiling)


def _small(arms: dict[ArmId, Arm]) -> dict[ArmId, Arm]:
    return {which: _small_arm(arm) for which, arm in arms.items()}


def _small_arm(arm: Arm) -> Arm:
    """With at most two rounds, of one image each."""
    gradient = arm.policy_gradient
    if gradient:
        gradient = replace(gradient, group_size=3, minibatches=1, inner_epochs=1)
    alignment, rounds = {**arm.alignment, **STEPS}, min(arm.rounds, 2)
    return replace(arm, group_size=3, alignment=alignment, rounds=rounds, policy_gradient=gradient)
