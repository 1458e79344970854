"""A checkpoint, a memory and a run folder that the repository's first layout wrote still open."""

import json
import shutil
from pathlib import Path

from common.fingerprint import has_fingerprint
from hmr.policy.checkpoint import load_policy
from rl.monitoring.training_log import read_logs
from rl.preferences.build import load_preferences
from tests.command import call

FILES = Path(__file__).parent / "data" / "layout_1"
POLICY_DIGEST = "05cb840f340d186a"


def test_a_checkpoint_is_the_same_policy():
    assert load_policy(FILES / "policy").digest() == POLICY_DIGEST


def test_a_memory_lists_its_rules(tmp_path, monkeypatch, capsys):
    memory = shutil.copytree(FILES / "memory", tmp_path / "memory")
    code, out, _ = call(monkeypatch, capsys, "memory", "list", memory, "--json")
    assert code == 0
    rules = json.loads(out)["rules"]
    assert len(rules) == 30
    assert sum(rule["uses"] > 0 for rule in rules) > 0


def test_an_exploration_goes_on_with_its_scenes_and_its_memory(tmp_path, monkeypatch, capsys):
    memory = shutil.copytree(FILES / "memory", tmp_path / "memory")
    shutil.copytree(FILES / "scenes", tmp_path / "out" / "scenes")
    words = ("--images", 8, "--samples", 4, "--policy", FILES / "policy", "--out", tmp_path / "out")
    code, out, _ = call(monkeypatch, capsys, "explore", "--memory", memory, *words, "--json")
    assert code == 0
    saved = json.loads((FILES / "memory" / "exploration.json").read_text())
    found = json.loads(out)
    assert (found["cases"], found["srcc"]) == (
        4,
        saved["srcc"],
    )  # the saved report: nothing was explored again
    assert found["blocked_cases"] == saved["held_up"]


def test_a_run_folder_gives_its_groups_and_its_log():
    groups = load_preferences(FILES / "run" / "round-0" / "groups")
    assert len(groups) == 2
    assert {row["policy_digest"] for row in groups} == {POLICY_DIGEST}
    assert all(len(row["scores"]) == 4 for row in groups)
    assert has_fingerprint(FILES / "run" / "round-0" / "policy", {"policy": POLICY_DIGEST})
    (log,) = read_logs(FILES / "run").values()
    assert log[-1]["step"] > 1


def test_a_trace_is_shown(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "trace", FILES / "run")
    assert code == 0
    assert "look_again" in out
    assert "pose_reading_mm" in out  # the evidence of the re-observation
