"""Names of body parts, shared by all tools.

The part of joint j is what joint j moves: the part of the left knee is the left shin. Names are ordinary words; several
spine joints form the torso, a wrist and its knuckles form the hand.
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
_WORDS = {"spine1": "lower back", "spine2": "middle back", "spine3": "upper back"}
_WORDS |= {f"{side}_foot": f"{side} forefoot" for side in ("left", "right")}
_WORDS |= {f"{side}_collar": f"{side} collarbone" for side in ("left", "right")}
JOINT_WORDS = tuple(_WORDS.get(name, name.replace("_", " ")) for name in JOINT_NAMES)
# A misplaced joint is the fault of the limb that ends there: a wrong wrist is the fault of the forearm.
LIMB_ENDING_AT = tuple(PART_NAMES[max(parent, 0)] for parent in PARENTS)
MAX_PARTS = 3  # per hypothesis and tool


def worst_parts(
    errors: Float[Tensor, "group parts"], threshold: float, names: Sequence[str] = PART_NAMES
) -> tuple[tuple[str, ...], ...]:
    """The names whose error exceeds `threshold`, per hypothesis: worst first, at most `MAX_PARTS`."""
    return tuple(_over(row, threshold, names) for row in errors.tolist())


def _over(errors: list[float], threshold: float, names: Sequence[str]) -> tuple[str, ...]:
    over = sorted(
        ((error, name) for error, name in zip(errors, names, strict=True) if error > threshold), reverse=True
    )
    return tuple(dict.fromkeys(name for _, name in over))[:MAX_PARTS]


def capitalise(sentence: str) -> str:
    """Upper-case the first letter and leave the rest alone."""
    return sentence[:1].upper() + sentence[1:]
