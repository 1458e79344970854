"""Search: what it proposes, that nobody but the row learns the origins, and that a policy learns from it."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.metrics.errors import about_pelvis, mpjpe_mm
from hmr.policy.guidance import GuidanceConfig
from hmr.policy.policy import DiffusionPolicy
from hmr.types import JOINT_NAMES, Box, Camera, Detection, Hypotheses, Sample
from rl.config import GroupPreferenceConfig
from rl.policy_adapter import DiffusionPolicyAdapter
from rl.preferences.build import build_preferences, load_preferences
from rl.preferences.proposers import PolicySamples
from rl.preferences.search import Search, SearchSettings, search_for
from rl.rounds import Rounds, align_in_rounds, checked_alignment
from rl.trainer import align
from rl.types import PreferenceGroup

IMAGES = 3
FAST = GuidanceConfig(joints=10.0, last_steps=1, iterations=2)
SMALL = SearchSettings(3, 4, 2, 1, guidance=FAST)
ALIGNMENT: dict[str, Any] = {
    "loss_type": "resample",
    "train_estimate": True,
    "temperature": 0.1,
    "max_steps": 30,
    "per_device_train_batch_size": IMAGES,
    "learning_rate": 3e-3,
    "ema_decay": 0.0,
    "spread_steps": 0,
    "save_strategy": "no",
}


class Reader:
    """Reads the same joints in every image."""

    name = "reader"

    def __init__(self, joints_root_m: torch.Tensor | None) -> None:
        self.joints_root_m = joints_root_m

    def digest(self) -> str:
        return "reader of " + ("nothing" if self.joints_root_m is None else f"{self.joints_root_m.sum():.3f}")

    def find(self, image: np.ndarray) -> list[Box]:
        return []

    def detect(self, sample: Sample) -> Detection:
        points, silent = torch.zeros(24, 2), torch.zeros(24)
        return Detection.from_points(
            JOINT_NAMES, points, silent + 1, silent, joints_root_m=self.joints_root_m
        )


class Nearness:
    """A critic that ranks by the distance to its detector's joints; it dies after `patience` groups, like a kill."""

    name = "nearness"

    def __init__(self, body: Body, detector: Reader, patience: int = 1000) -> None:
        self.body, self.detector, self.patience = body, detector, patience

    def digest(self) -> str:
        return "nearness"

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        self.patience -= 1
        if self.patience < 0:
            raise KeyboardInterrupt
        reading_m = self.detector.joints_root_m
        assert reading_m is not None
        return (-mpjpe_mm(self.body.joints(hypotheses.params), reading_m)).tolist()


@pytest.fixture
def samples() -> list[Sample]:
    image, box = np.full((96, 96, 3), 90, np.uint8), Box(8.0, 8.0, 80.0, 88.0)
    return [Sample(f"image-{n}", image + n, box, Camera.estimate(96, 96)) for n in range(IMAGES)]


@pytest.fixture
def reader(tiny_policy: DiffusionPolicy, body: Body, samples: list[Sample]) -> Reader:
    """The joints of a body far from everything that the policy samples."""
    x0 = 1.5 * torch.randn(1, 1, 157, generator=torch.Generator().manual_seed(3))
    params = tiny_policy.from_x0(x0, tiny_policy.encode(samples[:1]))
    return Reader(about_pelvis(body.joints(params))[0, 0])


def build(
    policy: DiffusionPolicy,
    critic: Nearness,
    samples: Sequence[Sample],
    out: Path,
    search: SearchSettings = SMALL,
) -> Path:
    proposer = search_for(policy, critic, search, critic.body)
    return build_preferences(policy, critic, samples, out, seed=4, shard_rows=2, proposer=proposer)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what is proposed ----------------------------------------------------------------------------------------


def test_origins_are_stored_in_a_random_order(tiny_policy, body, samples, reader, tmp_path):
    groups = load_preferences(build(tiny_policy, Nearness(body, reader), samples, tmp_path))
    origins = groups["origin"][:]
    for row in origins:
        assert Counter(row) == {"sampled": 3, "guided": 4, "corrected": 2, "mirrored": 1}
    assert len({tuple(row) for row in origins}) == IMAGES
    group = PreferenceGroup.from_row(groups[0])
    assert group.origins == tuple(origins[0])
    assert len(group.hypotheses) == SMALL.group_size
    assert set(groups["uses_truth"]) == {False}


