"""A checkpoint, a memory and a run folder that the repository's first layout wrote still open."""

import json
import shutil
from pathlib import Path

import pytest

from common.storage.fingerprint import has_fingerprint
from hmr.policy.checkpoint import load_policy
from rl.monitoring.training_log import read_logs
from rl.preferences.build import load_preferences
from tests.command import call

FILES = Path(__file__).parent / "data" / "layout_1"
POLICY_DIGEST = "05cb840f340d186a"


def test_a_policy_of_images_is_refused_with_the_reason():
    """Policies are conditioned on detections; the weights of one that encoded crops cannot be used."""
    with pytest.raises(ValueError, match=r"policy.*image"):
        load_policy(FILES / "policy")


def test_a_memory_lists_its_rules(tmp_path, monkeypatch, capsys):
    memory = shutil.copytree(FILES / "memory", tmp_path / "memory")
    code, out, _ = call(monkeypatch, capsys, "memory", "list", memory, "--json")
    assert code == 0
    rules = json.loads(out)["rules"]
    assert len(rules) == 30
    assert sum(rule["uses"] > 0 for rule in rules) > 0


def test_the_memory_of_another_policy_is_not_explored_further(tmp_path, monkeypatch, capsys):
    memory = shutil.copytree(FILES / "memory", tmp_path / "memory")
    shutil.copytree(FILES / "scenes", tmp_path / "out" / "scenes")
    words = ("--images", 8, "--samples", 4, "--out", tmp_path / "out")
    code, _, err = call(monkeypatch, capsys, "explore", "--memory", memory, *words)
    assert code == 2
    assert f"was explored with policy = {POLICY_DIGEST}, but this run has" in err


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
