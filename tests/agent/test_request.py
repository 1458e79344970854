"""The graph for LangGraph's server: from a request of paths and specifications to a verdict."""

from pathlib import Path

import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from PIL import Image

from agent import request
from agent.graph import build_critique_graph
from agent.request import graph, open_request
from agent.state import CritiqueInput

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
    assert {"uncertain", "request", "photo"}.isdisjoint(verdict)


def test_equal_requests_get_equal_verdicts_and_another_seed_other_bodies(verdict):
    again = graph.invoke({**REQUEST, "trace_id": "mine"}, context=ONE_ORDER)
    assert (again["trace_id"], again["scores"]) == ("mine", verdict["scores"])
    assert graph.invoke({**REQUEST, "seed": 1}, context=ONE_ORDER)["scores"] != verdict["scores"]


@pytest.mark.slow
def test_without_a_box_the_largest_person_is_judged():
    resources = open_request({"photo": PHOTO, "samples": 2}, "run")
    assert resources.sample.box.side > 300  # the man in front is 352 pixels tall, the others at most 245


def test_a_person_reviews_and_another_process_goes_on(verdict):
    saver = InMemorySaver()
    saved = build_critique_graph(saver, open_request)
    thread = {"configurable": {"thread_id": "1"}}
    context = {"settings": {**ONE_ORDER["settings"], "interrupt_on": ["scores"]}}
    asked = saved.invoke(REQUEST, thread, context=context)["__interrupt__"][0].value
    assert list(asked["scores"]) == [verdict["scores"][j] for j in "012"]
    for opened in (request._resources, request._opened, request._agent):
        opened.cache_clear()
    answered = saved.invoke(Command(resume={"scores": {"1": 12}}), thread, context=context)
    assert answered["scores"] == {**verdict["scores"], "1": 12}
    assert answered["corrections"][0]["before"] == (verdict["scores"]["1"],)


def test_an_answer_that_is_refused_is_asked_for_again_with_the_reason(verdict):
    saved = build_critique_graph(InMemorySaver(), open_request)
    thread = {"configurable": {"thread_id": "1"}}
    context = {"settings": {**ONE_ORDER["settings"], "interrupt_on": ["scores"]}}
    saved.invoke(REQUEST, thread, context=context)
    asked = saved.invoke(Command(resume={"scores": {"9": 12}}), thread, context=context)["__interrupt__"][
        0
    ].value
    assert asked["refused"] == "there is no hypothesis 9; the last one is 2"
    answered = saved.invoke(Command(resume={"scores": {"1": 12}}), thread, context=context)
    assert answered["scores"] == {**verdict["scores"], "1": 12}


def test_a_thread_takes_one_request_after_another(verdict):
    saved = build_critique_graph(InMemorySaver(), open_request)
    thread = {"configurable": {"thread_id": "1"}}
    first = saved.invoke({**REQUEST, "samples": 5}, thread, context=ONE_ORDER)
    assert len(first["scores"]) == 5
    second = saved.invoke({"samples": 3}, thread, context=ONE_ORDER)  # of the same photograph and box
    again = saved.invoke({}, thread, context=ONE_ORDER)
    for answer in (second, again):
        differs = ("trace_id", "questions")  # an id, and the time that the backend took
        assert {key: answer[key] for key in answer if key not in differs} == {
            key: verdict[key] for key in verdict if key not in differs
        }
        assert answer["questions"]["asked"] == verdict["questions"]["asked"]
    assert len({answer["trace_id"] for answer in (first, second, again)}) == 3


def test_a_photograph_that_has_changed_is_opened_again(tmp_path):
    path = tmp_path / "photo.png"
    photo = Image.open(PHOTO)
    photo.save(path)
    first = graph.invoke({**REQUEST, "photo": str(path)}, context=ONE_ORDER)
    photo.rotate(180).save(path)
    assert graph.invoke({**REQUEST, "photo": str(path)}, context=ONE_ORDER)["case_id"] != first["case_id"]


def test_runs_of_one_request_share_no_pictures():
    one, other = (open_request(REQUEST, trace_id) for trace_id in ("1", "2"))
    assert open_request(REQUEST, "1") is one
    assert other.views is not one.views
    assert other.sample is one.sample


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        ({"settings": {"permutatoins": 1}}, "permutatoins"),
        ({"setings": {}}, "setings"),
        ({"settings": {"mode": "agentic"}}, "the backend embedded cannot call for evidence"),
    ],
)
def test_a_faulty_context_is_refused(context, reason):
    with pytest.raises(ValueError, match=reason):
        graph.invoke(REQUEST, context=context)


def test_it_can_be_a_node_of_another_graph(verdict):
    class Outer(CritiqueInput):
        scores: dict

    outer = StateGraph(Outer, context_schema=dict)
    outer.add_node("critique", graph)
    outer.add_edge(START, "critique")
    answer = outer.compile().invoke({**REQUEST}, context=ONE_ORDER)
    assert answer["scores"] == verdict["scores"]


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
        ({"box": 5}, ValueError, "box takes four numbers x0, y0, x1, y1 in pixels, not 5"),
        ({"photo": 5}, ValueError, "photo, memory and policy are paths, not 5"),
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


def test_a_remote_host_is_named_once_before_anything_is_sent(tmp_path, capsys):
    remote = {**REQUEST, "backend": "openai:m@http://far.invalid/v1"}
    open_request(remote, "first")
    request._agent.cache_clear()
    request._opened.cache_clear()
    open_request({**remote, "seed": 1}, "second")
    err = capsys.readouterr().err
    assert err.count("photographs and renderings of people are sent to far.invalid") == 1


def test_a_photograph_without_people_is_refused(tmp_path):
    Image.fromarray(np.full((120, 160, 3), 127, np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match="found nobody; give the person's box"):
        graph.invoke({"photo": str(tmp_path / "grey.png")}, context=ONE_ORDER)
