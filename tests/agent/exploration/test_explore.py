"""The exploration phase, end to end on a few cases."""

import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from langgraph.errors import GraphRecursionError

from agent.exploration.explore import ExplorationReport, ExplorationSettings, explore
from agent.exploration.graph import recursion_limit
from agent.seed_rules import load_seed_rules
from agent.tracing.reading import read_trace
from agent.tracing.records import Trace
from agent.vlm import EmbeddedCritic
from cli.trace_view import show_case
from memory.prototype_memory import PrototypeMemory
from memory.retirement import RetirementPolicy
from memory.rule_memory import RuleMemory
from memory.store import FrozenMemoryError, MemoryStore
from memory.transfer.exchange import MemoryDocument, read_document, snapshot, write_document
from tests.agent.critique_case import HashEmbedder, MeanColor, make_agent
from tests.agent.exploration import exploration_run
from tests.agent.exploration.exploration_run import HELD_OUT, Miner, propose
from tests.agent.tracing.trace_services import Kept

CASES = exploration_run.CASES[:3]
KILLS = 8


class Failing(Miner):
    """A server that is down for one task."""

    def __init__(self, task: str) -> None:
        self.task = task

    def generate(self, parts, schema, seed):
        if schema["title"] == self.task:
            raise ConnectionError("no answer")
        return super().generate(parts, schema, seed)


class Fails(Miner):
    """A server that stops answering questions of one task after `after` of them."""

    def __init__(self, task: str, after: int) -> None:
        self.task, self.left = task, after

    def generate(self, parts, schema, seed):
        self.left -= schema["title"] == self.task
        if self.left < 0 and schema["title"] == self.task:
            raise ConnectionError("no answer")
        return super().generate(parts, schema, seed)


class Counts(Miner):
    """Counts the questions of one task."""

    def __init__(self, task: str) -> None:
        self.task, self.asked = task, 0

    def generate(self, parts, schema, seed):
        self.asked += schema["title"] == self.task
        return super().generate(parts, schema, seed)


def run_with(backend: Miner, folder: Path) -> ExplorationReport:
    """`exploration_run.run` with another backend."""
    with MemoryStore(folder / "memory.sqlite") as store:
        rules = RuleMemory(store, HashEmbedder())
        rules.add(load_seed_rules())
        prototypes = PrototypeMemory(store, MeanColor.dim, MeanColor.name, 3)
        agent = make_agent(backend, rules=rules, prototypes=prototypes)
        return explore(agent, exploration_run.CASES, HELD_OUT, propose, exploration_run.SETTINGS)


def content(folder: Path) -> MemoryDocument:
    with MemoryStore(folder / "memory.sqlite") as store:
        return snapshot(store)


@dataclass(frozen=True)
class Whole:
    """An exploration without an interruption or outage, which no test changes."""

    report: ExplorationReport
    folder: Path
    content: MemoryDocument
    asked: int  # questions for scores


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder, backend = tmp_path_factory.mktemp("whole"), Counts("score")
    report = run_with(backend, folder)
    return Whole(report, folder, content(folder), backend.asked)


def test_exploration_counts_rules_writes_prototypes_and_ranks():
    agent, seen = make_agent(), []
    report = explore(agent, CASES, HELD_OUT, propose, ExplorationSettings(batch=2), seen.append)
    assert (report.cases, report.skipped) == (3, 0)
    assert report.srcc > 0.5
    assert [progress.done for progress in seen] == [1, 2, 3]
    assert seen[1].running_srcc == pytest.approx((seen[0].srcc + seen[1].srcc) / 2)
    assert seen[2].running_srcc == report.srcc
    assert len(agent.prototypes) == 3
    prototype = agent.prototypes.all()[0]
    assert prototype.weights["reprojection_percent_of_box"] > 0.5
    assert prototype.rationale.startswith("Truly number ")
    used = [rule for rule in agent.rules.all() if rule.uses]
    assert used
    assert max(rule.successes for rule in used) == 3


def test_exploring_again_counts_nothing_twice():
    agent = make_agent()
    explore(agent, CASES[:2], HELD_OUT, propose)
    rules, prototypes = agent.rules.all(), agent.prototypes.all()
    report = explore(agent, CASES[:2], HELD_OUT, propose)
    assert (report.cases, report.skipped) == (0, 2)
    assert agent.rules.all() == rules
    assert agent.prototypes.all() == prototypes


