import copy

import pytest
import torch
from safetensors.torch import load_file

from common.seeding import derive_generator
from rl.config import GroupPreferenceConfig
from rl.trainer import GroupPreferenceTrainer, align, draw_times
from tests.rl.toy import ToyPolicy, toy_groups


def config(folder, **changes):
    fields = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 16,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "learning_rate": 0.02,
    }
    return GroupPreferenceConfig(**{**fields, **changes})


def weights(policy):
    return torch.cat([tensor.detach().flatten() for tensor in policy.denoiser.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["clip", "weighted", "quadratic"])
def test_alignment_raises_the_reward_and_shuffled_scores_do_not(tmp_path, loss_type):
    groups, policy = toy_groups(), ToyPolicy()
    args = config(tmp_path, loss_type=loss_type, max_steps=80, logging_steps=80)
    before = policy.expected_reward(groups.condition)  # -(.4^2 + .3^2 + 2 * .5^2) = -.75
    assert before == pytest.approx(-0.75)
    after = align(policy, groups, args).expected_reward(groups.condition)
    control = align(policy, toy_groups(shuffled=True), args).expected_reward(groups.condition)
    assert after > before + 0.1
    assert after > control + 0.1


def test_align_leaves_the_given_policy_and_the_frozen_parts_alone(tmp_path):
    policy = ToyPolicy()
    before = copy.deepcopy(policy.state_dict())
    aligned = align(policy, toy_groups(), config(tmp_path))
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.state_dict().items())
    assert torch.equal(aligned.encoder.weight, policy.encoder.weight)
    assert not torch.equal(weights(aligned), weights(policy))
    assert not any(tensor.requires_grad for tensor in aligned.parameters())


def test_the_same_seed_gives_the_same_policy(tmp_path):
    first, again = (align(ToyPolicy(), toy_groups(), config(tmp_path)) for _ in range(2))
    other = align(ToyPolicy(), toy_groups(), config(tmp_path, seed=1))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_logs_trl_names_and_starts_at_the_reference(tmp_path):
    trainer = GroupPreferenceTrainer(ToyPolicy(), config(tmp_path, max_steps=3), toy_groups())
    trainer.train()
    first, _, third = trainer.state.log_history[:3]
    assert {"reward", "reward_std", "frac_reward_zero_std", "denoise_loss/pos", "denoise_loss/neg"} <= set(
        first
    )
    assert first["kl"] == first["loss"] == first["clip_ratio/region_mean"] == 0
    assert third["kl"] != 0


def test_accumulated_batches_equal_the_large_batch(tmp_path):
    large = align(ToyPolicy(), toy_groups(), config(tmp_path, max_steps=5))
    small = align(
        ToyPolicy(),
        toy_groups(),
        config(tmp_path, max_steps=5, per_device_train_batch_size=4, gradient_accumulation_steps=4),
    )
    torch.testing.assert_close(weights(small), weights(large), atol=1e-5, rtol=1e-5)


def test_accumulation_is_exact_where_the_last_batch_is_smaller(tmp_path):
    groups = toy_groups(images=44)  # an epoch is 16 + 16 + 12, or 5 x 8 + 4
    large = align(ToyPolicy(), groups, config(tmp_path, max_steps=6))
    halves = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    small = align(ToyPolicy(), groups, config(tmp_path, max_steps=6, **halves))
    torch.testing.assert_close(weights(small), weights(large), atol=1e-5, rtol=1e-5)


def test_bfloat16_starts_at_the_reference_and_ends_near_the_float32_run(tmp_path):
    groups = toy_groups()
    trainer = GroupPreferenceTrainer(ToyPolicy(), config(tmp_path, max_steps=20, bf16=True), groups)
    trainer.train()
    exact = align(ToyPolicy(), groups, config(tmp_path, max_steps=20))
    first, last = trainer.state.log_history[0], trainer.state.log_history[-2]
    assert first["kl"] == first["loss"] == 0
    assert last["kl"] != 0
    assert all(tensor.dtype == torch.float32 for tensor in trainer.policy.parameters())
    torch.testing.assert_close(weights(trainer.policy), weights(exact), atol=0.05, rtol=0.0)


