"""`meshcritic tune-critic`: on an explored memory, and on memories that it rejects."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.default import default_agent, open_default_memory
from agent.exploration.explore import explore
from agent.vlm import load_backend
from agent.vlm.local.backend import LocalSettings
from agent.vlm.local.model_loading import find_model
from common.seeding import derive_generator
from eval.benchmark.protocol import noise_generator
from eval.pipelines.critic_tuning import prepare_training_cases
from hmr.body.model import EMBEDDED_BODY
from hmr.policy.checkpoint import load_policy
from hmr.synthetic.splits import calibration_parts, draw_split
from hmr.synthetic.store import read_labelled
from memory.store import MemoryStore
from rl.critic_tuning.config import TuningSettings
from tests.agent.tools.tool_case import write_larger_body
from tests.agent.vlm.tiny_vlm import tiny_qwen3_vl
from tests.command import call

ROOT = Path(__file__).parents[2]
SCENES = 4
RECIPE = """
lora: {r: 2}
sft: {max_steps: 1, per_device_train_batch_size: 1, logging_steps: 1}
grpo: {max_steps: 1, num_generations: 2, per_device_train_batch_size: 2, max_completion_length: 300, logging_steps: 1}
"""


@pytest.fixture
def model(tmp_path) -> Path:
    (tmp_path / "model").mkdir()
    return tiny_qwen3_vl(tmp_path / "model")


@pytest.fixture
def policy(tiny_policy, tmp_path) -> Path:
    tiny_policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def explored(policy, body, root: Path, seed: int | None = None) -> Path:
    """A memory of four scenes, two explored and one held out. Without a seed it is explored as the demo does."""
    cases = read_labelled(draw_split("lab-calibration", root / "scenes", SCENES))
    parts = calibration_parts(SCENES)

    def propose(sample):
        as_demo = seed is None
        noise = derive_generator("explore", sample.id) if as_demo else noise_generator(seed, sample)
        return policy.sample(policy.encode([sample]), 4, noise)[0]

    folder = root / "memory"
    with open_default_memory(folder, policy, frozen=False) as opened:
        explore_cases, held_out = ([cases[row] for row in parts[name]] for name in ("explore", "admit"))
        explore(default_agent(policy, body, opened), explore_cases, held_out, propose)
    made_from = {"policy": policy.digest()} if seed is None else {"policy": policy.digest(), "seed": seed}
    (folder / "exploration.json").write_text(json.dumps({"made_from": made_from}))
    return folder


def words(model, memory, out, *more) -> tuple:
    return ("tune-critic", model, "--memory", memory, "--out", out, "--calibration", SCENES, *more)


@pytest.mark.slow
@pytest.mark.timeout(900)  # with a tiny vocabulary a question has thousands of tokens
def test_from_an_explored_memory_to_a_backend(model, policy, body, tmp_path, monkeypatch, capsys):
    memory = explored(load_policy(policy), body, tmp_path)  # with the detector that the command uses
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    asked = words(model, memory, tmp_path / "out", "--policy", policy, "--set", "max_images=4")
    asked = (*asked, "--set", "comment_chars=20", "--config", tmp_path / "recipe.yaml", "--json")

    code, out, err = call(monkeypatch, capsys, *asked, "--dry-run")
    assert code == 0, err
    extent = json.loads(out)
    # Two cases of four hypotheses. Three fit in a question; the fourth would be alone with the anchor, and two scores
    # cannot be ranked.
    assert (code, extent["cases"], extent["questions"]) == (0, 2, 2)
    assert "2 questions about 2 explored cases, with 8 pictures" in err
    assert not (tmp_path / "out" / "tuning.json").exists()

    code, out, err = call(monkeypatch, capsys, *asked)
    report = json.loads(out)
    assert code == 0, err
    assert report["training_cases"] == extent
    assert report["measured"]["sft"]["loss"] > 0
    assert report["measured"]["grpo"]["reward"] == -1.5
    assert {"trl", "peft", "transformers", "commit"} <= report["versions"].keys()
    backend = load_backend(f"local:{tmp_path / 'out' / 'grpo'}")
    assert backend.revision.startswith(report["tuned"])

    code, out, err = call(monkeypatch, capsys, *asked)
    assert json.loads(out) == report
    assert "grpo: done by an earlier run" in err


@pytest.mark.slow
def test_only_cases_of_the_explored_part_are_training_data(model, tiny_policy, body, tmp_path):
    """Other cases in the memory are not used."""
    memory = explored(tiny_policy, body, tmp_path, seed=3)
    cases = read_labelled(tmp_path / "scenes" / f"lab-calibration-{SCENES}")
    parts = calibration_parts(SCENES)
    with MemoryStore(memory / "memory.sqlite") as store, store.transaction() as connection:
        others = [cases[row].sample.id for name in ("admit", "report") for row in parts[name]]
        kept = connection.execute("SELECT judged FROM explored LIMIT 1").fetchone()["judged"]
        for case_id in (*others, "a-wild-photograph"):
            connection.execute("INSERT INTO cases VALUES (?, 1)", (case_id,))
            connection.execute("INSERT INTO explored VALUES (?, ?)", (case_id, kept))
    training_cases = prepare_training_cases(
        find_model(str(model)), memory, tiny_policy, settings=TuningSettings(), local=LocalSettings(max_images=5),
        out=tmp_path / "out", stage=lambda title, total: lambda done: None, calibration=SCENES,
    )  # fmt: skip
    allowed = {cases[row].sample.id for row in parts["explore"]}
    assert set(training_cases.conversations["case_id"]) == allowed


def unexplored(folder: Path) -> Path:
    with MemoryStore(folder / "memory.sqlite"):
        return folder


def explored_elsewhere(folder: Path, policy: str = "0123456789abcdef") -> Path:
    with MemoryStore(folder / "memory.sqlite") as store, store.transaction() as connection:
        connection.execute("INSERT INTO cases VALUES ('x', 1)")
        connection.execute("INSERT INTO explored VALUES ('x', '{}')")
    (folder / "exploration.json").write_text(json.dumps({"made_from": {"policy": policy}}))
    return folder


REJECTED = {
    "a missing model": ("no model", lambda tmp: (tmp / "nowhere", tmp / "memory")),
    "a missing memory": ("there is no memory here", lambda tmp: (tmp / "model", tmp / "memory")),
    "a memory without cases": (
        "has no explored cases",
        lambda tmp: (tmp / "model", unexplored(tmp / "memory")),
    ),
    "another policy": (
        "was explored with the policy 0123456789abcdef",
        lambda tmp: (tmp / "model", explored_elsewhere(tmp / "memory")),
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_a_memory_without_training_data_is_rejected_in_one_sentence(
    case, model, policy, tmp_path, monkeypatch, capsys
):
    reason, given = REJECTED[case]
    (tmp_path / "memory").mkdir()
    which, memory = given(tmp_path)
    code, out, err = call(monkeypatch, capsys, *words(which, memory, tmp_path / "out", "--policy", policy))
    assert (code, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_memory_of_another_body_is_rejected(model, policy, tiny_policy, tmp_path, monkeypatch, capsys):
    (tmp_path / "memory").mkdir()
    memory = explored_elsewhere(tmp_path / "memory", tiny_policy.digest())
    asked = words(model, memory, tmp_path / "out", "--policy", policy)
    smpl = shutil.copy(EMBEDDED_BODY, tmp_path / "smpl.npz")
    for file, reason in (
        (smpl, f"{memory} was explored with another body; give the --body of its exploration"),
        (write_larger_body(tmp_path), "this policy was trained with another body"),
    ):
        code, _, err = call(monkeypatch, capsys, *asked, "--body", file)
        assert (code, reason in err, err.count("\n")) == (2, True, 1), err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("base", "split"), [("shipped", "lab-calibration"), ("studio", "studio-calibration")]
)
def test_a_memory_of_other_scenes_is_rejected(
    base, split, model, policy, tiny_policy, tmp_path, monkeypatch, capsys
):
    (tmp_path / "memory").mkdir()
    memory = explored_elsewhere(tmp_path / "memory", tiny_policy.digest())
    given = words(model, memory, tmp_path / "out", "--policy", policy, "--base", base)
    code, _, err = call(monkeypatch, capsys, *given)
    assert code == 2
    assert f"scenes of {split}, and" in err
    assert "none of the 1 cases explored in" in err
    assert "training uses no others" in err


INVALID_OPTIONS = {
    "an unknown stage": (["--stage", "dpo"], "--stage is one of both, sft, grpo, not 'dpo'"),
    "an unknown setting": (["--set", "colour=red"], "settings are temperature, max_new_tokens"),
    "a missing recipe": (["--config", "nowhere.yaml"], "nowhere.yaml"),
}


@pytest.mark.parametrize("case", INVALID_OPTIONS)
def test_invalid_options_end_in_one_sentence(case, model, tmp_path, monkeypatch, capsys):
    more, reason = INVALID_OPTIONS[case]
    code, _, err = call(monkeypatch, capsys, *words(model, tmp_path / "memory", tmp_path / "out", *more))
    assert code == 2
    assert reason in err


def test_nothing_is_reported_to_the_hub():
    """TRL's trainers report their creation by default."""
    code = (
        "import sys, meshcritic\n"
        "sys.argv = ['meshcritic', '--help']\n"
        "try: meshcritic.main()\n"
        "except SystemExit: pass\n"
        "from huggingface_hub import constants\n"
        "print(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    plain = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    run = subprocess.run(
        [sys.executable, "-c", code], env=plain, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "True"
