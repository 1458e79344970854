"""The digest of a critic depends on everything that affects its scores."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch

from agent.default import default_agent, open_default_memory
from agent.vlm import EmbeddedCritic
from eval.critics.reference_critics.ground_truth_detector import GroundTruthDetector
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.person_encoder import PersonEncoder
from hmr.policy.policy import DiffusionPolicy
from memory.rule import Provenance, Rule
from rl.scorers.hmr_scorer import HMRScorer, ScorerShape
from rl.scorers.identity import scorer_digest
from rl.scorers.rewards import RewardMix, load_reward
from rl.scorers.truth import NoisyTruthScorer, TruthScorer
from tests.agent.tools.tool_case import larger_body

REWARD = """
from rl.scorers.rewards import RewardMix

def high(*, hypotheses, **kwargs):
    return [{value}] * len(hypotheses)

class Mine:
    name = "mine"
    def score(self, sample, hypotheses):
        return [{value}] * len(hypotheses)

mine = Mine()
mix = RewardMix([high, mine], [1.0, {weight}])
"""


@pytest.mark.parametrize("name", ["high", "mine", "mix"])
def test_an_edited_reward_file_is_another_critic(tmp_path: Path, name: str) -> None:
    file = tmp_path / "rewards.py"
    digests = []
    for value in (1.0, 2.0, 1.0):
        file.write_text(REWARD.format(value=value, weight=1.0))
        digests.append(scorer_digest(load_reward(f"{file}:{name}")))
    assert digests[0] == digests[2] != digests[1]


def test_weights_order_and_body_of_a_mix_count(body: Body) -> None:
    def one(**kwargs: object) -> list[float]:
        return [1.0]

    mixes = [RewardMix([one]), RewardMix([one], [2.0]), RewardMix([one], normalize=True)]
    mixes += [RewardMix([one], body=body) for body in (body, larger_body())]
    assert len({scorer_digest(mix) for mix in mixes}) == len(mixes)
    scorer_digest(functools.partial(one))  # a scorer without a file has a digest too


def test_the_digest_of_an_agent_covers_memory_backend_and_settings(
    tiny_policy: DiffusionPolicy, tiny_encoder: PersonEncoder, body: Body, tmp_path: Path
) -> None:
    class Newer(EmbeddedCritic):
        revision = f"{EmbeddedCritic.revision} and more"

    class Renamed(EmbeddedDetector):
        name = "another's weights"

    with (
        open_default_memory(tmp_path / "seeds", tiny_policy, frozen=False) as seeds,
        open_default_memory(tmp_path / "more", tiny_policy, frozen=False) as more,
    ):
        agent, again = (default_agent(tiny_policy, body, seeds) for _ in range(2))
        more.rules.add([Rule.create("Feet stand on the floor.", [], Provenance("seed", "none", None), None)])
        others = [
            default_agent(tiny_policy, body, more),
            dataclasses.replace(agent, backend=Newer()),
            dataclasses.replace(agent, settings=dataclasses.replace(agent.settings, permutations=1)),
            dataclasses.replace(agent, tools=agent.tools[1:]),
            dataclasses.replace(agent, detector=GroundTruthDetector({})),
            dataclasses.replace(agent, detector=Renamed(tiny_encoder)),
            dataclasses.replace(agent, body=larger_body()),
        ]
        assert agent.name == again.name == others[0].name
        assert scorer_digest(agent) == scorer_digest(again)
        assert len({scorer_digest(one) for one in (agent, *others)}) == len(others) + 1


def test_own_scorers_have_different_digests(tiny_policy: DiffusionPolicy, body: Body) -> None:
    shape = ScorerShape(4, 8, 4)
    fitted, other = (HMRScorer(tiny_policy, body, shape, seed) for seed in (0, 1))
    truth_of = {}.__getitem__
    scorers = [fitted, other, TruthScorer(body, truth_of)]
    scorers += [NoisyTruthScorer(body, truth_of, 0.5), NoisyTruthScorer(body, truth_of, 0.5, seed=1)]
    digests = [scorer_digest(scorer) for scorer in scorers]
    assert len(set(digests)) == len(digests)
    torch.nn.init.zeros_(
        tiny_policy.denoiser.head.weight
    )  # alignment trains it, so the digest must not change
    assert scorer_digest(fitted) == digests[0]
    torch.nn.init.zeros_(tiny_policy.regressor.first.weight)
    assert scorer_digest(fitted) != digests[0]
