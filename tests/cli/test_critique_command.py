"""`meshcritic critique` with a local server: every group gets scores, or null with a reason."""

import io
import json
import sys
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from PIL import Image

from agent.default import open_default_memory
from eval.report.trace.pictures import PictureIndex
from hmr.types import Detection
from memory.folder import open_store
from tests.agent.vlm.chat_server import (
    body,
    chat_server,
    completion,
    cut,
    drip,
    fitting,
    flood,
    good,
    hang_up,
    parrot,
    saying,
    scoring,
    task_of,
)
from tests.command import call

KEY = "sk-canary-0123456789"
COUNT = 3
ALL_TASKS = ["tag", "score", "score", "score", "reflect"]


@pytest.fixture
def critique(tmp_path, tiny_policy, monkeypatch, capsys):
    """The command on three given bodies. Returns the exit code, the --json answer (with `as_json`) and stderr."""
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    tiny_policy.save_pretrained(tmp_path / "policy")
    np.savez(
        tmp_path / "h.npz",
        global_orient=np.tile([np.pi, 0.0, 0.0], (COUNT, 1)),
        body_pose=np.linspace(0, 0.3, COUNT)[:, None] * np.ones((1, 69)),
        betas=np.zeros((COUNT, 10)),
        transl=np.tile([0.0, 0.2, 4.0], (COUNT, 1)),
        focal_px=np.array(150.0),
        center_px=np.array([45.0, 60.0]),
        image_size=np.array([90, 120]),
    )
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(*words, as_json=True):
        given = (
            "--hypotheses",
            tmp_path / "h.npz",
            "--policy",
            tmp_path / "policy",
            "--out",
            tmp_path / "out",
        )
        asked = (tmp_path / "photo.png", *given, *(["--json"] if as_json else []), *words)
        code, out, err = call(monkeypatch, capsys, "critique", *asked)
        return code, json.loads(out) if out else None, err

    return run


def at(server, **settings):
    quick = {"deadline_s": 20, "backoff_s": 0.001, **settings}
    pairs = [word for name, value in quick.items() for word in ("--set", f"{name}={value}")]
    return ("--backend", f"openai:some/model@{server.url}", *pairs)


def changed(**scores):
    """Valid scores, except for these labels."""
    return scoring(lambda fits: {**fits, **{k: {**fits[k], "score": v} for k, v in scores.items()}})


def only_scores(act):
    """Applies `act` to the scoring questions; the others get valid answers."""
    return lambda handler, question: (act if task_of(question) == "score" else good)(handler, question)


FAILURES = {
    "always 429": body(b"", status=429, Retry_After="0"),
    "500": body(b"oops", status=500),
    "slow drip": drip,
    "cut connection": cut,
    "truncated JSON": saying(lambda fits, _: fits[: len(fits) // 2]),
    "missing label": scoring(lambda fits: {"A": fits["A"]}),
    "extra label": scoring(lambda fits: {**fits, "Z": fits["A"]}),
    "score as text": changed(B="80"),
    "NaN": changed(B=float("nan")),
    "101": changed(B=101),
    "-1": changed(B=-1),
    "empty choices": body(b'{"choices": []}'),
    "30 MB": flood,
    "wrong content type": body(completion("{}"), kind="text/html"),
    "quotes the request": parrot,
}


# Each is a whole run of the command; tests/agent/vlm/test_openai.py tests the backend alone.
FAST = ("NaN",)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(act, id=name, marks=() if name in FAST else pytest.mark.slow)
        for name, act in FAILURES.items()
    ],
)
def test_a_failing_server_gives_null_scores_with_a_reason(act, critique):
    with chat_server(only_scores(act)) as server:
        deadline_s = 0.2 if act is drip else 20
        code, answer, err = critique(*at(server, deadline_s=deadline_s))
    (person,) = answer["people"]
    assert code == 1
    assert err.splitlines()[-1].startswith("meshcritic: no hypothesis got a score: ")
    assert person["scores"] == [None] * COUNT
    assert len(person["reasons"]) == COUNT
    assert all(person["reasons"])
    assert "revise" not in server.tasks


