"""Names for body parts, so that every tool blames the same limb by the same name.

The part of joint j is the flesh that joint j moves: what hangs from the left knee is the left shin. Names
are the words a person would use; several spine joints make one torso, a wrist and its knuckles one hand.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from hmr.types import JOINT_NAMES, PARENTS

__all__ = ["JOINT_WORDS", "LIMB_ENDING_AT", "MAX_PARTS", "PART_NAMES", "capitalise", "worst_parts"]

PART_NAMES = (
    "pelvis", "left thigh", "right thigh", "torso", "left shin", "right shin", "torso", "left foot",
    "right foot", "torso", "left foot", "right foot", "neck", "left shoulder", "right shoulder", "head",
    "left upper arm", "right upper arm", "left forearm", "right forearm", "left hand", "right hand",
    "left hand", "right hand",
)  # fmt: skip
_PLAIN = {"spine1": "lower back", "spine2": "middle back", "spine3": "upper back"}
_PLAIN |= {f"{side}_foot": f"{side} toe joint" for side in ("left", "right")}
_PLAIN |= {f"{side}_hand": f"{side} knuckle joint" for side in ("left", "right")}
_PLAIN |= {f"{side}_collar": f"{side} collarbone" for side in ("left", "right")}
JOINT_WORDS = tuple(_PLAIN.get(name, name.replace("_", " ")) for name in JOINT_NAMES)
# A misplaced joint is the fault of the limb that ends there: a wrist is off because the forearm is.
LIMB_ENDING_AT = tuple(PART_NAMES[max(parent, 0)] for parent in PARENTS)
MAX_PARTS = 3  # more names than this no longer point at anything


def worst_parts(
    errors: Float[Tensor, "group parts"], threshold: float, names: Sequence[str] = PART_NAMES
) -> tuple[tuple[str, ...], ...]:
    """For each hypothesis the names whose error exceeds `threshold`, worst first, at most three of them."""
    return tuple(_over(row, threshold, names) for row in errors.tolist())


def _over(errors: list[float], threshold: float, names: Sequence[str]) -> tuple[str, ...]:
    over = sorted(
        ((error, name) for error, name in zip(errors, names, strict=True) if error > threshold), reverse=True
    )
    return tuple(dict.fromkeys(name for _, name in over))[:MAX_PARTS]


def capitalise(sentence: str) -> str:
    """Upper-case the first letter and leave the rest alone."""
    return sentence[:1].upper() + sentence[1:]
