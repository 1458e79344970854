"""The graph: its order, its bounded loop, and failures of its parts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.context import CritiqueSettings
from agent.graph import recursion_limit
from agent.seed_rules import load_seed_rules
from agent.tools import load_tools
from agent.tracing.records import Trace
from agent.types import Case, Evidence, Missing
from agent.vlm import Capabilities, EmbeddedCritic, Reply
from hmr.types import BodyParams, Scorer
from memory.prototype_memory import PrototypeMemory
from memory.rule_memory import RuleMemory
from memory.store import MemoryStore
from tests.agent.critique_case import (
    GROUP,
    TOOLS,
    HashEmbedder,
    PerfectDetector,
    group,
    make_agent,
    planted_fault,
    sample,
    spoiled_group,
)

LAST = "estimate_errors"
STRAIGHT = [
    "render_views",
    "measure_evidence",
    "retrieve_rules",
    "retrieve_prototypes",
    "score",
    "self_reflect",
]


class Scripted(EmbeddedCritic):
    """The embedded critic with scripted raw texts for some tasks; the last text is repeated."""

    name = "scripted"

    def __init__(self, **answers: list[str]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, list]] = []

    def generate(self, parts, schema, seed):
        self.asked.append((schema["title"], list(parts)))
        texts = self.answers.get(schema["title"])
        if texts is None:
            return super().generate(parts, schema, seed)
        return Reply(texts.pop(0) if len(texts) > 1 else texts[0])


class NeverSure(EmbeddedCritic):
    """Always finds the score of hypothesis A uncertain."""

    def generate(self, parts, schema, seed):
        if schema["title"] != "reflect":
            return super().generate(parts, schema, seed)
        answer = {
            label: {"uncertain": label == "A", "reason": "never sure"} for label in schema["properties"]
        }
        return Reply(json.dumps(answer))


class Broken:
    name = "broken"
    needs = frozenset()

    def measure(self, case: Case) -> Evidence:
        raise RuntimeError("out of order")


class InvalidTool:
    """Returns evidence with these values and other invalid fields, as an untyped plug-in might."""

    name = "invalid"
    needs = frozenset()

    def __init__(self, values: object, **wrong: object) -> None:
        self.values, self.wrong = values, wrong

    def measure(self, case: Case):
        evidence = Evidence("invalid", "invalid_mm", "mm", (1.0,) * GROUP, ((),) * GROUP, ("",) * GROUP)
        for name, value in {"values": self.values, **self.wrong}.items():
            object.__setattr__(evidence, name, value)
        return evidence


class Returning:
    """Returns a given object as evidence."""

    name = "returning"

    def __init__(self, found: object, needs: object = frozenset()) -> None:
        self.found, self.needs = found, needs

    def measure(self, case: Case):
        return self.found


@pytest.fixture
def trace(tmp_path):
    with Trace(tmp_path / "trace.jsonl", run_id="run-1") as trace:
        yield trace


@pytest.fixture
def records(trace, tmp_path):
    def read():
        return [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]

    return read


def test_it_is_a_scorer_that_ranks_a_planted_fault_last():
    agent = make_agent()
    params = BodyParams.cat([spoiled_group(group=5, worst_rad=0.02), BodyParams.stack([planted_fault()])])
    scores = agent.score(sample(), group(params))
    assert isinstance(agent, Scorer)
    assert np.argmin(scores) == 5
    assert all(0 <= score <= 100 for score in scores)


def test_the_nodes_run_in_the_order_of_the_diagram(trace, records):
    settings = CritiqueSettings(view_size_px=64, max_revisions=0)
    agent = make_agent(trace=trace, settings=settings)
    agent.critique(sample(), group(spoiled_group()))
    assert [record["node"] for record in records()] == [*STRAIGHT, LAST]


def test_the_number_of_revisions_is_bounded(trace, records):
    settings = CritiqueSettings(view_size_px=64, max_revisions=2)
    agent = make_agent(NeverSure(), trace=trace, settings=settings)
    critique = agent.critique(sample(), group(spoiled_group()))
    again = ["reobserve", "revise", "self_reflect"]
    assert [record["node"] for record in records()] == [*STRAIGHT, *again, *again, LAST]
    assert len(critique.revisions) == 2
    assert all(revision.hypotheses == (0,) for revision in critique.revisions)
    assert critique.scores[0] == critique.revisions[-1].after[0]


def test_evidence_is_reobserved_once_and_named_in_the_revision(trace, records):
    agent = make_agent(
        NeverSure(),
        load_tools([*TOOLS, "keypoint_layout", "pose_reading"]),
        trace=trace,
        settings=CritiqueSettings(view_size_px=64, max_revisions=2),
    )
    critique = agent.critique(sample(), group(spoiled_group()))
    extra = ("reprojection_percent_of_box", "layout_percent_of_box", "pose_reading_mm")
    looked = [item.metric for item in critique.evidence if item.tool == "later_evidence"]
    assert looked == ["score_weighted_consensus_mm", *extra]
    assert {revision.evidence_used for revision in critique.revisions} == {tuple(looked)}
    asked = [record for record in records() if record["node"] == "reobserve"]
    assert len({json.dumps(record["outputs"]["reobserved_evidence"]) for record in asked}) == 1


def test_a_revision_has_no_evidence_of_tools_that_the_agent_lacks():
    backend = Scripted(reflect=[json.dumps({label: {"uncertain": True, "reason": ""} for label in "ABCDEF"})])
    critique = make_agent(backend, load_tools(["group_consensus", "silhouette"])).critique(
        sample(), group(spoiled_group())
    )
    told = next(parts for task, parts in backend.asked if task == "revise")
    (shown,) = [part.data for part in told if getattr(part, "name", "") == "later_evidence"]
    assert list(shown) == list(critique.revisions[0].evidence_used) == ["score_weighted_consensus_mm"]


def test_without_uncertain_scores_nothing_is_reobserved():
    content = json.dumps({label: {"uncertain": False, "reason": ""} for label in "ABCDEF"})
    looks = []

    class Counting(PerfectDetector):
        def detect(self, sample):
            looks.append(sample)
            return super().detect(sample)

    critique = make_agent(Scripted(reflect=[content]), detector=Counting()).critique(
        sample(), group(spoiled_group())
    )
    assert len(looks) == 1
    assert critique.revisions == ()


def test_a_detector_that_fails_in_reobservation_affects_only_that_evidence():
    class Tired(PerfectDetector):
        looked = False

        def detect(self, sample):
            if self.looked:
                raise RuntimeError("tired")
            self.looked = True
            return super().detect(sample)

    critique = make_agent(NeverSure(), detector=Tired()).critique(sample(), group(spoiled_group()))
    assert critique.missing == (Missing("later_evidence", "RuntimeError: tired", broken=True),)
    assert critique.revisions[0].evidence_used == ("score_weighted_consensus_mm",)
    assert None not in critique.scores


def test_the_recursion_limit_is_just_enough():
    # 7 straight nodes, 4 for each of 3 revisions with a person's review, the last review and node, one to spare
    assert recursion_limit(3) == 22


def test_scores_follow_their_hypotheses_when_the_group_is_shuffled():
    agent, params = make_agent(), spoiled_group()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    straight = agent.score(sample(), group(params))
    shuffled = agent.score(sample(), group(params[order]))
    assert shuffled == pytest.approx([straight[j] for j in order.tolist()], abs=1e-2)


def test_equal_calls_give_equal_verdicts():
    agent, hypotheses = make_agent(), group(spoiled_group())
    first, second = (agent.critique(sample(), hypotheses) for _ in range(2))
    assert replace(first, trace_id="") == replace(second, trace_id="")


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        (Broken(), "RuntimeError: out of order"),
        (InvalidTool((1.0,) * (GROUP - 1)), f"gave {GROUP - 1} values for {GROUP} hypotheses"),
        (InvalidTool((float("nan"),) * GROUP), "gave a value that is not a finite number"),
        (InvalidTool(("far",) * GROUP), "ValueError: could not convert string to float: 'far'"),
        (InvalidTool(None), "TypeError: 'NoneType' object is not iterable"),
        (
            InvalidTool((1.0,) * GROUP, sentences=(None,) * GROUP),
            "TypeError: names, units, parts and sentences are text, not NoneType",
        ),
        (Returning(None), "TypeError: a tool gives Evidence, not NoneType"),
        (Returning([1.0] * GROUP), "TypeError: a tool gives Evidence, not list"),
    ],
)
def test_a_tool_that_fails_affects_only_its_own_evidence(tool, reason):
    agent = make_agent(tools=[*load_tools(TOOLS), tool])
    critique = agent.critique(sample(), group(spoiled_group()))
    assert [(item.tool, item.reason, item.broken) for item in critique.missing] == [(tool.name, reason, True)]
    assert None not in critique.scores


@pytest.mark.parametrize("number", [np.float32, np.int64, torch.tensor], ids=["float32", "int64", "tensor"])
def test_numbers_of_any_library_are_written_as_numbers(number, trace, records):
    agent = make_agent(
        tools=[InvalidTool([number(j) for j in range(GROUP)], parts=[[]] * GROUP)], trace=trace
    )
    critique = agent.critique(sample(), group(spoiled_group()))
    (evidence,) = [item for item in critique.evidence if item.tool == "invalid"]
    assert evidence.values == tuple(map(float, range(GROUP)))
    by_node = {record["node"]: record["outputs"] for record in records()}
    assert by_node["measure_evidence"]["evidence"][0]["values"] == list(range(GROUP))


def test_without_a_detector_the_tools_that_need_one_are_skipped_with_a_reason():
    critique = make_agent(detector=None).critique(sample(), group(spoiled_group()))
    reasons = {item.tool: item.reason for item in critique.missing}
    assert reasons["reprojection"] == "needs keypoints"
    assert reasons["silhouette"] == "needs keypoints, mask"
    assert not any(item.broken for item in critique.missing)
    assert None not in critique.scores


def test_without_any_evidence_scores_are_none_with_a_reason():
    critique = make_agent(tools=[Broken()]).critique(sample(), group(spoiled_group()))
    assert critique.scores == (None,) * GROUP
    assert len(critique.reasons) == GROUP
    assert "no retrieved rule applies" in critique.reasons[0]


def test_a_malformed_reply_is_repaired_once_quoting_the_error():
    good = json.dumps({label: {"comment": "fine", "score": 50 + i} for i, label in enumerate("ABCDEF")})
    backend = Scripted(score=["no json", good], reflect=["{}"])
    critique = make_agent(backend, settings=CritiqueSettings(view_size_px=64, permutations=1)).critique(
        sample(), group(spoiled_group())
    )
    asked = [parts for task, parts in backend.asked if task == "score"]
    assert len(asked) == 2
    assert "no json" in asked[1][-1].text
    assert sorted(critique.scores) == [50, 51, 52, 53, 54, 55]


def test_a_reply_that_stays_malformed_is_none_and_never_a_number():
    backend = Scripted(score=[json.dumps({"A": {"comment": "", "score": 101}})])
    settings = CritiqueSettings(view_size_px=64, permutations=1)
    critique = make_agent(backend, settings=settings).critique(sample(), group(spoiled_group()))
    assert [task for task, _ in backend.asked] == ["tag", "score", "score"]
    assert critique.scores == (None,) * GROUP
    assert "malformed after one repair" in critique.reasons[0]
    assert critique.revisions == ()


def test_a_label_order_that_fails_is_left_out():
    class FailsOnce(EmbeddedCritic):
        def generate(self, parts, schema, seed):
            if schema["title"] == "score" and seed == 1:
                raise ConnectionError("gone")
            return super().generate(parts, schema, seed)

    assert None not in make_agent(FailsOnce()).critique(sample(), group(spoiled_group())).scores


def test_a_vision_capable_backend_gets_the_photograph_and_a_labelled_panel_per_hypothesis():
    class VisionBackend(Scripted):
        capabilities = Capabilities(images=True)

    backend = VisionBackend()
    settings = CritiqueSettings(view_size_px=64, permutations=1)
    make_agent(backend, settings=settings).critique(sample(), group(spoiled_group()))
    parts = next(parts for task, parts in backend.asked if task == "score")
    captions = [part.caption for part in parts if hasattr(part, "png")]
    assert captions == ["the photograph", *(f"hypothesis {label}" for label in "ABCDEF")]


def test_with_a_small_image_limit_only_revision_shows_the_uncertain_hypotheses():
    class FewPictures(NeverSure):
        name = "few"
        capabilities = Capabilities(images=True, max_images=5)

        def __init__(self):
            self.asked = []

        def generate(self, parts, schema, seed):
            pictures = [part.caption for part in parts if hasattr(part, "png")]
            self.asked.append((schema["title"], pictures))
            return super().generate(parts, schema, seed)

    backend = FewPictures()
    make_agent(backend).critique(sample(), group(spoiled_group()))
    shown = {task: pictures for task, pictures in backend.asked if task in ("reflect", "revise")}
    assert shown["reflect"] == ["the photograph"]
    assert shown["revise"][:2] == ["the photograph", "hypothesis A"]
    assert [caption.partition(":")[0] for caption in shown["revise"][2:]] == ["hypothesis A again"]
    assert max(len(pictures) for _, pictures in backend.asked) <= 5


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 hypotheses, not 1"):
        make_agent().critique(sample(), group(spoiled_group()[:1]))


def test_a_critique_writes_to_no_memory(tmp_path):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store:
        RuleMemory(store, HashEmbedder()).add(load_seed_rules())
    with MemoryStore(path, frozen=True) as store:
        rules, prototypes = RuleMemory(store, HashEmbedder()), PrototypeMemory(store, 3, "mean_color")
        agent, before = make_agent(rules=rules, prototypes=prototypes), rules.all()
        critique = agent.critique(sample(), group(spoiled_group()))
        assert rules.all() == before
    assert {retrieved.bonus for retrieved in critique.rules} == {0.0}


def test_every_trace_record_has_input_hashes_and_outputs(trace, records):
    agent = make_agent(trace=trace)
    critique = agent.critique(sample("a-case"), group(spoiled_group()))
    by_node = {record["node"]: record for record in records()}
    for record in by_node.values():
        assert (record["run"], record["case"], record["trace"]) == ("run-1", "a-case", critique.trace_id)
        assert record["ms"] >= 0
        assert all(len(value) == 12 for value in record["inputs"].values())
    rule = by_node["retrieve_rules"]["outputs"]["rules"][0]
    assert rule.keys() >= {"similarity", "tag_overlap", "success_rate", "bonus", "psi"}
    score = by_node["score"]["outputs"]
    assert len(score["replies"]) == agent.settings.permutations
    assert json.loads(score["replies"][0]["text"]).keys() == set("ABCDEF")
    assert list(score["scores"]) == [str(j) for j in range(GROUP)]


def test_the_trace_contains_no_image(trace, tmp_path):
    class VisionBackend(EmbeddedCritic):
        capabilities = Capabilities(images=True)

    make_agent(VisionBackend(), trace=trace).critique(sample(), group(spoiled_group()))
    text = (tmp_path / "trace.jsonl").read_text()
    assert "iVBORw0KGgo" not in text  # how every base64 PNG begins
    assert max(map(len, text.splitlines())) < 50_000
