"""The LangChain backend with a fake chat model: its requests and its answers."""

import base64
import io
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from PIL import Image

from agent.prompts.answers import Verdict, keyed_by_label
from agent.vlm import load_backend
from agent.vlm.langchain import LangChainBackend
from agent.vlm.options import BackendOptions, open_backend
from agent.vlm.protocol import DataPart, ImagePart, MalformedReply, TextPart, Unanswerable
from tests.agent.critique_case import group, make_agent, sample, spoiled_group

SCHEMA = {**keyed_by_label("score", Verdict, ["A", "B"]).model_json_schema(), "title": "score"}
VERDICTS = {"A": {"comment": "good", "score": 90.0}, "B": {"comment": "bad", "score": 10.0}}


class FakeChat(BaseChatModel):
    """Calls the given tool, as Anthropic's models do, or answers with the content `words`, or raises."""

    words: Any = ""
    metadata: Any = {}  # noqa: RUF012  (a pydantic field, copied for every instance)
    raises: Any = None
    asked: list[Any] = []  # noqa: RUF012  (a pydantic field, copied for every instance)
    tools: list[Any] = []  # noqa: RUF012

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools, **kwargs):
        self.tools.append(tools[0])
        return self

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.asked.append(messages)
        if self.raises:
            raise self.raises
        schema = self.tools[-1]
        call = {"name": schema["title"], "args": self.answer(schema), "id": "1"}
        usage = {"input_tokens": 120, "output_tokens": 30, "total_tokens": 150}
        calls = [] if self.words else [call]
        message = AIMessage(
            self.words, tool_calls=calls, usage_metadata=usage, response_metadata=self.metadata
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def answer(self, schema):
        task, labels = schema["title"], list(schema["properties"])
        if task in ("score", "revise"):
            return {
                label: {"comment": "as seen", "score": 90.0 - 10 * place}
                for place, label in enumerate(labels)
            }
        if task == "reflect":
            return {label: {"uncertain": label == "A", "reason": "seems high"} for label in labels}
        return {label: [] for label in labels}


def backend(**fields: Any) -> LangChainBackend:
    return LangChainBackend(FakeChat(**fields), "anthropic:some-model", "anthropic")


def a_picture(width: int = 40) -> ImagePart:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((30, width, 3), np.uint8)).save(buffer, "PNG")
    return ImagePart(buffer.getvalue(), "the photograph")


def test_a_structured_answer_is_json_with_its_tokens():
    reply = backend().generate((TextPart("Score."),), SCHEMA, 0)
    assert json.loads(reply.text) == {
        "A": {"comment": "as seen", "score": 90.0},
        "B": {"comment": "as seen", "score": 80.0},
    }
    assert (reply.tokens_in, reply.tokens_out) == (120, 30)


def test_text_instead_of_a_tool_call_is_returned():
    text = f"Here it is: {json.dumps(VERDICTS)}"
    assert backend(words=text).generate((TextPart("Score."),), SCHEMA, 0).text == text


def test_thinking_and_the_ending_of_an_answer_are_read():
    content = [{"type": "thinking", "thinking": "draft"}, {"type": "text", "text": '{"A": '}]
    cut_off = backend(words=content, metadata={"stop_reason": "max_tokens"})
    reply = cut_off.generate((TextPart("Score."),), SCHEMA, 0)
    assert (reply.text, reply.thinking, reply.finish) == ('{"A": ', "draft", "length")


def test_limits_are_left_out_of_the_schema():
    asked = backend()
    asked.generate((TextPart("Score."),), SCHEMA, 0)
    assert '"maximum"' in json.dumps(SCHEMA)
    assert '"maximum"' not in json.dumps(asked.chat.tools[-1])


class LengthFinishReasonError(Exception):
    """As of OpenAI's package."""


class OpenAIRefusalError(Exception):
    """As of langchain-openai."""


@pytest.mark.parametrize(
    ("raised", "error", "reason"),
    [
        (LengthFinishReasonError(), MalformedReply, "cut off at the limit of tokens; raise max_tokens"),
        (OpenAIRefusalError("I will not."), Unanswerable, "I will not."),
        (ConnectionError("gone"), ConnectionError, "gone"),
    ],
)
def test_endings_that_a_package_raises_are_named(raised, error, reason):
    with pytest.raises(error, match=reason):
        backend(raises=raised).generate((TextPart("Score."),), SCHEMA, 0)