def test_a_critic_receives_bodies_alone(tiny_policy, body, samples, reader, tmp_path):
    class Curious(Nearness):
        def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
            assert {item.name for item in dataclasses.fields(hypotheses)} == {"params", "camera"}
            assert sample in samples
            return super().score(sample, hypotheses)

    build(tiny_policy, Curious(body, reader), samples[:1], tmp_path)


def test_equal_seeds_give_equal_groups(tiny_policy, body, samples, reader):
    search = Search(SMALL, reader, body)
    first, again, other = (
        search.propose(tiny_policy, samples[0], derive_generator(seed)) for seed in (0, 0, 1)
    )
    assert first.origins == again.origins
    assert torch.equal(first.hypotheses.params.body_pose, again.hypotheses.params.body_pose)
    assert not torch.equal(first.hypotheses.params.betas, other.hypotheses.params.betas)


def test_guided_and_corrected_bodies_are_nearer_to_the_reading(tiny_policy, body, samples, reader):
    search = Search(SearchSettings(6, 6, 4, 0), reader, body)
    proposal = search.propose(tiny_policy, samples[0], derive_generator(0))
    errors = mpjpe_mm(body.joints(proposal.hypotheses.params), reader.joints_root_m)
    by_origin = {
        origin: errors[[index for index, name in enumerate(proposal.origins) if name == origin]]
        for origin in ("sampled", "guided", "corrected")
    }
    assert by_origin["guided"].max() < by_origin["sampled"].min()
    assert by_origin["corrected"].min() < 0.3 * by_origin["sampled"].min()


def test_a_mirrored_limb_keeps_its_picture(tiny_policy, body, samples):
    """Without 3D joints as many more are mirrored. The hands and feet follow, so they may move."""
    search = Search(SearchSettings(1, 0, 2, 6), Reader(None), body)
    proposal = search.propose(tiny_policy, samples[0], derive_generator(0))
    assert Counter(proposal.origins) == {"sampled": 1, "mirrored": 8}
    joints_m = body.joints(proposal.hypotheses.params)
    first = proposal.origins.index("sampled")
    ends = [j for j in range(24) if JOINT_NAMES[j].split("_")[-1] not in ("hand", "foot")]
    moved_px = proposal.hypotheses.camera.project(joints_m)[:, ends]
    assert (moved_px - moved_px[first]).norm(dim=-1).max() < 5  # of 96, because of perspective
    others = [index for index in range(9) if index != first]
    assert ((joints_m - joints_m[first]).norm(dim=-1).amax(dim=1)[others] > 0.02).all()


def test_without_a_detector_the_critic_shares_the_policys(tiny_policy, body, reader):
    class Blind:
        name = "blind"

        def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
            return [0.0] * len(hypotheses)

    critic = Nearness(body, reader)
    assert search_for(tiny_policy, critic, SMALL, body).detector is reader
    assert search_for(tiny_policy, Blind(), SMALL, body).detector is tiny_policy.detector
    other = copy.deepcopy(body)
    assert search_for(tiny_policy, critic, SMALL, other).body is body
    assert search_for(tiny_policy, Blind(), SMALL, other).body is other
    assert search_for(tiny_policy, critic, SMALL, body, tiny_policy.detector).detector is tiny_policy.detector


# -- on disk -------------------------------------------------------------------------------------------------


