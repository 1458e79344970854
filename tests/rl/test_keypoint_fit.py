"""Alignment to keypoints: what is stored is found again, and belongs to one policy and its images."""

from collections import Counter
from pathlib import Path

import pytest
import torch

import rl.keypoint_fit
import rl.rounds
from common.progress import Tick
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Sample
from rl.keypoint_fit import align_to_keypoints
from rl.labels.body_labels import BodyLabels
from tests.rl.street_scenes import StoredDetections, street_samples

TRAINING = {
    "loss_type": "resample", "train_estimate": True, "max_steps": 10, "per_device_train_batch_size": 3,
    "learning_rate": 0.01, "warmup_steps": 0, "save_strategy": "no",
}  # fmt: skip


@pytest.fixture
def samples(body: Body) -> list[Sample]:
    return street_samples(body)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()
    for module, name in ((rl.keypoint_fit, "fitted_to_keypoints"), (rl.rounds, "align")):
        original = getattr(module, name)

        def counting(*words, original=original, name=name, **more):
            counted[name] += 1
            return original(*words, **more)

        monkeypatch.setattr(module, name, counting)
    return counted


def _silent(title: str, total: int) -> Tick:
    return lambda done, note="": None


def test_the_policy_moves_to_the_fits_and_a_second_run_loads_it(
    tiny_policy: DiffusionPolicy, body: Body, samples: list[Sample], calls: Counter[str], tmp_path: Path
):
    tiny_policy.detector = StoredDetections()
    before = tiny_policy.digest()

    def run(shown: list[Sample], seed: int = 0) -> DiffusionPolicy:
        return align_to_keypoints(tiny_policy, body, shown, tmp_path, TRAINING, seed, _silent)

    aligned = run(samples)
    assert (tiny_policy.digest(), calls) == (before, {"fitted_to_keypoints": 1, "align": 1})
    labels = BodyLabels.load(tmp_path / "bodies" / "labels.safetensors")
    assert _distance(aligned, labels) < 0.7 * _distance(tiny_policy, labels)
    assert run(samples).digest() == aligned.digest()
    assert calls == {"fitted_to_keypoints": 1, "align": 1}
    assert run(samples, seed=1).digest() != aligned.digest()
    assert calls == {"fitted_to_keypoints": 1, "align": 2}  # the bodies do not depend on the seed
    run(samples[:2])
    assert calls == {"fitted_to_keypoints": 2, "align": 3}


def _distance(policy: DiffusionPolicy, labels: BodyLabels) -> float:
    """Mean squared distance of the initial estimates from the fits."""
    estimate = policy.initial_estimate(labels.condition[:, : policy.feature_size])
    return float(torch.nn.functional.mse_loss(estimate, labels.x0))
