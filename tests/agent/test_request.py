"""The graph for LangGraph's server: from a request of paths and specifications to a verdict."""

from pathlib import Path

import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from PIL import Image

from agent import request
from agent.graph import build_critique_graph
from agent.request import graph, open_request

PHOTO = str(Path(__file__).parents[1] / "data" / "photograph" / "basketball.jpg")
REQUEST = {"photo": PHOTO, "box": [524, 290, 690, 532], "samples": 3, "backend": "embedded"}
ONE_ORDER = {"settings": {"permutations": 1, "max_revisions": 0}}


@pytest.fixture(scope="module")
def verdict():
    return graph.invoke(REQUEST, context=ONE_ORDER)


def test_a_request_is_answered_with_scores_comments_and_errors(verdict):
    assert set(verdict["scores"]) == {"0", "1", "2"}
    assert all(0 <= score <= 100 for score in verdict["scores"].values())
    assert all(verdict["comments"].values())
    assert len(verdict["error_estimate"]["expected_mm"]) == 3
    assert {"doubts", "request", "photo"}.isdisjoint(verdict)


def test_equal_requests_get_equal_verdicts_and_another_seed_other_bodies(verdict):
    again = graph.invoke({**REQUEST, "trace_id": "mine"}, context=ONE_ORDER)
    assert (again["trace_id"], again["scores"]) == ("mine", verdict["scores"])
    assert graph.invoke({**REQUEST, "seed": 1}, context=ONE_ORDER)["scores"] != verdict["scores"]


@pytest.mark.slow
def test_without_a_box_the_largest_person_is_judged():
    resources = open_request({"photo": PHOTO, "samples": 2})
    assert resources.sample.box.side > 300  # the man in front is 352 pixels tall, the others at most 245


def test_a_person_reviews_and_another_process_goes_on(verdict):
    saver = InMemorySaver()
    saved = build_critique_graph(saver, open_request)
    thread = {"configurable": {"thread_id": "1"}}
    context = {"settings": {**ONE_ORDER["settings"], "interrupt_on": ["scores"]}}
    asked = saved.invoke(REQUEST, thread, context=context)["__interrupt__"][0].value
    assert list(asked["scores"]) == [verdict["scores"][j] for j in "012"]
    request._opened.cache_clear()
    request._agent.cache_clear()
    answered = saved.invoke(Command(resume={"scores": {"1": 12}}), thread, context=context)
    assert answered["scores"] == {**verdict["scores"], "1": 12}
    assert answered["corrections"][0]["before"] == (verdict["scores"]["1"],)


@pytest.mark.parametrize(
    ("changed", "error", "reason"),
    [
        (
            {"photo": ""},
            ValueError,
            "the request has no photo, the path of a photograph; its fields are backend",
        ),
        ({"photo": "nowhere.jpg"}, FileNotFoundError, "nowhere.jpg: there is no such photograph"),
        ({"box": [1, 2, 3]}, ValueError, "box takes four numbers x0, y0, x1, y1 in pixels, not [1, 2, 3]"),
        ({"box": [900, 0, 990, 99]}, ValueError, "lies outside the 799 x 533 image"),
        ({"samples": 1}, ValueError, "samples must be a whole number from 2 to 200, not 1"),
        ({"samples": "many"}, ValueError, "samples must be a whole number from 2 to 200, not 'many'"),
        ({"backend": "oracle"}, ValueError, "no VLM backend 'oracle'; there are: embedded"),
        ({"memory": "nowhere"}, FileNotFoundError, "nowhere"),
    ],
)
def test_a_faulty_request_is_refused_with_one_sentence(changed, error, reason):
    with pytest.raises(error) as refused:
        graph.invoke({**REQUEST, **changed}, context=ONE_ORDER)
    assert reason in str(refused.value)


def test_a_photograph_without_people_is_refused(tmp_path):
    Image.fromarray(np.full((120, 160, 3), 127, np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match="found nobody; give the person's box"):
        graph.invoke({"photo": str(tmp_path / "grey.png")}, context=ONE_ORDER)
