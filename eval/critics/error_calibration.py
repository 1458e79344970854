"""Fits the model of absolute errors (`agent.expected_error`) on labelled scenes.

Each scene gives two groups: the policy's hypotheses for it, and those for the scene before, moved to this person. Half
of the model's data is thus of bodies that are all wrong, as they are when a file of hypotheses is for somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from agent.agent import CritiqueAgent
from agent.expected_error import ErrorModel, MeasuredGroup, detection_features, fit_error_model
from agent.exploration.context import Propose
from hmr.body.model import Body
from hmr.metrics.errors import mpjpe_mm
from hmr.types import Detection, Hypotheses, Labelled

__all__ = ["GROUPS_PER_CASE", "calibrate_errors", "measure_groups"]

GROUPS_PER_CASE = 2


def calibrate_errors(
    agent: CritiqueAgent,
    cases: Sequence[Labelled],
    held_out: Sequence[Labelled],
    propose: Propose,
    progress: Callable[[int], None] = lambda done: None,
) -> ErrorModel:
    """The model for the agent's detector, fitted on `cases`; `held_out` measure its coverage.

    `progress` receives the number of scenes done. Raises ValueError for fewer than four cases or an agent without a
    detector.
    """
    if agent.detector is None:
        raise ValueError("errors are estimated from detections, and this agent has no detector")
    fitted = measure_groups(agent, cases, propose, progress)
    kept = measure_groups(agent, held_out, propose, lambda done: progress(len(cases) + done))
    return fit_error_model(agent.detector.name, fitted, kept)


@torch.no_grad()
def measure_groups(
    agent: CritiqueAgent,
    cases: Sequence[Labelled],
    propose: Propose,
    progress: Callable[[int], None] = lambda done: None,
) -> list[MeasuredGroup]:
    """Two groups per case: its own, then that of the case before it (of the last one for the first)."""
    if not cases:
        return []
    groups = []
    before = propose(cases[-1].sample)
    for done, case in enumerate(cases, start=1):
        own = propose(case.sample)
        detection = agent.detector.detect(case.sample) if agent.detector else None
        groups.append(_measured(agent, case, own, detection, is_own=True))
        groups.append(_measured(agent, case, _moved(before, own, agent.body), detection, is_own=False))
        before = own
        progress(done)
    return groups


def _measured(
    agent: CritiqueAgent, case: Labelled, hypotheses: Hypotheses, detection: Detection | None, is_own: bool
) -> MeasuredGroup:
    measured, evidence = agent.measure(case.sample, hypotheses, detection)
    truth_m = case.truth.joints_cam_m.to(measured.posed.joints_cam_m)
    return MeasuredGroup(
        {item.metric: item.values for item in evidence},
        detection_features(measured.detection, case.sample.box),
        tuple(mpjpe_mm(measured.posed.joints_cam_m, truth_m).tolist()),
        is_own,
    )


def _moved(bodies: Hypotheses, to: Hypotheses, body: Body) -> Hypotheses:
    """The bodies with their pelvises at the mean place of those of another group, before its camera."""
    place_m = body.joints(to.params)[:, 0].mean(dim=0)
    pelvis_m = body.joints(bodies.params)[:, 0]
    return Hypotheses(replace(bodies.params, transl=bodies.params.transl + place_m - pelvis_m), to.camera)