def one_order(act):
    """Applies `act` to the scoring question of one of the three label orders, whose seeds are consecutive; the others
    get valid answers."""
    return lambda handler, question: (
        act if task_of(question) == "score" and question["seed"] % 3 == 1 else good
    )(handler, question)


def test_a_skeleton_is_drawn_over_bodies_of_a_file(critique, tmp_path, monkeypatch):
    points = {"left_hip": (20.0, 60.0), "left_knee": (70.0, 60.0)}

    def detect(detector, samples):
        table, seen = torch.tensor([*points.values()]), torch.ones(2)
        return [Detection.from_points([*points], table, 2 * seen, seen, confidence=0.9) for _ in samples]

    monkeypatch.setattr("cli.photos.people.detect_all", detect)
    drawn = []
    for words in ((), ("--skeleton",)):
        assert critique(*words)[0] == 0
        drawn.append(np.asarray(Image.open(tmp_path / "out" / "photo-0-overlay.png"), dtype=np.int16))
    changed = np.abs(drawn[1] - drawn[0]).max(axis=-1) > 0
    rows, columns = changed.nonzero()
    assert 50 < rows.min() <= rows.max() < 70
    assert columns.min() < 25
    assert columns.max() > 65


def test_a_missing_score_and_a_lost_question_are_explained_without_json(critique):
    cut_off = body(completion('{"A": ', "length"))
    with chat_server(only_scores(cut_off)) as server:
        _, _, err = critique(*at(server), as_json=False)
    reason = "malformed after one repair: cut off at 7 tokens; raise max_tokens"
    assert "does not detect a person in this box (confidence 0.00)" in err
    assert err.count(reason) == 1
    assert err.splitlines()[-1] == (
        f"meshcritic: no hypothesis got a score: {reason} (3 of 4 questions lost: score x 3)"
    )


def test_the_reason_of_a_dead_server_is_printed_once(critique):
    with chat_server(hang_up) as server:
        code, _, err = critique(*at(server, attempts=1), as_json=False)
    assert code == 1
    assert err.count("openai:some/model") == 1, err
    last = err.splitlines()[-1]
    assert last.startswith("meshcritic: no hypothesis got a score: openai:some/model@")
    assert last.endswith(" (4 of 4 questions lost: tag, score x 3)")


def test_one_lost_label_order_is_counted_and_printed(critique, tmp_path):
    with chat_server(one_order(body(completion("well")))) as server:
        _, answer, _ = critique(*at(server))
    (person,) = answer["people"]
    assert None not in person["scores"]
    counts = person["questions"]
    assert [counts[name] for name in ("asked", "answered", "repaired", "lost")] == [5, 4, 0, 1]
    assert person["lost"].startswith("4 of 5 questions were answered; lost score: malformed after one repair")
    records = [json.loads(line) for line in (tmp_path / "out" / "trace.jsonl").read_text().splitlines()]
    (score,) = [record["outputs"] for record in records if record["node"] == "score"]
    assert [("malformed" in reply) for reply in score["replies"]].count(True) == 2


ANSWERS = {
    "as JSON": good,
    "in prose": saying(lambda fits, _: f"I think:\n```json\n{fits}\n```\nThat is all."),
}


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(act, id=name, marks=() if name == "as JSON" else pytest.mark.slow)
        for name, act in ANSWERS.items()
    ],
)
def test_the_scores_of_the_backend_are_printed(act, critique):
    with chat_server(act) as server:
        code, answer, _ = critique(*at(server))
    (person,) = answer["people"]
    assert code == 0
    assert sorted(server.tasks) == sorted(ALL_TASKS)
    # scores of 90, 80 and 70 by label, under three label orders: the mean ranks decide, on the same scale
    assert all(70 <= score <= 90 for score in person["scores"])
    assert person["reasons"] == []


@pytest.mark.slow
def test_equal_scores_stay_equal(critique):
    with chat_server(changed(A=50, B=50, C=50)) as server:
        _, answer, _ = critique(*at(server))
    assert answer["people"][0]["scores"] == [50.0] * COUNT


