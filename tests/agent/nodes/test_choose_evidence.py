"""The agentic mode with a scripted model: which calls it may make, what it is told, and what is on the trace."""

import json
from dataclasses import replace

import pytest

from agent.context import CritiqueSettings
from agent.tools import load_tools
from agent.tracing.reading import read_trace
from agent.tracing.records import Trace
from agent.types import QuestionCounts
from agent.vlm import CallPart, Capabilities, DataPart, EmbeddedCritic, ImagePart, Reply
from agent.vlm.actions import allowed_calls, scores_schema
from agent.vlm.replay import Recorder, ReplayBackend
from agent.vlm.wrappers.budget import Budget, with_budget
from agent.vlm.wrappers.cache import Cached, ReplyCache
from agent.vlm.wrappers.dry_run import DryRun
from cli.trace_view import show_case
from tests.agent.critique_case import GROUP, TOOLS, group, make_agent, sample, spoiled_group

SETTINGS = CritiqueSettings(view_size_px=64, permutations=1, mode="agentic", max_tool_calls=4)
SILHOUETTE = {"name": "measure", "arguments": {"measurement": "silhouette"}}
LIMITS = {"name": "measure", "arguments": {"measurement": "joint_limits"}}
RULES = {"name": "recall_rules", "arguments": {"query": "a standing person", "tags": ["pose:upright"]}}
TURN = {"name": "render", "arguments": {"hypothesis": "B", "azimuth_deg": -90}}
ZOOM = {"name": "zoom", "arguments": {"hypothesis": "C", "part": "left hand"}}


def calls(*requests) -> str:
    return json.dumps({"calls": list(requests), "scores": None})


class Scripted:
    """Answers the steps of an examination from a script, and after its end with scores; nothing is uncertain."""

    name, revision = "scripted", "1"

    def __init__(self, *script: str, **capabilities) -> None:
        self.script, self.asked = list(script), []
        self.capabilities = Capabilities(**capabilities)

    def generate(self, parts, schema, seed):
        if schema["title"] == "reflect":
            return Reply(
                json.dumps({label: {"uncertain": False, "reason": ""} for label in schema["properties"]})
            )
        self.asked.append((list(parts), schema))
        if self.script:
            return Reply(self.script.pop(0))
        labels = scores_schema(schema)["properties"]
        scores = {label: {"comment": f"about {label}", "score": 10 * j} for j, label in enumerate(labels)}
        return Reply(json.dumps({"scores": scores, **({"calls": []} if allowed_calls(schema) else {})}))


def critique(backend, tools=TOOLS, **changes):
    agent = make_agent(backend, load_tools(tools), settings=replace(SETTINGS, **changes))
    return agent.critique(sample(), group(spoiled_group()))


def told(backend, step: int) -> str:
    """The results that the model saw at a step."""
    return "\n".join(part.result for part in backend.asked[step][0] if isinstance(part, CallPart))


def test_only_the_evidence_that_is_called_for_is_collected():
    backend = Scripted(calls(SILHOUETTE, LIMITS), calls(RULES))
    verdict = critique(backend)
    assert sorted(verdict.scores) == [0, 10, 20, 30, 40, 50]
    # measured after scoring: the consensus of the scores
    assert [item.tool for item in verdict.evidence] == ["silhouette", "joint_limits", "later_evidence"]
    assert 1 <= len(verdict.rules) <= SETTINGS.rules_per_case
    assert verdict.tags == ()
    assert verdict.questions == QuestionCounts(asked=4, answered=4, repaired=0)
    assert verdict.comments[0].startswith("about ")


def test_scores_without_any_call_are_accepted():
    backend = Scripted()
    verdict = critique(backend)
    assert None not in verdict.scores
    assert len(backend.asked) == 1
    assert [item.tool for item in verdict.evidence] == ["later_evidence"]


def test_a_measurement_equals_that_of_the_fixed_mode():
    chosen = critique(Scripted(calls(SILHOUETTE, LIMITS)))
    fixed = make_agent().critique(sample(), group(spoiled_group()))
    known = {item.metric: item for item in fixed.evidence}
    assert all(known[item.metric] == item for item in chosen.evidence if item.tool != "later_evidence")


