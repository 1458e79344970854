"""Traces: the file, the exports to MLflow and LangSmith that our variables enable, and redaction in all of them."""

import base64
import json
from collections.abc import Iterator
from contextlib import suppress

import langsmith.utils
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tracers.langchain import wait_for_all_tracers

from agent.context import CritiqueSettings
from agent.prompts import load_prompt
from agent.scoring.ranking import order_seed
from agent.tracing.exporters import (
    LANGSMITH_VARIABLE,
    MLFLOW_VARIABLE,
    Exporter,
    enabled_exporters,
    langchain_tracing_disabled,
)
from agent.tracing.records import Trace
from agent.tracing.span_tree import case_span
from agent.vlm import Capabilities, EmbeddedCritic
from common.storage.jsonl import BLOCK_BYTES
from tests.agent.critique_case import group, make_agent, sample, spoiled_group
from tests.agent.tracing.trace_services import Kept, TraceServices, trace_services
from tests.agent.vlm.test_langchain import backend as chat_model

KEY = "sk-canary-0123456789"
PICTURE = base64.b64encode(bytes(range(256)) * 4).decode()
NODES = [
    "render_views",
    "measure_evidence",
    "retrieve_rules",
    "retrieve_prototypes",
    "score",
    "self_reflect",
    "estimate_errors",
]


SECOND_ORDER = order_seed(0, "a-case") + 1  # of the case that `critiqued` critiques


class LeakingBackend(EmbeddedCritic):
    """Takes images, and fails in one label order with keys and images in its message."""

    capabilities = Capabilities(images=True)

    def generate(self, parts, schema, seed):
        if schema["title"] == "score" and seed == SECOND_ORDER:
            pictures = [base64.b64encode(part.png).decode() for part in parts if hasattr(part, "png")]
            secrets = f"Authorization: Bearer {KEY} x-api-key={KEY} {KEY} "
            raise ConnectionError(f"{secrets}data:image/png;base64,{PICTURE[:60]} {pictures[0]}")
        return super().generate(parts, schema, seed)


@pytest.fixture
def services() -> Iterator[TraceServices]:
    with trace_services() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch, services):
    """LangSmith's own variables are set, with tracing on and the fake service as endpoint, as in a user's shell."""
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


# -- the file ------------------------------------------------------------------------------------------------


def record(said: str) -> dict:
    return {
        "trace": "t",
        "case": "c",
        "node": "n",
        "started": 0.0,
        "ms": 0.0,
        "inputs": {},
        "outputs": {"said": said},
    }


def said_in(path) -> list[str]:
    return [json.loads(line)["outputs"]["said"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("torn", ["é".encode()[:1], b'{"run": "", "tra', b"x" * (2 * BLOCK_BYTES)])
def test_an_incomplete_last_line_is_removed(tmp_path, torn):
    path = tmp_path / "trace.jsonl"
    with Trace(path) as trace:
        trace.write(record("whole"))
    path.write_bytes(path.read_bytes() + torn)
    with Trace(path) as trace:
        trace.write(record("next"))
    assert said_in(path) == ["whole", "next"]


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("half a pair: \ud83d", "half a pair: ?"),
        (f"a picture:\n{PICTURE}", "a picture:\n[base64]"),  # the n of the escape is not part of the image
        ("Authorization:\nabcdefgh1234", "Authorization:\nabcdefgh1234"),  # a header is one line
    ],
)
def test_every_record_is_one_line_of_json(tmp_path, said, left):
    kept = Kept()
    with Trace(tmp_path / "trace.jsonl", exporters=[kept]) as trace, trace.case():
        trace.write(record(said))
    assert said_in(tmp_path / "trace.jsonl") == [left]
    assert kept.cases[0].children[0].outputs == {"said": left}


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


def test_a_revision_replaces_scores_of_the_case():
    def step(**outputs):
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

    case = case_span([step(scores={"0": 10.0, "1": 20.0}), step(), step(scores={"1": 30.0})], "gone")
    assert case.outputs == {"scores": {"0": 10.0, "1": 30.0}}
    assert (case.started_s, case.ended_s, case.error) == (5.0, 5.5, "gone")


def test_a_case_that_is_interrupted_is_exported_as_failed():
    kept = Kept()
    with Trace(exporters=[kept]) as trace, suppress(KeyboardInterrupt), trace.case():
        trace.write(record(""))
        raise KeyboardInterrupt
    assert [case.error for case in kept.cases] == ["KeyboardInterrupt: "]


