"""The critics of `meshcritic align`: checks before any scene is drawn, and backends that fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest

from agent.default import open_default_memory
from agent.tracing.reading import read_trace
from eval.pipelines.align_settings import AlignSettings
from eval.pipelines.alignment import run_alignment
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from rl.preferences.build import load_preferences
from rl.rounds import Rounds
from rl.scorers.weighted_sum import weighted_sum
from tests.agent.vlm.chat_server import body, chat_server, completion, fair, task_of, unbiased
from tests.command import call

TINY = {"loss_type": "weighted", "max_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "no"}
A_GROUP = 5  # calls: tags, three label orders, reflection without uncertain scores
IMAGES = 4
Align = Callable[..., tuple[int, str, str]]


@pytest.fixture
def align(
    tiny_policy: DiffusionPolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Align:
    """Runs the command on four images, with an output folder and further flags."""
    tiny_policy.save_pretrained(tmp_path / "base")
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY))
    few = ("--images", IMAGES, "--group-size", 3, "--calibration", 4)

    def run(out: str, *words: object) -> tuple[int, str, str]:
        files = ("--policy", tmp_path / "base", "--config", tmp_path / "tiny.yaml", "--out", tmp_path / out)
        return call(monkeypatch, capsys, "align", *files, *few, *words)

    return run


@pytest.fixture
def memory(align: Align, tmp_path: Path) -> Path:
    """A memory with the seed rules, used as an explored one."""
    with open_default_memory(tmp_path / "memory", load_policy(tmp_path / "base"), frozen=False):
        pass
    return tmp_path / "memory"


def flags(server, memory: Path, *settings: str) -> tuple[object, ...]:
    """Flags for one group at a time and no repeated request."""
    pairs = [word for pair in ("concurrency=1", "attempts=1", *settings) for word in ("--set", pair)]
    return "--critic", f"openai:m@{server.url}", "--memory", memory, *pairs


def record_of(out: Path) -> dict:
    return json.loads((out / "alignment.json").read_text())


@pytest.mark.slow
def test_a_run_with_a_spent_budget_is_resumed(align: Align, memory: Path, tmp_path: Path) -> None:
    with chat_server(fair) as server:
        words = flags(server, memory)
        assert align("whole", *words)[0] == 0
        assert len(server.questions) == IMAGES * A_GROUP
        server.questions.clear()
        code, _, err = align("cut", *words, "--max-calls", 2 * A_GROUP + 2)
        assert (code, "Traceback" in err) == (1, False)
        assert f"2 of 4 groups are scored and saved in {tmp_path / 'cut' / 'round-0' / 'groups'}" in err
        assert f"the budget of {2 * A_GROUP + 2} calls is spent" in err
        assert not (tmp_path / "cut" / "round-0" / "policy").exists()  # training needs all groups
        server.questions.clear()
        left = 2 * A_GROUP - 2  # two answers on unfinished groups were kept
        assert align("cut", *words, "--max-calls", left)[0] == 0  # just enough
        assert len(server.questions) == left
    assert load_policy(tmp_path / "cut").digest() == load_policy(tmp_path / "whole").digest()
    counted = record_of(tmp_path / "cut")
    assert (counted["groups"], counted["unscored_groups"]) == (IMAGES, 0)


@pytest.mark.slow
def test_a_run_whose_server_died_is_resumed(align: Align, memory: Path, tmp_path: Path) -> None:
    with chat_server(*[fair] * (A_GROUP + 1), body(b"", status=503)) as server:
        words = flags(server, memory)
        code, _, err = align("out", *words)
        assert (code, "1 of 4 groups are scored and saved" in err, "HTTP 503" in err) == (1, True, True)
        server.acts = [fair]
        server.questions.clear()
        assert align("out", *words)[0] == 0
        assert len(server.questions) == (IMAGES - 1) * A_GROUP - 1  # one answer on the second group was kept


@pytest.mark.slow
def test_a_malformed_reply_leaves_a_group_unscored_and_is_counted(
    align: Align, memory: Path, tmp_path: Path
) -> None:
    """The first group's answers are words, in every label order and after every repair."""

    def mumble_first(handler, question) -> None:
        first = handler.server.tasks.count("tag") == 1 and task_of(question) == "score"
        handler.send(completion("well" if first else json.dumps(unbiased(question))))

    with chat_server(mumble_first) as server:
        code, _, err = align("out", *flags(server, memory))
        assert (code, "1 of 4 groups got no score from the critic" in err) == (0, True)
    assert (record_of(tmp_path / "out")["groups"], record_of(tmp_path / "out")["unscored_groups"]) == (
        IMAGES,
        1,
    )
    scores = load_preferences(tmp_path / "out" / "round-0" / "groups")["scores"]
    assert [set(group) == {None} for group in scores] == [True, False, False, False]


