"""A critique that was interrupted goes on from its last finished node, in another process too."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from agent.checkpoints import open_checkpoints
from agent.context import CritiqueSettings
from agent.expected_error.stored_models import error_model_for
from agent.tools import load_tools
from agent.tools.reprojection import Reprojection
from agent.vlm import Capabilities, EmbeddedCritic
from hmr.types import Box
from tests.agent.critique_case import TOOLS, PerfectDetector, group, make_agent, sample, spoiled_group
from tests.agent.test_graph import NeverSure
from tests.agent.tools.tool_case import larger_body
from tests.closing import assert_close_waits

ROOT = Path(__file__).parents[2]
TERMS = ("similarity", "tag_overlap", "success_rate", "bonus", "score")


def comparable(critique):
    """Without the id of the trace, and the terms of rules to the four digits that the state has."""
    rules = tuple(
        replace(rule, **{term: round(getattr(rule, term), 4) for term in TERMS}) for rule in critique.rules
    )
    return replace(critique, trace_id="", rules=rules)


class Killed(BaseException):
    """As little can be done about it as about a kill."""


class Mortal(NeverSure):
    """Is killed at its first question of this task, and counts the questions that it has answered."""

    def __init__(self, task=None):
        self.task, self.answered = task, []

    def generate(self, parts, schema, seed):
        if schema["title"] == self.task:
            raise Killed
        self.answered.append(schema["title"])
        return super().generate(parts, schema, seed)


@pytest.mark.parametrize("task", ["tag", "score", "reflect", "revise"])
def test_a_killed_critique_goes_on_without_asking_again_what_was_answered(task):
    whole = make_agent(Mortal()).critique(sample(), group(spoiled_group()))
    saver, first, second = InMemorySaver(), Mortal(task), Mortal()
    with pytest.raises(Killed):
        make_agent(first, checkpointer=saver).critique(sample(), group(spoiled_group()))
    agent = make_agent(second, checkpointer=saver)
    resumed = agent.critique(sample(), group(spoiled_group()))
    assert comparable(resumed) == comparable(whole)
    once = Mortal()
    make_agent(once).critique(sample(), group(spoiled_group()))
    assert [*first.answered, *second.answered] == once.answered
    again = agent.critique(sample(), group(spoiled_group()))  # a finished one is not repeated
    assert comparable(again) == comparable(resumed)
    assert [*first.answered, *second.answered] == once.answered


def test_closing_the_file_waits_for_a_query_of_another_thread(tmp_path):
    opened = open_checkpoints(tmp_path / "checkpoints.sqlite")
    saver = opened.__enter__()
    config = {"configurable": {"thread_id": "1"}}
    assert_close_waits(saver.conn, lambda: saver.get_tuple(config), lambda: opened.__exit__(None, None, None))


def test_checkpoints_of_other_groups_settings_and_backends_are_not_used():
    saver = InMemorySaver()
    make_agent(Mortal(), checkpointer=saver).critique(sample(), group(spoiled_group()))

    class Other(Mortal):
        revision = "other"

    class Failing(Reprojection):
        def measure(self, case):
            raise ValueError("no measurement")

    for changed in (
        {"hypotheses": group(spoiled_group(seed=1))},
        {"sample": replace(sample(), box=Box(20.0, 20.0, 180.0, 190.0))},
        {"detection": PerfectDetector().detect(sample())},
        {"error_model": error_model_for("embedded", None)},
        {"tools": [Failing(), *load_tools(TOOLS)[1:]]},
        {"settings": CritiqueSettings(view_size_px=64, permutations=2)},
        {"body": larger_body()},
        {"backend": Other()},
    ):
        backend = changed.pop("backend", Mortal())
        hypotheses = changed.pop("hypotheses", group(spoiled_group()))
        inputs = changed.pop("sample", sample()), hypotheses, changed.pop("detection", None)
        make_agent(backend, checkpointer=saver, **changed).critique(*inputs)
        assert backend.answered


def test_a_critique_that_lost_its_backend_is_asked_again_and_counts_nothing_twice():
    class Down(EmbeddedCritic):
        def generate(self, parts, schema, seed):
            raise ConnectionError("nobody answers")

    saver = InMemorySaver()
    lost = make_agent(Down(), checkpointer=saver).critique(sample(), group(spoiled_group()))
    assert set(lost.scores) == {None}
    again = make_agent(checkpointer=saver).critique(sample(), group(spoiled_group()))
    assert comparable(again) == comparable(make_agent().critique(sample(), group(spoiled_group())))


class Seeing(NeverSure):
    """Is shown pictures, which a resumed critique has to draw again."""

    capabilities = Capabilities(images=True)

    def __init__(self, task=None):
        self.task, self.shown = task, []

    def generate(self, parts, schema, seed):
        if schema["title"] == self.task:
            raise Killed
        self.shown.append([part.sha256 for part in parts])
        return super().generate(parts, schema, seed)


@pytest.mark.parametrize("task", ["score", "revise"])
def test_a_resumed_critique_shows_the_same_pictures(task):
    saver, first, second, whole = InMemorySaver(), Seeing(task), Seeing(), Seeing()
    make_agent(whole).critique(sample(), group(spoiled_group()))
    with pytest.raises(Killed):
        make_agent(first, checkpointer=saver).critique(sample(), group(spoiled_group()))
    make_agent(second, checkpointer=saver).critique(sample(), group(spoiled_group()))
    assert [*first.shown, *second.shown] == whole.shown


KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from langgraph.checkpoint.sqlite import SqliteSaver
from agent.vlm import EmbeddedCritic
from tests.agent.critique_case import group, make_agent, sample, spoiled_group

class Deadly(EmbeddedCritic):
    def generate(self, parts, schema, seed):
        if schema["title"] == "reflect":
            os.kill(os.getpid(), 9)
        return super().generate(parts, schema, seed)

with SqliteSaver.from_conn_string({file!r}) as saver:
    make_agent(Deadly(), checkpointer=saver).critique(sample(), group(spoiled_group()))
"""


@pytest.mark.slow
def test_a_process_that_is_really_killed_leaves_its_finished_nodes_in_the_file(tmp_path):
    file = str(tmp_path / "checkpoints.sqlite")
    program = KILLED.format(root=str(ROOT), file=file)
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -9
    asked = []

    class Counting(EmbeddedCritic):
        def generate(self, parts, schema, seed):
            asked.append(schema["title"])
            return super().generate(parts, schema, seed)

    with SqliteSaver.from_conn_string(file) as saver:
        agent = make_agent(Counting(), checkpointer=saver)
        critique = agent.critique(sample(), group(spoiled_group()))
    assert "tag" not in asked
    assert "score" not in asked
    plain = make_agent().critique(sample(), group(spoiled_group()))
    assert comparable(critique) == comparable(plain)
