"""The agentic mode at the wire: calls in OpenAI's form, from a server with the protocol."""

import json

import pytest

from agent.context import CritiqueSettings
from agent.tools import load_tools
from agent.vlm import load_backend
from tests.agent.critique_case import GROUP, TOOLS, group, make_agent, sample, spoiled_group
from tests.agent.vlm.chat_server import body, chat_server, completion, good

LIMITS = ("measure", '{"measurement": "joint_limits"}')
RULES = ("recall_rules", '{"query": "a person", "tags": []}')
TURN = ("render", '{"hypothesis": "A", "azimuth_deg": 180}')


def call_completion(*calls, finish="tool_calls") -> bytes:
    made = [
        {"id": f"x{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (name, arguments) in enumerate(calls)
    ]
    return completion(None, finish, tool_calls=made)


def scores_of(question) -> str:
    function = next(t["function"] for t in question["tools"] if t["function"]["name"] == "score")
    labels = function["parameters"]["properties"]
    return json.dumps({label: {"comment": "so", "score": 10 * j} for j, label in enumerate(labels)})


def calling(*calls, finish="tool_calls"):
    return lambda handler, question: handler.send(call_completion(*calls, finish=finish))


def scoring(handler, question):
    """Scores by a call; the reflection, which has no tools, finds nothing."""
    if "tools" not in question:
        return good(handler, question)
    return handler.send(call_completion(("score", scores_of(question))))


def critique(server, images=False, max_tool_calls=4, **settings):
    backend = load_backend(
        f"openai:m@{server.url}", profile="generic", images=images, backoff_s=0.001, **settings
    )
    chosen = CritiqueSettings(
        view_size_px=64, permutations=1, mode="agentic", max_tool_calls=max_tool_calls, max_revisions=0
    )
    agent = make_agent(backend, load_tools(TOOLS), settings=chosen)
    return agent.critique(sample(), group(spoiled_group()))


def test_tools_are_offered_and_their_results_come_back_as_messages():
    with chat_server(calling(LIMITS, RULES), scoring) as server:
        verdict = critique(server)
    first, second, _ = server.questions
    assert first["tool_choice"] == "required"
    assert "response_format" not in first
    functions = {tool["function"]["name"]: tool["function"] for tool in first["tools"]}
    assert list(functions) == ["measure", "recall_rules", "score"]
    assert functions["measure"]["parameters"]["properties"]["measurement"]["enum"] == list(TOOLS)
    assert functions["score"]["parameters"]["required"] == list("ABCDEF")
    assert "Verdict" in functions["score"]["parameters"]["$defs"]
    assert [message["role"] for message in first["messages"]] == ["user"]
    roles = [message["role"] for message in second["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]
    made = second["messages"][1]["tool_calls"]
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in made] == [LIMITS, RULES]
    results = second["messages"][2:]
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in made]
    assert results[0]["content"].startswith("label|")
    assert second["messages"][0] == first["messages"][0]
    assert sorted(verdict.scores) == [0, 10, 20, 30, 40, 50]
    assert [item.tool for item in verdict.evidence] == ["joint_limits", "later_evidence"]


def test_pictures_follow_the_result_in_a_message_of_the_user():
    with chat_server(calling(TURN), scoring) as server:
        critique(server, images=True)
    messages = server.questions[1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    caption, picture = messages[-1]["content"]
    assert caption["text"] == "hypothesis A seen from 180 degrees:"
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert messages[2]["content"].startswith("shown: hypothesis A seen from 180 degrees")


WRONG = {
    "malformed arguments": (
        ("measure", '{"measurement": '),
        "measure: the arguments: Input should be a valid",
    ),
    "no object": (("measure", "[1]"), "measure: the arguments: Input should be a valid"),
    "unknown tool": (("rm", "{}"), "there is no call 'rm'; there are measure, recall_rules"),
    "unknown argument": (
        ("measure", '{"metric": "x"}'),
        "measure: measurement: Field required; metric: Extra",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_gets_a_result_that_says_so(name):
    call, sentence = WRONG[name]
    with chat_server(calling(call), scoring) as server:
        verdict = critique(server)
    assistant, result = server.questions[1]["messages"][1:3]
    assert sentence in result["content"]
    assert isinstance(json.loads(assistant["tool_calls"][0]["function"]["arguments"]), dict)
    assert None not in verdict.scores


def test_after_the_last_call_the_only_tool_is_score():
    with chat_server(calling(LIMITS), calling(LIMITS), scoring) as server:
        critique(server, max_tool_calls=2)
    offered = [[tool["function"]["name"] for tool in question["tools"]] for question in server.questions[:3]]
    assert offered[2] == ["score"]
    assert offered[1] == ["measure", "recall_rules", "score"]


def test_too_many_calls_end_without_scores():
    with chat_server(calling(LIMITS)) as server:
        verdict = critique(server, max_tool_calls=2)
    assert verdict.scores == (None,) * GROUP
    assert len(server.questions) == 4  # two calls, the question for scores, its repair
    assert verdict.reasons[0].startswith("malformed after one repair: ")
    counts = verdict.questions
    assert (counts.asked, counts.answered, counts.repaired) == (3, 2, 0)


@pytest.mark.parametrize(
    "call", [("measure", '{"measurement": "joint'), ("score", '{"A": {"comment": "s", "sc')]
)
def test_a_reply_that_is_cut_off_is_repaired_and_never_executed(call):
    with chat_server(calling(call, finish="length"), scoring) as server:
        verdict = critique(server)
    repair = server.questions[1]["messages"]
    assert [message["role"] for message in repair] == ["user"]
    assert "cut off at 7 tokens; raise max_tokens" in json.dumps(repair)
    assert None not in verdict.scores
    assert verdict.questions.repaired == 1


def test_scores_with_a_repeated_label_are_refused():
    twice = '{"A": {"comment": "", "score": 1}, "A": {"comment": "", "score": 2}}'
    with chat_server(calling(("score", twice))) as server:
        verdict = critique(server)
    assert verdict.scores == (None,) * GROUP


def test_an_answer_as_text_is_repaired():
    with chat_server(body(completion("B is best.")), scoring) as server:
        verdict = critique(server)
    assert None not in verdict.scores
    assert verdict.questions.repaired == 1


def actions_as_json(handler, question):
    """A server without tool calls, which answers with actions as JSON."""
    if "tools" in question:
        refusal = {"error": {"message": '"auto" tool choice requires --enable-auto-tool-choice'}}
        return handler.send(json.dumps(refusal).encode(), status=400)
    if question["response_format"]["json_schema"]["name"] == "reflect":
        return good(handler, question)
    schema = question["response_format"]["json_schema"]["schema"]
    text = json.dumps(question["messages"])
    scores = {label: {"comment": "", "score": 1} for label in "ABCDEF"}
    action = {"calls": [], "scores": scores}
    if "<call>" not in text:
        action = {"calls": [{"name": LIMITS[0], "arguments": json.loads(LIMITS[1])}], "scores": None}
    assert set(schema["required"]) == {"calls", "scores"}
    return handler.send(completion(json.dumps(action)))


def test_a_server_that_refuses_tools_is_asked_for_json(caplog):
    with chat_server(actions_as_json) as server:
        verdict = critique(server)
    assert ["tools" in question for question in server.questions] == [True, False, False, False]
    assert "the server refuses tools; it is asked for actions as JSON" in caplog.text
    assert verdict.evidence[0].tool == "joint_limits"
    assert None not in verdict.scores


def test_a_setting_asks_for_json_from_the_start():
    with chat_server(actions_as_json) as server:
        verdict = critique(server, tool_calls="false")
    assert not any("tools" in question for question in server.questions)
    assert None not in verdict.scores


def test_the_setting_counts_in_the_revision_only_if_it_is_changed():
    usual, changed = (
        load_backend("openai:m@http://127.0.0.1:1/v1", **s) for s in ({}, {"tool_calls": False})
    )
    assert usual.revision != changed.revision
    assert usual.capabilities.tool_calls == "native"
    assert changed.capabilities.tool_calls == "json"


def test_no_limits_are_sent_to_a_server_that_refuses_them():
    with chat_server(scoring) as server:
        backend = load_backend(f"openai:m@{server.url}", profile="openai", images=False)
        settings = CritiqueSettings(view_size_px=64, permutations=1, mode="agentic", max_revisions=0)
        make_agent(backend, load_tools(TOOLS), settings=settings).critique(sample(), group(spoiled_group()))
    text = json.dumps(server.questions[0]["tools"])
    assert "maxLength" not in text
    assert "maximum" not in text
