"""Backends side by side: paired differences, cost, lost questions, the table on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from agent.default import open_default_memory
from agent.types import QuestionCounts
from cli.backend_flags import critique_and_backends
from common.storage.versions import versions
from eval.benchmark.protocol import ERROR_METRICS, ScoredGroup
from eval.critics.backends import BackendVerdicts, compare, write_backends
from eval.critics.files.prices import Price, read_prices
from eval.critics.table import backend_tables
from hmr.policy.policy import DiffusionPolicy
from tests.agent.vlm.chat_server import body, chat_server, completion, good, task_of
from tests.command import call

BEST, OTHER = (4.0, 3.0, 2.0, 1.0), (3.0, 4.0, 1.0, 2.0)  # rho 1 and 0.6 with the errors below
PRICES = {"openai:m": Price(2.0, 10.0)}


def verdicts(spec: str, *scores: tuple[float | None, ...], tokens: int = 0) -> BackendVerdicts:
    errors = {name: np.array([10.0, 20.0, 30.0, 40.0]) for name in ERROR_METRICS}
    groups = tuple(ScoredGroup(f"image-{row}", given, errors) for row, given in enumerate(scores))
    counts = QuestionCounts(
        asked=5, answered=4, tokens_in=tokens, tokens_out=tokens // 10, reply_us=2_500_000
    )
    return BackendVerdicts(spec, spec.split("@")[0], "r1", groups, (counts,) * len(groups))


FOUND = [verdicts("embedded", BEST, BEST), verdicts("openai:m@http://x", BEST, OTHER, tokens=1_000_000)]


def test_the_difference_is_paired_by_group():
    others = verdicts("openai:m@http://x", *[BEST, OTHER] * 5)
    found = compare([verdicts("embedded", *[BEST] * 10), others], ERROR_METRICS, PRICES, {"benchmark": "b"})
    assert list(found.differences) == [("embedded", "openai:m@http://x")]
    interval = found.differences["embedded", "openai:m@http://x"]["mpjpe_mm"]
    assert interval is not None
    assert interval.mean == pytest.approx(0.2)  # (0 + 0.4) / 2
    assert 0 <= interval.low < 0.2 < interval.high <= 0.4
    shown = found.to_json()
    assert shown["differences"][0]["srcc_difference"]["pve"][0] == pytest.approx(0.2)
    assert shown["benchmark"] == "b"
    assert json.loads(json.dumps(shown))["backends"]["embedded"]["srcc"]["mpjpe"] == [1.0, 1.0, 1.0]


def test_cost_and_lost_questions_are_sums_over_groups():
    found = compare(FOUND, ERROR_METRICS, PRICES, {}).backends
    remote, embedded = found["openai:m@http://x"], found["embedded"]
    assert remote.dollars == pytest.approx(2 * (2.0 + 1.0))  # a million tokens in and a tenth out, twice
    assert remote.reply_s == pytest.approx(5.0)
    assert (remote.questions.asked, remote.questions.lost) == (10, 2)
    assert embedded.dollars is None  # no price


def test_the_table_on_disk_has_a_row_per_backend_and_group(tmp_path: Path):
    path = tmp_path / "backends.parquet"
    write_backends(path, [*FOUND, verdicts("third", (None,) * 4)], ERROR_METRICS, PRICES)
    rows = pq.read_table(path).to_pylist()
    assert [(row["backend"], row["group"]) for row in rows[:3]] == [
        ("embedded", "image-0"),
        ("embedded", "image-1"),
        ("openai:m@http://x", "image-0"),
    ]
    assert rows[3]["srcc_mpjpe"] == pytest.approx(0.6)
    assert rows[3]["scores"] == list(OTHER)
    assert rows[3]["dollars"] == pytest.approx(3.0)
    assert (rows[3]["lost"], rows[3]["tokens_out"], rows[3]["reply_us"]) == (1, 100_000, 2_500_000)
    assert rows[4]["scores"] == [None] * 4
    assert rows[4]["srcc_pve"] is None
    assert rows[4]["mpjpe_mm"] == [10.0, 20.0, 30.0, 40.0]


def test_the_tables_show_every_backend_and_pair():
    first = verdicts("embedded", *[BEST] * 10)
    second = verdicts("openai:m@http://x", *[BEST, OTHER] * 5, tokens=1_000_000)
    third = verdicts("openai:[b]n[/b]", *[OTHER] * 10)
    console = Console(width=200)
    with console.capture() as captured:
        for table in backend_tables(compare([first, second, third], ERROR_METRICS, PRICES, {})):
            console.print(table)
    text = captured.get()
    assert "openai:[b]n[/b]" in text  # a name is not markup
    assert "30.0000" in text
    assert "10 of 50" in text
    assert text.count("first") >= 1
    assert "+0.400 [+0.400, +0.400]" in text  # embedded minus third


# -- prices and settings -----------------------------------------------------------------------------------------------


def test_prices_are_read(tmp_path: Path):
    (tmp_path / "prices.yaml").write_text(
        "openai:m@http://x: {input: 0.4, output: 1.6}\nembedded: {input: 0, output: 0}"
    )
    prices = read_prices(tmp_path / "prices.yaml")
    assert prices == {"openai:m@http://x": Price(0.4, 1.6), "embedded": Price(0.0, 0.0)}
    assert compare(FOUND, ERROR_METRICS, prices, {}).backends["embedded"].dollars == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", "must hold a mapping of backends"),
        ("", "must hold a mapping of backends"),
        ("{", "is not YAML"),
        ("m: 3", "prices.yaml, m must hold a mapping of fields, not 3"),
        ("m: {input: 1}", "prices.yaml, m: output is missing"),
        ("m: {input: 1, output: -2}", "output must be at least 0 dollars per million tokens, not -2.0"),
        ("m: {input: .nan, output: 1}", "input must be at least 0"),
        ("m: {input: 1, output: 1, tax: 1}", "unknown tax; allowed are input, output"),
        ("m: {input: a, output: 1}", "input takes float, not 'a'"),
    ],
)
def test_a_file_without_prices_is_refused(tmp_path: Path, text: str, said: str):
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_prices(tmp_path / "prices.yaml")
    with pytest.raises(FileNotFoundError, match="no such file of prices"):
        read_prices(tmp_path / "elsewhere.yaml")


def test_settings_are_of_all_backends_or_of_one():
    pairs = ["permutations=2", "deadline_s=9", "2:max_tokens=50"]
    critique, options = critique_and_backends(["a", "b"], pairs, False, 3, None, None)
    assert critique == {"permutations": 2}
    assert [list(each.settings) for each in options] == [["deadline_s=9"], ["deadline_s=9", "max_tokens=50"]]
    assert [each.spec for each in critique_and_backends(None, None, False, None, None, None)[1]] == [
        "embedded"
    ]
    with pytest.raises(ValueError, match="--set 3:x=1: there are 2 backends"):
        critique_and_backends(["a", "b"], ["3:x=1"], False, None, None, None)
    with pytest.raises(ValueError, match="--record takes the replies of one backend, and 2 are given"):
        critique_and_backends(["a", "b"], None, False, None, Path("r.jsonl"), None)


# -- the command -------------------------------------------------------------------------------------------------------


def without_tags(handler, question) -> None:
    act = body(completion("well")) if task_of(question) == "tag" else good
    act(handler, question)


@pytest.fixture
def words(tiny_policy: DiffusionPolicy, tmp_path: Path) -> tuple[object, ...]:
    tiny_policy.save_pretrained(tmp_path / "policy")
    with open_default_memory(tmp_path / "memory", tiny_policy, frozen=False):
        pass
    places = ("--policy", tmp_path / "policy", "--memory", tmp_path / "memory", "--out", tmp_path / "out")
    return (*places, "--images", 2, "--samples", 3, "--calibration", 4)


@pytest.mark.slow
def test_backends_are_compared_on_the_same_groups_and_asked_once(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "prices.yaml").write_text("embedded: {input: 1, output: 1}")
    with chat_server(without_tags) as server:
        remote = f"openai:m@{server.url}"
        several = (
            "--backend",
            "embedded",
            "--backend",
            remote,
            "--prices",
            tmp_path / "prices.yaml",
            "--json",
        )
        code, out, err = call(monkeypatch, capsys, "critic-eval", *words, *several)
        assert code == 0, err
        asked = len(server.questions)
        again, repeated, _ = call(monkeypatch, capsys, "critic-eval", *words, *several)
        assert (again, len(server.questions)) == (0, asked)
    found = json.loads(out)
    assert list(found["backends"]) == ["embedded", remote]
    assert found["backends"]["embedded"]["dollars"] == 0.0
    assert found["backends"][remote]["dollars"] is None
    assert found["backends"][remote]["questions"]["lost"] == 2  # the tags of both groups
    assert (
        found["backends"][remote]["questions"]["tokens_in"] == 9000 * asked
    )  # with both requests of a repair
    assert (found["images"], len(found["differences"])) == (2, 1)
    assert json.loads(repeated) == found  # with the cost of the first run
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["settings"]["images"], run["settings"]["backends"]) == (2, ["embedded", remote])
    assert run["versions"] == versions()
    rows = pq.read_table(tmp_path / "out" / "backends.parquet").to_pylist()
    groups = {spec: [row["group"] for row in rows if row["backend"] == spec] for spec in found["backends"]}
    assert groups["embedded"] == groups[remote]
    assert len(groups[remote]) == 2


@pytest.mark.slow
def test_a_backend_that_scores_nothing_is_a_row_of_the_table(words, tmp_path, monkeypatch, capsys):
    with chat_server(body(b"", status=401)) as server:
        dead = f"openai:m@{server.url}"
        several = ("--backend", "embedded", "--backend", dead, "--json")
        code, out, err = call(monkeypatch, capsys, "critic-eval", *words, *several)
    assert (code, err.splitlines()[-1]) == (1, f"meshcritic: {dead} gave no hypothesis a score")
    found = json.loads(out)["backends"]
    assert (found["embedded"]["groups_used"], found[dead]["groups_used"]) == (2, 0)
    rows = pq.read_table(tmp_path / "out" / "backends.parquet").to_pylist()
    assert [row["backend"] for row in rows] == ["embedded"] * 2 + [dead] * 2


@pytest.mark.slow
def test_what_several_backends_refuse(words, monkeypatch, capsys):
    for given, said in (
        (
            ("--backend", "embedded", "--backend", "embedded"),
            "embedded (2) is the same model with the same settings",
        ),
        (("--backend", "embedded", "--prices", "elsewhere.yaml"), "no such file of prices"),
        (("--backend", "embedded", "--backend", "nobody"), "no VLM backend 'nobody'; there are: embedded"),
        (
            ("--backend", "embedded", "--backend", "openai:m@http://127.0.0.1:9", "--critic", "random"),
            "several backends compare the critic agent, not random",
        ),
    ):
        code, _, err = call(monkeypatch, capsys, "critic-eval", *words, *given)
        assert code == 2, err
        assert said in err.splitlines()[-1]
        assert "nobody" not in given or "scoring" not in err  # found before the first is scored
