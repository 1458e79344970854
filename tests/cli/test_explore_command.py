"""`meshcritic explore`: a memory is filled once, resumed after a kill, and not mixed with another exploration."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from agent.default import open_default_memory
from agent.exploration.record import EXPLORED
from agent.tracing.reading import read_trace
from cli.commands.explore import _print_report
from cli.console import stages
from common.storage.versions import versions
from eval.critics.exploration import Exploration
from hmr.detection.transformers_detector import TransformersDetector
from hmr.policy.checkpoint import load_policy
from memory.folder import open_store
from memory.ledger import RuleLedger
from memory.rule import Predicate, Provenance, Rule
from memory.transfer.exchange import snapshot
from tests.agent.critique_case import make_agent
from tests.agent.exploration.exploration_run import CASES, HELD_OUT, propose
from tests.agent.vlm.chat_server import chat_server, good
from tests.command import call
from tests.hmr.detection.detector_models import save_detector

FINGERPRINT = {"policy": "a", "backend": "embedded", "images": 4, "scenes": "first four"}


@pytest.fixture
def explore(tmp_path, tiny_policy, monkeypatch, capsys):
    """The command on four scenes, two of them explored. Returns the exit code, the --json answer and stderr."""
    tiny_policy.save_pretrained(tmp_path / "policy")

    def run(*words):
        options = ("--images", 4, "--samples", 4, "--policy", tmp_path / "policy", "--out", tmp_path / "out")
        code, out, err = call(monkeypatch, capsys, "explore", *options, "--json", *words)
        return code, json.loads(out) if out else None, err

    return run


def content(folder: Path):
    with open_store(folder) as store:
        return snapshot(store)


@pytest.mark.slow
def test_a_finished_exploration_is_reused(explore, tmp_path):
    code, found, err = explore()
    assert code == 0
    assert (found["cases"], found["skipped"], found["unscored"]) == (2, 0, 0)
    assert found["made_from"]["backend"] == "embedded"
    assert f"done: exploring 2 cases, SRCC {found['srcc']:.3f}" in err
    assert read_trace(tmp_path / "out", "exploration").critiques[-1].records[-1]["node"] == "conclude"
    memory = Path(found["memory"])
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run == {"settings": found["made_from"], "versions": versions()}
    before = content(memory)
    code, again, err = explore()
    assert (code, again) == (0, found)
    assert "was explored before" in err
    assert content(memory) == before

    code, answer, err = explore("--base", "studio")
    assert code == 2
    assert "was explored with base = shipped, but this run has studio" in err
    code, grown, err = explore("--images", 8)  # more images extend the same memory
    assert (code, grown["cases"], grown["skipped"]) == (0, 2, 2)
    assert "2 of 4 cases were explored before, SRCC " in err
    code, answer, err = explore("--images", 8, "--samples", 5)
    assert (code, answer) == (2, None)
    assert err.splitlines()[-1] == (
        f"meshcritic: {memory} was explored with samples = 4, but this run has 5; remove it or choose another folder"
    )


@pytest.mark.slow
def test_a_rule_that_was_added_later_is_tried_by_the_same_command(explore, tmp_path):
    """Such as one that a person wrote while correcting scores."""
    memory = Path(explore()[1]["memory"])
    predicate = Predicate.parse("self_penetration_mm > 20", 1.0)
    rule = Rule.create(
        "Bodies hardly penetrate themselves.", [], Provenance("person", "a test", None), predicate
    )
    with open_default_memory(memory, load_policy(tmp_path / "policy"), frozen=False) as opened:
        opened.rules.add([rule])
    code, found, err = explore()
    assert (code, found["cases"], found["skipped"]) == (0, 0, 2)
    assert "1 rules in quarantine were added since and are tried now" in " ".join(err.split())
    (history,) = (kept.history for kept in content(memory).rules if kept.rule.rule_id == rule.rule_id)
    assert len([change for change in history if change.held_out]) == 1
    assert "are tried now" not in explore()[2]


@pytest.mark.parametrize(
    "words", [("--backend", "nobody"), ("--set", "x"), ("--policy", "/nowhere"), ("--base", "moon")]
)
def test_invalid_input_is_rejected_in_one_sentence(explore, tmp_path, words):
    code, answer, err = explore(*words)
    assert (code, answer) == (2, None)
    assert str(words[1]) in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dry_run_counts_the_remaining_requests_and_writes_nothing(explore, tmp_path):
    with chat_server(good) as server:
        spec = ("--backend", f"openai:any@{server.url}")
        code, answer, _ = explore(*spec, "--dry-run")
        assert code == 0
        # two explored and one held out, which is critiqued once more if the stand-in's rules get other weights
        assert answer["dry_run"]["by_task"]["tag"] in (3, 4)
        assert not server.questions
        assert not (tmp_path / "out").exists()
        assert explore(*spec)[0] == 0
        code, answer, _ = explore(*spec, "--dry-run")
        assert (code, answer["dry_run"]["calls"]) == (0, 0)


@pytest.mark.slow
def test_a_case_without_a_score_leaves_the_exploration_unfinished(explore, tmp_path):
    with chat_server(good) as server:
        spec = ("--backend", f"openai:any@{server.url}")
        code, found, err = explore(*spec, "--max-calls", 0)
        assert (code, found) == (1, None)
        assert "none of 2 cases got a score: openai:any" in err.splitlines()[-1]
        assert err.splitlines()[-1].endswith(
            "the budget of 0 calls is spent; the same command tries them again"
        )
        assert "cases" not in json.loads((tmp_path / "out" / "memory" / EXPLORED).read_text())
        assert explore(*spec)[1]["cases"] == 2


def test_cases_that_block_a_trial_are_named(capsys):
    counts = dict.fromkeys(("cases", "skipped", "unscored", "reweighed"), 0)
    rhos = dict.fromkeys(("srcc", "held_out_srcc_before", "held_out_srcc_after"))
    lists = dict.fromkeys(("mined", "admitted", "retired"), ())
    _print_report(
        {**counts, **rhos, **lists, "blocked_cases": ("a", "b", "c", "d")}, Path("memory"), "embedded"
    )
    assert "could not be tested on 4 cases (a, b, c ...)" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def runs(monkeypatch):
    """The rules' c and the number of label orders of every exploration that was begun; none is run."""
    begun = []

    def run(self, agent, stage, say, reviewer):
        begun.append((agent.rules.exploration, agent.settings.permutations))
        self._write({})
        return SimpleNamespace(to_json=dict, unscored=0)

    monkeypatch.setattr(Exploration, "run", run)
    return begun


