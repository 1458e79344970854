"""What a critique says beside its scores: whether the detector reads the person, and whether any body fits."""

from __future__ import annotations

from agent.types import ErrorEstimate, GroupCritique
from hmr.detection.protocol import CERTAIN_CONFIDENCE, MIN_CONFIDENCE

__all__ = ["verdict_sentences"]


def verdict_sentences(critique: GroupCritique, detector: str) -> list[str]:
    """None, one or two sentences; `detector` is its name."""
    found = [_about_person(critique.detector_confidence, detector), _about_errors(critique.errors)]
    return [sentence for sentence in found if sentence]


def _about_person(confidence: float | None, detector: str) -> str:
    if confidence is None:
        return "there is no detection of the person; only the bodies themselves were judged"
    if confidence < MIN_CONFIDENCE:
        return f"{detector} cannot read a person there (confidence {confidence:.2f}); scores only compare the bodies"
    if confidence < CERTAIN_CONFIDENCE:
        return f"{detector} is uncertain of the person (confidence {confidence:.2f}), and so are the scores"
    return ""


def _about_errors(errors: ErrorEstimate | None) -> str:
    if errors is None:
        return ""
    best = min(range(len(errors.expected_mm)), key=lambda j: errors.expected_mm[j])
    low, high = errors.low_mm[best], errors.high_mm[best]
    interval = f"{errors.expected_mm[best]:.0f} mm ({errors.interval:.0%} interval {low:.0f} to {high:.0f})"
    if errors.none_fits:
        return f"none of these bodies fits: the best is expected to be off by {interval}"
    return f"the best body is expected to be off by {interval}"