def test_the_model_sees_its_calls_their_results_and_how_many_are_left():
    backend = Scripted(calls(LIMITS, RULES))
    critique(backend)
    (first, schema), (second, _) = backend.asked
    assert next(part.data for part in first if isinstance(part, DataPart)) == list("ABCDEF")
    assert [call.name for call in allowed_calls(schema)] == ["measure", "recall_rules"]
    made = [part for part in second if isinstance(part, CallPart)]
    assert [(part.step, part.name, json.loads(part.arguments)) for part in made] == [
        (1, "measure", LIMITS["arguments"]),
        (1, "recall_rules", RULES["arguments"]),
    ]
    assert made[0].result.startswith("label|")
    assert made[1].result.endswith("calls_left: 2")
    assert '<call>\n{"name": "measure", "arguments": {"measurement": "joint_limits"}}' in made[0].text


def test_after_the_last_call_only_scores_are_offered():
    backend = Scripted(calls(LIMITS, SILHOUETTE), calls(RULES), calls(LIMITS))
    critique(backend)
    assert [bool(allowed_calls(schema)) for _, schema in backend.asked] == [True, True, True, False]


def test_calls_beyond_the_limit_are_not_answered():
    backend = Scripted(calls(*[LIMITS] * 6))
    verdict = critique(backend)
    assert told(backend, 1).count("not answered: the limit of 4 calls is reached") == 2
    assert told(backend, 1).endswith("calls_left: 0")
    assert None not in verdict.scores


def test_a_model_that_never_scores_fails_after_the_last_call():
    backend = Scripted(*[calls(LIMITS)] * 6)
    verdict = critique(backend)
    assert verdict.scores == (None,) * GROUP
    assert "malformed after one repair" in verdict.reasons[0]
    assert len(backend.asked) == 6  # four calls, then one question for scores and its repair
    assert verdict.questions == QuestionCounts(asked=5, answered=4, repaired=0)


WRONG = {
    "unknown call": (
        {"name": "delete", "arguments": {}},
        "there is no call 'delete'; there are measure, recall",
    ),
    "unknown measurement": (
        {"name": "measure", "arguments": {"measurement": "beauty"}},
        "measure: measurement: Input should be 'reprojection', 'silhouette'",
    ),
    "no object": ({"name": "measure", "arguments": "{"}, "measure: the arguments: Input should be a valid"),
    "additional argument": (
        {"name": "measure", "arguments": {"measurement": "silhouette", "x": 1}},
        "measure: x: Extra inputs are not permitted",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_costs_a_call_and_is_explained(name):
    request, sentence = WRONG[name]
    backend = Scripted(calls(request))
    verdict = critique(backend)
    assert sentence in told(backend, 1)
    assert told(backend, 1).endswith("calls_left: 3")
    assert None not in verdict.scores


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ('{"calls": [], "scores": null}', "an action has either calls or scores"),
        ('{"calls": [{"name": "measure", "arguments": NaN}], "scores": null}', "not JSON compliant"),
        ('{"calls": [{"name": "measure"}], "scores": null}', "calls.0.arguments: Field required"),
        (calls(*[LIMITS] * 33), "at most 32 items"),
        (calls({"name": "measure", "arguments": "x" * 2001}), "may have 2000 characters"),
    ],
)
def test_an_action_that_does_not_fit_is_repaired(reply, why):
    backend = Scripted(reply)
    verdict = critique(backend)
    assert None not in verdict.scores
    assert verdict.questions.repaired == 1
    assert why in backend.asked[1][0][-1].text


@pytest.mark.slow
def test_pictures_are_shown_to_a_model_that_sees():
    backend = Scripted(calls(TURN, ZOOM), images=True)
    critique(backend)
    captions = [[part.caption for part in parts if isinstance(part, ImagePart)] for parts, _ in backend.asked]
    panels = ["the photograph", *(f"hypothesis {label}" for label in "ABCDEF")]
    assert captions[0] == panels
    assert captions[1] == [
        *panels,
        "hypothesis B seen from -90 degrees",
        "the left hand of hypothesis C: photograph and overlay",
    ]
    assert [call.name for call in allowed_calls(backend.asked[0][1])] == [
        "measure", "render", "zoom", "recall_rules",
    ]  # fmt: skip


def test_no_more_pictures_than_the_model_takes():
    backend = Scripted(calls(TURN, ZOOM), images=True, max_images=GROUP + 2)
    critique(backend)
    assert sum(isinstance(part, ImagePart) for part in backend.asked[1][0]) == GROUP + 2
    assert "not shown: this question has 8 pictures, and the model takes 8" in told(backend, 1)


