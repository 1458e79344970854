"""`meshcritic align` in miniature: every critic, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eval.alignment import AlignSettings, run_alignment
from hmr.checkpoint import load_policy
from hmr.policy import DiffusionPolicy
from rl.preferences import load_preferences
from rl.replay import Replay
from rl.rounds import Rounds
from tests.command import call

TINY = (
    "{loss_type: weighted, max_steps: 6, per_device_train_batch_size: 2, learning_rate: 0.01, "
    "save_strategy: 'no'}"
)


@pytest.fixture
def words(tiny_policy: DiffusionPolicy, tmp_path: Path) -> list[str]:
    tiny_policy.save_pretrained(tmp_path / "base")
    (tmp_path / "tiny.yaml").write_text(TINY)
    sizes = ["--images", "2", "--group-size", "3", "--calibration", "4"]
    return ["--policy", str(tmp_path / "base"), "--config", str(tmp_path / "tiny.yaml"), *sizes]


def test_a_noisy_truth_is_stamped_and_leaves_a_policy(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "aligned"
    asked = ("--out", out, "--critic", "noisy-truth:0.8", "--rounds", 2, "--loss", "clip", *words)
    code, _, err = call(monkeypatch, capsys, "align", *asked)
    assert code == 0
    assert "it looked at the truth" in err
    told = json.loads((out / "alignment.json").read_text())
    assert told["uses_truth"] is True
    assert told["alignment"]["loss_type"] == "clip"
    aligned, base = load_policy(out), load_policy(tmp_path / "base")
    assert told["policy"] != told["base_policy"] == base.digest()
    assert not torch.equal(aligned.denoiser.head.weight, base.denoiser.head.weight)
    assert all(load_preferences(out / "round-0" / "groups")["uses_truth"])
    assert sorted(path.name for path in (out / "scenes").iterdir()) == ["wild-train-2-uses-truth"]


def test_hypotheses_are_drawn_where_the_configuration_asks_for_it(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("}", ", table_steps: 2}"))
    out = tmp_path / "aligned"
    asked = ("--out", out, "--critic", "noisy-truth:0.8", "--rounds", 2, *words)
    assert call(monkeypatch, capsys, "align", *asked)[0] == 0
    for number in range(2):  # six steps, three a round: before the first, after the second, and at the end
        folder = out / f"round-{number}" / "policy" / "hypotheses"
        assert sorted(path.name for path in folder.iterdir()) == [
            f"hypotheses-{step:06d}.png" for step in (0, 2, 3)
        ]


def test_replay_is_of_labelled_lab_scenes_and_drawn_when_asked_for(
    tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    alignment = {
        "replay_weight": 0.5,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "save_strategy": "no",
    }
    settings = AlignSettings(
        "noisy-truth:0.8", images=2, rounds=Rounds(2, group_size=3), alignment=alignment, replayed=3
    )
    run_alignment(tiny_policy, settings, tmp_path, lambda title, total: lambda done, note="": None)
    (file,) = tmp_path.glob("replay-3-*.safetensors")
    assert Replay.load(file).x0.shape == (3, 157)
    assert {path.name for path in (tmp_path / "scenes").iterdir()} == {
        "wild-train-2-uses-truth",
        "lab-train-3",
    }
    told = json.loads((tmp_path / "alignment.json").read_text())
    assert (told["replayed"], told["alignment"]) == (3, alignment)


@pytest.mark.slow
def test_a_critic_without_truth_finds_none(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shuffled control: the explored agent's scores, in another order."""
    out = tmp_path / "control"
    code, printed, _ = call(
        monkeypatch, capsys, "align", "--out", out, "--critic", "shuffled", "--json", *words
    )
    assert code == 0
    assert json.loads(printed)["uses_truth"] is False
    assert not (out / "scenes" / "wild-train-2" / "truth.parquet").exists()
    assert not any(load_preferences(out / "round-0" / "groups")["uses_truth"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--critic", "noisy-truth:well"], "takes a number"),
        (["--critic", "noisy-truth:1.5"], "srcc lies above 0"),
        (["--critic", "nobody"], "no VLM backend 'nobody'"),
        (["--loss", "ppo"], "loss_type is one of"),
        (["--rounds", "3", "--critic", "noisy-truth:1"], "rounds need as many images"),
    ],
)
def test_mistakes_cost_one_sentence(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    code, _, err = call(monkeypatch, capsys, "align", "--out", tmp_path / "out", *words, *more)
    assert (code, message in err) == (2, True), err
    assert "Traceback" not in err


def test_an_unknown_argument_of_training_is_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text("{learning: 1}")
    code, _, err = call(monkeypatch, capsys, "align", "--out", tmp_path / "out", *words)
    assert (code, "unknown learning" in err) == (2, True)
