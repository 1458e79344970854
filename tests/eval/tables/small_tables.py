"""The tables at the smallest sizes: every arm with two images and two steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.study.arms import METHODS, Arm
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
    gradient = METHODS["policy-gradient"]
    assert gradient.policy_gradient
    updates = replace(
        gradient.policy_gradient, images_per_update=2, group_size=3, minibatches=1, inner_epochs=1
    )
    monkeypatch.setitem(METHODS, "policy-gradient", replace(gradient, policy_gradient=updates))
    rounds = replace(METHODS["resample"], rounds=2)  # of one image each
    monkeypatch.setitem(METHODS, "resample", rounds)

    def small(arms: dict[str, Arm]) -> dict[str, Arm]:
        return {
            name: replace(arm, group_size=3, alignment={**arm.alignment, **STEPS})
            for name, arm in arms.items()
        }

    def of_the_paper(sizes: TableSizes) -> dict[str, Arm]:
        return {name: replace(arm, critic="embedded") for name, arm in small(arms_of(sizes)).items()}

    monkeypatch.setattr(run, "arms_of", of_the_paper)
    monkeypatch.setattr(run, "variant_arms", lambda sizes, with_truth: small(variant_arms(sizes, with_truth)))
    ceiling = replace(METHODS["resample"], rounds=1, group_size=3, imitates="align labels")
    monkeypatch.setattr(run, "CEILING", ceiling)
