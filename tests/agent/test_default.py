"""Whose reading of the 3D joints an agent uses, and which encoder it shares."""

from __future__ import annotations

from typing import cast

from agent.default import default_agent, open_default_memory
from agent.image_embedding import EncoderEmbedder
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.simulated import SimulatedDetector
from hmr.policy.checkpoint import load_reader
from hmr.policy.joints_3d import WithJoints3D
from hmr.policy.policy import DiffusionPolicy
from rl.scorers.identity import scorer_digest


def test_the_shipped_policy_reads_for_any_other_unless_one_is_given(
    tiny_policy: DiffusionPolicy, body: Body
) -> None:
    memory = open_default_memory(None, tiny_policy, frozen=False)
    usual, own = (
        default_agent(tiny_policy, body, memory),
        default_agent(tiny_policy, body, memory, reader=tiny_policy),
    )
    assert isinstance(usual.detector, WithJoints3D)
    assert isinstance(own.detector, WithJoints3D)
    assert usual.detector.reader is load_reader("cpu")  # loaded once
    assert own.detector.reader is tiny_policy
    assert usual.detector.digest() != own.detector.digest()
    assert scorer_digest(usual) != scorer_digest(own)


def test_retrieval_shares_the_encoder_of_the_agents_own_detector(
    tiny_policy: DiffusionPolicy, body: Body
) -> None:
    detector = cast(EmbeddedDetector, tiny_policy.detector)
    tiny_policy.detector = SimulatedDetector()
    memory = open_default_memory(None, tiny_policy, frozen=False)
    agent = default_agent(tiny_policy, body, memory, detector=detector)
    assert cast(EncoderEmbedder, agent.image_embedder).encoder_cache is detector.encoder_cache
