"""The view of a trace."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from agent.tracing.reading import CritiqueRecords, read_trace
from agent.types import QuestionCounts
from cli.trace_view import show_case
from eval.report.trace.requests import question_counts
from eval.report.trace.tables import _VIEWS, step_table
from tests.command import call

ASKED = {"task": "score", "backend": "openai:m r1", "prompt": "9201abc1f14e", "seed": 0}
CALLS = [
    {
        **ASKED, "parts": ["p"], "text": "{", "ms": 812.4, "tokens": [1530, 211], "retries": 2, "cached": False,
        "malformed": "cut off at 211 tokens",
    },
    {
        **ASKED, "parts": ["p", "repair"], "text": "{}", "ms": 40.0, "tokens": [9, 1], "retries": 0, "cached": False,
        "warning": "not kept",
    },
    {**ASKED, "parts": ["q"], "text": "{}", "ms": 0.1, "tokens": [0, 0], "retries": 0, "cached": True},
    {**ASKED, "parts": ["r"], "error": "openai:m failed: [b]429[/b]"},
    {**ASKED, "parts": ["s"], "malformed": "no choice"},
    {**ASKED, "parts": ["s", "repair"], "malformed": "no choice"},
]  # fmt: skip
RECORDS = [
    {
        "trace": "t1",
        "case": "a",
        "node": "score",
        "ms": 1.0,
        "outputs": {"scores": {"0": 1.0}, "comments": {}},
    },
    {
        "trace": "t2",
        "case": "a",
        "node": "score",
        "ms": 1.0,
        "outputs": {
            "scores": {"0": 20.0, "1": None, "2": 80.0},
            "comments": {"0": "the [b]arm[/b] is bent", "2": "fits"},
            "reasons": {"1": "no label B in the reply"},
            "replies": CALLS,
            "questions": {"asked": 4, "answered": 2, "repaired": 1, "lost": 2},
        },
    },
    {
        "trace": "t2",
        "case": "a",
        "node": "reobserve",
        "ms": 3.0,
        "outputs": {
            "reobserved_evidence": [
                {
                    "metric": "steady_reprojection_percent",
                    "unit": "%",
                    "values": [9.5, None, 2.5],
                    "sentences": ["the arm is off", "", "all is well"],
                }
            ]
        },
    },
    {
        "trace": "t2",
        "case": "a",
        "node": "revise",
        "ms": 2.0,
        "outputs": {
            "revisions": [
                {
                    "hypotheses": [0],
                    "before": [20.0],
                    "after": [35.0],
                    "reason": "its rank moves",
                    "evidence_used": ["steady_pose_reading_mm"],
                }
            ]
        },
    },
    {"trace": "t3", "case": "b", "node": "unknown", "ms": 1.0, "outputs": {"key": ["value"]}},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [json.dumps(record) for record in RECORDS]
    (tmp_path / "trace.jsonl").write_text("\n".join([*lines, '{"trace": "t4", "ca']))
    return tmp_path


def read_case(run: Path, case: str | None = None) -> list[dict]:
    return list(read_trace(run, case).critiques[-1].records)


def shown(records: list[dict]) -> str:
    console = Console(width=160)
    critique = CritiqueRecords(records[0]["case"], records[0]["trace"], tuple(records))
    with console.capture() as captured:
        for block in show_case(critique):
            console.print(block)
    return captured.get()


def test_the_last_critique_of_a_case_is_read(run: Path):
    assert [record["node"] for record in read_case(run, "a")] == ["score", "reobserve", "revise"]
    assert read_case(run)[0]["case"] == "b"  # the last whole record's case
    assert read_case(run / "trace.jsonl", "a") == read_case(run, "a")


def test_scores_are_sorted_and_failures_have_a_reason(run: Path):
    text = shown(read_case(run, "a"))
    assert text.index("h2") < text.index("h0") < text.index("h1")
    assert "no label B in the reply" in text
    assert "[b]arm[/b]" in text  # text of a model is not markup
    assert "20.0" in text
    assert "35.0" in text


def test_reobserved_evidence_is_shown_with_its_extremes(run: Path):
    text = shown(read_case(run, "a"))
    assert "h2: 2.5 %" in text
    assert "h0: 9.5 %" in text
    assert "the arm is off" in text
    assert "steady_pose_readi" in text  # in the revision; the column is narrow


def test_every_row_of_a_revision_has_its_own_reason(run: Path):
    shared = "h0, h2: its rank moves; h1: it is far from the rest; as before"
    rows = {}
    for reason in (shared, "openai:m failed: gone"):
        item = {"hypotheses": [0, 1, 2], "before": [1.0] * 3, "after": [2.0] * 3, "reason": reason}
        record = {"node": "revise", "ms": 1.0, "outputs": {"revisions": [item]}}
        rows[reason] = [row[3] for row in step_table(record).rows]
    assert rows == {
        shared: ["its rank moves", "it is far from the rest; as before", "its rank moves"],
        "openai:m failed: gone": ["openai:m failed: gone"] * 3,
    }


def test_every_request_is_shown_with_its_cost_and_result(run: Path):
    text = shown(read_case(run, "a"))
    rows = [line for line in text.splitlines() if "9201abc1f14e" in line]
    for row, words in zip(
        rows,
        [
            ("812", "1,530 in, 211 out", "2", "malformed: cut off at 211"),
            ("score (repair)", "40", "9 in, 1 out", "reply after a repair"),
            ("cached reply",),
            ("openai:m failed: [b]429[/b]",),
            ("malformed: no choice",),
            ("repaired and still",),
        ],
        strict=True,
    ):
        assert all(word in row for word in words)
    # 1 + 3 + 2 ms of three nodes; 1530 + 9 and 211 + 1 tokens
    assert text.splitlines()[-1] == (
        "6 ms; 6 requests; 1,539 tokens in, 212 out; 2 retries; 1 failed; 2 of 4 questions answered"
    )


def test_the_case_and_the_page_are_printed_as_json(run: Path, monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "trace", run, "--case", "a", "--json")
    answer = json.loads(out)
    assert (code, answer["case"], answer["trace"]) == (0, "a", "t2")
    assert [step["node"] for step in answer["steps"]] == ["score", "reobserve", "revise"]
    assert answer["steps"][0]["outputs"]["scores"] == {"0": 20.0, "1": None, "2": 80.0}
    assert [request["tokens_in"] for request in answer["steps"][0]["requests"]] == [1530, 9, 0, 0, 0, 0]
    assert '"{}"' not in out  # replies are in the file alone
    assert answer["summary"].startswith("6 ms; 6 requests")
    code, out, _ = call(monkeypatch, capsys, "trace", run, "--html", run / "page.html", "--json")
    assert (code, json.loads(out)) == (0, {"page": str(run / "page.html"), "critiques": 3, "found": 3})


REFLECTION = {"trace": "t", "case": "c", "node": "self_reflect", "ms": 1.0}
NO_DOUBTS = {
    "no score": ({"questions": {"asked": 0, "answered": 0, "repaired": 0}}, "some hypotheses have no score"),
    "no answer": (
        {
            "questions": {"asked": 1, "answered": 0, "repaired": 0},
            "failures": [{"kind": "malformed", "reason": "cut off", "task": "reflect"}],
        },
        "not answered (cut off)",
    ),
    "no doubt": ({"questions": {"asked": 1, "answered": 1, "repaired": 0}}, "no score is revised"),
}


@pytest.mark.parametrize(("outputs", "sentence"), NO_DOUBTS.values(), ids=NO_DOUBTS)
def test_why_no_score_is_revised(outputs, sentence):
    text = shown([{**REFLECTION, "outputs": {"uncertain": {}, "score_evidence": [], **outputs}}])
    assert [words in text for _, words in NO_DOUBTS.values()] == [
        words == sentence for _, words in NO_DOUBTS.values()
    ]


def test_a_measurement_names_its_hypotheses_and_a_share_has_no_unit():
    measured = {
        "metric": "silhouette_mismatch",
        "unit": "1",
        "values": [0.571, 0.25],
        "sentences": ["too wide", "fits"],
    }
    text = shown([{**REFLECTION, "outputs": {"uncertain": {}, "score_evidence": [measured]}}])
    assert "best h1: 0.25, worst h0: 0.571: too wide" in text


def test_tags_that_are_missing_have_a_reason():
    failure = {"kind": "unavailable", "reason": "gone", "task": "tag"}
    outputs = {"tags": [], "rules": [], "failures": [failure]}
    record = {"trace": "t", "case": "c", "node": "retrieve_rules", "ms": 1.0, "outputs": outputs}
    assert "tags: not answered (gone)" in shown([record])


def test_an_unknown_node_is_shown(run: Path):
    assert "value" in shown(read_case(run, "b"))


def test_a_missing_case_is_named(run: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="'c'"):
        read_case(run, "c")
    with pytest.raises(FileNotFoundError):
        read_case(tmp_path / "elsewhere")


HOSTILE = "[/x]\x1b[2J\x9b1m[red]"


def hostile(value):
    """The same JSON, with control codes and markup in every text."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_untrusted_text_is_shown_escaped():
    for record in RECORDS:
        text = shown([{**hostile(record), "node": record["node"]}])
        assert "\x1b" not in text
        assert "\x9b" not in text
        assert r"[/x]\x1b[2J\x9b1m[red]" in text.replace("\n", "")
    assert HOSTILE[:4] in shown([hostile(RECORDS[-1])])