def test_an_exporter_that_fails_is_logged_once_and_dropped(tmp_path, caplog):
    kept, failing = Kept(), Kept(fails_at=2)
    with Trace(tmp_path / "trace.jsonl", exporters=[failing, kept]) as trace:
        for _ in range(4):
            with trace.case():
                trace.write(record(""))
    assert (len(failing.cases), failing.tried, len(kept.cases)) == (1, 2, 4)
    [said] = caplog.messages
    assert said.startswith("the export to kept stopped: ConnectionError")
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == 4


# -- exporters -----------------------------------------------------------------------------------------------


def test_langsmith_receives_the_tree_without_secrets(tmp_path, services, monkeypatch):
    monkeypatch.setenv(LANGSMITH_VARIABLE, "a-project")
    with Trace(tmp_path / "trace.jsonl") as trace:
        critiqued(trace, LeakingBackend())
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
    assert_redacted(services, tmp_path)


def test_mlflow_receives_the_tree_without_secrets(tmp_path, services, monkeypatch):
    monkeypatch.setenv(MLFLOW_VARIABLE, services.url)
    with Trace(tmp_path / "trace.jsonl") as trace:
        critiqued(trace, LeakingBackend())
    spans = services.spans()
    [root] = [span for span in spans if not span["parent_span_id"]]
    assert root["name"] == "a-case"
    nodes = {span["span_id"]: span["name"] for span in spans if span["parent_span_id"] == root["span_id"]}
    assert list(nodes.values()) == NODES
    calls = [
        (nodes[span["parent_span_id"]], span["name"]) for span in spans if span["parent_span_id"] in nodes
    ]
    assert calls == [("retrieve_rules", "tag"), *[("score", "score")] * 3, ("self_reflect", "reflect")]
    assert_redacted(services, tmp_path)


def assert_redacted(services: TraceServices, folder) -> None:
    file = (folder / "trace.jsonl").read_text()
    assert "[key]" in file  # the key was in a message and was removed
    assert "[base64]" in file
    for text in (file, services.bodies.decode(errors="replace")):
        assert KEY not in text
        assert PICTURE[:60] not in text
        assert "iVBORw0KGgo" not in text  # how every base64 PNG begins
    assert not any(KEY in value for request in services.requests for value in request.headers.values())


def test_langsmiths_own_variables_send_nothing(tmp_path, services):
    with Trace(tmp_path / "trace.jsonl") as trace:
        critiqued(trace)
        critiqued(trace, chat_model())
    wait_for_all_tracers()
    assert services.requests == []
    chat = GenericFakeChatModel(messages=iter([AIMessage("a"), AIMessage("b")]))
    with langchain_tracing_disabled():
        chat.invoke("photographs")
    wait_for_all_tracers()
    assert services.requests == []
    chat.invoke("photographs")  # the control: without it the message is sent
    wait_for_all_tracers()
    assert services.requests != []


def test_a_trace_without_a_path_is_not_exported(services, monkeypatch):
    monkeypatch.setenv(LANGSMITH_VARIABLE, "a-project")
    with Trace() as trace:
        critiqued(trace)
    assert services.requests == []


def test_an_unavailable_exporter_is_refused_with_the_reason(services, monkeypatch):
    services.status = 500
    with pytest.raises(ValueError, match=f"no tracking server at {services.url}"):
        enabled_exporters({MLFLOW_VARIABLE: services.url})
    monkeypatch.setattr("mlflow.set_experiment", lambda name: (_ for _ in ()).throw(ConnectionError()))
    with pytest.raises(ValueError, match=f"no tracking server at {services.url}: ConnectionError$"):
        enabled_exporters({MLFLOW_VARIABLE: services.url})
    monkeypatch.delenv("LANGSMITH_API_KEY")
    monkeypatch.delenv("LANGSMITH_ENDPOINT")
    langsmith.utils.get_env_var.cache_clear()
    with pytest.raises(ValueError, match="LANGSMITH_API_KEY is not"):
        enabled_exporters({LANGSMITH_VARIABLE: "a-project"})
    assert enabled_exporters({LANGSMITH_VARIABLE: "", "LANGSMITH_TRACING": "true"}) == []


@pytest.mark.parametrize("content", ["notes", '{"case": 1}\n'])
def test_a_file_that_is_not_a_trace_is_not_written_to(tmp_path, content):
    path = tmp_path / "trace.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"trace\.jsonl holds something else, and is not overwritten"):
        Trace(path)
    assert path.read_text() == content