def test_text_and_pictures_are_sent_in_order():
    asked = backend()
    asked.generate((TextPart("Score."), a_picture(2000), DataPart("tags", ["pose:upright"])), SCHEMA, 0)
    [[message]] = asked.chat.asked
    assert [piece["type"] for piece in message.content] == ["text", "text", "image", "text"]
    assert message.content[1]["text"] == "the photograph:"
    picture = message.content[2]
    assert picture["mime_type"] == "image/jpeg"
    assert Image.open(io.BytesIO(base64.b64decode(picture["base64"]))).size == (1024, 15)


def test_a_whole_critique_runs_on_it():
    critique = make_agent(backend()).critique(sample(), group(spoiled_group(group=3)))
    assert all(score is not None for score in critique.scores)
    assert [len(revision.hypotheses) for revision in critique.revisions] == [1]


def test_the_name_has_the_provider():
    assert backend().name == "langchain:anthropic:some-model"


class RemoteChat(FakeChat):
    """Asks a server, as a provider's package does: by an httpx client in an object of its own."""

    client: Any = None

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.client.http.post("/chat", json={}).raise_for_status()
        return super()._generate(messages, stop, run_manager, **kwargs)


@pytest.fixture
def installed(monkeypatch) -> list:
    """A fake `langchain`; the list of the arguments of its init_chat_model."""
    calls: list = []
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def init_chat_model(model, model_provider, **parameters):
        calls.append((model, model_provider, parameters))
        if model_provider == "nobody":
            raise ImportError("Unable to import langchain_nobody.\nInstall it.")
        if model_provider == "mute":
            raise RuntimeError
        if model_provider == "remote":
            return RemoteChat(client=SimpleNamespace(http=httpx.Client(base_url=model, transport=transport)))
        return FakeChat()

    def answer(request):
        calls.append(request.url.host)
        return httpx.Response(200)

    transport = httpx.MockTransport(answer)

    module = ModuleType("langchain.chat_models")
    module.__dict__["init_chat_model"] = init_chat_model
    monkeypatch.setitem(sys.modules, "langchain", ModuleType("langchain"))
    monkeypatch.setitem(sys.modules, "langchain.chat_models", module)
    return calls


def test_a_spec_names_provider_and_model(installed):
    made = load_backend("langchain:ollama:qwen3-vl:8b", timeout_s="20", temperature="0")
    assert made.name == "langchain:ollama:qwen3-vl:8b"
    assert installed == [("qwen3-vl:8b", "ollama", {"timeout": 20.0, "max_retries": 2, "temperature": 0.0})]
    assert made.revision != load_backend("langchain:ollama:qwen3-vl:8b").revision


def test_the_host_that_receives_photographs_is_the_one_that_is_announced(installed):
    lines = []
    with open_backend(BackendOptions("langchain:remote:http://far.invalid/v1"), lines.append) as opened:
        opened.backend.generate((TextPart("Score."), a_picture()), SCHEMA, 0)
    host = installed[-1]
    assert host == "far.invalid"
    assert lines == [f"photographs and renderings of people are sent to {host}"]


def test_a_model_on_this_machine_is_not_announced(installed):
    assert load_backend("langchain:remote:http://127.0.0.1:11434").capabilities.sends_to == ""


def test_a_provider_that_does_not_tell_its_host_is_named(installed):
    told = load_backend("langchain:ollama:qwen3-vl:8b").capabilities.sends_to
    assert told == "the servers of ollama, whose package does not tell their host"


@pytest.mark.parametrize("spec", ["langchain:", "langchain:anthropic", "langchain::x"])
def test_a_spec_without_a_model_is_refused(spec):
    with pytest.raises(ValueError, match="langchain:PROVIDER:NAME"):
        load_backend(spec)


def test_without_langchain_the_error_names_the_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(ValueError, match="langchain-google-genai"):
        load_backend("langchain:google_genai:some-model")


def test_an_error_of_the_provider_is_one_sentence(installed):
    with pytest.raises(
        ValueError, match=r"^langchain cannot create nobody:x: Unable to import langchain_nobody\.$"
    ):
        load_backend("langchain:nobody:x")
    with pytest.raises(ValueError, match=r"^langchain cannot create mute:x: RuntimeError$"):
        load_backend("langchain:mute:x")