def test_a_killed_build_continues_to_the_same_bytes(tiny_policy, body, samples, reader, tmp_path):
    two = samples[:2]
    whole = contents(build(tiny_policy, Nearness(body, reader), two, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        build(tiny_policy, Nearness(body, reader, patience=1), two, tmp_path / "cut")
    build(tiny_policy, Nearness(body, reader, patience=1), two, tmp_path / "cut")
    assert contents(tmp_path / "cut") == whole


def test_the_manifest_holds_all_settings(tiny_policy, body, samples, reader, tmp_path):
    critic = Nearness(body, reader)
    build(tiny_policy, critic, samples[:1], tmp_path)
    recorded = json.loads((tmp_path / "manifest.json").read_text())
    assert recorded["search"]["detector_digest"] == reader.digest()
    assert recorded["search"]["guidance"] == dataclasses.asdict(SMALL.guidance)
    more = dataclasses.replace(FAST, joints=5.0)
    for other in (
        Search(dataclasses.replace(SMALL, guidance=more), reader, body),
        Search(dataclasses.replace(SMALL, sampled=4, guided=3), reader, body),
        Search(SMALL, Reader(torch.ones(24, 3)), body),
        PolicySamples(SMALL.group_size),
    ):
        with pytest.raises(ValueError, match="was begun with"):
            build_preferences(
                tiny_policy, critic, samples[:1], tmp_path, seed=4, shard_rows=2, proposer=other
            )


# -- learning ------------------------------------------------------------------------------------------------


def nothing(title: str, total: int) -> Any:
    return lambda done: None


def test_a_policy_moves_towards_what_it_never_samples(tiny_policy, body, samples, reader, tmp_path):
    critic = Nearness(body, reader)
    rounds = Rounds(1, SMALL.group_size, seed=1, search=SMALL)
    aligned = align_in_rounds(tiny_policy, critic, samples, tmp_path, ALIGNMENT, rounds, nothing)
    groups = load_preferences(tmp_path / "round-0" / "groups")
    for scores, origins in zip(groups["scores"][:], groups["origin"][:], strict=True):
        assert origins[int(np.argmax(scores))] != "sampled"
    best = max(max(row) for row in groups["scores"][:])

    def error(policy: DiffusionPolicy) -> torch.Tensor:
        drawn = policy.sample(policy.encode(samples), 16, torch.Generator().manual_seed(0))
        return mpjpe_mm(torch.stack([body.joints(item.params) for item in drawn]), reader.joints_root_m)

    before, after = error(tiny_policy), error(aligned)
    assert before.min() > -best  # none of its own is as near
    assert after.mean() < 0.7 * before.mean()


def test_other_losses_are_refused(tiny_policy, body, samples, reader, tmp_path):
    rounds = Rounds(1, SMALL.group_size, search=SMALL)
    with pytest.raises(ValueError, match="search need loss_type resample, not clip"):
        checked_alignment(tiny_policy, {"max_steps": 4}, rounds, IMAGES)
    groups = load_preferences(build(tiny_policy, Nearness(body, reader), samples[:1], tmp_path / "groups"))
    config = GroupPreferenceConfig(output_dir=str(tmp_path), use_cpu=True, loss_type="sft", max_steps=4)
    with pytest.raises(ValueError, match="search need loss_type resample, not sft"):
        align(tiny_policy, groups, config)


def test_a_policy_behind_an_adapter_is_refused(tiny_policy, body, samples, reader):
    adapter = DiffusionPolicyAdapter(tiny_policy)
    with pytest.raises(ValueError, match="search needs a DiffusionPolicy, not DiffusionPolicyAdapter"):
        Search(SMALL, reader, body).propose(adapter, samples[0], derive_generator(0))
    with pytest.raises(ValueError, match="search needs a DiffusionPolicy, not DiffusionPolicyAdapter"):
        checked_alignment(adapter, ALIGNMENT, Rounds(1, 10, search=SMALL), IMAGES, samples)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchSettings(sampled=-1), "numbers of hypotheses from 0 on, not sampled=-1"),
        (lambda: SearchSettings(sampled=0), "sampled must be at least 1, not 0"),
        (
            lambda: SearchSettings(least_share=1.5),
            "least_share <= largest_share <= 1 is required, not 1.5 and 1",
        ),
        (lambda: SearchSettings.of_size(3), "at least 4 hypotheses, not 3"),
        (lambda: Rounds(1, 8, search=SMALL), "group_size must be 10, the sum of the search's parts, not 8"),
        (lambda: Rounds(1, 10, noise_scale=1.5, search=SMALL), "noise_scale is a field of search"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_group_of_any_size():
    assert SearchSettings.of_size(20) == SearchSettings()
    for size in (4, 5, 12, 33, 50):
        settings = SearchSettings.of_size(size)
        assert settings.group_size == size
        assert min(settings.sampled, settings.guided, settings.corrected, settings.mirrored) >= 1
