"""Groups built by actors: the same bytes as in one process, also if a worker is killed."""

from __future__ import annotations

import functools
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import rl.preferences.ray_actors
from agent.types import BackendUnavailable
from hmr.types import Hypotheses, Sample
from rl.preferences.build import MAX_UNAVAILABLE, describe_set, sample_group, score_group
from rl.preferences.proposers import PolicySamples
from rl.preferences.ray_actors import RayActors, _CriticActor, _PolicyActor, build_preferences_by_actors
from tests.rl.preferences.test_build import FakePolicy, FakeScorer, build, contents, wild

# Ray 2.60 warns of settings that it copies from itself to its workers
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")
SIZES = {"group_size": 3, "shard_rows": 4}
IMAGES = 10


class Mortal(FakeScorer):
    """Logs each group, and kills its process at the first request for the group `fatal`."""

    def __init__(self, folder: Path, fatal: str) -> None:
        self.folder, self.fatal = folder, fatal

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        with (self.folder / "asked").open("a") as book:
            book.write(f"{sample.id}\n")
        if sample.id == self.fatal and not (self.folder / "killed").exists():
            (self.folder / "killed").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(sample, hypotheses)


def mortal(folder: Path, fatal: str, policy: FakePolicy) -> Mortal:
    return Mortal(folder, fatal)


def by_actors(
    out: Path, make_scorer: Callable[[FakePolicy], FakeScorer], actors: RayActors | None, **more
) -> Path:
    return build_preferences_by_actors(FakePolicy, make_scorer, wild(IMAGES), out, actors, **SIZES, **more)


def test_without_actors_it_is_the_same_function(tmp_path: Path):
    whole = contents(build(tmp_path / "whole", wild(IMAGES), **SIZES))
    assert contents(by_actors(tmp_path / "here", lambda policy: FakeScorer(), None)) == whole


def test_a_proposer_replaces_the_samples_of_the_policy(tmp_path: Path):
    wide = PolicySamples(4, 1.5)
    whole = contents(build(tmp_path / "whole", wild(IMAGES), shard_rows=4, proposer=wide))
    made = by_actors(tmp_path / "here", lambda policy: FakeScorer(), None, make_proposer=lambda policy: wide)
    assert contents(made) == whole


def test_without_actors_in_flight_groups_are_scored_at_once(tmp_path: Path):
    """Each of two critiques waits for the other, so one at a time would never finish."""
    both = threading.Barrier(2, timeout=60)

    class Patient(FakeScorer):
        def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
            both.wait()
            return super().score(sample, hypotheses)

    whole = contents(build(tmp_path / "whole", wild(IMAGES), **SIZES))
    assert contents(by_actors(tmp_path / "here", lambda policy: Patient(), None, in_flight=2)) == whole


class Other(FakeScorer):
    def digest(self) -> str:
        return "another memory"


class OtherPolicy(FakePolicy):
    def digest(self) -> str:
        return "other weights"


def test_a_worker_of_another_policy_proposer_or_critic_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rl.preferences.ray_actors, "_ray", lambda: SimpleNamespace(get=lambda ref: ref))
    settings = describe_set(FakePolicy(), FakeScorer(), PolicySamples(3), 0, 4)
    three, four = (lambda policy: PolicySamples(3)), (lambda policy: PolicySamples(4))
    _PolicyActor(FakePolicy, three, wild(2), settings)
    _CriticActor(FakePolicy, lambda policy: FakeScorer(), wild(2), settings, 1)
    with pytest.raises(
        ValueError, match="worker's policy is other weights, not fake-policy: do all machines"
    ):
        _PolicyActor(OtherPolicy, three, wild(2), settings)
    with pytest.raises(ValueError, match=r"worker's proposer is .*4.*, not .*3.*: do all machines"):
        _PolicyActor(FakePolicy, four, wild(2), settings)
    with pytest.raises(ValueError, match="worker's critic is another memory, not fake: do all machines"):
        _CriticActor(FakePolicy, lambda policy: Other(), wild(2), settings, 1)


class Outage(FakeScorer):
    """Unavailable until it was asked `asked` times; a group takes one."""

    def __init__(self, asked: float) -> None:
        self.asked, self.calls = asked, 0

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        self.calls += 1
        if self.calls <= self.asked:
            raise BackendUnavailable("the server is down")
        return super().score(sample, hypotheses)