@pytest.mark.slow
def test_a_second_run_sends_only_the_missing_questions(critique, tmp_path):
    cache = ("--reply-cache", tmp_path / "cache.sqlite")

    def fails_once_each(handler, question):
        (body(b"", status=400) if question["seed"] % 3 == 1 else good)(handler, question)

    with chat_server(fails_once_each) as server:
        critique(*at(server), *cache)
        assert sorted(server.tasks) == sorted(ALL_TASKS)
        server.questions.clear()
        server.acts = [good]
        _, first, _ = critique(*at(server), *cache)
        # the label order that failed, and the reflection, whose scores have changed
        assert server.tasks == ["score", "reflect"]
        server.questions.clear()
        _, second, _ = critique(*at(server), *cache)
        assert server.tasks == []
        critique("--backend", f"openai:another/model@{server.url}", *cache)
        assert sorted(server.tasks) == sorted(ALL_TASKS)
    for answer in (first, second):  # a cached reply costs nothing
        for cost in ("tokens_in", "tokens_out", "reply_us"):
            del answer["people"][0]["questions"][cost]
    assert first == second


def test_the_budget_is_never_exceeded(critique):
    with chat_server(good) as server:
        code, answer, err = critique(*at(server), "--max-calls", 1)
        assert code == 1
        assert err.splitlines()[-1].endswith(
            "the budget of 1 calls is spent (3 of 4 questions lost: score x 3)"
        )
        assert len(server.questions) == 1
        assert answer["people"][0]["scores"] == [None] * COUNT
        assert "the budget of 1 calls is spent" in answer["people"][0]["reasons"][0]


def test_a_dry_run_counts_without_requests_and_files(critique, tmp_path):
    with chat_server(good) as server:
        code, answer, _ = critique(
            *at(server), "--dry-run", "--reply-cache", tmp_path / "c", "--record", tmp_path / "r"
        )
    counts = answer["dry_run"]
    assert code == 0
    assert server.questions == []
    assert (counts["calls"], counts["calls_if_certain"]) == (7, 5)
    # tags: the photograph; the six other questions: panels too; the revision: a close-up per hypothesis
    assert counts["images"] == 1 + 6 * (1 + COUNT) + COUNT
    assert counts["tokens_in"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.npz", "photo.png", "policy"]


@pytest.mark.slow
def test_one_label_order_without_revision_needs_fewer_requests(critique):
    with chat_server(good) as server:
        code, answer, _ = critique(
            *at(server), "--dry-run", "--set", "permutations=1", "--set", "max_revisions=0"
        )
    assert (code, answer["dry_run"]["calls"]) == (0, 3)  # the tag, one scoring, one reflection


@pytest.mark.slow
def test_a_recorded_run_can_be_replayed(critique, tmp_path):
    with chat_server(good) as server:
        _, live, _ = critique(*at(server), "--record", tmp_path / "replies.jsonl")
    _, replayed, _ = critique("--backend", f"replay:{tmp_path / 'replies.jsonl'}")
    assert replayed == live


def test_neither_key_nor_picture_is_written_anywhere(critique, tmp_path):
    def leak(handler, question):
        pictures = [p["image_url"]["url"] for p in question["messages"][0]["content"] if "image_url" in p]
        text = f"{KEY} {pictures} {json.dumps(fitting(question))}"
        handler.send(completion(text))

    for act in (leak, parrot):
        with chat_server(act) as server:
            files = ("--reply-cache", tmp_path / "cache.sqlite", "--record", tmp_path / "replies.jsonl")
            _, answer, err = critique(*at(server), *files)
        written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "photo.png"]
        assert {"trace.jsonl", "cache.sqlite", "replies.jsonl"} <= {path.name for path in written}
        for place in [json.dumps(answer).encode(), err.encode(), *(path.read_bytes() for path in written)]:
            assert KEY.encode() not in place
            assert b";base64," not in place
            assert b"/9j/4AAQ" not in place


def test_a_remote_host_is_named_before_anything_is_sent(critique):
    words = ("--backend", "openai:m@http://far.invalid/v1", "--max-calls", 0)
    code, answer, err = critique(*words)
    assert "photographs and renderings of people are sent to far.invalid" in err
    assert (code, answer["people"][0]["scores"]) == (1, [None] * COUNT)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--set", "deadline_s"), "field=value"),
        (
            ("--set", "deadline_s=5"),
            "the backend embedded has no such setting: deadline_s; it has none; the critique has permutations, "
            "max_revisions, close_ups, pictures",
        ),
        (("--backend", "replay:nowhere.jsonl"), "nowhere.jsonl"),
        (("--detector", "yolo"), "transformers"),
    ],
)
def test_invalid_options_end_in_one_sentence(words, names, critique):
    code, answer, err = critique(*words)
    assert (code, answer) == (2, None)
    assert names in err
    assert "Traceback" not in err