@pytest.mark.slow
def test_an_unknown_model_leaves_no_group_cached(align: Align, memory: Path) -> None:
    """Servers refuse what they do not know with the status of a bad question."""
    with chat_server(body(b"no such model", status=400)) as server:
        code, _, err = align("out", *flags(server, memory))
        assert (code, "gave none of 4 groups a score, so none is saved" in err) == (1, True)
        server.acts = [fair]
        assert align("out", *flags(server, memory))[0] == 0


@pytest.mark.slow
def test_an_exploration_with_a_spent_budget_is_resumed(align: Align, tmp_path: Path) -> None:
    with chat_server(fair) as server:
        words = ("--critic", f"openai:m@{server.url}", "--set", "concurrency=1")
        code, _, err = align("out", *words, "--max-calls", A_GROUP + 1)
        assert (code, "is not finished, because the backend stopped answering" in err) == (1, True)
        assert not (tmp_path / "out" / "round-0").exists()
        assert align("out", *words)[0] == 0


@pytest.mark.slow
def test_other_critique_settings_make_another_critic(align: Align, memory: Path, tmp_path: Path) -> None:
    def doubtful(handler, question) -> None:
        answer = unbiased(question)
        if task_of(question) == "reflect":
            answer = {label: {"uncertain": True, "reason": "on principle"} for label in answer}
        handler.send(completion(json.dumps(answer)))

    with chat_server(doubtful) as server:
        usual, frugal = flags(server, memory), ("--set", "permutations=1", "--set", "max_revisions=0")
        assert align("out", *usual, *frugal)[0] == 0
        assert server.tasks == ["tag", "score", "reflect"] * IMAGES
        code, out, _ = align("counted", *usual, *frugal, "--dry-run", "--json")
        assert json.loads(out)["dry_run"]["by_task"] == {"tag": 4, "score": 4, "reflect": 4}
        code, _, err = align("out", *usual)
        assert (code, "was begun with scorer_digest=" in err) == (2, True)
    assert record_of(tmp_path / "out")["critique"] == {"permutations": 1, "max_revisions": 0}
    assert record_of(tmp_path / "out")["backend"] == ["concurrency=1", "attempts=1"]