def test_other_settings_of_the_backend_are_rejected(explore, runs):
    with chat_server(good) as server:
        spec = ("--backend", f"openai:any@{server.url}")
        cool, hot = ((*spec, "--set", f"temperature={degree}") for degree in (0.1, 0.9))
        assert explore(*cool)[0] == 0
        code, answer, err = explore(*hot)
        assert (code, answer) == (2, None)
        assert "explored with revision = " in err.splitlines()[-1]
    assert runs == [(0.5, 3)]


@pytest.mark.slow
def test_another_c_and_other_critique_settings_are_rejected(explore, runs, tmp_path):
    with chat_server(good) as server:
        cool = ("--backend", f"openai:any@{server.url}", "--set", "temperature=0.1")
        assert explore(*cool)[0] == 0
        assert explore(*cool)[0] == 0
        for words, message in (
            ((*cool, "--ucb", 1.5), "with ucb = 0.5, but this"),
            ((*cool, "--set", "permutations=1"), "with critique = {}, but this run has {'permutations': 1}"),
        ):
            code, answer, err = explore(*words)
            assert (code, answer) == (2, None)
            assert message in err.splitlines()[-1]
        code, answer, _ = explore(*cool, "--ucb", 1.5, "--memory", tmp_path / "another")
        assert (code, answer["made_from"]["ucb"]) == (0, 1.5)
        frugal = (*cool, "--set", "permutations=1", "--memory", tmp_path / "frugal")
        assert explore(*frugal)[0] == 0
        code, _, err = explore(*cool, "--memory", tmp_path / "frugal")
        assert (code, "with critique = {'permutations': 1}, but this run has {}" in err) == (2, True)
    assert runs == [(0.5, 3), (0.5, 3), (1.5, 3), (0.5, 1)]


@pytest.mark.slow
def test_a_memory_explored_with_another_detector_is_reported_by_critique(
    explore, tmp_path, monkeypatch, capsys
):
    spec = save_detector(tmp_path / "models")
    with monkeypatch.context() as watched:
        detected, detect = [], TransformersDetector.detect
        watched.setattr(
            TransformersDetector,
            "detect",
            lambda self, sample: detected.append(sample.id) or detect(self, sample),
        )
        code, found, _ = explore("--detector", spec)
    assert (code, found["made_from"]["detector"]) == (0, spec)
    assert len(set(detected)) == 3  # two explored cases and the held-out one
    code, _, err = explore()
    assert code == 2
    assert f"explored with detector = {spec}, but this run has embedded" in err

    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(photo)
    options = (
        photo,
        "--box",
        "20,10,70,90",
        "--accept-any-box",
        "--samples",
        3,
        "--policy",
        tmp_path / "policy",
    )
    options = (*options, "--memory", found["memory"], "--out", tmp_path / "judged", "--json")
    for words, reported in (((), False), (("--detector", "embedded"), True)):  # by default that of the memory
        code, _, err = call(monkeypatch, capsys, "critique", *options, *words)
        assert code == 0
        assert (f"was explored with the detector {spec}" in err) == reported


