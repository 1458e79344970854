"""Contract of every VLM backend: answer each of the five tasks reproducibly, with JSON that fits the schema.

A new backend adds one line to `BACKENDS`. The questions are recorded from a critique.
"""

import json
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from agent.exploration.learning import Explored, mine_rules
from agent.prompts.answers import MineAnswer, TagAnswer, Uncertainty, Verdict, keyed_by_label
from agent.prompts.question import Brief
from agent.vlm import EmbeddedCritic, VLMBackend, load_backend, registry
from agent.vlm.replay import Recorder
from agent.vlm.wrappers.budget import Budget, with_budget
from agent.vlm.wrappers.cache import Cached, ReplyCache
from agent.vlm.wrappers.dry_run import DryRun
from common import plugins
from tests.agent.critique_case import group, make_agent, sample, spoiled_group
from tests.agent.vlm.chat_server import chat_server, good

# each takes a server that answers correctly, and an empty folder
BACKENDS = {
    "embedded": lambda server, folder: load_backend("embedded"),
    "openai": lambda server, folder: load_backend(f"openai:m@{server.url}"),
    "replay": lambda server, folder: load_backend(f"replay:{recording(folder / 'replies.jsonl')}"),
    "cached": lambda server, folder: Cached(EmbeddedCritic(), ReplyCache(folder / "replies.sqlite")),
    "budgeted": lambda server, folder: with_budget(EmbeddedCritic(), Budget(10)),
    "dry run": lambda server, folder: DryRun(EmbeddedCritic()),
}


class QuestionRecorder(EmbeddedCritic):
    """Records the questions, and doubts one hypothesis so that every task occurs."""

    def __init__(self) -> None:
        self.questions: dict = {}

    def generate(self, parts, schema, seed):
        self.questions[schema["title"]] = (list(parts), schema, seed)
        reply = super().generate(parts, schema, seed)
        if schema["title"] != "reflect":
            return reply
        answer = json.loads(reply.text)
        answer["A"] = {"uncertain": True, "reason": "on principle"}
        return type(reply)(json.dumps(answer))


@cache
def questions() -> dict:
    recorder = QuestionRecorder()
    critique = make_agent(recorder).critique(sample(), group(spoiled_group()))
    evidence = [vars(item) for item in critique.evidence]
    case = Explored("case", Brief(evidence, [], [], []), critique.scores, tuple(map(float, range(6))))
    mine_rules(recorder, 0, [case] * 8)
    return recorder.questions


def recording(path: Path) -> Path:
    with Recorder(EmbeddedCritic(), path) as recorder:
        for parts, schema, seed in questions().values():
            recorder.generate(parts, schema, seed)
    return path


def answer_model(task: str, schema: dict) -> type:
    keyed = {"score": Verdict, "revise": Verdict, "reflect": Uncertainty}
    if task in keyed:
        return keyed_by_label(task, keyed[task], list(schema["properties"]))
    return {"tag": TagAnswer, "mine": MineAnswer}[task]


@pytest.fixture(scope="module")
def server():
    with chat_server(good) as server:
        yield server


@pytest.fixture(params=BACKENDS)
def backend(request, server, tmp_path) -> VLMBackend:
    return BACKENDS[request.param](server, tmp_path)


def test_name_revision_and_capabilities(backend):
    assert backend.name
    assert backend.revision
    assert isinstance(backend, VLMBackend)
    assert backend.capabilities.max_images is None or backend.capabilities.images
    assert backend.capabilities.concurrency >= 1


@pytest.mark.parametrize("task", ["tag", "score", "reflect", "revise", "mine"])
def test_the_answer_fits_the_schema(backend, task):
    parts, schema, seed = questions()[task]
    reply = backend.generate(parts, schema, seed)
    answer_model(task, schema).model_validate_json(reply.text)
    assert reply.ms >= 0


@pytest.mark.parametrize("task", ["tag", "score", "reflect", "revise", "mine"])
def test_the_same_question_and_seed_get_the_same_answer(backend, task):
    first, second = (backend.generate(*questions()[task]).text for _ in range(2))
    assert first == second


def test_an_unknown_spec_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="no VLM backend 'oracle:x'; there are: embedded"):
        load_backend("oracle:x")


@pytest.mark.parametrize(
    ("value", "why"), [("meshcritic_gone:Backend", "ModuleNotFoundError"), ("json:Backend", "AttributeError")]
)
def test_a_plug_in_that_cannot_be_loaded_is_named_in_one_sentence(monkeypatch, value, why):
    broken = EntryPoint("broken", value, registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken])
    with pytest.raises(ValueError, match=rf"^the plug-in 'broken' of .* cannot be loaded \({why}: .*\)$"):
        load_backend("broken:x")
