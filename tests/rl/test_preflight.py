"""Invalid training arguments are refused before a critic is called, with the field in the message."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from hmr.policy.policy import DiffusionPolicy
from rl.policy_adapter import DiffusionPolicyAdapter
from rl.preflight import run_preflight
from rl.rounds import Rounds, align_in_rounds, checked_alignment
from tests.rl.preferences.test_build import wild
from tests.rl.test_rounds import ALIGNMENT, Depth

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "adapters on one layer": (
        {"lora_rank": 4, "trainable": "denoiser.head"},
        r"training refuses lora_rank: 4, trainable: denoiser\.head \(LoRA adapts linear layers",
    ),
    "checkpoints of activations": ({"gradient_checkpointing": True}, "refuses gradient_checkpointing: True"),
    "an evaluation at the start": ({"eval_on_start": True}, "refuses eval_on_start: True"),
    "the best of no evaluation": ({"save_strategy": "best"}, "'best' save_strategy"),
    "a layer without weights": (
        {"trainable": "denoiser.blocks.0.norm"},
        r"does not depend on trainable 'denoiser\.blocks\.0\.norm'",
    ),
    "a tracker that is none": ({"report_to": "foo"}, r"refuses report_to: foo \(foo is not supported"),
    "an optimizer that is none": ({"optim": "sgdd"}, r"refuses optim: sgdd \(sgdd is not a valid"),
    "no accumulation": ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be above 0"),
    "a schedule's unknown setting": (
        {"lr_scheduler_kwargs": {"cycles": 2}},
        "refuses lr_scheduler_kwargs: .*unexpected keyword",
    ),
    "lengths that a group has not": (
        {"train_sampling_strategy": "group_by_length"},
        "refuses train_sampling_strategy: group_by_length",
    ),
    "two faults, of which the first is reported": (
        {"report_to": "foo", "eval_on_start": True},
        r"refuses report_to: foo \(foo is not supported",
    ),
    "epochs": (
        {"num_train_epochs": 3},
        "num_train_epochs cannot be set by a recipe: a run ends at max_steps",
    ),
    "a last batch dropped": (
        {"dataloader_drop_last": True},
        "dataloader_drop_last cannot be set .* train nothing",
    ),
    "a warm-up as long as a round": (
        {"warmup_steps": 4},
        "warmup_steps must be below the 4 steps of a round",
    ),
}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parent of temporary folders."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_arguments_are_refused_before_a_critique(
    case: str, tiny_policy: DiffusionPolicy, tmp_path: Path, scratch: Path
) -> None:
    fields, message = REFUSED[case]
    alignment, out = {**ALIGNMENT, **fields}, tmp_path / "out"
    silent = lambda title, total: lambda done: None  # noqa: E731
    with pytest.raises(ValueError, match=message):
        align_in_rounds(tiny_policy, Depth(patience=0), wild(4), out, alignment, Rounds(1, 3), silent)
    assert not out.exists()
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("package", "fields", "message"),
    [
        ("wandb", {"report_to": "wandb"}, r"refuses report_to: wandb \(.*pip install wandb"),
        ("bitsandbytes", {"optim": "adamw_bnb_8bit"}, r"refuses optim: adamw_bnb_8bit \(.*bitsandbytes"),
    ],
)
def test_missing_packages_are_named(
    tiny_policy: DiffusionPolicy, package: str, fields: dict[str, Any], message: str
) -> None:
    try:
        __import__(package)
    except ImportError:
        with pytest.raises(ValueError, match=message):
            run_preflight(tiny_policy, {**ALIGNMENT, **fields})
    else:
        pytest.skip(f"{package} is installed")


def test_a_preflight_changes_neither_policy_nor_generator_nor_disk(
    tiny_policy: DiffusionPolicy, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trackers receive nothing either."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    digest, state = tiny_policy.digest(), torch.random.get_rng_state()
    saving = {
        **ALIGNMENT,
        "save_strategy": "steps",
        "save_steps": 1,
        "report_to": "tensorboard",
        "lora_rank": 2,
    }
    run_preflight(tiny_policy, saving)
    assert tiny_policy.digest() == digest
    assert not any(tensor.requires_grad for tensor in tiny_policy.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch"]
    assert not list(scratch.iterdir())


def test_the_replay_file_may_not_exist_yet(tiny_policy: DiffusionPolicy, tmp_path: Path) -> None:
    replayed = {**ALIGNMENT, "replay_weight": 0.5, "replay_file": str(tmp_path / "later.safetensors")}
    assert checked_alignment(tiny_policy, replayed, Rounds(), 4)["replay_weight"] == 0.5


def test_the_shortest_round_must_outlast_its_warm_up(tiny_policy: DiffusionPolicy) -> None:
    warming = {**ALIGNMENT, "max_steps": 8, "warmup_steps": 3}
    checked_alignment(tiny_policy, warming, Rounds(2), 4)
    with pytest.raises(ValueError, match="below the 2 steps of a round, not 3"):
        checked_alignment(tiny_policy, warming, Rounds(3), 4)


ADAPTED = {**ALIGNMENT, "trainable": "policy.denoiser"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainable": "denoiser"}, "trainable must name a submodule"),
        ({"trainable": "policy.regressor"}, "does not depend on trainable 'policy.regressor'"),
        ({"spread_weight": 1.0}, "spread_weight needs a policy with noisy_and_target"),
        ({"table_steps": 1}, "table_steps draws .* needs the samples and a DiffusionPolicy"),
    ],
)
def test_an_adapter_is_checked_with_the_first_sample(
    tiny_policy: DiffusionPolicy, fields: dict[str, Any], message: str
) -> None:
    adapter = DiffusionPolicyAdapter(tiny_policy)
    checked_alignment(adapter, ADAPTED, Rounds(), 4, wild(1))
    with pytest.raises(ValueError, match=message):
        checked_alignment(adapter, {**ADAPTED, **fields}, Rounds(), 4, wild(1))


class Broken(DiffusionPolicyAdapter):
    def denoising_error(self, *given: Any) -> Any:
        raise NotImplementedError("of the adapter itself")


def test_an_error_without_a_guilty_argument_is_raised_unchanged(tiny_policy: DiffusionPolicy) -> None:
    with pytest.raises(NotImplementedError, match="of the adapter itself"):
        run_preflight(Broken(tiny_policy), ADAPTED, wild(1))


def test_words_are_converted_to_numbers(tiny_policy: DiffusionPolicy) -> None:
    """YAML reads 1e-2 as text."""
    words = {**ALIGNMENT, "learning_rate": "1e-2", "max_steps": "4"}
    assert checked_alignment(tiny_policy, words, Rounds(), 4) == checked_alignment(
        tiny_policy, ALIGNMENT, Rounds(), 4
    )
