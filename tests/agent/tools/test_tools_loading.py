"""Loading tools by name: built-in ones, and those of installed packages."""

from importlib.metadata import EntryPoint

import pytest
import torch

from agent.tools import BUILT_IN, ENTRY_POINT_GROUP, load_tools
from agent.tools.parts import worst_parts
from common import plugins


def installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if a package had registered the shape prior's class under `name`."""
    entry = EntryPoint(name, "agent.tools.priors:ShapePrior", ENTRY_POINT_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == ENTRY_POINT_GROUP else [])


def test_every_built_in_tool_is_listed_by_its_name():
    assert [tool.name for tool in load_tools(list(BUILT_IN))] == list(BUILT_IN)


def test_names_select_the_tools_and_their_order():
    assert [tool.name for tool in load_tools(["silhouette", "reprojection"])] == [
        "silhouette",
        "reprojection",
    ]
    assert load_tools([]) == []


def test_an_unknown_name_is_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match=r"'telepathy'.*reprojection.*group_consensus"):
        load_tools(["telepathy"])


def test_installed_tools_come_after_the_built_in_ones(monkeypatch):
    installed(monkeypatch, "build")
    assert len(load_tools()) == len(BUILT_IN) + 1
    assert load_tools(["build"])[0].name == "shape_prior"


def test_an_installed_tool_may_not_take_a_built_in_name(monkeypatch):
    installed(monkeypatch, "silhouette")
    with pytest.raises(ValueError, match="'silhouette'"):
        load_tools()


def test_an_installed_tool_that_cannot_be_loaded_is_named_in_one_sentence(monkeypatch):
    broken = EntryPoint("broken", "meshcritic_gone:Tool", ENTRY_POINT_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken])
    with pytest.raises(
        ValueError, match=r"^the plug-in 'broken' of .* meshcritic_gone cannot be loaded \(Module"
    ) as refused:
        load_tools()
    assert "\n" not in str(refused.value)
    assert len(load_tools(["silhouette"])) == 1  # whoever does not ask for it does not meet it


def test_worst_parts_come_first_and_once():
    errors = torch.tensor([[1.0, 9.0, 5.0, 7.0], [0.0, 0.0, 0.0, 0.0]])
    assert worst_parts(errors, 2.0, ("a", "b", "c", "b")) == (("b", "c"), ())