def test_a_relative_trust_region_measures_in_units_of_the_reference(tmp_path):
    logs = {}
    for region in ("absolute", "relative"):
        args = config(tmp_path, max_steps=2, trust_region=region, beta=3.0)
        trainer = GroupPreferenceTrainer(ToyPolicy(), args, toy_groups())
        trainer.train()
        logs[region] = trainer.state.log_history[0]
    assert logs["relative"]["effective_beta"] == pytest.approx(3.0)
    errors = (logs["absolute"]["denoise_loss/pos"], logs["absolute"]["denoise_loss/neg"])
    assert 3.0 * min(errors) < logs["absolute"]["effective_beta"] < 3.0 * max(errors)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_resuming_takes_the_same_steps(tmp_path, lora_rank):
    saving = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "no", "lora_rank": lora_rank}
    whole = GroupPreferenceTrainer(ToyPolicy(), config(tmp_path / "a", **saving), toy_groups())
    whole.train()
    # This policy has other weights, so the reference must come from the checkpoint.
    moved = ToyPolicy(std=0.9)
    resumed = GroupPreferenceTrainer(moved, config(tmp_path / "b", **saving), toy_groups())
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, resumed)]
    assert losses[0] == losses[1]


def test_lora_changes_the_adapted_layers_only_and_leaves_an_ordinary_policy(tmp_path):
    policy, groups = ToyPolicy(), toy_groups()
    aligned = align(policy, groups, config(tmp_path, lora_rank=1, max_steps=40))
    assert aligned.state_dict().keys() == policy.state_dict().keys()
    assert type(aligned.denoiser.mean) is torch.nn.Linear
    moved = aligned.denoiser.mean.weight - policy.denoiser.mean.weight
    assert torch.linalg.matrix_rank(moved, atol=1e-5) == 1
    assert torch.equal(aligned.denoiser.mean.bias, policy.denoiser.mean.bias)
    assert torch.equal(aligned.denoiser.log_std, policy.denoiser.log_std)


def test_lora_starts_at_the_reference_and_merging_changes_no_prediction(tmp_path):
    groups = toy_groups()
    trainer = GroupPreferenceTrainer(ToyPolicy(), config(tmp_path, lora_rank=2), groups)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["kl"] == first["loss"] == 0
    query = (groups.condition, groups.x0, torch.full((len(groups), 1), 50), torch.zeros(len(groups), 1, 2))
    before = trainer.policy(*query)
    trainer.merge_adapters()
    torch.testing.assert_close(trainer.policy(*query), before)


def test_with_lora_the_reference_stays_the_base_when_adapters_have_moved(tmp_path):
    groups, base = toy_groups(), ToyPolicy()
    trainer = GroupPreferenceTrainer(ToyPolicy(), config(tmp_path, lora_rank=2), groups)
    trainer.train()
    query = (groups.condition, groups.x0, torch.full((len(groups), 1), 50), torch.zeros(len(groups), 1, 2))
    with torch.no_grad():
        assert not torch.allclose(trainer.policy(*query), base(*query))
        with trainer.weights.as_reference():
            assert torch.equal(trainer.policy(*query), base(*query))


def test_the_same_seed_gives_the_same_adapters(tmp_path):
    first, again = (align(ToyPolicy(), toy_groups(), config(tmp_path, lora_rank=2)) for _ in range(2))
    assert torch.equal(weights(first), weights(again))


@pytest.mark.parametrize("learning_rate", [1e30, 1e300])
def test_training_stops_at_the_first_weight_that_is_not_finite(tmp_path, learning_rate):
    """A step of that size overflows the weights, or the loss after it."""
    policy, steps = ToyPolicy(), []
    args = config(tmp_path, learning_rate=learning_rate, lr_scheduler_type="constant", max_grad_norm=0.0)
    with pytest.raises(
        ValueError, match=r"stopped after step [1-4] \(a learning_rate below .* help\): weights"
    ):
        align(policy, toy_groups(), args, steps.append)
    assert len(steps) < 4
    assert weights(policy).isfinite().all()


def test_lora_needs_a_linear_layer(tmp_path):
    with pytest.raises(ValueError, match="linear layers"):
        align(ToyPolicy(), toy_groups(), config(tmp_path, lora_rank=2, trainable="denoiser.mean"))


