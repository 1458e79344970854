"""A whole run: its files, its log, its images in turn, and that a kill changes nothing."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from agent.types import BackendUnavailable
from common.failures import ScoresMissing
from hmr.body.model import Body
from hmr.detection.simulated import SimulatedDetector
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Hypotheses, Sample
from rl.monitoring.training_log import read_logs
from rl.policy_gradient.align import align_by_policy_gradient, update_folders
from rl.preferences.build import load_preferences, shuffle_scores
from tests.hmr.policy.tiny_policy import make_tiny_policy
from tests.rl.policy_gradient.scenes import SETTINGS, Depth, run, weights, wild

KILLS = 8


@dataclass(frozen=True)
class Whole:
    """An unbroken run."""

    out: Path
    asked: list[str]
    weights: torch.Tensor


@pytest.fixture(scope="module")
def whole(body: Body, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out, scorer = tmp_path_factory.mktemp("whole") / "out", Depth()
    aligned = run(make_tiny_policy(body), scorer, out)
    return Whole(out, scorer.asked, weights(aligned))


def test_every_image_is_scored_as_often_as_any_other(whole: Whole, tiny_policy: DiffusionPolicy) -> None:
    assert set(Counter(whole.asked).values()) == {2}  # 3 updates of 2 images each, of 3 images
    assert sorted(whole.asked[:3]) == sorted(whole.asked[3:])
    groups = [load_preferences(folder) for folder in update_folders(whole.out)]
    assert [name for group in groups for name in group["sample_id"]] == whole.asked
    assert groups[0]["policy_digest"][0] == tiny_policy.digest() != groups[1]["policy_digest"][0]


def test_the_log_has_one_line_per_update(whole: Whole) -> None:
    (log,) = read_logs(whole.out).values()
    assert [line["step"] for line in log] == [1, 2, 3]
    names = {"reward", "reward_std", "kl", "ratio/mean", "clip_ratio/region_mean", "grad_norm"}
    assert all(names < set(line) for line in log)
    assert log[-1]["policy"] == DiffusionPolicy.from_pretrained(whole.out).digest()
    assert {"spread_visible_mm", "spread_occluded_mm"} & set(log[0])


def test_the_policy_is_saved_with_its_averaged_weights(
    whole: Whole, tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    assert not torch.equal(whole.weights, weights(tiny_policy))
    assert torch.equal(weights(DiffusionPolicy.from_pretrained(whole.out)), whole.weights)
    assert not list(whole.out.glob("checkpoint-*"))
    live = run(tiny_policy, Depth(), tmp_path, dataclasses.replace(SETTINGS, ema_decay=0.0))
    assert not torch.equal(weights(live), whole.weights)


def test_the_aligned_policy_has_the_detector_of_the_first(whole: Whole, tiny_policy: DiffusionPolicy) -> None:
    """Also where the run is loaded again."""
    detector = SimulatedDetector()
    tiny_policy.detector = detector
    assert run(tiny_policy, Depth(patience=0), whole.out).detector is detector


def test_equal_runs_give_equal_weights_and_another_seed_others(
    whole: Whole, tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    assert torch.equal(whole.weights, weights(run(tiny_policy, Depth(), tmp_path / "again")))
    assert not torch.equal(whole.weights, weights(run(tiny_policy, Depth(), tmp_path / "other", seed=6)))


def test_a_second_run_computes_nothing(whole: Whole, tiny_policy: DiffusionPolicy) -> None:
    assert torch.equal(whole.weights, weights(run(tiny_policy, Depth(patience=0), whole.out)))


def test_a_policy_that_another_program_saved_there_is_not_the_run_s(
    whole: Whole, tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    """It is made again, of the groups that are saved."""
    run(tiny_policy, Depth(), tmp_path)
    tiny_policy.save_pretrained(tmp_path)
    assert torch.equal(whole.weights, weights(run(tiny_policy, Depth(patience=0), tmp_path)))
    assert torch.equal(whole.weights, weights(DiffusionPolicy.from_pretrained(tmp_path)))


@pytest.mark.parametrize(("every", "patience"), [(1, 1), (1, 5), (2, 5)])
def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(
    whole: Whole, tiny_policy: DiffusionPolicy, tmp_path: Path, every: int, patience: int
) -> None:
    settings = dataclasses.replace(SETTINGS, checkpoint_updates=every)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_policy, Depth(patience), tmp_path, settings)
    scorer = Depth()
    resumed = run(tiny_policy, scorer, tmp_path, settings)
    assert torch.equal(whole.weights, weights(resumed))
    assert scorer.asked == whole.asked[patience:]  # no group is scored twice
    assert read_logs(whole.out) == read_logs(tmp_path)


class Unavailable(Depth):
    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        if len(self.asked) == self.patience:
            raise BackendUnavailable("the server is down")
        return super().score(sample, hypotheses)


def test_a_run_whose_critic_is_unavailable_stops_and_continues(
    whole: Whole, tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    with pytest.raises(ScoresMissing, match=r"1 of 2 groups are scored and saved in .*update-00001"):
        run(tiny_policy, Unavailable(patience=3), tmp_path)
    assert torch.equal(whole.weights, weights(run(tiny_policy, Depth(), tmp_path)))


def test_a_folder_without_scores_accepts_other_settings(tiny_policy: DiffusionPolicy, tmp_path: Path) -> None:
    """A wrong setting of the critic may be why there are none."""
    with pytest.raises(ScoresMissing, match="0 of 2 groups"):
        run(tiny_policy, Unavailable(patience=0), tmp_path)
    run(tiny_policy, Depth(), tmp_path, dataclasses.replace(SETTINGS, updates=1))


class FirstFails(Depth):
    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        return [None, *super().score(sample, hypotheses)[1:]]


def test_hypotheses_without_scores_are_left_out(tiny_policy: DiffusionPolicy, tmp_path: Path) -> None:
    aligned = run(tiny_policy, FirstFails(), tmp_path)
    assert weights(aligned).isfinite().all()
    assert not torch.equal(weights(aligned), weights(tiny_policy))


def test_shuffled_scores_are_a_control(whole: Whole, tiny_policy: DiffusionPolicy, tmp_path: Path) -> None:
    control = run(tiny_policy, Depth(), tmp_path, rescore=shuffle_scores)
    assert not torch.equal(whole.weights, weights(control))
    with pytest.raises(ValueError, match=r'holds another run \(rescore "shuffle_scores", not null\)'):
        run(tiny_policy, Depth(), tmp_path)


def test_the_folder_of_another_run_is_refused(whole: Whole, tiny_policy: DiffusionPolicy) -> None:
    with pytest.raises(ValueError, match=r"holds another run \(settings.eta 1.0, not 0.5\)"):
        run(tiny_policy, Depth(), whole.out, dataclasses.replace(SETTINGS, eta=0.5))


def test_impossible_settings_are_refused_before_a_critique(
    tiny_policy: DiffusionPolicy, tmp_path: Path
) -> None:
    many = dataclasses.replace(SETTINGS, images_per_update=4)
    with pytest.raises(ValueError, match="images_per_update must be at most 3, the number of images, not 4"):
        run(tiny_policy, Depth(patience=0), tmp_path, many)
    with pytest.raises(ValueError, match="steps must be at most 1000"):
        run(tiny_policy, Depth(patience=0), tmp_path, dataclasses.replace(SETTINGS, steps=2000))
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_critique_once(tiny_policy: DiffusionPolicy, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    ticks: list[int] = []

    def stage(title: str, total: int):
        seen.append((title, total))
        return lambda done, note="": ticks.append(done)

    for patience in (3, 1000):
        try:
            align_by_policy_gradient(
                tiny_policy, Depth(patience), wild(), tmp_path, SETTINGS, seed=5, stage=stage
            )
        except KeyboardInterrupt:
            assert ticks == [1, 2, 3]
    assert seen == 2 * [("policy gradient: 3 updates of 2 groups", 6)]
    assert ticks == [1, 2, 3, 3, 4, 5, 6]  # the third was saved, in an update that had not ended


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_process_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    """Killed before a rename or a removal; the kills are spread over all of them."""
    unbroken = tmp_path / "unbroken"
    total = _process(unbroken, stop_at=0)
    assert total is not None
    assert total > KILLS
    expected = weights(DiffusionPolicy.from_pretrained(unbroken))
    for part in range(KILLS):
        out, stop_at = tmp_path / str(part), 1 + round((total - 1) * part / (KILLS - 1))
        assert _process(out, stop_at) is None
        assert _process(out, stop_at=0) is not None
        assert torch.equal(weights(DiffusionPolicy.from_pretrained(out)), expected), f"change {stop_at}"
        assert read_logs(out) == read_logs(unbroken)
        assert {path.name for path in out.iterdir() if path.is_dir()} == {
            path.name for path in unbroken.iterdir() if path.is_dir()
        }


def _process(out: Path, stop_at: int) -> int | None:
    """The number of changes of names that a run made; None if it was killed before the one of number `stop_at`."""
    command = [sys.executable, "-m", "tests.rl.policy_gradient.scenes", str(out), str(stop_at)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("stopped"):
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
                return None
            if line.startswith("changes"):
                return int(line.split()[1])
    raise AssertionError(f"the process ended with {process.returncode}")
