"""`meshcritic align` on few scenes: every critic, the files written and the errors."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from agent.default import open_default_memory
from common.storage.files import CONFIGS
from eval.pipelines.align_settings import AlignSettings, read_alignment
from eval.pipelines.alignment import run_alignment
from hmr.detection.simulated import SimulatedDetector
from hmr.detection.transformers_detector import TransformersDetector
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Detection, Sample
from rl.labels.body_labels import BodyLabels
from rl.monitoring.training_log import read_logs
from rl.preferences.build import load_preferences
from rl.rounds import Rounds
from tests.command import call
from tests.hmr.detection.detector_models import save_detector

REWARDS_PAGE = Path(__file__).parents[3] / "docs" / "guides" / "reward-functions.md"
PANEL = "{http://www.w3.org/2000/svg}g"
TINY = (
    "{loss_type: weighted, max_steps: 6, per_device_train_batch_size: 2, learning_rate: 0.01, "
    "logging_steps: 1, save_strategy: 'no'}"
)


@pytest.fixture
def words(tiny_policy: DiffusionPolicy, tmp_path: Path) -> list[str]:
    tiny_policy.save_pretrained(tmp_path / "base")
    (tmp_path / "tiny.yaml").write_text(TINY)
    sizes = ["--images", "2", "--group-size", "3", "--calibration", "4"]
    return ["--policy", str(tmp_path / "base"), "--config", str(tmp_path / "tiny.yaml"), *sizes]


@pytest.mark.slow
def test_a_noisy_truth_is_recorded_and_aligns_a_policy(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "aligned"
    asked = ("--out", out, "--critic", "noisy-truth:0.8", "--rounds", 2, "--method", "clip", *words)
    code, _, err = call(monkeypatch, capsys, "align", *asked)
    assert code == 0
    assert "its critic used the ground truth" in err
    record = json.loads((out / "alignment.json").read_text())
    assert record["uses_truth"] is True
    assert record["alignment"]["loss_type"] == "clip"
    aligned, base = load_policy(out), load_policy(tmp_path / "base")
    assert record["policy"] != record["base_policy"] == base.digest()
    assert not torch.equal(aligned.denoiser.head.weight, base.denoiser.head.weight)
    assert all(load_preferences(out / "round-0" / "groups")["uses_truth"])
    assert sorted(path.name for path in (out / "scenes").iterdir()) == ["wild-train-2-uses-truth"]
    rows = {panel.get("transform") for panel in ElementTree.parse(out / "curves.svg").getroot().iter(PANEL)}
    assert {"translate(0 0)", "translate(0 190)"} < rows  # one row per round
    logs = read_logs(out)
    assert list(logs) == ["round 0", "round 1"]
    assert "kl" in logs["round 1"][-2]


@pytest.mark.parametrize("critic", ["noisy-truth:0.8", "noisy-reading:0.8:shared"])
def test_the_base_policy_decides_on_the_splits(
    tiny_policy: DiffusionPolicy, tmp_path: Path, critic: str
) -> None:
    """With the studio's policy the images are of the street, read by the simulated detector, and scenes of the studio
    are replayed; no encoder runs."""
    tiny_policy.config.detector = "simulated"
    tiny_policy.detector = SimulatedDetector()
    alignment = {
        "loss_type": "weighted", "replay_weight": 0.5, "max_steps": 2, "per_device_train_batch_size": 2,
        "save_strategy": "no",
    }  # fmt: skip
    settings = AlignSettings(
        critic,
        base="studio",
        images=2,
        rounds=Rounds(1, group_size=3),
        alignment=alignment,
        replayed=2,
    )
    run_alignment(tiny_policy, settings, tmp_path, lambda title, total: lambda done, note="": None)
    assert {path.name for path in (tmp_path / "scenes").iterdir()} == {
        "street-align-2-uses-truth",
        "studio-train-2",
    }
    record = json.loads((tmp_path / "alignment.json").read_text())
    assert (record["base"], record["scorer"], record["uses_truth"]) == ("studio", critic, True)
    assert load_policy(tmp_path).detector.name == "simulated"


@pytest.mark.slow
def test_keypoints_come_before_the_scores(
    tiny_policy: DiffusionPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_policy.config.detector = "simulated"
    tiny_policy.detector = SimulatedDetector()
    training = {"max_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no"}
    settings = AlignSettings(
        "noisy-truth:0.8",
        base="studio",
        images=2,
        rounds=Rounds(1, group_size=3),
        alignment={**training, "loss_type": "weighted"},
        fit={**training, "loss_type": "resample"},
    )

    def run() -> dict:
        run_alignment(tiny_policy, settings, tmp_path, lambda title, total: lambda done, note="": None)
        return json.loads((tmp_path / "alignment.json").read_text())

    record = run()
    fitted = load_policy(tmp_path / "fit" / "policy").digest()
    assert (record["base_policy"], record["fitted_policy"]) == (tiny_policy.digest(), fitted)
    made_from = json.loads((tmp_path / "round-0" / "policy" / "made_from.json").read_text())
    assert made_from["policy"] == fitted
    monkeypatch.setattr("rl.keypoint_fit.fitted_to_keypoints", None)  # called no more
    assert run() == record
    for fit, message in (
        ({"loss": "resample"}, "loss"),
        ({"loss_type": "dpo"}, "imitated with loss_type resample"),
    ):
        with pytest.raises(ValueError, match=message):
            run_alignment(
                tiny_policy, replace(settings, fit=fit), tmp_path / "other", lambda title, total: print
            )
    assert not (tmp_path / "other").exists()  # refused before anything was drawn


def test_the_option_takes_the_recipe_of_imitation(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[AlignSettings] = []

    def stop(policy: DiffusionPolicy, settings: AlignSettings, *rest: object, **more: object) -> None:
        asked.append(settings)
        raise ValueError("enough")

    monkeypatch.setattr("eval.pipelines.alignment.run_alignment", stop)
    for option in ((), ("--fit-first",)):
        call(monkeypatch, capsys, "align", "--out", tmp_path / "out", *option, *words)
    assert [settings.fit for settings in asked] == [None, read_alignment(CONFIGS / "align_resample.yaml")]


@pytest.mark.slow
def test_a_search_widens_the_groups_with_the_reading_of_the_shipped_policy(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resample = TINY.replace("weighted", "resample")
    (tmp_path / "tiny.yaml").write_text(resample)
    asked = ("--method", "search", "--critic", "noisy-truth:1", "--out", tmp_path / "found", *words)
    code, _, err = call(monkeypatch, capsys, "align", *asked)
    assert (code, err.splitlines()[-1]) == (
        2,
        "meshcritic: a group of search has at least 4 hypotheses, not 3",
    )
    code, _, _ = call(monkeypatch, capsys, "align", *asked, "--group-size", "4")
    assert code == 0
    groups = load_preferences(tmp_path / "found" / "round-0" / "groups")
    assert [sorted(row) for row in groups["origin"]] == [["corrected", "guided", "mirrored", "sampled"]] * 2


@pytest.mark.slow
def test_the_policy_gradient_is_a_method_with_settings_of_its_own(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "gradient.yaml"
    recipe.write_text("{updates: 2, images_per_update: 2, group_size: 3, steps: 3, minibatches: 2}")
    asked = (*words, "--method", "policy-gradient", "--config", recipe, "--group-size", 20)
    out = tmp_path / "gradient"
    code, _, err = call(
        monkeypatch, capsys, "align", *asked, "--critic", "shuffled:noisy-truth:1", "--out", out
    )
    assert code == 0, err
    record = json.loads((out / "alignment.json").read_text())
    assert (record["groups"], record["unscored_groups"]) == (4, 0)
    assert record["policy_gradient"]["updates"] == 2
    assert load_policy(out).digest() == record["policy"] != record["base_policy"]
    assert "ratio/std" in (out / "curves.svg").read_text()
    code, answer, _ = call(monkeypatch, capsys, "align", *asked, "--dry-run", "--out", out, "--json")
    assert code == 0
    assert json.loads(answer)["dry_run"]["by_task"]["score"] >= 4


def test_an_unknown_base_policy_is_named() -> None:
    with pytest.raises(ValueError, match="no base policy is called 'moon'; there are shipped, studio"):
        AlignSettings(base="moon")


@pytest.mark.slow
def test_another_detector_is_recorded(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = save_detector(tmp_path / "models")
    detected: list[str] = []
    detect = TransformersDetector.detect

    def counted(self: TransformersDetector, sample: Sample) -> Detection:
        detected.append(sample.id)
        return detect(self, sample)

    monkeypatch.setattr(TransformersDetector, "detect", counted)
    out, memory = tmp_path / "aligned", tmp_path / "memory"
    asked = ("--out", out, "--detector", spec, *words)
    assert call(monkeypatch, capsys, "align", *asked)[0] == 0
    record = json.loads((out / "alignment.json").read_text())
    assert record["detector"] == spec
    judged = {group["sample_id"] for group in load_preferences(out / "round-0" / "groups")}
    assert judged < set(detected)  # and those of the exploration
    (explored,) = (out / "memory").iterdir()
    explored.rename(memory)
    code, _, err = call(monkeypatch, capsys, "align", "--out", tmp_path / "again", "--memory", memory, *words)
    assert code == 2
    assert f"explored with the detector {spec}, but this run uses embedded" in err


@pytest.mark.slow
def test_hypotheses_are_drawn_if_the_configuration_says_so(
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


@pytest.mark.slow
def test_lab_scenes_are_replayed_if_the_configuration_says_so(
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
    assert BodyLabels.load(file).x0.shape == (3, 157)
    assert {path.name for path in (tmp_path / "scenes").iterdir()} == {
        "wild-train-2-uses-truth",
        "lab-train-3",
    }
    record = json.loads((tmp_path / "alignment.json").read_text())
    assert (record["replayed"], record["alignment"]) == (3, alignment)


@pytest.mark.slow
def test_a_critic_without_truth_gets_none(
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


@pytest.mark.slow
def test_a_process_killed_in_training_is_resumed(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saving = TINY.replace("max_steps: 6", "max_steps: 40").replace(
        "'no'", "steps, save_steps: 2, spread_steps: 0"
    )
    (tmp_path / "tiny.yaml").write_text(saving)
    cut, asked = tmp_path / "cut", ("--critic", "noisy-truth:0.8", *words)
    command = [sys.executable, "-m", "meshcritic", "align", "--out", str(cut), *asked]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(cut.glob("round-0/policy/trainer-*/checkpoint-4")):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)  # likely in the middle of a save
    assert process.returncode == -signal.SIGKILL
    assert list(cut.glob("round-0/policy/trainer-*/checkpoint-*"))
    assert not (cut / "alignment.json").exists()
    assert call(monkeypatch, capsys, "align", "--out", cut, *asked)[0] == 0
    assert call(monkeypatch, capsys, "align", "--out", tmp_path / "whole", *asked)[0] == 0
    assert load_policy(cut).digest() == load_policy(tmp_path / "whole").digest()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--critic", "noisy-truth:well"], "takes a number"),
        (["--critic", "noisy-truth:1.5"], "srcc of a critic must be above 0"),
        (["--critic", "nobody"], "no critic 'nobody'; there are: embedded"),
        (["--method", "ppo"], "loss_type is one of"),
        (["--rounds", "3", "--critic", "noisy-truth:1"], "rounds need as many images"),
    ],
)
def test_errors_are_one_sentence(
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


@pytest.mark.parametrize(
    "name",
    [
        "feet_down",
        pytest.param("on_the_box", marks=pytest.mark.slow),
        pytest.param("scorer", marks=pytest.mark.slow),
    ],
)
def test_rewards_of_the_documentation_are_critics(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """Functions that ask for joints, and a mix that brings its body."""
    blocks = re.findall(r"```python\n(.*?)```", REWARDS_PAGE.read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(blocks[0])
    critic = f"reward:{tmp_path / 'mine.py'}:{name}"
    code, _, err = call(monkeypatch, capsys, "align", "--out", tmp_path / "out", "--critic", critic, *words)
    assert code == 0, err
    row = load_preferences(tmp_path / "out" / "round-0" / "groups")[0]
    assert len(set(row["scores"])) > 1


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("{seed: 3}", "seed cannot be set by a recipe"),
        ("{beta: high}", "beta takes a number, not 'high'"),
        (f"{{beta: 1{'0' * 400}}}", "beta takes a number, not 1000000"),
        (
            f"{{max_steps: 0x{'f' * 6000}}}",
            "max_steps takes a whole number, not a number of thousands of digits",
        ),
        ("{trainable: encoder}", "trainable must name"),
        ("{report_to: wandb_}", "refuses report_to: wandb_"),
        ("{replay_weight: 1.0, replay_file: nowhere.safetensors}", "no such replay_file"),
    ],
)
def test_a_recipe_is_refused_before_a_scene_is_drawn(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipe: str,
    message: str,
) -> None:
    (tmp_path / "tiny.yaml").write_text(recipe)
    code, _, err = call(monkeypatch, capsys, "align", "--out", tmp_path / "out", *words)
    assert (code, message in err, "Traceback" in err) == (2, True, False), err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_learning_rate_that_yaml_reads_as_text_is_converted(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("0.01", "1e-2"))
    asked = ("--out", tmp_path / "out", "--critic", "noisy-truth:0.8", *words)
    assert call(monkeypatch, capsys, "align", *asked)[0] == 0


@pytest.mark.slow
def test_a_dry_run_counts_calls_and_writes_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, memory = tmp_path / "out", tmp_path / "memory"
    with open_default_memory(memory, load_policy(tmp_path / "base"), frozen=False):
        pass  # the seed rules
    asked = ("--out", out, "--memory", memory, "--dry-run", "--json", *words)
    code, printed, _ = call(monkeypatch, capsys, "align", *asked)
    record = json.loads(printed)["dry_run"]
    assert (code, record["by_task"]["tag"]) == (
        0,
        2,
    )  # once an image; with its memory given nothing is explored
    assert not out.exists()
    code, _, err = call(
        monkeypatch, capsys, "align", "--out", out, "--dry-run", "--critic", "noisy-truth:1", *words
    )
    assert (code, "noisy-truth:1 makes none" in err) == (2, True)


@pytest.mark.slow
def test_a_critic_with_a_memory_draws_no_lab_scenes_and_respects_its_budget(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, memory = tmp_path / "out", tmp_path / "memory"
    with open_default_memory(memory, load_policy(tmp_path / "base"), frozen=False):
        pass
    cache = tmp_path / "replies.sqlite"
    asked = ("--out", out, "--memory", memory, "--reply-cache", cache, *words)
    code, _, err = call(monkeypatch, capsys, "align", *asked, "--max-calls", 0)
    assert (code, "0 of 2 groups are scored" in err, "the budget of 0 calls is spent" in err) == (
        1,
        True,
        True,
    ), err
    assert [path.name for path in (out / "scenes").iterdir()] == ["wild-train-2"]
    assert not (out / "groups").exists()
    assert cache.exists()
    assert call(monkeypatch, capsys, "align", *asked)[0] == 0  # the folder is as good as new


def test_an_unknown_training_argument_is_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text("{learning: 1}")
    code, _, err = call(monkeypatch, capsys, "align", "--out", tmp_path / "out", *words)
    assert (code, "unknown learning" in err) == (2, True)