def test_saves_and_evaluates_the_averaged_weights(tmp_path):
    groups = toy_groups()
    trainer = GroupPreferenceTrainer(
        ToyPolicy(), config(tmp_path, ema_decay=0.99, save_strategy="steps", save_steps=8), groups, groups
    )
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-8" / "model.safetensors")
    state = load_file(tmp_path / "checkpoint-8" / "alignment_state.safetensors")
    name = "denoiser.mean.bias"
    assert torch.equal(saved[name], state[f"average/{name}"])
    assert torch.equal(saved[name], trainer.model.denoiser.mean.bias)
    assert not torch.equal(saved[name], state[f"live/{name}"])
    assert torch.equal(state[f"reference/{name}"], ToyPolicy().denoiser.mean.bias)
    averaged = trainer.evaluate()["eval_loss"]
    assert "eval_kl" in trainer.state.log_history[-1]
    with torch.no_grad():
        trainer.model.denoiser.mean.bias += 1.0  # the live weights must not matter
    assert trainer.evaluate()["eval_loss"] == averaged


def test_the_best_checkpoint_is_what_training_ends_with(tmp_path):
    """The first checkpoint has the lowest kl; the last average must not replace it at the end."""
    groups, every = toy_groups(), {"save_steps": 2, "eval_steps": 2}
    args = config(
        tmp_path, save_strategy="steps", eval_strategy="steps", load_best_model_at_end=True,
        metric_for_best_model="eval_kl", greater_is_better=False, **every,
    )  # fmt: skip
    trainer = GroupPreferenceTrainer(ToyPolicy(), args, groups, groups)
    trainer.train()
    best, last = (load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (2, 8))
    name = "denoiser.mean.bias"
    assert torch.equal(trainer.model.denoiser.mean.bias, best[name])
    assert not torch.equal(best[name], last[name])


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"),
    [
        (0.05, 100, 5),
        (0.05, 200, 10),
        (0.05, 400, 20),
        (0.05, 1, 0),
        (0.05, 19, 0),
        (0.29, 100, 29),
        (7, 100, 7),
    ],
)
def test_a_share_of_warm_up_is_rounded_down(tmp_path, warmup, steps, expected):
    assert config(tmp_path, warmup_steps=warmup).get_warmup_steps(steps) == expected


def test_progress_counts_steps(tmp_path):
    steps = []
    align(ToyPolicy(), toy_groups(), config(tmp_path, max_steps=3), progress=steps.append)
    assert steps == [1, 1, 1]


def test_nothing_is_printed(tmp_path, capfd):
    align(ToyPolicy(), toy_groups(), config(tmp_path, max_steps=2))
    assert capfd.readouterr() == ("", "")


def test_refuses_groups_of_equal_scores_and_unknown_submodules(tmp_path):
    groups = toy_groups(images=2, group=3)
    flat = type(groups).from_scores(groups.condition, groups.x0, [[1.0, 1.0, 1.0]] * 2)
    with pytest.raises(ValueError, match="no group has two different scores"):
        align(ToyPolicy(), flat, config(tmp_path))
    with pytest.raises(ValueError, match=r"not 'head'"):
        align(ToyPolicy(), groups, config(tmp_path, trainable="head"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type is one of clip"),
        ({"beta": 0.0}, "beta must be above 0"),
        ({"min_timestep": 0.6, "max_timestep": 0.5}, "min_timestep < max_timestep"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"advantage_type": "image"}, "advantage_type is one of group, batch, none, not 'image'"),
        ({"trust_region": "far"}, "trust_region is one of absolute, relative"),
        ({"spread_weight": -1.0}, "spread_weight must be at least 0"),
    ],
)
def test_config_names_the_given_and_the_allowed(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_every_own_field_has_a_help_text():
    own = set(vars(GroupPreferenceConfig)["__annotations__"])
    fields = {
        name: field for name, field in GroupPreferenceConfig.__dataclass_fields__.items() if name in own
    }
    assert all(field.metadata.get("help") for field in fields.values())


def test_times_are_stratified_and_antithetic():
    times = torch.stack([draw_times(4, (200, 1000), derive_generator(seed)) for seed in range(500)])
    assert times.min() >= 200
    assert times.max() < 1000
    for stratum in range(
        4
    ):  # widths of 200 from 200 on; a mirrored position may touch the next stratum's edge
        assert times[:, stratum].min() >= 200 + 200 * stratum
        assert times[:, stratum].max() <= 400 + 200 * stratum
    # mirrored: u + (1 - u) = 1, so 2 * 200 + 200 + 200 = 800, truncation takes up to 1
    sums = times[:, 0] + times[:, 1]
    assert sums.min() >= 799
    assert sums.max() <= 800


def test_a_submodule_outside_the_loss_cannot_be_trained(tmp_path):
    with pytest.raises(ValueError, match="does not depend on trainable 'encoder'"):
        align(ToyPolicy(), toy_groups(), config(tmp_path, trainable="encoder"))
