"""Critique tools of an MCP server in another process: good ones measure, bad ones are missing with a reason."""

import sys
from pathlib import Path

import pytest

from agent.tools import load_tools
from agent.tools.running import run_tool
from agent.tools.served.client import open_tool_servers
from agent.types import Evidence, Missing
from hmr.types import JOINT_NAMES
from tests.agent.critique_case import group, make_agent, sample, spoiled_group
from tests.agent.tools.tool_case import case_of, group_of

pytestmark = pytest.mark.slow  # processes of their own

SERVER = Path(__file__).with_name("measuring_server.py")
COMMAND = f"{sys.executable} {SERVER}"


@pytest.fixture(scope="module")
def tools():
    with open_tool_servers([COMMAND], deadline_s=60.0) as served:
        yield {tool.name.removeprefix("served_"): tool for tool in served}


@pytest.fixture(scope="module")
def case():
    return case_of(group_of())


def reason(tool, case) -> str:
    found = run_tool(tool, case)
    assert isinstance(found, Missing)
    assert found.broken
    assert found.reason.isprintable()
    return found.reason


def test_only_tools_that_take_a_case_are_critique_tools(tools):
    assert "head_height" in tools
    assert "another_purpose" not in tools


def test_the_joints_arrive_in_metres_in_the_frame_of_the_camera(tools, case):
    found = run_tool(tools["head_height"], case)
    head = JOINT_NAMES.index("head")
    assert isinstance(found, Evidence)
    expected = 1000 * case.posed.joints_cam_m[:, head, 1].abs()
    assert found.values == pytest.approx(expected.tolist(), abs=0.01)
    assert (found.tool, found.metric, found.unit) == ("served_head_height", "served_height_mm", "mm")
    assert found.parts == (("head",),) * len(case)
    assert found.sentences[1] == "sentence 1"


def test_neither_keys_nor_pictures_nor_names_are_sent(monkeypatch, case):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    with open_tool_servers([COMMAND]) as served:
        (tool,) = [tool for tool in served if tool.name == "served_what_it_gets"]
        found = run_tool(tool, case)
    assert isinstance(found, Evidence)
    keys, environment, _ = found.sentences
    assert keys == "box_xyxy camera joint_names joints_m keypoints part_names version"
    assert "PATH" in environment.split()
    assert "KEY" not in environment


REASONS = {
    "one_value_too_few": "ToolServerError: gave 1 values for 3 hypotheses",
    "one_sentence_too_few": "ToolServerError: gave 1 sentences for 3 hypotheses",
    "not_a_number": "gave a value that is not a finite number",
    "text_as_value": "ToolServerError: answered with a wrong values.0: Input should be a valid number",
    "prose": "ToolServerError: answered with text that is not JSON",
}


@pytest.mark.parametrize("name", REASONS)
def test_an_answer_that_breaks_the_contract_is_missing_evidence(name, tools, case):
    assert reason(tools[name], case) == REASONS[name]


def test_an_error_of_the_tool_is_quoted_in_one_short_line(tools, case):
    beginning = "ToolServerError: the tool server answered with an error: "
    said = reason(tools["reports_an_error"], case)
    assert said.startswith(f"{beginning}broken [31m inside z z")
    assert len(said) == len(beginning) + 160
    assert reason(tools["raises"], case).startswith(beginning)


def test_untrusted_text_is_cut_and_has_no_control_characters(tools, case):
    found = run_tool(tools["hostile_text"], case)
    assert isinstance(found, Evidence)
    assert found.metric == "served_reprojection_percent_of_box_x"
    for text in (found.unit, *found.sentences, *found.parts[0]):
        assert text.isprintable()
    assert len(found.unit) <= 12
    assert {len(sentence) for sentence in found.sentences} == {240}
    assert [len(part) for part in found.parts[0]] == [40, 40, 40]


def test_a_server_that_does_not_answer_or_dies_costs_its_own_evidence_only():
    with open_tool_servers([COMMAND], deadline_s=0.5) as served:
        by_name = {tool.name: tool for tool in served}
        chosen = [by_name["served_never_answers"], by_name["served_dies"], by_name["served_head_height"]]
        agent = make_agent(tools=[*load_tools(["silhouette", "joint_limits"]), *chosen])
        verdict = agent.critique(sample(), group(spoiled_group()))
    reasons = {item.tool: item.reason for item in verdict.missing}
    assert reasons["served_never_answers"] == "ToolServerError: the tool server gave no answer within 0.5 s"
    assert reasons["served_dies"].startswith("ToolServerError: the tool server failed: ")
    assert reasons["served_head_height"].startswith("ToolServerError: the tool server failed: ")
    assert None not in verdict.scores


@pytest.mark.parametrize(
    ("commands", "sentence"),
    [
        (["no-such-program-here"], "--tool-server 'no-such-program-here': FileNotFoundError: "),
        ([f"{sys.executable} -c 'print(1)'"], "--tool-server "),
        (
            [f"{sys.executable} -c 'import no_such_module'"],
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ([f"{COMMAND} --without-tools"], "has no critique tool: none of its 0 tools takes a `case`"),
        ([""], "--tool-server takes a command, and it is empty"),
        (["a 'b"], '--tool-server "a \'b": No closing quotation'),
        ([COMMAND, COMMAND], "--tool-server: two tools are called "),
    ],
)
def test_a_server_that_cannot_be_used_is_refused_in_one_sentence(commands, sentence):
    with pytest.raises(ValueError) as refused, open_tool_servers(commands):
        pass
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