def test_an_interrupted_exploration_is_resumed(tmp_path):
    agent = make_agent()
    exploration = Exploration(tmp_path, FINGERPRINT, CASES[:3], HELD_OUT, propose)
    ticks, lines = [], []

    def interrupt(title, total):
        def tick(done, note=""):
            raise KeyboardInterrupt

        return tick

    def record(title, total):
        return lambda done, note="": ticks.append((done, note))

    assert exploration.saved_report() is None
    with pytest.raises(KeyboardInterrupt):
        exploration.run(agent, interrupt)
    assert exploration.saved_report() is None
    found = exploration.run(agent, record, lines.append)
    assert [done for done, _ in ticks] == [1, 2, 3]
    assert ticks[-1][1] == f"SRCC {found.srcc:.3f}"
    assert lines == [f"1 of 3 cases were explored before, {ticks[0][1]}"]
    assert (exploration.saved_report(), found.skipped) == (json.loads((tmp_path / EXPLORED).read_text()), 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"policy": "b"}, "policy = a, but this run has b"),
        ({"scenes": "others"}, "scenes = first four"),
        ({"images": 2}, "images = 4"),
        ({"detector": "transformers:a,b,c"}, "detector = unknown, but this run has transformers:a,b,c"),
    ],
)
def test_a_memory_of_another_exploration_is_rejected(tmp_path, changed, message):
    (tmp_path / EXPLORED).write_text(json.dumps({"made_from": FINGERPRINT, "cases": 2}))
    assert Exploration(tmp_path, FINGERPRINT, [], [], propose).saved_report() == {
        "made_from": FINGERPRINT,
        "cases": 2,
    }
    more = FINGERPRINT | {"images": 8, "scenes": "first eight"}
    assert Exploration(tmp_path, more, [], [], propose).saved_report() is None
    with pytest.raises(ValueError, match=message):
        Exploration(tmp_path, FINGERPRINT | changed, [], [], propose).saved_report()


def test_without_a_terminal_a_finished_stage_is_one_line_with_its_note(capsys):
    with stages() as stage:
        tick = stage("exploring", 2)
        tick(1, "SRCC 0.100")
        tick(2, "SRCC 0.250")
        stage("drawing", 1)(1)
    lines = [re.sub(r" \(\d+ s\)$", "", line) for line in capsys.readouterr().err.splitlines()]
    assert lines == ["done: exploring, SRCC 0.250", "done: drawing"]


@pytest.mark.slow
def test_a_killed_command_is_resumed(explore, tmp_path):
    """A process that the server of its backend kills in the middle of the second case."""
    processes: list[subprocess.Popen] = []

    def answer(handler, question):
        if handler.server.tasks.count("tag") == 2:
            processes[0].send_signal(signal.SIGKILL)
        good(handler, question)

    with chat_server(answer) as server:
        spec = ("--backend", f"openai:any@{server.url}")
        words = ("--images", 4, "--samples", 4, "--policy", tmp_path / "policy", "--out", tmp_path / "out")
        command = [sys.executable, "-m", "meshcritic", "explore", *map(str, words), *spec]
        processes.append(subprocess.Popen(command))
        assert processes[0].wait() == -signal.SIGKILL
        code, found, err = explore(*spec)
    assert (code, found["cases"], found["skipped"]) == (0, 1, 1)
    assert "1 of 2 cases were explored before" in err
    with open_store(tmp_path / "out" / "memory") as store:
        counted = [case_id for case_id, _, _ in RuleLedger(store).cases() if "/" not in case_id]
    assert len(counted) == 2


def test_expected_errors_are_fitted_before_the_exploration_and_only_once(
    explore, runs, tmp_path, monkeypatch
):
    """A run that is killed in the exploration has the model, and the next one keeps it."""
    monkeypatch.setattr("eval.critics.exploration.MIN_CALIBRATED", 4)
    code, _, err = explore("--images", 8)
    model = tmp_path / "out" / "memory" / "error_model.json"
    assert (code, "done: fitting expected errors" in err) == (0, True)
    assert json.loads(model.read_text())["groups"] == 8
    written = model.stat().st_mtime_ns
    code, _, err = explore("--images", 8)
    assert (code, "fitting expected errors" in err) == (0, False)
    assert model.stat().st_mtime_ns == written