def test_the_embedded_critic_is_refused_in_the_agentic_mode(critique):
    code, answer, err = critique("--mode", "agentic")
    assert (code, answer) == (2, None)
    assert err.splitlines()[-1] == (
        "meshcritic: the mode agentic needs a language model, and the backend embedded cannot call for evidence; "
        "choose another backend or the mode fixed"
    )


@pytest.mark.slow
def test_in_the_agentic_mode_the_model_measures_with_the_tools_of_a_server(critique):
    """The model calls for one measurement of a tool server, then scores; the trace has the call."""
    server_script = Path(__file__).parents[1] / "agent/tools/served/measuring_server.py"
    call_it = completion(None, tool_calls=[
        {"id": "1", "type": "function", "function": {
            "name": "measure", "arguments": json.dumps({"measurement": "served_head_height"})}}
    ])  # fmt: skip

    def act(handler, question):
        if "tools" not in question:
            return good(handler, question)
        if len(question["messages"]) == 1:
            return handler.send(call_it)
        scores = {label: {"comment": question["messages"][2]["content"], "score": 50} for label in "ABC"}
        function = {"name": "score", "arguments": json.dumps(scores)}
        return handler.send(completion(None, tool_calls=[{"id": "2", "function": function}]))

    words = ("--mode", "agentic", "--max-tool-calls", 2, "--set", "permutations=1")
    with chat_server(act) as server:
        code, answer, _ = critique(*at(server), *words, "--tool-server", f"{sys.executable} {server_script}")
    (person,) = answer["people"]
    assert (code, person["scores"]) == (0, [50.0] * COUNT)
    assert person["comments"][0].startswith("label|served_height_mm")
    assert person["questions"]["asked"] == 3  # the call, the scores, the reflection


def test_a_person_is_written_and_printed_before_the_next_one_is_critiqued(
    tmp_path, tiny_policy, monkeypatch, capsys
):
    def fails_at_the_second(agent, groups, **listeners):
        yield agent.critique(*next(iter(groups)))
        raise ValueError("the second person fails")

    monkeypatch.setattr("cli.photos.critique_output.critique_many", fails_at_the_second)
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    tiny_policy.save_pretrained(tmp_path / "policy")
    boxes = ("--box", "5,5,40,110", "--box", "45,5,85,110", "--accept-any-box")
    places = ("--policy", tmp_path / "policy", "--out", tmp_path / "out")
    code, _, err = call(
        monkeypatch, capsys, "critique", tmp_path / "photo.png", *boxes, *places, "--samples", "2"
    )
    assert code == 2
    assert any(line.startswith("person 0 at [5.0, 5.0, 40.0, 110.0]") for line in err.splitlines()), err
    assert err.splitlines()[-1] == "meshcritic: the second person fails"
    assert (tmp_path / "out" / "photo-0-group.png").exists()
    (trace,) = {
        json.loads(line)["trace"] for line in (tmp_path / "out" / "trace.jsonl").read_text().splitlines()
    }
    pictures = PictureIndex(tmp_path / "out").of(trace)
    assert [picture.caption.split(",")[0] for picture in pictures] == [
        "The hypothesis with the best score",
        "All hypotheses",
    ]


