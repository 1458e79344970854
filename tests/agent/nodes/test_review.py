"""A person reviews scores: where they are asked, what their answer changes, and what is refused."""

import json

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from agent.context import CritiqueSettings
from agent.events import CritiqueFinished, ReviewRequested
from agent.nodes.review import parse_answer
from agent.types import Correction, ReviewAnswer, ReviewNeeded
from agent.vlm import EmbeddedCritic, Reply
from tests.agent.critique_case import group, make_agent, sample, spoiled_group
from tests.agent.test_graph import NeverSure, Scripted

ACCEPT = ReviewAnswer()


def critique(reviewer, *points, backend=None, **settings):
    chosen = CritiqueSettings(view_size_px=64, interrupt_on=points, **settings)
    agent = make_agent(backend, settings=chosen)
    return agent.critique(sample(), group(spoiled_group()), reviewer=reviewer)


def test_a_person_who_accepts_changes_nothing():
    plain, asked = make_agent().critique(sample(), group(spoiled_group())), []
    verdict = critique(lambda sample, request: asked.append(request) or ACCEPT, "scores")
    assert (verdict.scores, verdict.corrections) == (plain.scores, ())
    assert [(request.point, request.scores) for request in asked] == [("scores", plain.scores)]


def test_a_corrected_score_counts_with_the_person_s_comment_and_rule():
    plain = make_agent().critique(sample(), group(spoiled_group()))
    answer = ReviewAnswer({2: 7.0}, {2: "The elbow is bent backwards."}, "Elbows bend one way only.")
    verdict = critique(lambda sample, request: answer, "scores")
    assert verdict.scores == (*plain.scores[:2], 7.0, *plain.scores[3:])
    assert verdict.comments[2] == "The elbow is bent backwards."
    assert verdict.corrections == (Correction((2,), (plain.scores[2],), (7.0,), "Elbows bend one way only."),)


def test_an_answer_that_is_refused_is_not_kept():
    saver, plain = InMemorySaver(), make_agent().critique(sample(), group(spoiled_group()))
    chosen = CritiqueSettings(view_size_px=64, interrupt_on=("scores",))
    agent = make_agent(settings=chosen, checkpointer=saver)
    for score in (500.0, -1.0):
        with pytest.raises(ValueError, match="the score of hypothesis 0 must be from 0 to 100"):
            agent.critique(
                sample(), group(spoiled_group()), reviewer=lambda *_, score=score: ReviewAnswer({0: score})
            )
    verdict = agent.critique(sample(), group(spoiled_group()), reviewer=lambda *_: ReviewAnswer({0: 50.0}))
    assert verdict.scores == (50.0, *plain.scores[1:])


def test_a_person_is_asked_before_uncertain_scores_are_and_their_answer_is_final():
    asked = []

    def reviewer(sample, request):
        asked.append(request)
        return ReviewAnswer(dict.fromkeys(request.uncertain, 50.0))

    verdict = critique(reviewer, "revise", backend=NeverSure())
    (request,) = asked
    assert request.point == "revise"
    assert set(request.uncertain.values()) == {"never sure"}
    assert not verdict.revisions  # nothing was left to ask for
    assert {verdict.scores[j] for j in request.uncertain} == {50.0}


def test_what_a_person_leaves_uncertain_is_asked_for_again():
    verdict = critique(lambda sample, request: ACCEPT, "revise", backend=NeverSure())
    assert verdict.revisions == make_agent(NeverSure()).critique(sample(), group(spoiled_group())).revisions


class Undecided(EmbeddedCritic):
    """Scores by label: the first label is always the best, whichever hypothesis it names."""

    def generate(self, parts, schema, seed):
        if schema["title"] != "score":
            return super().generate(parts, schema, seed)
        labels = enumerate(schema["properties"])
        return Reply(json.dumps({label: {"score": 90 - 10 * n, "comment": "so"} for n, label in labels}))


@pytest.mark.parametrize(("backend", "times"), [(Undecided(), 1), (EmbeddedCritic(), 0)])
def test_low_agreement_is_a_reason_to_ask_and_agreement_is_none(backend, times):
    asked = []
    critique(
        lambda sample, request: asked.append(request.point) or ACCEPT,
        "low_agreement",
        backend=backend,
        dispersion_threshold=0.5,
    )
    assert asked == ["low_agreement"] * times


def test_a_group_without_scores_is_not_reviewed():
    verdict = critique(None, backend=Scripted(score=["nonsense"]))
    asked = []
    reviewed = critique(
        lambda sample, request: asked.append(request) or ACCEPT,
        "scores",
        "revise",
        backend=Scripted(score=["nonsense"]),
    )
    assert (reviewed.scores, asked) == (verdict.scores, [])


def test_the_answer_may_come_later_and_only_once():
    chosen = CritiqueSettings(view_size_px=64, interrupt_on=("scores",))
    agent = make_agent(settings=chosen, checkpointer=InMemorySaver())
    group_of = (sample(), group(spoiled_group()))
    for _ in range(2):  # asking again changes nothing
        *_, last = agent.critique_stream(*group_of)
        assert isinstance(last, ReviewRequested)
    *_, last = agent.critique_stream(*group_of, answer=ReviewAnswer({0: 1.0}))
    assert isinstance(last, CritiqueFinished)
    assert last.critique.scores[0] == 1.0
    with pytest.raises(ValueError, match="nobody was asked about this group, or the answer has been given"):
        list(agent.critique_stream(*group_of, answer=ACCEPT))


def test_a_review_without_anybody_is_an_error_and_not_a_score():
    agent = make_agent(settings=CritiqueSettings(view_size_px=64, interrupt_on=("scores",)))
    with pytest.raises(ValueError, match="interrupt_on needs a reviewer or a checkpointer"):
        agent.score(sample(), group(spoiled_group()))
    saved = make_agent(settings=agent.settings, checkpointer=InMemorySaver())
    with pytest.raises(ReviewNeeded, match="give a reviewer"):
        saved.score(sample(), group(spoiled_group()))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"scores": {"6": 1}}, "there is no hypothesis 6; the last one is 5"),
        ({"scores": {"0": 101}}, "the score of hypothesis 0 must be from 0 to 100, not 101"),
        ({"scores": {"0": float("nan")}}, "the score of hypothesis 0 must be from 0 to 100, not nan"),
        ({"scores": {"first": 1}}, "a review has scores, comments and a rule; scores: first"),
        ({"scores": [1]}, "a review has scores, comments and a rule; scores"),
        ({"rule": "see www.example.com"}, "a rule or a comment must not contain an address"),
        ({"comments": {"0": "a\nb"}}, "a rule or a comment must be one printable line"),
        ("fine", "a review has scores, comments and a rule"),
    ],
)
def test_an_invalid_answer_is_refused_with_its_reason(given, reason):
    with pytest.raises(ValueError) as refused:
        parse_answer(given, 6)
    assert reason in str(refused.value)


def test_an_unknown_point_is_refused():
    with pytest.raises(ValueError, match="asked about revise, scores, low_agreement, not about 'admit'"):
        CritiqueSettings(interrupt_on=("admit",))
