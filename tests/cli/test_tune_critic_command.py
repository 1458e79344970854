"""`meshcritic tune-critic` as a person calls it: on what a demo explored, and on what is no ground to learn from."""

import json
import os
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
from hmr.synthetic.splits import calibration_parts, draw_split
from hmr.synthetic.store import read_labelled
from memory.store import MemoryStore
from rl.critic_tuning.config import TuningSettings
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
    """A memory of four scenes, two explored and one to admit rules: by a demo, or by a bench with its seed."""
    cases = read_labelled(draw_split("lab-calibration", root / "scenes", SCENES))
    parts = calibration_parts(SCENES)

    def propose(sample):
        demo = seed is None
        noise = derive_generator("explore", sample.id) if demo else noise_generator(seed, sample)
        return policy.sample(policy.encode([sample]), 4, noise)[0]

    folder = root / "memory"
    with open_default_memory(folder, policy, frozen=False) as opened:
        teach, admit = ([cases[row] for row in parts[name]] for name in ("explore", "admit"))
        explore(default_agent(policy, body, opened), teach, admit, propose)
    made_from = {"policy": policy.digest()} if seed is None else {"policy": policy.digest(), "seed": seed}
    (folder / "exploration.json").write_text(json.dumps({"made_from": made_from}))
    return folder


def words(model, memory, out, *more) -> tuple:
    return ("tune-critic", model, "--memory", memory, "--out", out, "--calibration", SCENES, *more)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a tiny vocabulary makes thousands of tokens of a real question
def test_from_an_explored_memory_to_a_backend(
    model, policy, tiny_policy, body, tmp_path, monkeypatch, capsys
):
    memory = explored(tiny_policy, body, tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    asked = words(model, memory, tmp_path / "out", "--policy", policy, "--set", "max_images=4")
    asked = (*asked, "--set", "comment_chars=20", "--config", tmp_path / "recipe.yaml", "--json")

    code, out, err = call(monkeypatch, capsys, *asked, "--dry-run")
    extent = json.loads(out)
    # two cases of four hypotheses; three fit in a question, an anchor and two others: the fourth makes a pair with
    # the anchor, which three scores are needed to rank
    assert (code, extent["cases"], extent["questions"]) == (0, 2, 2)
    assert "2 questions about 2 explored cases, with 8 pictures" in err
    assert not (tmp_path / "out" / "tuning.json").exists()

    code, out, err = call(monkeypatch, capsys, *asked)
    told = json.loads(out)
    assert code == 0, err
    assert told["training_cases"] == extent
    assert told["measured"]["sft"]["loss"] > 0
    assert told["measured"]["grpo"]["reward"] == -1.5
    assert {"trl", "peft", "transformers", "commit"} <= told["versions"].keys()
    backend = load_backend(f"local:{tmp_path / 'out' / 'grpo'}")
    assert backend.revision.startswith(told["tuned"])

    code, out, err = call(monkeypatch, capsys, *asked)
    assert json.loads(out) == told
    assert "grpo: done by an earlier run" in err


@pytest.mark.slow
def test_only_the_part_that_explores_teaches(model, tiny_policy, body, tmp_path):
    """Other cases that a memory holds, of whatever origin, are left alone."""
    memory = explored(tiny_policy, body, tmp_path, seed=3)
    cases = read_labelled(tmp_path / "scenes" / f"lab-calibration-{SCENES}")
    parts = calibration_parts(SCENES)
    with MemoryStore(memory / "memory.sqlite") as store, store.transaction() as connection:
        stolen = [cases[row].sample.id for name in ("admit", "report") for row in parts[name]]
        kept = connection.execute("SELECT judged FROM explored LIMIT 1").fetchone()["judged"]
        for case_id in (*stolen, "a-wild-photograph"):
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


REFUSED = {
    "no such model": ("no model", lambda tmp: (tmp / "nowhere", tmp / "memory")),
    "no memory": ("there is no memory here", lambda tmp: (tmp / "model", tmp / "memory")),
    "nothing explored": (
        "has no explored cases",
        lambda tmp: (tmp / "model", unexplored(tmp / "memory")),
    ),
    "another policy": (
        "was explored with the policy 0123456789abcdef",
        lambda tmp: (tmp / "model", explored_elsewhere(tmp / "memory")),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_teaches_nothing_is_refused_in_one_sentence(case, model, policy, tmp_path, monkeypatch, capsys):
    reason, given = REFUSED[case]
    (tmp_path / "memory").mkdir()
    which, memory = given(tmp_path)
    code, out, err = call(monkeypatch, capsys, *words(which, memory, tmp_path / "out", "--policy", policy))
    assert (code, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_memory_of_other_scenes_teaches_nothing(model, policy, tiny_policy, tmp_path, monkeypatch, capsys):
    (tmp_path / "memory").mkdir()
    memory = explored_elsewhere(tmp_path / "memory", tiny_policy.digest())
    code, _, err = call(monkeypatch, capsys, *words(model, memory, tmp_path / "out", "--policy", policy))
    assert code == 2
    assert "none of the 1 cases explored in" in err
    assert "training uses no others" in err


BAD_WORDS = {
    "a stage that is none": (["--stage", "dpo"], "--stage is one of both, sft, grpo, not 'dpo'"),
    "a setting that is none": (["--set", "colour=red"], "settings are temperature, max_new_tokens"),
    "no recipe": (["--config", "nowhere.yaml"], "nowhere.yaml"),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words_cost_one_sentence(case, model, tmp_path, monkeypatch, capsys):
    more, reason = BAD_WORDS[case]
    code, _, err = call(monkeypatch, capsys, *words(model, tmp_path / "memory", tmp_path / "out", *more))
    assert code == 2
    assert reason in err


def test_nothing_is_reported_to_the_hub():
    """TRL's trainers would, as they are made."""
    code = (
        "import sys, meshcritic\n"
        "sys.argv = ['meshcritic', '--help']\n"
        "try: meshcritic.main()\n"
        "except SystemExit: pass\n"
        "from huggingface_hub import constants\n"
        "print('silent' if constants.HF_HUB_DISABLE_TELEMETRY else 'reporting')"
    )
    plain = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    run = subprocess.run(
        [sys.executable, "-c", code], env=plain, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "silent"
