"""What a critique says beside its scores: whether the detector reads the person, and whether any body fits."""

from __future__ import annotations

from agent.types import ErrorEstimate, GroupCritique
from hmr.detection.protocol import CERTAIN_CONFIDENCE, MIN_CONFIDENCE

__all__ = ["verdict_sentences"]

MISMATCH = "silhouette_mismatch"
BESIDE = 0.98  # mismatch of the outlines, above which a body is beside the person


def verdict_sentences(critique: GroupCritique, detector: str) -> list[str]:
    """None, or one to three sentences; `detector` is its name."""
    found = [
        _about_person(critique.detector_confidence, detector),
        _about_place(critique),
        _about_errors(critique),
    ]
    return [sentence for sentence in found if sentence]


def _about_person(confidence: float | None, detector: str) -> str:
    if confidence is None:
        return "there is no detection of the person; only the bodies themselves were judged"
    if confidence < MIN_CONFIDENCE:
        return (
            f"{detector} does not detect a person in this box (confidence {confidence:.2f}); scores only compare the "
            "bodies"
        )
    if confidence < CERTAIN_CONFIDENCE:
        return f"{detector} is uncertain of the person (confidence {confidence:.2f}), and so are the scores"
    return ""


def _about_place(critique: GroupCritique) -> str:
    mismatch = [value for item in critique.evidence if item.metric == MISMATCH for value in item.values]
    is_beside = bool(mismatch) and all(value is not None and value > BESIDE for value in mismatch)
    return "none of these bodies covers the person" if is_beside else ""


def _about_errors(critique: GroupCritique) -> str:
    errors = critique.errors
    if errors is None:
        names = ", ".join(critique.unmeasured)
        return (
            f"no error in millimetres is estimated, as no body has a measurement of {names}" if names else ""
        )
    least = min(range(len(errors.expected_mm)), key=lambda j: errors.expected_mm[j])
    if errors.none_fits:
        return f"none of these bodies fits; least expected pose error: {_interval(errors, least)}"
    scores = {j: score for j, score in enumerate(critique.scores) if score is not None}
    if not scores:
        return f"least expected pose error: {_interval(errors, least)}"
    best = max(scores, key=lambda j: scores[j])
    return f"expected pose error of the body with the best score: {_interval(errors, best)}"


def _interval(errors: ErrorEstimate, j: int) -> str:
    return (
        f"{errors.expected_mm[j]:.0f} mm ({errors.confidence_level:.0%} interval {errors.low_mm[j]:.0f} to "
        f"{errors.high_mm[j]:.0f}; MPJPE after aligning the pelvis)"
    )