@pytest.fixture
def without_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actors' work is done in this process, group by group."""

    def rows(make_policy, make_scorer, make_proposer, samples, positions, settings, actors):
        policy = make_policy()
        scorer, proposer = make_scorer(policy), make_proposer(policy)
        for position in positions:
            sample = samples[position.shard * settings["shard_rows"] + position.row]
            yield position, score_group(scorer, sample, sample_group(policy, proposer, sample, settings))

    monkeypatch.setattr(rl.preferences.ray_actors, "_rows", rows)


@pytest.mark.usefixtures("without_cluster")
def test_groups_of_a_short_outage_are_scored_in_a_second_pass(tmp_path: Path):
    outage, done = Outage(3), []
    made = by_actors(tmp_path / "out", lambda policy: outage, RayActors(), progress=done.append)
    assert contents(made) == contents(build(tmp_path / "whole", wild(IMAGES), **SIZES))
    assert sum(done) == IMAGES
    assert outage.calls == IMAGES + 3


@pytest.mark.usefixtures("without_cluster")
def test_a_backend_that_stays_away_ends_the_run(tmp_path: Path):
    outage, done = Outage(math.inf), []
    with pytest.raises(ValueError, match="the server is down"):
        by_actors(
            tmp_path / "out", lambda policy: outage, RayActors(critics=1, in_flight=1), progress=done.append
        )
    assert (outage.calls, sum(done)) == (MAX_UNAVAILABLE, 0)
    made = by_actors(tmp_path / "out", lambda policy: FakeScorer(), RayActors())
    assert contents(made) == contents(build(tmp_path / "whole", wild(IMAGES), **SIZES))


def test_a_finished_set_starts_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    out = build(tmp_path, wild(IMAGES), **SIZES)
    done: list[int] = []
    by_actors(out, lambda policy: FakeScorer(), RayActors(), progress=done.append)
    assert done == [4, 4, 2]


def test_without_ray_the_error_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'meshcritic\[ray\]'"):
        by_actors(tmp_path, lambda policy: FakeScorer(), RayActors())


def test_a_pool_without_actors_is_refused():
    with pytest.raises(ValueError, match="critics must be at least 1, not 0"):
        RayActors(critics=0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine alone, for this module."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed: pip install 'meshcritic[ray]'")
    ray.init(
        num_cpus=8, include_dashboard=False, _node_ip_address="127.0.0.1", object_store_memory=100 * 2**20
    )
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)  # a worker imports torch, and is started three times
@pytest.mark.usefixtures("cluster")
def test_the_task_of_a_killed_worker_is_repeated(tmp_path: Path):
    """The critic of the sixth group is killed with SIGKILL; Ray starts it again and gives it its two groups again."""
    whole = contents(build(tmp_path / "whole", wild(IMAGES), **SIZES))
    actors = RayActors(critics=1, groups_per_task=2, in_flight=1, cpus=0.5)
    done: list[int] = []
    out = by_actors(
        tmp_path / "actors", functools.partial(mortal, tmp_path, "id-5"), actors, progress=done.append
    )
    assert contents(out) == whole
    assert sum(done) == IMAGES
    assert int((tmp_path / "killed").read_text()) != os.getpid()
    asked = (tmp_path / "asked").read_text().split()
    assert sorted(asked) == sorted([*(f"id-{n}" for n in range(IMAGES)), "id-4", "id-5"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("cluster")
def test_a_failing_critic_ends_the_run_and_scored_groups_are_kept(tmp_path: Path):
    """One process can finish a set that actors started."""
    whole = contents(build(tmp_path / "whole", wild(IMAGES), **SIZES))
    actors = RayActors(critics=1, groups_per_task=1, in_flight=1, cpus=0.5)
    with pytest.raises(Exception, match="None, never NaN"):
        by_actors(tmp_path / "actors", lambda policy: Wrong(), actors)
    assert (tmp_path / "actors" / "shard-00000.parquet").exists()
    assert contents(by_actors(tmp_path / "actors", lambda policy: FakeScorer(), None)) == whole


class Wrong(FakeScorer):
    """Fails at the last group."""

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        return [float("nan")] * 3 if sample.id == f"id-{IMAGES - 1}" else super().score(sample, hypotheses)