WRONG = {
    "an unknown name": (["--critic", "nobody"], "no critic 'nobody'; there are: embedded, openai, "),
    "and all kinds": (
        ["--critic", "noisy-truth"],
        "noisy-truth:SRCC, noisy-reading:SRCC[:shared], reward:FILE.py:NAME",
    ),
    "a word for a number": (["--critic", "noisy-truth:well"], "takes a number"),
    "no number": (["--critic", "noisy-truth:nan"], "srcc of a critic must be above 0"),
    "a reading without a number": (
        ["--critic", "noisy-reading:0.5:mine"],
        "noisy-reading takes a number, then",
    ),
    "a shuffled word": (["--critic", "shuffled:noisy-truth:well"], "takes a number"),
    "shuffled twice": (["--critic", "shuffled:shuffled"], "no critic 'shuffled:shuffled'"),
    "no such file": (
        ["--critic", "reward:nofile.py:f"],
        "nofile.py: this file of reward functions does not exist",
    ),
    "no such function": (["--critic", "reward:json:nothing"], "json has no 'nothing'"),
    "no memory": (["--memory", "nowhere"], "nowhere: there is no memory here"),
    "no memory, counting": (["--memory", "nowhere", "--dry-run"], "nowhere: there is no memory here"),
    "no such recording": (["--critic", "replay:none.jsonl"], "there is no file none.jsonl"),
    "no such setting": (["--set", "deadline_s=3"], "no such setting"),
    "no pair": (["--set", "permutations"], "takes field=value"),
    "too few": (["--set", "permutations=0"], "permutations must be from 1 to 100, not 0"),
    "too many": (
        ["--set", "permutations=99999999999999999999"],
        "permutations must be from 1 to 100, not 9999",
    ),
    "a word for a count": (["--set", "max_revisions=few"], "max_revisions: Input should be a valid integer"),
    "no such device": (["--device", "nowhere"], "nowhere"),
    "another body": (["--policy", "other"], "this policy was trained with another body"),
    "nothing to trace": (
        ["--critic", "hmr-scorer", "--trace"],
        "--trace applies to critics that use a backend; hmr-scorer does not",
    ),
    "no penalty": (["--penalty", "imbalance_mm"], "a penalty is METRIC=WEIGHT with a weight above 0"),
    "nothing to penalise": (
        ["--critic", "hmr-scorer", "--penalty", "imbalance_mm=1"],
        "--penalty applies to critics that use a backend; hmr-scorer does not",
    ),
    "no tool to remove": (["--without-tool", "sextant"], "its tools are reprojection"),
    "no tools to remove": (
        ["--critic", "hmr-scorer", "--without-tool", "pose_reading"],
        "--without-tool applies to critics that use a backend; hmr-scorer does not",
    ),
    "nobody to set": (
        ["--critic", "noisy-truth:1", "--set", "permutations=1"],
        "--set applies to critics that use a backend; noisy-truth:1 does not",
    ),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_an_invalid_critic_is_refused_before_anything_is_drawn(
    align: Align, tmp_path: Path, words: list[str], message: str
) -> None:
    if "other" in words:
        other = load_policy(tmp_path / "base")
        other.feedback.points.joint_template[5] += 0.1
        other.save_pretrained(tmp_path / "other")
    code, _, err = align("out", *(tmp_path / word if word == "other" else word for word in words))
    assert (code, message in err, "Traceback" in err) == (2, True, False), err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_any_critic_can_be_shuffled(tiny_policy: DiffusionPolicy, tmp_path: Path) -> None:
    """The control stores the same scores as its critic, and the aligned policies differ."""
    policies = {}
    for critic in ("noisy-truth:1", "shuffled:noisy-truth:1"):
        settings = AlignSettings(critic, images=3, rounds=Rounds(group_size=6), alignment=TINY)
        out = tmp_path / critic.replace(":", "-")
        aligned = run_alignment(tiny_policy, settings, out, lambda title, total: lambda done, note="": None)
        policies[critic] = aligned.digest()
        assert record_of(out)["uses_truth"]
    straight, shuffled = (
        load_preferences(tmp_path / name / "round-0" / "groups")
        for name in ("noisy-truth-1", "shuffled-noisy-truth-1")
    )
    assert straight["scores"][:] == shuffled["scores"][:]
    assert policies["noisy-truth:1"] != policies["shuffled:noisy-truth:1"]


@pytest.mark.slow
def test_measurements_of_the_agent_are_penalised_and_stored_with_its_scores(
    align: Align, memory: Path, tmp_path: Path
) -> None:
    words = ("--memory", memory, "--penalty", "self_penetration_mm=0.5", "--trace")
    assert align("out", *words) == (0, ANY, ANY)
    critiques = read_trace(tmp_path / "out", limit=9).critiques
    assert len(critiques) == IMAGES
    record = record_of(tmp_path / "out")
    assert record["penalties"] == {"self_penetration_mm": 0.5}
    assert record["scorer"] == "agent:embedded - 0.5*self_penetration_mm"
    groups = load_preferences(tmp_path / "out" / "round-0" / "groups")
    for scores, agents, measured in zip(
        groups["scores"][:],
        groups["rewards/agent:embedded"][:],
        groups["rewards/self_penetration_mm"][:],
        strict=True,
    ):
        assert scores == pytest.approx(weighted_sum([agents, measured], [1.0, 0.5], normalize=True))
    code, _, err = align("out", "--memory", memory)
    assert (code, "was begun with scorer=" in err) == (2, True)


@pytest.mark.slow
def test_a_reward_can_be_shuffled(align: Align, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def near(*, hypotheses, **kwargs):\n    return (-hypotheses.params.transl[:, 2]).tolist()\n"
    )
    assert align("out", "--critic", f"shuffled:reward:{tmp_path / 'rewards.py'}:near")[0] == 0
    assert record_of(tmp_path / "out")["scorer"].startswith("raw(1*near")


@pytest.mark.slow
def test_a_removed_tool_measures_nothing(align: Align, memory: Path, tmp_path: Path) -> None:
    removed = ("pose_reading", "depth_order")
    words = [word for tool in removed for word in ("--without-tool", tool)]
    assert align("out", "--memory", memory, "--trace", *words)[0] == 0
    assert record_of(tmp_path / "out")["without_tools"] == list(removed)
    measured = {
        item["tool"]
        for critique in read_trace(tmp_path / "out", limit=9).critiques
        for record in critique.records
        for item in record.get("outputs", {}).get("evidence", [])
    }
    assert "joint_limits" in measured
    assert not measured & set(removed)
