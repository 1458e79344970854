"""langgraph.json names both graphs for LangGraph's own tools (LangGraph Studio)."""

import importlib
import json
from pathlib import Path

import pytest

from agent.context import CritiqueSettings
from agent.exploration.graph import build_exploration_graph
from agent.graph import build_critique_graph

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "build", "fields"),
    [
        ("critique", build_critique_graph, {"scores", "revisions", "error_estimate"}),
        ("exploration", build_exploration_graph, {"todo", "mined", "retired"}),
    ],
)
def test_langgraph_json_names_compiled_graphs(name, build, fields):
    config = json.loads((ROOT / "langgraph.json").read_text())
    assert config["dependencies"] == ["."]
    path, variable = config["graphs"][name].split(":")
    assert (ROOT / path).is_file()
    module = importlib.import_module(path.removeprefix("./").removesuffix(".py").replace("/", "."))
    graph = getattr(module, variable)
    assert set(graph.get_graph().nodes) == set(build().get_graph().nodes)
    assert fields <= graph.get_output_jsonschema()["properties"].keys()
    assert graph.get_context_jsonschema()["type"] == "object"


def test_the_schemas_of_the_critique_hide_its_inner_state():
    graph = build_critique_graph()
    given, returned = graph.get_input_jsonschema()["properties"], graph.get_output_jsonschema()["properties"]
    assert {"photo", "box", "samples", "backend"} <= given.keys()
    assert not {"uncertain", "replies", "views", "scores"} & given.keys()
    assert not {"uncertain", "replies", "views", "photo"} & returned.keys()


def test_the_schema_of_the_critique_shows_its_settings():
    settings = build_critique_graph().get_context_jsonschema()["$defs"]["CritiqueSettings"]["properties"]
    assert settings["permutations"]["default"] == CritiqueSettings.permutations


def test_an_exploration_without_cases_says_who_runs_it():
    with pytest.raises(ValueError, match="meshcritic explore runs it"):
        build_exploration_graph().invoke({"batch": 0})