def test_progress_counts_the_cases_of_earlier_runs(tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    agent, seen = make_agent(), []
    with pytest.raises(KeyboardInterrupt):
        explore(agent, CASES, HELD_OUT, propose, on_case=stop)
    report = explore(agent, CASES, HELD_OUT, propose, on_case=seen.append)
    assert (report.cases, report.skipped) == (2, 1)
    assert [(progress.done, progress.total) for progress in seen] == [(2, 3), (3, 3)]
    assert seen[-1].running_srcc == report.srcc


def test_every_change_of_a_rules_state_has_a_reason(whole):
    report = whole.report
    assert report.mined
    assert report.admitted == report.mined
    kept = {kept.rule.rule_id: kept for kept in whole.content.rules}
    for rule_id in report.admitted:
        came, admitted, replaced = kept[rule_id].history
        assert came.reason.startswith("mined by embedded from ")
        assert (admitted.state, replaced.state) == ("admitted", "retired")
        assert admitted.gain is not None
        assert admitted.held_out is not None
    new = [item for item in kept.values() if item.history[0].reason.startswith("made from")]
    assert len(new) == report.reweighed
    assert all(item.rule.uses == len(exploration_run.CASES) for item in new)


def test_rescoring_for_new_weights_counts_no_case_twice(whole):
    """A rule whose weight does not change is the same rule and keeps its record."""
    document = whole.content
    assert len(document.cases) == len(exploration_run.CASES)
    assert all(kept.rule.uses <= len(exploration_run.CASES) for kept in document.rules)
    assert any(case.recounts for case in document.cases)


def test_the_record_of_a_case_passes_the_checks_of_an_import(whole, tmp_path):
    document = whole.content
    assert all(case.judged for case in document.cases)
    write_document(document, tmp_path / "memory.json")
    assert read_document(tmp_path / "memory.json") == document


def test_an_interrupted_exploration_ends_as_an_uninterrupted_one(whole, tmp_path):
    """The weights are fitted on all cases, not only on those of the last run."""

    def stop(progress):
        if progress.done in (1, 2, 4):
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            exploration_run.run(tmp_path / "parts", on_case=stop)
    exploration_run.run(tmp_path / "parts")
    assert content(tmp_path / "parts") == whole.content


def test_exploring_a_finished_exploration_changes_nothing(whole, tmp_path):
    again = Path(shutil.copytree(whole.folder, tmp_path / "again"))
    report = exploration_run.run(again)
    assert content(again) == whole.content
    assert (report.cases, report.mined, report.admitted, report.retired, report.reweighed) == (
        0,
        (),
        (),
        (),
        0,
    )
    assert report.held_out_srcc_after == report.held_out_srcc_before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_at_any_point_loses_at_most_the_case_in_flight(tmp_path):
    """Real processes, killed before the n-th statement that writes; n runs through the whole exploration."""
    statements: list[str] = []
    exploration_run.run(tmp_path / "whole", statements.append)
    whole = content(tmp_path / "whole")
    for part in range(KILLS):
        folder, stop_at = tmp_path / str(part), round(len(statements) * (part + 0.5) / KILLS)
        done = _killed_run(folder, stop_at)
        explored = [case.case_id for case in content(folder).cases if case.judged is not None]
        assert len(explored) in (done, done + 1)  # it may have died between the commit and the message
        report = exploration_run.run(folder)
        assert (report.skipped, report.cases) == (len(explored), len(exploration_run.CASES) - len(explored))
        assert content(folder) == whole, f"killed before statement {stop_at}: {statements[stop_at - 1]}"


def _killed_run(folder: Path, stop_at: int) -> int:
    """Kills a run before that statement; returns how many cases it reported as done."""
    command = [sys.executable, "-m", "tests.agent.exploration.exploration_run", str(folder), str(stop_at)]
    done = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done += line.startswith("done")
            if line.startswith("stopped"):
                process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return done


def test_a_case_without_a_score_is_not_counted():
    agent = make_agent(Failing("score"))
    report = explore(agent, CASES, [], propose)
    assert (report.cases, report.skipped, report.unscored) == (0, 0, 3)
    assert not any(rule.uses for rule in agent.rules.all())
    again = explore(make_agent(rules=agent.rules, prototypes=agent.prototypes), CASES, [], propose)
    assert (again.cases, again.unscored) == (3, 0)


class LosesOneReflection(EmbeddedCritic):
    """Its scores are complete but for one question."""

    def __init__(self) -> None:
        self.lost = False

    def generate(self, parts, schema, seed):
        if schema["title"] == "reflect" and not self.lost:
            self.lost = True
            raise TimeoutError("no answer")
        return super().generate(parts, schema, seed)


def test_a_case_with_a_lost_question_is_explored_again():
    agent = make_agent(LosesOneReflection())
    report = explore(agent, CASES, [], propose)
    assert (report.cases, report.unscored) == (2, 1)
    again = explore(agent, CASES, [], propose)
    assert (again.cases, again.skipped, again.unscored) == (1, 2, 0)


@pytest.fixture(scope="module")
def before(whole) -> dict[str, int]:
    """The number of questions before each of the last steps of the whole exploration."""
    explored = Counts("score")
    explore(make_agent(explored), exploration_run.CASES, [], propose, ExplorationSettings(batch=2))
    case = make_agent().settings.permutations
    held_out = case * len(HELD_OUT)
    return {  # passes over the held-out cases: critique, without the quarantined rules, with the first of them
        "the baseline": explored.asked + held_out,
        "a trial": explored.asked + 2 * held_out,
        "the last case of the recount": whole.asked - held_out - case,
    }


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("the baseline", marks=pytest.mark.slow),
        "a trial",
        pytest.param("the last case of the recount", marks=pytest.mark.slow),
    ],
)
def test_a_later_run_repeats_the_steps_that_an_outage_prevented(tmp_path, whole, before, step):
    report = run_with(Fails("score", before[step]), tmp_path / "cut")
    assert report.blocked_cases
    assert set(report.blocked_cases) <= {case.sample.id for case in [*exploration_run.CASES, *HELD_OUT]}
    assert report.reweighed == 0
    cut = content(tmp_path / "cut")
    assert not any(done.startswith("weigh/") for done in cut.steps)
    histories = {kept.rule.rule_id: kept.history for kept in whole.content.rules}
    for kept in cut.rules:  # only what was measured before the outage is recorded
        assert kept.history == histories[kept.rule.rule_id][: len(kept.history)]
    again = run_with(Miner(), tmp_path / "cut")
    assert (again.blocked_cases, again.skipped) == ((), len(exploration_run.CASES))
    assert again.reweighed > 0


