"""Commands that are killed or stopped at random points end, when they are run again, as an unbroken run does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmr.body.model import load_body
from hmr.policy.checkpoint import load_policy
from tests.agent.vlm.tiny_vlm import tiny_qwen3_vl
from tests.cli import test_tune_critic_command as tune_critic
from tests.cli.prediction.test_predictor import save_photo
from tests.faults.client import End, ForkServer, Job
from tests.faults.contents import content_of, differences
from tests.hmr.datasets import layouts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400)]

KILLS = int(os.environ.get("MESHCRITIC_KILLS", "2"))
JOBS = ("exploration", "groups", "prepare", "predict", "explore", "align", "keypoints_first", "tables")
STOPPED = ("prepare", "predict", "align", "tables", "pretrain", "evaluate")
WITHOUT_EQUAL_ENDS = (
    "demo",
    "tune-critic",
)  # they write times; the commands with requests: tests/cli/test_stopping.py
STAGE = "{max_steps: 2, per_device_train_batch_size: 2, use_cpu: true, disable_tqdm: true}"
PRETRAINING = (
    f"{{pool: 50, held_out: 8, policy: {{width: 32, depth: 1, head_width: 32, head_depth: 1}}, estimate: {STAGE}, "
    f"denoiser: {STAGE}}}"
)
DEMO = (
    "{calibration_images: 4, align_images: 4, test_images: 2, group_size: 5, num_samples: 7, seeds: [0], "
    "shown_cases: 1, alignment: {loss_type: weighted, max_steps: 2, per_device_train_batch_size: 2}}"
)
RECIPE = (
    "{loss_type: weighted, max_steps: 4, per_device_train_batch_size: 2, learning_rate: 0.01, logging_steps: 1, "
    "save_strategy: steps, save_steps: 2}"
)


@dataclass(frozen=True)
class Unbroken:
    """A job, and what an unbroken run of it took and left."""

    job: Job
    end: End
    content: dict[str, Any]


@pytest.fixture(scope="module")
def unbroken(server: ForkServer, base: Path, tmp_path_factory: pytest.TempPathFactory):
    """The unbroken run of a job, made once."""
    made: dict[str, Unbroken] = {}

    def run(name: str) -> Unbroken:
        if name not in made:
            job = job_of(name, base, tmp_path_factory.mktemp("inputs"))
            folder = tmp_path_factory.mktemp(name)
            first = server.run(job, folder / "first", preload=True)
            assert first.status == 0, first.log
            end = server.run(job, folder / "second")  # with everything imported
            content = content_of(folder / "second")
            assert differences(content, content_of(folder / "first")) == []
            made[name] = Unbroken(job, end, content)
        return made[name]

    return run


def job_of(name: str, base: Path, inputs: Path) -> Job:
    if name == "exploration":
        return Job(("OUT",), "tests.faults.small_runs:exploration")
    if name == "groups":
        return Job(("OUT",), "tests.faults.small_runs:groups")
    if name in ("tables", "keypoints_first"):
        return Job((base, "OUT"), f"tests.faults.small_runs:{name}")
    if name == "prepare":
        return Job(("data", "prepare", "coco", inputs, "--split", layouts.coco(inputs), "--out", "OUT"))
    if name == "predict":
        for number in range(3):
            save_photo(inputs / f"{number}.png", seed=number)
        words = (inputs, "--box", "10,8,50,60", "--accept-any-box", "--samples", 2)
        return Job(("predict", *words, "--policy", base, "--out", "OUT"))
    if name == "explore":
        return Job(("explore", "--images", 4, "--samples", 4, "--policy", base, "--out", "OUT"))
    if name == "evaluate":
        return Job(("evaluate", "--images", 3, "--samples", 4, "--policy", base, "--out", "OUT"))
    if name == "pretrain":
        (inputs / "pretrain.yaml").write_text(PRETRAINING)
        return Job(("pretrain", "--config", inputs / "pretrain.yaml", "--out", "OUT"))
    if name == "tune-critic":
        memory = tune_critic.explored(load_policy(base), load_body(), inputs)
        (inputs / "recipe.yaml").write_text(tune_critic.RECIPE)
        (inputs / "model").mkdir()
        words = tune_critic.words(tiny_qwen3_vl(inputs / "model"), memory, "OUT", "--policy", base)
        more = ("--set", "max_images=4", "--set", "comment_chars=20", "--config", inputs / "recipe.yaml")
        return Job((*words, *more))
    if name == "demo":
        (inputs / "demo.yaml").write_text(DEMO)
        return Job(("demo", "--config", inputs / "demo.yaml", "--policy", base, "--out", "OUT"))
    (inputs / "recipe.yaml").write_text(RECIPE)
    words = ("--config", inputs / "recipe.yaml", "--images", 2, "--group-size", 3, "--calibration", 4)
    return Job(("align", "--critic", "noisy-truth:0.8", *words, "--policy", base, "--out", "OUT"))


def points(name: str, whole: End, count: int) -> Iterator[dict[str, float]]:
    """Random points of a run: alternately before a change, and at a time."""
    random = np.random.default_rng([len(name), *name.encode()])
    for number in range(count):
        if number % 2 == 0 and whole.changes:
            yield {"stop_at": int(random.integers(1, whole.changes + 1))}
        else:
            yield {"after_s": float(random.uniform(0, whole.seconds))}


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_random_points_it_ends_as_an_unbroken_run(
    name, unbroken, server: ForkServer, tmp_path: Path
):
    whole, killed = unbroken(name), 0
    for number, point in enumerate(points(name, whole.end, KILLS)):
        out = tmp_path / f"out-{number}"
        broken = server.run(whole.job, out, signal=signal.SIGKILL, **point)
        assert broken.status in (0, -signal.SIGKILL), broken.log
        killed += broken.status != 0
        again = server.run(whole.job, out)
        assert again.status == 0, again.log
        assert differences(content_of(out), whole.content) == [], f"killed at {point}"
    print(f"{name}: {killed} of {KILLS} runs were killed before their end ({whole.end.changes} changes)")
    assert killed or KILLS < 2


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


@SIGNALS
@pytest.mark.parametrize("name", STOPPED)
def test_stopped_at_random_points_it_ends_as_an_unbroken_run(
    name, number, unbroken, server: ForkServer, tmp_path: Path
):
    """One signal: a sentence without a traceback, the exit code of the signal, and all is resumed."""
    whole = unbroken(name)
    for out, point in stopped(whole.job, whole.end, f"{name} {number.name}", number, server, tmp_path):
        assert differences(content_of(out), whole.content) == [], f"stopped at {point}"


@SIGNALS
@pytest.mark.parametrize("name", WITHOUT_EQUAL_ENDS)
def test_stopped_at_random_points_it_comes_to_its_end(
    name, number, base: Path, server: ForkServer, tmp_path: Path
):
    (tmp_path / "inputs").mkdir()
    job = job_of(name, base, tmp_path / "inputs")
    end = server.run(job, tmp_path / "whole", preload=True)
    assert end.status == 0, end.log
    whole = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.json")}
    for out, _ in stopped(job, end, f"{name} {number.name}", number, server, tmp_path):
        assert {path.relative_to(out) for path in out.rglob("*.json")} == whole


def stopped(
    job: Job, whole: End, name: str, number: signal.Signals, server: ForkServer, folder: Path
) -> Iterator[tuple[Path, dict[str, float]]]:
    """The folder of each run that was stopped and taken up again, and the point at which it was stopped."""
    slowest, ended, count = 0.0, 0, max(1, KILLS // 2)
    for index, point in enumerate(points(name, whole, count)):
        out = folder / f"out-{index}"
        broken = server.run(job, out, signal=number, **point)
        assert broken.status in (0, 128 + number), broken.log
        assert "Traceback" not in broken.log
        ended += broken.status != 0
        slowest = max(slowest, broken.seconds_to_end or 0.0)
        again = server.run(job, out)
        assert again.status == 0, again.log
        yield out, point
    print(f"{name}: {ended} of {count} runs were stopped, the slowest took {slowest:.2f} s to end")
    assert ended or count < 4


def test_what_killed_runs_left_is_deleted_at_the_next_start(unbroken, server: ForkServer, tmp_path: Path):
    """The temporary files of every writer, also of those that append the number of their process."""
    whole, out = unbroken("predict"), tmp_path / "out"
    out.mkdir()
    left = [out / ".a.npz.4194303.1.partial", out / "sub" / ".b.json.4194303.1.partial"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    (out / "notes.partial").write_text("a file of the user")
    assert server.run(whole.job, out).status == 0
    assert [path for path in left if path.exists()] == []
    assert (out / "notes.partial").read_text() == "a file of the user"