@pytest.mark.parametrize("outputs", [{}, {"scores": [], "evidence": [{}], "rules": 3, "uncertain": None}])
@pytest.mark.parametrize("node", list(_VIEWS))
def test_a_record_of_another_program_is_shown_as_it_is(node, outputs):
    text = shown([{**RECORDS[0], "node": node, "outputs": outputs}])
    assert f"{node}(1ms)" in "".join(text.split())


@pytest.mark.parametrize("added", [{"of another program": 1}, {"tokens_in": "many"}, {"asked": None}])
def test_counts_that_are_none_are_left_out(added):
    counts = {"asked": 1, "answered": 1, "repaired": 0, **added}
    assert question_counts([{**RECORDS[0], "outputs": {"questions": counts}}]) == QuestionCounts()


def _asked(**changes) -> dict:
    """The record with requests, with other values of one request, or other counts."""
    (record,) = (record for record in RECORDS if "replies" in record["outputs"])
    outputs = record["outputs"]
    replies = [{**outputs["replies"][0], **changes.get("reply", {})}]
    counts = {**outputs["questions"], **changes.get("counts", {})}
    return {**record, "outputs": {**outputs, "replies": replies, "questions": counts}}


ARRANGEMENT = {
    "people": [0],
    "hypotheses": [0],
    "score": 1.0,
    "comment": None,
    "mean_score": 1.0,
    "evidence": [],
}
OTHER_TYPES = {
    "no comment": {**RECORDS[0], "node": "arrange_people", "outputs": {"arrangements": [ARRANGEMENT]}},
    "no number": _asked(counts={"tokens_in": ""}),
    "an infinite number": _asked(reply={"retries": float("inf")}),
}