def test_a_person_corrects_scores_and_the_memory_learns_it(critique, tmp_path, tiny_policy, monkeypatch):
    with open_default_memory(tmp_path / "memory", tiny_policy, frozen=False):
        pass
    monkeypatch.setattr("sys.stdin", io.StringIO("1=101\n1:12\nno\n1=12 0=90\n"))
    points = ("--review", "scores", "--learn", "--memory", tmp_path / "memory")
    code, answer, err = critique(*points)
    (person,) = answer["people"]
    assert code == 0
    assert person["scores"][:2] == [90, 12]
    assert person["corrections"] == [
        {"hypotheses": [1, 0], "before": ANY, "after": [12, 90], "rule": ""},
    ]
    assert "the score of hypothesis 1 must be from 0 to 100, not 101" in err
    for line in ("1:12", "no"):
        assert f"{line!r} is not understood. Enter accepts." in err
    assert "person 0: please accept or correct these scores; picture: " in err
    assert err.endswith(f"> 2 prototypes and 0 rules written to {tmp_path / 'memory'}\n")
    with open_store(tmp_path / "memory", frozen=True) as store:
        rationales = [
            row["rationale"] for row in store.read("SELECT rationale FROM prototypes ORDER BY number")
        ]
    assert [text[:22] for text in rationales] == ["Score 12 by a person, ", "Score 90 by a person, "]


def test_a_rule_that_a_person_writes_is_in_quarantine(critique, tmp_path, tiny_policy, monkeypatch):
    with open_default_memory(tmp_path / "memory", tiny_policy, frozen=False):
        pass
    monkeypatch.setattr("sys.stdin", io.StringIO("rule: Hidden feet are on the ground.\n"))
    code, _, err = critique("--review", "scores", "--learn", "--memory", tmp_path / "memory")
    assert code == 0
    written = f"0 prototypes and 1 rule written to {tmp_path / 'memory'}; new rules are in quarantine"
    assert err.endswith(f"> {written}\n")


def test_a_memory_of_another_detector_comes_with_advice(critique, tmp_path, tiny_policy, monkeypatch):
    with open_default_memory(tmp_path / "memory", tiny_policy, frozen=False):
        pass
    monkeypatch.setattr("agent.exploration.record.explored_detector", lambda memory: "blazepose")
    code, _, err = critique("--memory", tmp_path / "memory", "--detector", "embedded")
    assert code == 0, err
    assert (
        f"{tmp_path / 'memory'} was explored with the detector blazepose; its rule weights are fitted to that "
        "detector; for photographs leave out --memory (the seed rules are used), or explore with --detector NAME"
    ) in err.splitlines()


def test_boxes_are_those_of_the_hypotheses(critique):
    code, _, err = critique("--box", "10,10,90,90")
    assert code == 2
    assert "--hypotheses has the boxes of its people; --box is not allowed with it" in err