def test_a_miner_that_failed_is_asked_again():
    agent = make_agent(Failing("mine"))
    assert explore(agent, CASES, [], propose).mined == ()
    again = make_agent(Miner(), rules=agent.rules, prototypes=agent.prototypes)
    assert len(explore(again, CASES, [], propose).mined) == 1


def test_a_rule_that_fails_repeatedly_is_retired():
    agent = make_agent()
    bad, *others = [rule.rule_id for rule in agent.rules.all()]
    for number in range(30):
        agent.rules.record_case(f"before-{number}/bad", [bad], False)
        agent.rules.record_case(f"before-{number}/good", others, True)
    settings = ExplorationSettings(retirement=RetirementPolicy(least_uses=20))
    assert explore(agent, CASES, [], propose, settings).retired == (bad,)


def test_an_exploration_without_cases_ends():
    report = explore(make_agent(), [], HELD_OUT, propose)
    assert (report.cases, report.srcc) == (0, None)


def test_the_recursion_limit_is_just_enough(monkeypatch):
    settings = ExplorationSettings(batch=2)
    explore(make_agent(), CASES, [], propose, settings)
    one_less = recursion_limit(len(CASES), 2) - 1
    monkeypatch.setattr("agent.exploration.explore.recursion_limit", lambda cases, batches: one_less)
    with pytest.raises(GraphRecursionError):
        explore(make_agent(), CASES, [], propose, settings)


def test_the_steps_of_an_exploration_are_traced(tmp_path):
    kept = Kept()
    with Trace(tmp_path / "trace.jsonl", exporters=[kept]) as trace:
        explore(make_agent(Miner(), trace=trace), CASES[:1], HELD_OUT, propose)
    nodes = [record["node"] for record in read_trace(tmp_path, "exploration").critiques[-1].records]
    assert nodes == ["mine", "retire", "admit", "reweigh", "conclude"]
    of_case = [record["node"] for record in read_trace(tmp_path, CASES[0].sample.id).critiques[-1].records]
    assert of_case[0] == "render_views"
    assert of_case[-2:] == ["judge", "write_back"]
    assert list(show_case(read_trace(tmp_path, "exploration").critiques[-1]))
    whole = kept.cases[-1]  # the exploration's tree; each critique has a tree of its own
    assert [node.name for node in whole.children] == ["judge", "write_back", *nodes]
    assert [call.name for call in whole.children[2].children] == ["mine"]
    assert kept.cases[0].name == CASES[0].sample.id


def test_a_frozen_memory_refuses_exploration(tmp_path):
    path = tmp_path / "memory.sqlite"
    with MemoryStore(path) as store:
        RuleMemory(store, HashEmbedder()).add(load_seed_rules())
    with MemoryStore(path, frozen=True) as store:
        memories = {
            "rules": RuleMemory(store, HashEmbedder()),
            "prototypes": PrototypeMemory(store, MeanColor.dim, MeanColor.name),
        }
        with pytest.raises(FrozenMemoryError):
            explore(make_agent(**memories), CASES[:1], [], propose)
