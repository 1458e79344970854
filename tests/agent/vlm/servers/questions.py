"""A question to a fake server, as the agent asks it."""

from agent.prompts.answers import Verdict, keyed_by_label
from agent.scoring.ask import Answer, ask
from agent.vlm import Part, TextPart, load_backend
from agent.vlm.openai import OpenAIBackend
from tests.agent.vlm.chat_server import ChatServer

MODEL = keyed_by_label("score", Verdict, ["A", "B"])


def backend_at(server: ChatServer, **settings) -> OpenAIBackend:
    backend = load_backend(f"openai:some/model@{server.url}", deadline_s=20.0, backoff_s=0.001, **settings)
    assert isinstance(backend, OpenAIBackend)
    return backend


def ask_score(backend: OpenAIBackend, *parts: Part, seed: int = 3) -> Answer:
    return ask(backend, "score", parts or [TextPart("judge")], MODEL, seed)
