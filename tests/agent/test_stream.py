"""Events of a critique: their order, from several threads, and that listening changes nothing."""

import asyncio
import threading
from dataclasses import replace

import pytest

from agent.agent import critique_many
from agent.events import (
    AnswerReceived,
    CritiqueFinished,
    NodeFinished,
    NodeStarted,
    QuestionSent,
    ScoresRevised,
)
from agent.tracing.records import Trace
from agent.vlm import Capabilities, EmbeddedCritic
from agent.vlm.protocol import MalformedReply
from tests.agent.critique_case import group, make_agent, sample, spoiled_group
from tests.agent.test_graph import LAST, STRAIGHT, NeverSure


class Failing(EmbeddedCritic):
    """Gives no valid answer to the question for tags."""

    def generate(self, parts, schema, seed):
        if schema["title"] == "tag":
            raise MalformedReply("not today")
        return super().generate(parts, schema, seed)


class Concurrent(EmbeddedCritic):
    """Answers two questions at once, the label orders of a group or those of two groups."""

    capabilities = Capabilities(concurrency=2)


def of_type(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_a_stream_has_every_node_in_order_and_ends_with_the_verdict():
    events = list(make_agent(NeverSure()).critique_stream(sample(), group(spoiled_group())))
    nodes = [*STRAIGHT, "reobserve", "revise", "self_reflect", LAST]
    assert [event.node for event in of_type(events, NodeStarted)] == nodes
    assert [event.node for event in of_type(events, NodeFinished)] == nodes
    (revised,), (finished,) = of_type(events, ScoresRevised), of_type(events, CritiqueFinished)
    assert events[-1] is finished
    assert finished.critique.revisions == (revised.revision,)


def test_the_verdict_is_the_same_whether_somebody_listens_or_not():
    agent, heard = make_agent(), []
    quiet = agent.critique(sample(), group(spoiled_group()))
    watched = agent.critique(sample(), group(spoiled_group()), on_event=heard.append)
    assert replace(quiet, trace_id="") == replace(watched, trace_id="")
    assert heard[-1] == CritiqueFinished(watched)


def test_each_request_begins_and_ends_and_a_failure_says_why():
    events = list(make_agent(Failing()).critique_stream(sample(), group(spoiled_group())))
    sent, answered = of_type(events, QuestionSent), of_type(events, AnswerReceived)
    assert [event.task for event in sent] == [event.task for event in answered]
    assert [event.problem for event in answered if event.task == "tag"] == ["not today"] * 2
    assert not any(event.problem for event in answered if event.task != "tag")
    counts = events[-1].critique.questions
    assert (counts.asked, len(sent)) == (len(sent) - 1, len(sent))  # the repair is a request, not a question


def test_events_of_questions_asked_in_other_threads_arrive():
    events = list(make_agent(Concurrent()).critique_stream(sample(), group(spoiled_group())))
    assert len(of_type(events, AnswerReceived)) == len(of_type(events, QuestionSent)) >= 4


def test_groups_critiqued_at_once_are_told_apart_by_their_samples():
    heard, lock = {}, threading.Lock()

    def listen(one, event):
        with lock:
            heard.setdefault(one.id, []).append(event)

    groups = [(sample(name), group(spoiled_group(seed))) for seed, name in enumerate("ab")]
    verdicts = list(critique_many(make_agent(Concurrent()), groups, on_event=listen))
    assert {name: events[-1].critique for name, events in heard.items()} == {
        verdict.sample_id: verdict for verdict in verdicts
    }
    for events in heard.values():
        assert [event.node for event in of_type(events, NodeStarted)][: len(STRAIGHT)] == STRAIGHT


def test_interleaved_streams_keep_their_traces_apart():
    exported = []

    class Collect:
        name = "collect"

        def export(self, case):
            exported.append([node.name for node in case.children])

        def close(self): ...

    with Trace(exporters=[Collect()]) as trace:
        agent = make_agent(trace=trace)
        streams = [agent.critique_stream(sample(name), group(spoiled_group())) for name in "ab"]
        for _ in zip(*streams, strict=False):
            pass
        for stream in streams:
            list(stream)
    assert len(exported) == 2
    assert all(nodes[: len(STRAIGHT)] == STRAIGHT and nodes.count("score") == 1 for nodes in exported)


def test_a_stream_that_is_given_up_ends_its_critique():
    stream = make_agent().critique_stream(sample(), group(spoiled_group()))
    assert next(stream) == NodeStarted("render_views")
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_a_critique_can_be_awaited():
    agent, hypotheses = make_agent(), group(spoiled_group())
    critique = asyncio.run(agent.acritique(sample(), hypotheses))
    assert critique.scores == agent.critique(sample(), hypotheses).scores
