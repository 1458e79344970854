"""The comparison of critics on few scenes: caches, variants and results."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import meshcritic
from agent.context import CritiqueSettings
from agent.types import Evidence
from agent.vlm import EmbeddedCritic
from agent.vlm.embedded.violations import violation
from cli.commands.critic_eval import Critic
from eval.benchmark.protocol import ERROR_METRICS, ScoredGroup
from eval.critics.ablations import AGENT, AgentVariant, equal_rules, metrics_of
from eval.critics.comparison import CriticEvalSettings, critic_result, evaluate_critics
from eval.critics.files.evidence_cache import EvidenceCache
from eval.critics.files.verdict_cache import CriticVerdict
from eval.critics.groups import LabelledGroup, draw_groups, labelled_scenes
from eval.critics.kinds import BASELINES, CRITICS
from eval.critics.reference_critics.baselines import metric_scores, random_scores
from eval.critics.table import critic_table
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.synthetic.splits import draw_split
from tests.agent.critique_case import labelled, spoiled_group
from tests.agent.tools.tool_case import case_of
from tests.command import call

SMALL = CriticEvalSettings(images=2, samples=4, calibration=4)


def silent(title: str, total: int):
    return lambda done, note="": None


def groups(*scores: tuple[float | None, ...]) -> list[ScoredGroup]:
    errors = {name: np.array([10.0, 20.0, 30.0, 40.0]) for name in ERROR_METRICS}
    return [ScoredGroup(f"image-{row}", given, errors) for row, given in enumerate(scores)]


# -- results -----------------------------------------------------------------------------------------------------------


def test_the_lead_is_the_mean_difference_of_rho_over_groups():
    # errors 10, 20, 30, 40. The agent: rho 1 and 1. The other: 1, and 3, 4, 1, 2 whose ranks are off by 1, 3, 1, 3
    # of the best order 4, 3, 2, 1: rho = 1 - 6 * (1 + 1 + 1 + 1) / 60 = .6. The mean lead is (0 + .4) / 2 = .2
    best = (4.0, 3.0, 2.0, 1.0)
    agent, other = groups(*[best] * 10), groups(*[best, (3.0, 4.0, 1.0, 2.0)] * 5)
    figures = critic_result("other", other, agent)
    assert figures.agent_lead is not None
    assert figures.agent_lead["mpjpe_mm"].mean == pytest.approx(0.2)
    assert figures.agreements["mpjpe_mm"].srcc.mean == pytest.approx(0.8)
    assert critic_result("agent", agent, agent).agent_lead is None


def test_a_group_without_a_ranking_is_left_out_of_the_lead():
    best = (4.0, 3.0, 2.0, 1.0)
    worst = tuple(reversed(best))
    figures = critic_result("other", groups((None,) * 4, *[worst] * 10), groups(*[best] * 11))
    assert figures.agent_lead["pve_mm"].mean == pytest.approx(2.0)
    shown = figures.to_json()
    assert shown["none_rate"] == pytest.approx(1 / 11)
    assert (shown["groups_used"], shown["groups"]) == (10, 11)
    assert shown["srcc"]["pve"][0] == pytest.approx(-1.0)
    assert shown["agent_minus_this"]["pa_mpjpe"][0] == pytest.approx(2.0)
    few = critic_result("other", groups((None,) * 4, *[worst] * 9), groups(*[best] * 10))
    assert few.to_json()["agent_minus_this"]["pa_mpjpe"] is None


# -- variants ----------------------------------------------------------------------------------------------------------


def test_equal_rules_grade_the_value_itself_whatever_its_sign():
    values = np.array([-4.0, -3.5, -3.0, -2.9, 0.5])
    (rule,) = equal_rules({"pose_nats_per_dof"})
    graded = violation(values, rule.predicate.comparison, rule.predicate.threshold, "nat")
    assert np.argsort(graded).tolist() == [0, 1, 2, 3, 4]
    assert len({round(float(z), 6) for z in graded}) == 5
    assert {rule.predicate.weight for rule in equal_rules({"a", "b"})} == {1.0}
    assert len(equal_rules({"a", "b"})) == 2
    assert rule.state == "admitted"


def test_the_name_of_a_variant_lists_what_it_lacks():
    assert AGENT.name == "agent"
    reduced = AgentVariant(frozenset({"reflection", "rules"}), frozenset({"silhouette"}))
    assert reduced.name == "agent without rules and reflection and silhouette"
    assert reduced.explores_as.name == "agent without reflection and silhouette"
    assert AgentVariant(true_detections=True).name == "agent with true keypoints and mask"
    with pytest.raises(ValueError, match="prototypes"):
        AgentVariant(frozenset({"unknown"}))


def test_invalid_settings_are_refused():
    with pytest.raises(ValueError, match="hmr-scorer"):
        CriticEvalSettings(critic="oracle")
    with pytest.raises(ValueError, match="there are shipped, studio"):
        CriticEvalSettings(base="moon")
    with pytest.raises(ValueError, match="ranknet"):
        CriticEvalSettings(critic="ranknet", ablation=AgentVariant(frozenset({"rules"})))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        CriticEvalSettings(motion=Path("elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere: there is no memory here"):
        CriticEvalSettings(memory=Path("elsewhere"))
    with pytest.raises(ValueError, match=r"no tool 'sextant'.* its tools are reprojection, "):
        AgentVariant(without_tools=frozenset({"sextant"}))
    for ucb in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="--ucb takes a finite number of at least 0"):
            CriticEvalSettings(ucb=ucb)


# -- baselines ---------------------------------------------------------------------------------------------------------


def verdict(**values: tuple[float | None, ...]) -> CriticVerdict:
    evidence = tuple(
        Evidence("later_evidence" if name == "late" else "tool", name, "mm", column, ((),) * 3, ("",) * 3)
        for name, column in values.items()
    )
    return CriticVerdict((1.0, 2.0, 3.0), evidence)


def test_a_metric_alone_ranks_by_its_negative():
    seen = verdict(near=(1.0, None, 3.0), late=(0.0, 0.0, 0.0))
    assert metric_scores(seen, "near") == (-1.0, None, -3.0)
    assert metric_scores(seen, "absent") == (None, None, None)
    assert metrics_of([seen, verdict(far=(1.0, 2.0, 3.0))]) == ["far", "near"]


def test_random_scores_depend_on_seed_and_image_alone():
    case, other = labelled("a"), labelled("b")
    params = spoiled_group(group=3)
    errors = {name: np.arange(3.0) for name in ERROR_METRICS}
    first, second = (
        LabelledGroup(item, meshcritic.Hypotheses(params, item.sample.camera), errors)
        for item in (case, other)
    )
    assert random_scores(first, 0).scores == random_scores(first, 0).scores
    assert random_scores(first, 0).scores != random_scores(first, 1).scores
    assert random_scores(first, 0).scores != random_scores(second, 0).scores


def test_the_base_policy_decides_on_the_scenes(tiny_policy: DiffusionPolicy, tmp_path: Path):
    settings = dataclasses.replace(SMALL, critic="random", base="studio")
    evaluate_critics(tiny_policy, EmbeddedCritic(), settings, tmp_path, silent)
    assert {path.name for path in (tmp_path / "scenes").iterdir()} == {
        "street-test-2",
        "studio-calibration-4",
    }
    rows = pq.read_table(tmp_path / "critics.parquet").to_pylist()
    assert [(row["critic"], len(row["scores"]), len(row["pve_mm"])) for row in rows] == [("random", 4, 4)] * 2
    assert all(-1.0 <= row["srcc_mpjpe"] <= 1.0 for row in rows)


# -- caches -----------------------------------------------------------------------------------------------------------


class CountingTool:
    """Its metric is the number of its calls."""

    name, needs = "counting", frozenset()

    def __init__(self) -> None:
        self.asked = 0

    def measure(self, case) -> Evidence:
        self.asked += 1
        if case.sample.id == "broken":
            raise RuntimeError("the tool broke")
        values = tuple(float(self.asked) for _ in range(len(case)))
        return Evidence(self.name, "count", "1", values, (("torso",),) * len(case), ("so often",) * len(case))


def test_a_tool_measures_a_case_once(tmp_path: Path):
    tool, case = CountingTool(), case_of(spoiled_group(group=2))
    moved = dataclasses.replace(
        case, detection=dataclasses.replace(case.detection, points_px=case.detection.points_px + 1)
    )
    with EvidenceCache(tmp_path / "evidence.jsonl") as cache:
        (wrapped,) = cache.wrap([tool])
        first = wrapped.measure(case)
        assert wrapped.measure(case) == first
        assert wrapped.measure(moved) != first
        assert (wrapped.name, wrapped.needs) == ("counting", frozenset())
    assert tool.asked == 2
    with EvidenceCache(tmp_path / "evidence.jsonl") as cache:
        assert cache.wrap([tool])[0].measure(case) == first
    assert tool.asked == 2


def test_a_measurement_that_raised_is_repeated(tmp_path: Path):
    case = case_of(spoiled_group(group=2))
    broken = dataclasses.replace(case, sample=dataclasses.replace(case.sample, id="broken"))
    tool = CountingTool()
    with EvidenceCache(tmp_path / "evidence.jsonl") as cache:
        (wrapped,) = cache.wrap([tool])
        for _ in range(2):
            with pytest.raises(RuntimeError, match="broke"):
                wrapped.measure(broken)
    assert tool.asked == 2


def test_groups_are_read_from_the_cache(tiny_policy: DiffusionPolicy, body: Body, tmp_path: Path):
    scenes = labelled_scenes(draw_split("wild-test", tmp_path, 2))
    progress_values: list[int] = []
    first = draw_groups(
        tiny_policy, body, scenes, size=3, seed=0, cache=tmp_path / "groups", progress=progress_values.append
    )
    again = draw_groups(
        tiny_policy, body, scenes, size=3, seed=0, cache=tmp_path / "groups", progress=progress_values.append
    )
    assert progress_values == [1, 2]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.hypotheses.params.body_pose, b.hypotheses.params.body_pose)
        assert all(np.array_equal(a.errors_mm[name], b.errors_mm[name]) for name in ERROR_METRICS)
    assert set(first[0].errors_mm) == set(ERROR_METRICS)
    torch.nn.init.zeros_(tiny_policy.denoiser.head.weight)
    draw_groups(
        tiny_policy, body, scenes, size=3, seed=0, cache=tmp_path / "groups", progress=progress_values.append
    )
    assert progress_values == [1, 2, 1, 2]  # another policy, other groups


class Killed(BaseException):
    """Stands for a kill: an uncaught exception leaves the same files."""


def test_groups_are_cached_in_chunks(
    tiny_policy: DiffusionPolicy, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scenes = labelled_scenes(draw_split("wild-test", tmp_path, 3))
    whole = draw_groups(tiny_policy, body, scenes, size=3, seed=0, cache=tmp_path / "whole")
    monkeypatch.setattr("eval.critics.groups.CHUNK_SIZE", 1)

    def dies_at_the_second(done: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        draw_groups(
            tiny_policy, body, scenes, size=3, seed=0, cache=tmp_path / "parts", progress=dies_at_the_second
        )
    progress_values: list[int] = []
    parts = draw_groups(
        tiny_policy, body, scenes, size=3, seed=0, cache=tmp_path / "parts", progress=progress_values.append
    )
    assert progress_values == [2, 3]
    for a, b in zip(whole, parts, strict=True):
        assert a.labelled.sample.id == b.labelled.sample.id
        assert torch.equal(a.hypotheses.params.transl, b.hypotheses.params.transl)
        assert all(np.array_equal(a.errors_mm[name], b.errors_mm[name]) for name in ERROR_METRICS)


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_run_uses_the_explored_memory(tiny_policy: DiffusionPolicy, tmp_path: Path):
    titles: list[str] = []

    def stage(title: str, total: int):
        titles.append(title)
        return lambda done, note="": None

    first = evaluate_critics(tiny_policy, EmbeddedCritic(), SMALL, tmp_path, stage)
    assert any("exploring 2 cases" in title for title in titles)
    titles.clear()
    again = evaluate_critics(tiny_policy, EmbeddedCritic(), SMALL, tmp_path, stage)
    assert not any("exploring" in title for title in titles)
    assert again.to_json() == first.to_json()
    shown = first.to_json()
    assert shown["critic"] == "agent"
    for measure in ("srcc", "krcc", "plcc"):
        assert set(shown[measure]) == {"mpjpe", "pa_mpjpe", "pve"}
    assert shown["none_rate"] == 0.0
    assert shown["base_policy"] == tiny_policy.digest()
    assert len(shown["benchmark"]) == len(shown["calibration"]) == 16


@pytest.mark.slow
def test_a_comparison_killed_while_scoring_is_resumed(tiny_policy: DiffusionPolicy, tmp_path: Path):
    def dies(title: str, total: int):
        def tick(done: int, note: str = "", /) -> None:
            if title.startswith("scoring"):
                raise Killed

        return tick

    with pytest.raises(Killed):
        evaluate_critics(tiny_policy, EmbeddedCritic(), SMALL, tmp_path, dies)
    (kept,) = (tmp_path / "verdicts").iterdir()
    first = kept.read_bytes()
    assert first.count(b"\n") == 1
    found = evaluate_critics(tiny_policy, EmbeddedCritic(), SMALL, tmp_path, silent)
    assert kept.read_bytes().startswith(first)
    assert kept.read_bytes().count(b"\n") == 2  # the second group; the first was not scored again
    shutil.rmtree(tmp_path / "verdicts")
    assert (
        evaluate_critics(tiny_policy, EmbeddedCritic(), SMALL, tmp_path, silent).to_json() == found.to_json()
    )


@pytest.mark.slow
def test_a_dry_run_prints_the_estimate_of_the_calls(
    tiny_policy: DiffusionPolicy, tmp_path: Path, monkeypatch, capsys
):
    tiny_policy.save_pretrained(tmp_path / "policy")
    few = ("--images", 1, "--samples", 3, "--calibration", 4, "--policy", tmp_path / "policy", "--dry-run")
    code, out, err = call(monkeypatch, capsys, "critic-eval", *few, "--out", tmp_path / "out")
    assert (code, out) == (0, "")
    assert err.endswith("to this machine; nothing has been sent\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_given_memory_is_used_without_exploration(tiny_policy: DiffusionPolicy, tmp_path: Path):
    made = evaluate_critics(tiny_policy, EmbeddedCritic(), SMALL, tmp_path, silent)
    (folder,) = (tmp_path / "memory").iterdir()
    given = dataclasses.replace(SMALL, memory=folder)
    found = evaluate_critics(tiny_policy, EmbeddedCritic(), given, tmp_path, silent)
    assert found.calibration is None
    assert found.critics[AGENT] == made.critics[AGENT]
    rank_net = dataclasses.replace(given, critic="ranknet")
    found = evaluate_critics(tiny_policy, EmbeddedCritic(), rank_net, tmp_path, silent)
    assert found.calibration == made.calibration  # the network is fitted on them even with a given memory
    for asked in ({"critic": "greedy"}, {"ucb": 0.0}):
        with pytest.raises(ValueError, match="leave out --memory"):
            dataclasses.replace(given, **asked)


@pytest.mark.slow
def test_an_agent_without_all_components_gives_scores(tiny_policy: DiffusionPolicy, tmp_path: Path):
    reduced = AgentVariant(frozenset({"rules", "prototypes", "reflection"}), frozenset({"silhouette"}))
    found = evaluate_critics(
        tiny_policy, EmbeddedCritic(), dataclasses.replace(SMALL, ablation=reduced), tmp_path, silent
    )
    (figures,) = found.critics.values()
    assert figures.agreements["mpjpe_mm"].none_rate == 0.0


@pytest.mark.timeout(600)  # trains a scorer and a rank network: half of the usual limit on an idle machine
@pytest.mark.slow
def test_all_critics_are_in_one_table(tiny_policy: DiffusionPolicy, tmp_path: Path):
    settings = dataclasses.replace(SMALL, critic="all", calibration=8)
    found = evaluate_critics(tiny_policy, EmbeddedCritic(), settings, tmp_path, silent)
    names = [critic.name for critic in found.critics]
    assert names[0] == "agent"
    assert {"agent without rules", "agent greedy", "hmr-scorer", "ranknet", "consensus", "random"} <= set(
        names
    )
    assert {"agent without silhouette", "agent with true keypoints and mask"} <= set(names)
    shown = json.loads(json.dumps(found.to_json()))
    assert "agent_minus_this" not in shown["critics"]["agent"]
    assert "agent_minus_this" in shown["critics"]["random"]
    assert "group_consensus_mm" in shown["evidence"]
    assert critic_table(found).row_count == len(found.critics) + len(found.evidence)
    settings = dataclasses.replace(settings, critic="peers")
    peers = evaluate_critics(tiny_policy, EmbeddedCritic(), settings, tmp_path, silent)
    assert peers.critics == {critic: found.critics[critic] for critic in (AGENT, *BASELINES)}
    assert not peers.evidence


def test_an_ablation_without_prototypes_needs_zero_prototypes_per_case():
    assert CritiqueSettings(prototypes_per_case=0).prototypes_per_case == 0


@pytest.mark.parametrize("critic", ["hmr-scorer", "all"])
def test_hmr_scorer_needs_the_cpu(tmp_path: Path, tiny_policy: DiffusionPolicy, critic: str):
    settings = dataclasses.replace(SMALL, critic=critic)
    with pytest.raises(ValueError, match=f"--critic {critic} fits hmr-scorer, which needs --device cpu"):
        evaluate_critics(tiny_policy.to("meta"), EmbeddedCritic(), settings, tmp_path, silent)


def test_the_help_names_every_critic() -> None:
    (option,) = get_args(Critic)[1:]
    assert [name for name in CRITICS if not re.search(rf"\b{name}\b", option.help)] == []