@pytest.mark.parametrize("words", [(), ("--html", "page.html")], ids=["terminal", "page"])
@pytest.mark.parametrize("record", OTHER_TYPES.values(), ids=OTHER_TYPES)
def test_a_value_of_another_type_is_shown_or_named(record, words, tmp_path: Path, monkeypatch, capsys):
    """Each of them was a traceback, on the terminal or in the page."""
    monkeypatch.chdir(tmp_path)
    Path("trace.jsonl").write_text(json.dumps(record) + "\n")
    code, _, err = call(monkeypatch, capsys, "trace", ".", *words)
    assert code == 0 or (code == 2 and "has a record that cannot be shown" in " ".join(err.split()))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[" * 100_000,
        b'{"trace": "t", "case": 3, "node": "n", "ms": "1", "outputs": []}',
        b'{"recording": 1, "backend": "embedded"}',
        b"[1, 2]",
        b"\xff\xd8\xff",
    ],
)
def test_a_file_that_is_not_a_trace_is_rejected(tmp_path: Path, line: bytes):
    (tmp_path / "replies.jsonl").write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=r"replies.jsonl has no trace records.* the folder of a run or its"):
        read_case(tmp_path / "replies.jsonl")


def test_a_metric_that_no_hypothesis_has_is_shown_with_its_reason():
    unmeasured = {
        "metric": "imbalance_mm",
        "unit": "mm",
        "values": [None, None],
        "sentences": ["no ground", ""],
    }
    record = {**REFLECTION, "node": "measure_evidence", "outputs": {"evidence": [unmeasured], "missing": []}}
    (row,) = [line for line in shown([record]).splitlines() if "imbalance_mm" in line]
    assert "no ground" in row


@pytest.mark.parametrize(
    "outputs", [{"evidence": 3}, {"replies": [5, {"task": "x"}], "questions": 1}, {"scores": {"0": "high"}}]
)
@pytest.mark.parametrize("node", ["measure_evidence", "score", "retrieve_rules", "revise"])
def test_outputs_of_another_shape_are_shown_as_they_are(node, outputs):
    text = shown([{**REFLECTION, "node": node, "outputs": outputs}])
    assert f"{node} (1 ms)" in " ".join(text.split())
    assert text.splitlines()[-1] == "1 ms; 0 requests"
