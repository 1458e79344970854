"""The tables at the smallest sizes: every arm with two images and two steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.study.arms import METHODS, Arm
from eval.study.study import Sizes
from eval.tables import run
from eval.tables.alignment import arms_of
from eval.tables.sizes import TableSizes

__all__ = ["SIZES", "use_small_arms"]

STEPS = {"max_steps": 2, "per_device_train_batch_size": 2, "warmup_steps": 0}
STUDY = Sizes(test=2, samples=4, calibration=8, steps=2, picks=False, minima=(2,), narrows=False)
SIZES = TableSizes(STUDY, align=2, more=4, critic_images=3, seeds=(0,))


def use_small_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    """All with the embedded critic, because HMR-Scorer takes a minute to learn."""
    gradient = METHODS["policy-gradient"]
    assert gradient.policy_gradient
    small = replace(
        gradient.policy_gradient, images_per_update=2, group_size=3, minibatches=1, inner_epochs=1
    )
    monkeypatch.setitem(METHODS, "policy-gradient", replace(gradient, policy_gradient=small))

    def small_arms(sizes: TableSizes) -> dict[str, Arm]:
        return {
            name: replace(arm, critic="embedded", group_size=3, alignment={**arm.alignment, **STEPS})
            for name, arm in arms_of(sizes).items()
        }

    monkeypatch.setattr(run, "arms_of", small_arms)
    ceiling = replace(METHODS["resample"], rounds=1, group_size=3, imitates="align labels")
    monkeypatch.setattr(run, "CEILING", ceiling)