def test_a_review_without_an_answer_and_options_that_do_not_fit_are_refused(critique, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for words, reason in (
        (("--review", "scores"), "standard input ended before the review was answered"),
        (("--review", "always"), "asked about revise, scores, low_agreement, not about 'always'"),
        (
            ("--review", "scores", "--learn", "--memory", tmp_path / "nowhere"),
            "nowhere: there is no memory here",
        ),
        (("--learn", "--memory", tmp_path), "--learn writes the corrections of --review to a --memory"),
        (("--review", "scores", "--dry-run"), "--dry-run asks nobody"),
    ):
        code, _, err = critique(*words)
        assert (code, reason in err) == (2, True), err


def test_a_critique_goes_on_from_its_checkpoints_without_asking_again(critique, tmp_path):
    words = ("--checkpoints", tmp_path / "steps.sqlite", "--set", "max_revisions=0")
    with chat_server(good) as server:
        _, first, _ = critique(*at(server), *words)
        asked = len(server.tasks)
        _, second, _ = critique(*at(server), *words)
    assert first["people"][0]["scores"] == second["people"][0]["scores"]
    assert (asked, len(server.tasks)) == (5, 5)


def test_answers_within_an_interrupted_step_are_kept_with_its_checkpoints(critique, tmp_path):
    """Two of three label orders are answered before the server is gone; when it is back, only the third is asked."""
    words = ("--checkpoints", tmp_path / "steps.sqlite", "--set", "max_revisions=0")
    with chat_server(one_order(hang_up)) as server:
        critique(*at(server, deadline_s=0.2), *words)
        assert {question["seed"] % 3 for question in server.questions if task_of(question) == "score"} == {
            0,
            1,
            2,
        }
        server.acts, server.questions = [good], []
        code, answer, err = critique(*at(server), *words)
    assert code == 0, err
    assert [question["seed"] % 3 for question in server.questions if task_of(question) == "score"] == [1]
    assert "tag" not in server.tasks
    assert answer["people"][0]["lost"] == ""
    assert (tmp_path / "steps.sqlite.replies").is_file()


def test_a_file_that_holds_no_checkpoints_is_refused(critique, tmp_path):
    (tmp_path / "steps.sqlite").write_text("no database, but long enough to look at " * 40)
    code, _, err = critique("--checkpoints", tmp_path / "steps.sqlite")
    assert code == 2
    assert "steps.sqlite: not a file of checkpoints" in err


@pytest.fixture
def two_people(tmp_path, tiny_policy):
    """Words of the command on a photograph and a file with two hypotheses for each of two people."""
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    tiny_policy.save_pretrained(tmp_path / "policy")
    transl = np.array([[[-0.5, 0.2, 4.0]] * 2, [[0.5, 0.2, 4.0], [0.5, -0.6, 4.0]]])  # the last one floats
    np.savez(
        tmp_path / "h.npz",
        global_orient=np.tile([np.pi, 0.0, 0.0], (2, 2, 1)),
        body_pose=np.linspace(0, 0.1, 2)[None, :, None] * np.ones((2, 1, 69)),
        betas=np.zeros((2, 2, 10)),
        transl=transl,
        focal_px=np.array(150.0),
        center_px=np.array([45.0, 60.0]),
        image_size=np.array([90, 120]),
    )
    places = ("--hypotheses", tmp_path / "h.npz", "--policy", tmp_path / "policy", "--out", tmp_path / "out")
    return ("critique", tmp_path / "photo.png", *places)


def test_the_arrangement_of_two_people_is_in_the_json(two_people, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, *two_people, "--json")
    answer = json.loads(out)
    assert (code, len(answer["people"])) == (0, 2)
    best = answer["arrangement"]
    assert best["people"] == [0, 1]
    assert 0 <= best["score"] <= 100
    assert best["comment"]
    assert {item["tool"] for item in best["evidence"]} >= {
        "interpenetration",
        "common_ground",
        "common_scale",
    }
    combinations = [best["hypotheses"], *(other["hypotheses"] for other in best["alternatives"])]
    assert sorted(combinations) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    floating = {tuple(other["hypotheses"]): other["score"] for other in [best, *best["alternatives"]]}
    assert floating[0, 0] > floating[0, 1]


def test_the_arrangement_of_two_people_is_printed_and_traced(two_people, tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, *two_people)
    assert code == 0
    assert err.splitlines()[-1].startswith("arrangement of hypotheses ")
    assert " of person 0, " in err.splitlines()[-1]
    code, out, _ = call(monkeypatch, capsys, "trace", tmp_path / "out")
    assert code == 0
    assert "arrange_people" in out
    assert "hypotheses by person" in " ".join(out.split())


def test_people_of_an_earlier_critique_of_the_photograph_are_deleted(
    two_people, tmp_path, monkeypatch, capsys
):
    assert call(monkeypatch, capsys, *two_people)[0] == 0
    out = tmp_path / "out"
    assert {path.suffix for path in out.glob("photo-1*")} == {".npz", ".json", ".glb", ".png"}
    # of predict, of another photograph of this name, and of a photograph named photo-1
    others = [out / name for name in ("photo-7.npz", "photo-8.json", "photo-8.npz", "photo-1-0-group.png")]
    for path in others:
        path.write_text(json.dumps({"photo": "/elsewhere/photo.png"}))
    both = dict(np.load(tmp_path / "h.npz"))
    first = {name: value[:1] if value.ndim == 3 else value for name, value in both.items()}
    np.savez(tmp_path / "h.npz", **first)
    with chat_server(hang_up) as server:
        assert call(monkeypatch, capsys, *two_people, *at(server, attempts=1))[0] == 1
    assert (out / "photo-1.npz").exists()  # that run found no scores
    assert call(monkeypatch, capsys, *two_people)[0] == 0
    left = {path.name for path in out.glob("photo-*")} - {path.name for path in others}
    assert left == {
        "photo-0.npz",
        "photo-0.json",
        "photo-0.glb",
        "photo-0-overlay.png",
        "photo-0-group.png",
    }
    assert all(path.exists() for path in others)


def test_one_person_has_no_arrangement(critique):
    code, answer, _ = critique()
    assert (code, answer["arrangement"]) == (0, None)
