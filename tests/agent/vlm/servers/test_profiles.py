"""Servers are recognised by what they tell, once, and asked as they accept it."""

import pytest

from agent.vlm.servers.profiles import find_profile
from tests.agent.vlm.chat_server import chat_server, good, schema_of, silent
from tests.agent.vlm.servers.questions import ask_score, backend_at


def models(owner: str) -> dict:
    return {"object": "list", "data": [{"id": "some/model", "object": "model", "owned_by": owner}]}


OPENAPI = {"paths": {"/v1/chat/completions": {}, "/load_model": {}, "/health": {}}}
TOLD = {
    "vllm": {"/v1/models": models("vllm"), "/version": {"version": "0.11.0"}},
    "sglang": {"/v1/models": models("sglang")},
    "llamacpp": {"/v1/models": models("llamacpp")},
    "ollama": {"/v1/models": models("library"), "/api/version": {"version": "0.12.6"}},
    "transformers": {"/v1/models": models("HuggingFaceTB"), "/openapi.json": OPENAPI},
    "generic": {"/v1/models": models("me"), "/openapi.json": {"paths": {"/v1/chat/completions": {}}}},
}


@pytest.mark.parametrize(("name", "pages"), TOLD.items(), ids=TOLD)
def test_a_server_is_recognised_by_its_pages(name, pages):
    with chat_server(good) as server:
        server.pages = pages
        backend = backend_at(server)
        answers = [ask_score(backend, seed=seed) for seed in (3, 4)]
        assert backend.profile.name == name
        assert server.paths.count("/v1/models") == 1
    assert [answer.value.A.score for answer in answers] == [90, 90]


def test_a_model_that_a_user_of_ollama_made_is_recognised_by_the_version():
    with chat_server(good) as server:
        server.pages = {"/v1/models": models("somebody"), "/api/version": {"version": "0.12.6"}}
        assert backend_at(server).profile.name == "ollama"


def test_llama_cpp_is_recognised_by_its_header_even_if_it_wants_a_key():
    with chat_server(good) as server:
        server.software = "llama.cpp"
        assert backend_at(server).profile.name == "llamacpp"
        assert server.paths == ["/v1/models"]


def test_a_server_without_a_list_of_models_is_asked_once_and_generic():
    with chat_server(good) as server:
        backend = backend_at(server)
        assert ask_score(backend).value.A.score == 90
        assert backend.profile.name == "generic"
        assert server.paths == ["/v1/models"]


def test_a_list_of_models_of_another_form_is_generic():
    for page in ([], {"data": "none"}, {"data": [None, {"owned_by": 3}]}):
        with chat_server(good) as server:
            server.pages = {"/v1/models": page}
            assert backend_at(server).profile.name == "generic"


def test_openai_is_recognised_by_its_host_and_not_asked():
    def unexpected(url: str):
        raise AssertionError(url)

    assert find_profile("https://api.openai.com/v1", unexpected).name == "openai"


def test_a_server_that_is_down_is_generic():
    with chat_server(silent) as server:
        pass
    assert backend_at(server).profile.name == "generic"


def test_a_profile_that_is_set_is_not_looked_for():
    with chat_server(good) as server:
        ask_score(backend_at(server, profile="openai", max_tokens="500"))
        (question,) = server.questions
        assert server.paths == []
    assert question["max_completion_tokens"] == 500
    assert "max_tokens" not in question
    assert "minimum" not in str(question["response_format"])
    assert '"minimum": 0' in str(question["messages"])  # the text keeps the limits


def test_transformers_is_asked_without_a_format():
    with chat_server(good) as server:
        answer = ask_score(backend_at(server, profile="transformers"))
        (question,) = server.questions
    assert answer.value.A.score == 90
    assert "response_format" not in question
    assert schema_of(question)["title"] == "score"


def test_a_dry_run_and_the_revision_ask_nothing():
    with chat_server(good) as server:
        backend = backend_at(server)
        assert backend.revision
        assert backend.capabilities.images
        assert server.paths == []
