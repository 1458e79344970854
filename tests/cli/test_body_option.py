"""`--body` of the commands that draw scenes: scenes and hypotheses are of that body, and so must the policy be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.options import body_option
from common.storage.fingerprint import file_digest
from eval.critics.exploration import Exploration
from eval.pipelines.align_settings import AlignSettings
from eval.pipelines.alignment import run_alignment
from hmr.detection.simulated import SimulatedDetector
from hmr.policy.checkpoint import load_policy
from rl.rounds import Rounds
from tests.agent.tools.tool_case import larger_body, write_larger_body
from tests.command import call
from tests.hmr.policy.tiny_policy import make_tiny_policy

STAGE = "max_steps: 1, per_device_train_batch_size: 2, use_cpu: true, disable_tqdm: true"
RECIPE = f"""
pool: 50
held_out: 8
policy: {{width: 32, depth: 1, head_width: 32, head_depth: 1}}
estimate: {{{STAGE}}}
denoiser: {{{STAGE}}}
"""
PRETRAIN = ("pretrain", "--config", "recipe.yaml")
COMMANDS = [
    *(("align",), ("explore",), ("critic-eval",), ("evaluate",), ("check-vlm",), PRETRAIN),
    ("pretrain", "--encoder", "--config", "encoder.yaml"),
]
REFUSED = {
    "align": ("align",),
    "align, counting": ("align", "--dry-run"),
    "align on photographs": ("align", "--photos", "photos"),
    "align on photographs, counting": ("align", "--photos", "photos", "--dry-run"),
    "explore": ("explore",),
    "critic-eval": ("critic-eval",),
    "critic-eval, counting": ("critic-eval", "--dry-run"),
    "evaluate": ("evaluate",),
}


def silent(title: str, total: int) -> Callable[..., None]:
    return lambda done, note="": None


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_larger_body(tmp_path_factory.mktemp("body"))


@pytest.fixture
def run(tmp_path: Path, tiny_policy, monkeypatch, capsys):
    """A command in a folder with the policies `embedded`, `larger` of the larger body, and an empty folder `photos`."""
    tiny_policy.save_pretrained(tmp_path / "embedded")
    make_tiny_policy(larger_body()).save_pretrained(tmp_path / "larger")
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    return lambda *words: call(monkeypatch, capsys, *words)


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("other", [True, False], ids=["with --body", "without"])
def test_a_policy_of_another_body_is_refused_in_one_sentence(run, larger: Path, words, other: bool):
    given = ("--policy", "embedded", "--body", larger) if other else ("--policy", "larger")
    code, out, err = run(*words, *given, "--out", "out")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("meshcritic: this policy was trained with another body: at rest its joints are ")
    assert "smpl" in err if other else "embedded" in err
    assert not list(Path().rglob("out/**/*.parquet"))
    assert not (Path("out") / "people").exists()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_file_that_is_no_body_is_refused_in_one_sentence(run, words: tuple[str, ...]):
    Path("recipe.yaml").write_text(RECIPE)
    Path("encoder.yaml").write_text(f"training: {{{STAGE}}}")
    missing = "there is no body model at nowhere.npz"
    for name, message in (("nowhere.npz", missing), ("recipe.yaml", "recipe.yaml")):
        code, _, err = run(*words, "--body", name, "--out", "out")
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
        assert not list(Path().rglob("out/**/*.json"))


def test_an_evaluation_names_the_body_of_its_scenes(run, larger: Path):
    words = ("evaluate", "--policy", "larger", "--images", 2, "--samples", 4, "--out", "out", "--json")
    code, out, err = run(*words, "--body", larger, "--split", "lab-test")
    assert code == 0, err
    assert json.loads(out)["body"] == file_digest(larger)
    assert [path.name for path in Path("out").glob("lab-test*")] == ["lab-test-2-larger"]
    code, _, err = run(*words, "--body", larger, "--against", "embedded")
    assert (code, "this policy was trained with another body" in err) == (2, True)


def test_a_check_of_a_backend_shows_the_body(run, larger: Path):
    words = ("check-vlm", "--scenes", 1, "--policy", "embedded", "--json")
    plain, given = (json.loads(run(*words, *more)[1]) for more in ((), ("--body", larger)))
    assert "body" not in plain
    assert given["body"] == file_digest(larger)
    assert given["scenes"][0]["sample_id"] != plain["scenes"][0]["sample_id"]


def test_an_alignment_draws_samples_and_resumes_with_its_body(tmp_path: Path, larger: Path):
    """No encoder runs: the simulated detector reads the street."""
    policy = make_tiny_policy(larger_body())
    policy.config.detector, policy.detector = "simulated", SimulatedDetector()
    training = {
        "loss_type": "weighted",
        "replay_weight": 0.5,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
    }
    settings = AlignSettings(
        "noisy-truth:0.8", base="studio", images=2, rounds=Rounds(1, group_size=3), replayed=2, body=larger,
        alignment={**training, "save_strategy": "no"},
    )  # fmt: skip
    run_alignment(policy, settings, tmp_path, silent)
    drawn = {path.name for path in (tmp_path / "scenes").iterdir()}
    assert drawn == {"street-align-2-larger-uses-truth", "studio-train-2-larger"}
    for record in ("alignment.json", "settings.json"):
        assert json.loads((tmp_path / record).read_text())["body"] == file_digest(larger)
    load_policy(tmp_path).require_body(larger_body())
    other = tmp_path / "same.npz"
    shutil.copy(larger, other)
    run_alignment(policy, AlignSettings(**{**vars(settings), "body": other}), tmp_path, silent)


def test_a_memory_belongs_to_the_body_that_it_was_explored_with(tmp_path: Path):
    """Also if more images would extend it, whose scenes are others."""
    embedded = {"policy": "a", "images": 4, "scenes": "first four"}
    for before, now, message in (
        (embedded, {**embedded, "body": "b", "images": 8}, "body = the embedded one, but this run has b"),
        ({**embedded, "body": "b"}, {**embedded, "images": 8}, "body = b, but this run has the embedded one"),
    ):
        (tmp_path / "exploration.json").write_text(json.dumps({"made_from": before, "cases": 2}))
        with pytest.raises(ValueError, match=message):
            Exploration(tmp_path, now, [], [], lambda sample: None).saved_report()  # pyright: ignore[reportArgumentType]
        assert Exploration(tmp_path, before, [], [], lambda sample: None).saved_report()  # pyright: ignore[reportArgumentType]


def test_an_exploration_and_a_comparison_of_critics_have_the_body(run, larger: Path):
    sizes = ("--samples", 4, "--policy", "larger", "--body", larger, "--json")
    code, out, err = run("explore", "--images", 4, *sizes, "--out", "explored")
    assert code == 0, err
    assert json.loads(out)["made_from"]["body"] == file_digest(larger)
    code, out, err = run("critic-eval", "--images", 2, "--calibration", 4, *sizes, "--out", "compared")
    assert code == 0, err
    assert json.loads(out)["body"] == file_digest(larger)
    (explored,) = Path("compared/memory").glob("*/exploration.json")
    assert json.loads(explored.read_text())["made_from"]["body"] == file_digest(larger)


def test_a_policy_is_trained_for_its_body(run, larger: Path):
    Path("recipe.yaml").write_text(RECIPE)
    words = (*PRETRAIN, "--out", "trained")
    assert run(*words, "--body", larger)[0] == 0
    load_policy("trained").require_body(larger_body())
    assert json.loads(Path("trained/made_from.json").read_text())["body"] == file_digest(larger)
    code, _, err = run(*words)
    assert (code, "holds another run (body " in err) == (2, True)
    code, _, err = run(*words, "--body", larger, "--from", "embedded")
    assert (code, "this policy was trained with another body" in err) == (2, True)
    Path("recipe.yaml").write_text(f"body: {larger}{RECIPE}")
    assert run(*words)[0] == 0  # the recipe may name it too


def test_messages_repeat_the_option():
    assert body_option(None) == ""
    assert body_option(Path("my body.npz")) == " --body 'my body.npz'"
