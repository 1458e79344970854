"""The alignments of table 5: what each choice of ours does, on as many images with as many steps.

| group   | arms                                                                                            |
|---------|-------------------------------------------------------------------------------------------------|
| loss    | each loss on the same scored groups, with the recipe of `meshcritic align --method`: rates and  |
|         | batches differ, and `resample` alone trains the initial estimate                                |
| rounds  | resampling in four rounds; the policy gradient, which samples anew for every update             |
| group   | resampling from smaller groups                                                                  |
| critic  | resampling with scores of the truth, of noisy readings of it whose errors are independent of the |
|         | policy's or shared with it, and with shuffled scores                                            |
"""

from __future__ import annotations

from dataclasses import replace

from common.storage.files import CONFIGS
from eval.study.arms import Arm, ArmId, Method, methods, recipe
from eval.tables.sizes import TableSizes
from rl.config import LOSS_TYPES

__all__ = ["variant_arms"]

GROUP_SIZES = (5, 10)
CRITICS = {
    "the truth": "noisy-truth:1",
    "a reading of SRCC 0.6 with independent errors": "noisy-reading:0.6",
    "a reading of SRCC 0.6 with the policy's errors": "noisy-reading:0.6:shared",
    "shuffled scores": "shuffled",
}


def variant_arms(sizes: TableSizes, with_truth: bool) -> dict[ArmId, Arm]:
    """By row, with the images of `sizes`. with_truth: also the critics that read the truth of scenes."""
    one_round, known = Arm(recipe("resample")), methods()
    arms = {
        **{f"loss {loss}": _of_loss(loss) for loss in LOSS_TYPES},
        "resample in four rounds": known[Method.RESAMPLE],
        "policy gradient": known[Method.POLICY_GRADIENT],
        **{f"resample, groups of {size}": replace(one_round, group_size=size) for size in GROUP_SIZES},
        **{f"resample, {name}": replace(one_round, critic=critic) for name, critic in CRITICS.items()},
    }
    return {
        ArmId(name): arm.with_images(sizes.align)
        for name, arm in arms.items()
        if with_truth or not arm.uses_truth
    }


def _of_loss(loss: str) -> Arm:
    own = (CONFIGS / f"align_{loss}.yaml").exists()
    return Arm({**recipe(loss if own else "clip"), "loss_type": loss})
