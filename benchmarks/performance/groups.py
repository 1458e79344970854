"""Groups of hypotheses of rendered `wild` scenes, which several benchmarks judge."""

from __future__ import annotations

from dataclasses import replace

from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.recipe import WILD
from hmr.synthetic.scenes import SceneMaker
from hmr.types import Hypotheses, Sample

__all__ = ["Group", "uncached", "wild_groups"]

Group = tuple[Sample, Hypotheses]


def wild_groups(policy: DiffusionPolicy, body: Body, count: int, samples: int) -> list[Group]:
    """`count` groups of `samples` hypotheses; a larger count begins with the same groups."""
    scenes = SceneMaker(body, WILD, seed=11).chunk(0, count)
    return [_group(policy, scene.labelled.sample, samples) for scene in scenes]


def uncached(group: Group) -> Group:
    """A copy of the sample without cached encoder outputs (hmr.detection.encoder_cache)."""
    sample, hypotheses = group
    return replace(sample), hypotheses


def _group(policy: DiffusionPolicy, sample: Sample, count: int) -> Group:
    drawn = policy.sample(policy.encode([sample]), count, derive_generator(0, "waiting", sample.id))[0]
    return sample, Hypotheses(drawn.params, sample.camera)
