"""Where a trace goes: to its file, to MLflow and LangSmith by our switches alone, and never with a secret in it."""

import base64
import json
from collections.abc import Iterator

import langsmith.utils
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tracers.langchain import wait_for_all_tracers

from agent.context import CritiqueSettings
from agent.exporters import LANGSMITH_SWITCH, MLFLOW_SWITCH, Exporter, switched_on, unwatched
from agent.prompts import load_prompt
from agent.redaction import redactor
from agent.spans import case_span
from agent.tracing import Trace
from agent.vlm import Capabilities, EmbeddedCritic
from tests.agent.critique_case import group, make_agent, sample, spoiled_group
from tests.agent.test_langchain import backend as chat_model
from tests.agent.trace_services import Kept, TraceServices, trace_services

KEY = "sk-canary-0123456789"
PICTURE = base64.b64encode(bytes(range(256)) * 4).decode()
NODES = ["render_views", "measure_evidence", "retrieve_rules", "retrieve_prototypes", "score", "self_reflect"]


class Indiscreet(EmbeddedCritic):
    """Has eyes, and fails one label order with everything it was given on its lips."""

    capabilities = Capabilities(images=True)

    def generate(self, parts, schema, seed):
        if schema["title"] == "score" and seed == 1:
            pictures = [base64.b64encode(part.png).decode() for part in parts if hasattr(part, "png")]
            said = f"Authorization: Bearer {KEY} x-api-key={KEY} {KEY} "
            raise ConnectionError(f"{said}data:image/png;base64,{PICTURE[:60]} {pictures[0]}")
        return super().generate(parts, schema, seed)


@pytest.fixture
def services() -> Iterator[TraceServices]:
    with trace_services() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch, services):
    """LangSmith's own variables point at the fake, with its tracing on: what a user's shell may look like."""
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("LANGSMITH_ENDPOINT", services.url)
    monkeypatch.setenv("LANGSMITH_API_KEY", "ls-canary-0123456789")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    langsmith.utils.get_env_var.cache_clear()
    yield
    langsmith.utils.get_env_var.cache_clear()


def critiqued(trace: Trace, backend=None, count: int = 3) -> None:
    settings = CritiqueSettings(view_size_px=64, max_revisions=0)
    agent = make_agent(backend or EmbeddedCritic(), trace=trace, settings=settings)
    agent.critique(sample("a-case"), group(spoiled_group(group=count)))


# -- what may be told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (f"wrong key {KEY}", "wrong key [key]"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer [key]"),
        ('{"x-api-key": "abcdefgh1234"}', '{"x-api-key": "[key]"}'),
        (f"sent data:image/png;base64,{PICTURE} back", "sent [base64] back"),
        (f"sent {PICTURE} back", "sent [base64] back"),
        ("the key is EMPTY, a word", "the key is EMPTY, a word"),
        ("0123456789abcdef" * 4, "0123456789abcdef" * 4),  # a sha256
    ],
)
def test_secrets_and_pictures_are_cut_out_and_nothing_else(said, left):
    assert redactor({"OPENAI_API_KEY": KEY, "LOCAL_API_KEY": "EMPTY", "HOME": "/sent"})(said) == left


# -- the tree ------------------------------------------------------------------------------------------------


def test_a_case_is_a_tree_of_nodes_and_calls(tmp_path):
    kept = Kept()
    with Trace(tmp_path / "trace.jsonl", exporters=[kept]) as trace:
        critiqued(trace)
    [case] = kept.cases
    assert isinstance(kept, Exporter)
    assert kept.closed
    assert (case.kind, case.name) == ("case", "a-case")
    assert [node.name for node in case.children] == NODES
    assert sorted(case.outputs["scores"]) == ["0", "1", "2"]
    calls = {node.name: [call.name for call in node.children] for node in case.children if node.children}
    assert calls == {"retrieve_rules": ["tag"], "score": ["score"] * 3, "self_reflect": ["reflect"]}
    [tag] = case.children[2].children
    assert tag.inputs["backend"].startswith("embedded")
    assert tag.inputs["prompt"] == load_prompt("tag").version
    assert json.loads(tag.outputs["text"]).keys() == {"tags"}
    for parent in (case, *case.children):
        assert parent.started_s <= parent.ended_s
        assert all(parent.started_s <= child.started_s + 0.01 for child in parent.children)


def test_a_node_that_revises_replaces_scores_in_the_whole():
    def record(**outputs):
        about = {
            "run": "r",
            "trace": "t",
            "case": "c",
            "node": "n",
            "started": 5.0,
            "ms": 500.0,
            "inputs": {},
        }
        return {**about, "outputs": outputs}

    case = case_span([record(scores={"0": 10.0, "1": 20.0}), record(), record(scores={"1": 30.0})], "gone")
    assert case.outputs == {"scores": {"0": 10.0, "1": 30.0}}
    assert (case.started_s, case.ended_s, case.error) == (5.0, 5.5, "gone")


