"""Small runs of what commands do, as jobs of `tests.faults.fork_server`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

__all__ = ["exploration", "groups", "keypoints_first", "tables"]


def exploration(out: str) -> None:
    from tests.agent.exploration import exploration_run

    exploration_run.run(Path(out))


def groups(out: str) -> None:
    """Twelve groups in shards of four, scored by two threads."""
    from tests.rl.preferences.test_build import build, wild

    build(Path(out), wild(12), shard_rows=4, in_flight=2)


def keypoints_first(policy: str, out: str) -> None:
    """`meshcritic align --method policy-gradient --fit-first` at the smallest sizes."""
    from common.stopping import ended_by_signals
    from common.storage.locks import single_run
    from eval.pipelines.align_settings import AlignSettings
    from eval.pipelines.alignment import run_alignment
    from hmr.policy.checkpoint import load_policy
    from rl.policy_gradient.config import PolicyGradientConfig

    settings = AlignSettings(
        "noisy-truth:0.8",
        images=4,
        policy_gradient=PolicyGradientConfig(
            updates=2, images_per_update=2, group_size=3, steps=3, minibatches=1, inner_epochs=1
        ),
        fit={
            "loss_type": "resample",
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 2,
        },
    )
    with ended_by_signals(), single_run(out):
        run_alignment(load_policy(policy), settings, out, lambda title, total: lambda done, note="": None)


def tables(policy: str, out: str) -> None:
    """`meshcritic tables --table 1` with two arms at the smallest sizes."""
    from common.stopping import ended_by_signals
    from common.storage.locks import single_run
    from eval.study.arms import Arm, ArmId, Method, methods
    from eval.study.study import Sizes
    from eval.tables import alignment, run
    from eval.tables.sizes import TableSizes
    from eval.tables.writing import write_tables
    from hmr.policy.checkpoint import load_policy

    training = {"max_steps": 2, "per_device_train_batch_size": 2, "warmup_steps": 0}
    small = replace(methods()[Method.RESAMPLE], rounds=1, group_size=3)
    study = Sizes(test=2, samples=4, calibration=8, steps=2, picks=False, minima=(2,), references=False)
    sizes = TableSizes(study, align=2, more=4, critic_images=3, seeds=(0,))
    arms_of = alignment.arms_of

    def small_arm(arm: Arm) -> Arm:
        gradient = arm.policy_gradient
        if gradient:
            gradient = replace(gradient, group_size=3, minibatches=1, inner_epochs=1)
        alignment = {**arm.alignment, **training}
        critic = "noisy-truth:0.8"
        return replace(arm, critic=critic, group_size=3, alignment=alignment, policy_gradient=gradient)

    def arms(sizes: TableSizes) -> dict[ArmId, Arm]:
        return {which: small_arm(arm) for which, arm in arms_of(sizes).items()}

    alignment.arms_of = run.arms_of = arms
    ceiling = replace(small, imitates="align labels", rounds=1)
    run.ceiling_arm = lambda: ceiling
    with ended_by_signals(), single_run(out):
        found = run.run_tables(
            load_policy(policy), [2], sizes, Path(out), lambda title, total: lambda done, note="": None, 1
        )
        write_tables(found, Path(out))