def test_a_label_is_the_hypothesis_that_the_model_was_shown():
    backend = Scripted(calls(LIMITS))
    verdict = critique(backend)
    (evidence,) = [item for item in verdict.evidence if item.tool == "joint_limits"]
    scores = dict(zip(range(GROUP), verdict.scores, strict=True))
    order = sorted(scores, key=lambda j: scores[j])  # A got 0, B 10 and so on
    rows = [line.split("|") for line in told(backend, 1).splitlines() if line[:2] in ("A|", "B|", "C|")]
    assert [float(row[1]) for row in rows] == pytest.approx([evidence.values[j] for j in order[:3]], rel=0.01)


def test_each_label_order_is_an_examination_of_its_own():
    backend = Scripted(calls(LIMITS))
    verdict = critique(backend, permutations=3)
    assert len(backend.asked) == 4
    assert verdict.rank_dispersion > 0  # the script scores by label, whichever hypothesis has it


def test_a_measurement_that_cannot_be_taken_is_missing_with_its_reason():
    agent = make_agent(Scripted(calls(SILHOUETTE)), load_tools(TOOLS), settings=SETTINGS, detector=None)
    verdict = agent.critique(sample(), group(spoiled_group()))
    assert {item.tool: item.reason for item in verdict.missing}["silhouette"] == "needs keypoints, mask"
    assert "there is no measurement of silhouette: needs keypoints, mask" in told(agent.backend, 1)


def test_every_call_is_on_the_trace_and_in_its_view(tmp_path):
    backend = Scripted(calls(LIMITS, {"name": "delete", "arguments": {}}))
    with Trace(tmp_path / "trace.jsonl") as trace:
        agent = make_agent(backend, load_tools(TOOLS), settings=SETTINGS, trace=trace)
        agent.critique(sample(), group(spoiled_group()))
    records = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [record["node"] for record in records] == [
        "render_views", "choose_evidence", "self_reflect", "estimate_errors",
    ]  # fmt: skip
    outputs = records[1]["outputs"]
    (examination,) = outputs["evidence_calls"]
    assert sorted(examination["labels"].values()) == list(range(GROUP))
    first, second = examination["calls"]
    assert (first["call"], first["arguments"], first["step"]) == ("measure", LIMITS["arguments"], 1)
    assert list(first["result"]["values"]) == list("ABCDEF")
    assert second["error"].startswith("there is no call 'delete'")
    assert len(outputs["replies"]) == 2
    shown = show_case(read_trace(tmp_path).critiques[-1])
    (table,) = [item for item in shown if str(getattr(item, "title", "")).startswith("calls")]
    assert list(map(str, table.columns[1].cells)) == ["measure", "delete"]


def test_the_budget_counts_every_step():
    verdict = critique(with_budget(Scripted(calls(LIMITS), calls(RULES)), Budget(2)))
    assert verdict.scores == (None,) * GROUP
    assert "the budget of 2 calls is spent" in verdict.reasons[0]


def test_a_recorded_examination_is_replayed_and_a_cached_one_asks_nothing(tmp_path):
    with Recorder(Scripted(calls(LIMITS), calls(RULES)), tmp_path / "replies.jsonl") as recorder:
        live = critique(recorder)
    replayed = critique(ReplayBackend(tmp_path / "replies.jsonl"))
    assert replace(replayed, trace_id="") == replace(live, trace_id="")
    with ReplyCache(tmp_path / "cache.sqlite") as cache:
        critique(Cached(Scripted(calls(LIMITS)), cache))
        again = Scripted("not asked")
        critique(Cached(again, cache))
    assert again.asked == []


def test_a_dry_run_counts_the_longest_examination():
    backend = DryRun(Scripted())
    critique(backend, max_revisions=0, permutations=2)
    assert backend.calls == {"act": 2 * (SETTINGS.max_tool_calls + 1), "reflect": 1}


def test_a_backend_that_cannot_call_is_refused():
    with pytest.raises(ValueError, match="the backend embedded cannot call for evidence; choose another"):
        make_agent(EmbeddedCritic(), settings=SETTINGS)
    with pytest.raises(ValueError, match="mode must be one of fixed, agentic, not 'free'"):
        CritiqueSettings(mode="free")
    with pytest.raises(ValueError, match="max_tool_calls must be from 1 to 1000, not 0"):
        CritiqueSettings(max_tool_calls=0)
