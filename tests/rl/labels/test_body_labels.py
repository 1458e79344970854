"""BodyLabels of labelled scenes during alignment."""

import pytest
import torch

from common.seeding import derive_generator
from hmr.policy.parametrization import geometry_of, vector_from_params
from hmr.synthetic.recipe import LAB
from hmr.synthetic.scenes import SceneMaker
from rl.labels.body_labels import BodyLabels, true_labels
from rl.preferences.tensors import GroupTensors
from rl.trainer import GroupPreferenceTrainer, align
from tests.rl.test_trainer import config, weights
from tests.rl.toy import CHANNELS, ToyPolicy, toy_groups


@pytest.fixture
def replay_file(tmp_path):
    """Scenes whose truth is the mean of the reference: they hold the toy policy at its mean and narrow it."""
    condition = torch.randn(32, CHANNELS, generator=torch.Generator().manual_seed(3))
    BodyLabels(condition, ToyPolicy().denoiser.mean(condition).detach()).save(tmp_path / "replay.safetensors")
    return str(tmp_path / "replay.safetensors")


def test_x0_is_the_target_of_pretraining(tiny_policy, body):
    cases = [scene.labelled for scene in SceneMaker(body, LAB, seed=1).chunk(0, 3)]
    replay = true_labels(tiny_policy, cases)
    for row, case in enumerate(cases):
        geometry = geometry_of([case.truth.camera], [tiny_policy.crop_box(case.sample.box)])[0]
        vector = vector_from_params(case.truth.params, case.truth.joints_cam_m[0], geometry)
        vector = (vector - tiny_policy.mean) / tiny_policy.std
        torch.testing.assert_close(replay.x0[row], vector, atol=1e-4, rtol=1e-4)
        seen = tiny_policy.encode([case.sample])
        torch.testing.assert_close(replay.condition[row], seen.condition[0], atol=1e-5, rtol=1e-5)


def test_saving_and_loading(tmp_path):
    replay = BodyLabels(torch.rand(4, 3), torch.rand(4, 2), estimate_digest="abc")
    replay.save(tmp_path / "r.safetensors")
    loaded = BodyLabels.load(tmp_path / "r.safetensors")
    assert torch.equal(loaded.condition, replay.condition)
    assert torch.equal(loaded.x0, replay.x0)
    assert loaded.estimate_digest == "abc"
    assert [path.name for path in tmp_path.iterdir()] == ["r.safetensors"]


def test_scenes_depend_on_the_generators_alone():
    replay = BodyLabels(torch.rand(100, 3), torch.rand(100, 2))
    keys = [derive_generator(0, number) for number in range(6)]
    halves = [
        replay.draw([derive_generator(0, number) for number in part]) for part in ((0, 1, 2), (3, 4, 5))
    ]
    assert torch.equal(replay.draw(keys), torch.cat(halves))


@pytest.mark.slow
def test_replay_holds_the_policy_at_the_labels(tmp_path, replay_file):
    groups = toy_groups()
    means = []
    for weight in (0.0, 100.0):
        args = config(tmp_path, max_steps=60, replay_weight=weight, replay_file=replay_file)
        means.append(align(ToyPolicy(), groups, args).denoiser.mean.bias.norm())
    assert means[1] < 0.5 * means[0]


def test_the_error_of_labelled_scenes_is_logged(tmp_path, replay_file):
    args = config(tmp_path, max_steps=2, replay_weight=0.5, replay_file=replay_file)
    trainer = GroupPreferenceTrainer(ToyPolicy(), args, toy_groups())
    trainer.train()
    first = trainer.state.log_history[0]
    # at step 0 the preference loss is 0, so the loss is the weight times the error
    assert first["loss"] == pytest.approx(0.5 * first["denoise_loss/replay"], abs=1e-6)
    assert first["denoise_loss/replay"] > 0


def test_accumulated_batches_replay_the_same_scenes(tmp_path, replay_file):
    more = {"max_steps": 5, "replay_weight": 0.5, "replay_file": replay_file, "spread_weight": 0.5}
    large = align(
        ToyPolicy(), toy_groups(44), config(tmp_path, **more)
    )  # the last batch of an epoch is of 12
    small = align(
        ToyPolicy(),
        toy_groups(44),
        config(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2, **more),
    )
    torch.testing.assert_close(weights(small), weights(large), atol=1e-5, rtol=1e-5)


def test_resuming_replays_the_same_scenes(tmp_path, replay_file):
    more = {"save_strategy": "steps", "save_steps": 4, "replay_weight": 0.5, "replay_file": replay_file}
    whole = GroupPreferenceTrainer(ToyPolicy(), config(tmp_path / "a", **more), toy_groups())
    whole.train()
    resumed = GroupPreferenceTrainer(ToyPolicy(), config(tmp_path / "b", **more), toy_groups())
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_scenes_of_another_initial_estimate_are_refused(tiny_policy, body, tmp_path):
    cases = [scene.labelled for scene in SceneMaker(body, LAB, seed=1).chunk(0, 2)]
    file = tmp_path / "replay.safetensors"
    true_labels(tiny_policy, cases).save(file)
    args = config(tmp_path, max_steps=1, replay_weight=0.5, replay_file=str(file), spread_steps=0)
    x0 = torch.randn(2, 3, 157, generator=torch.Generator().manual_seed(0))
    seen = tiny_policy.encode([case.sample for case in cases]).condition
    groups = GroupTensors.from_scores(seen, x0, [[1.0, 2.0, 3.0]] * 2)
    torch.nn.init.zeros_(tiny_policy.denoiser.head.weight)  # alignment trains it: its scenes stay its own
    align(tiny_policy, groups, args)
    torch.nn.init.zeros_(tiny_policy.regressor.first.weight)
    with pytest.raises(ValueError, match="by a policy with the initial estimate"):
        align(tiny_policy, groups, args)


def test_replay_needs_scenes(tiny_policy, tmp_path):
    with pytest.raises(ValueError, match="replay_file"):
        config(tmp_path, replay_weight=0.5)
    with pytest.raises(ValueError, match="at least one labelled scene"):
        true_labels(tiny_policy, [])
    args = config(tmp_path, replay_weight=0.5, replay_file=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        align(ToyPolicy(), toy_groups(), args)
