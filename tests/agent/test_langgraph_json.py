"""Both graphs open in LangGraph's own tools, by what langgraph.json names."""

import importlib
import json
from pathlib import Path

import pytest

from agent.context import CritiqueSettings
from agent.exploration.graph import build_exploration_graph
from agent.graph import build_critique_graph


@pytest.mark.parametrize(
    ("name", "made", "told"),
    [
        ("critique", build_critique_graph, {"scores", "doubts", "revisions"}),
        ("exploration", build_exploration_graph, {"todo", "mined", "retired"}),
    ],
)
def test_langgraphs_own_tools_can_open_what_langgraph_json_names(name, made, told):
    root = Path(__file__).parents[2]
    config = json.loads((root / "langgraph.json").read_text())
    assert config["dependencies"] == ["."]
    path, variable = config["graphs"][name].split(":")
    assert (root / path).is_file()
    module = importlib.import_module(path.removeprefix("./").removesuffix(".py").replace("/", "."))
    opened = getattr(module, variable)
    assert set(opened.get_graph().nodes) == set(made().get_graph().nodes)
    assert told <= opened.get_output_jsonschema()["properties"].keys()
    assert opened.get_context_jsonschema()["type"] == "object"


def test_langgraphs_own_tools_show_the_settings_of_a_critique():
    settings = build_critique_graph().get_context_jsonschema()["$defs"]["CritiqueSettings"]["properties"]
    assert settings["permutations"]["default"] == CritiqueSettings.permutations