def test_an_exporter_that_fails_is_said_once_and_costs_nothing_else(tmp_path, caplog):
    kept, failing = Kept(), Kept(fails_at=2)
    with Trace(tmp_path / "trace.jsonl", exporters=[failing, kept]) as trace:
        for _ in range(4):
            with trace.case():
                trace.write(
                    {
                        "trace": "t",
                        "case": "c",
                        "node": "n",
                        "started": 0.0,
                        "ms": 0.0,
                        "inputs": {},
                        "outputs": {},
                    }
                )
    assert (len(failing.cases), failing.tried, len(kept.cases)) == (1, 2, 4)
    [said] = caplog.messages
    assert said.startswith("kept gets no more of this trace: ConnectionError")
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == 4


# -- by our switches alone -----------------------------------------------------------------------------------


def test_langsmith_gets_the_tree_and_no_secret(tmp_path, services, monkeypatch):
    monkeypatch.setenv(LANGSMITH_SWITCH, "a-project")
    with Trace(tmp_path / "trace.jsonl") as trace:
        critiqued(trace, Indiscreet())
    runs = services.runs()
    root, names = runs[0], {run["id"]: run["name"] for run in runs}
    assert (root["name"], root["session_name"], root.get("parent_run_id")) == ("a-case", "a-project", None)
    assert [run["name"] for run in runs if run.get("parent_run_id") == root["id"]] == NODES
    assert {names[run["parent_run_id"]] for run in runs if run["run_type"] == "llm"} == {
        "retrieve_rules",
        "score",
        "self_reflect",
    }
    for run in runs[1:]:
        parent = next(other for other in runs if other["id"] == run["parent_run_id"])
        assert run["trace_id"] == root["id"]
        assert run["dotted_order"].startswith(parent["dotted_order"] + ".")
    assert_discreet(services, tmp_path)


def test_mlflow_gets_the_tree_and_no_secret(tmp_path, services, monkeypatch):
    monkeypatch.setenv(MLFLOW_SWITCH, services.url)
    with Trace(tmp_path / "trace.jsonl") as trace:
        critiqued(trace, Indiscreet())
    spans = services.spans()
    [root] = [span for span in spans if not span["parent_span_id"]]
    assert root["name"] == "a-case"
    nodes = {span["span_id"]: span["name"] for span in spans if span["parent_span_id"] == root["span_id"]}
    assert list(nodes.values()) == NODES
    calls = [
        (nodes[span["parent_span_id"]], span["name"]) for span in spans if span["parent_span_id"] in nodes
    ]
    assert calls == [("retrieve_rules", "tag"), *[("score", "score")] * 3, ("self_reflect", "reflect")]
    assert_discreet(services, tmp_path)


def assert_discreet(services: TraceServices, folder) -> None:
    file = (folder / "trace.jsonl").read_text()
    assert "[key]" in file  # the canary sang, and was cut out
    assert "[base64]" in file
    for text in (file, services.bodies.decode(errors="replace")):
        assert KEY not in text
        assert PICTURE[:60] not in text
        assert "iVBORw0KGgo" not in text  # how every base64 PNG begins
    assert not any(KEY in value for request in services.requests for value in request.headers.values())


def test_their_own_variables_send_nothing_not_even_from_a_chat_model(tmp_path, services):
    with Trace(tmp_path / "trace.jsonl") as trace:
        critiqued(trace)
        critiqued(trace, chat_model())
    wait_for_all_tracers()
    assert services.requests == []
    chat = GenericFakeChatModel(messages=iter([AIMessage("a"), AIMessage("b")]))
    with unwatched():
        chat.invoke("photographs")
    wait_for_all_tracers()
    assert services.requests == []
    chat.invoke("photographs")  # and so it would have gone without
    wait_for_all_tracers()
    assert services.requests != []


def test_a_trace_that_is_not_kept_is_sent_nowhere(services, monkeypatch):
    monkeypatch.setenv(LANGSMITH_SWITCH, "a-project")
    with Trace() as trace:
        critiqued(trace)
    assert services.requests == []


def test_a_switch_that_cannot_be_had_is_one_sentence(services, monkeypatch):
    services.status = 500
    with pytest.raises(ValueError, match=f"no tracking server at {services.url}"):
        switched_on({MLFLOW_SWITCH: services.url})
    monkeypatch.delenv("LANGSMITH_API_KEY")
    monkeypatch.delenv("LANGSMITH_ENDPOINT")
    langsmith.utils.get_env_var.cache_clear()
    with pytest.raises(ValueError, match="LANGSMITH_API_KEY is not"):
        switched_on({LANGSMITH_SWITCH: "a-project"})
    assert switched_on({LANGSMITH_SWITCH: "", "LANGSMITH_TRACING": "true"}) == []
