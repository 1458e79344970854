import dataclasses
import os
import signal
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import rl.preferences.shards
from hmr.policy.parametrization import camera_of, geometry_of
from hmr.policy.policy import Features
from hmr.types import BodyParams, Box, Camera, Hypotheses, Sample
from rl.preferences.build import build_preferences, load_preferences, shuffle_scores
from rl.preferences.tensors import tensors_from_preferences
from rl.types import PreferenceGroup


class FakePolicy:
    """Samples bodies from the generator; the condition is the mean of the image."""

    device = torch.device("cpu")

    def encode(self, samples):
        condition = torch.tensor([[float(s.image.mean()), float(len(s.id))] for s in samples])
        return Features(condition, geometry_of([s.camera for s in samples], [s.box for s in samples]))

    def sample(self, features, num_samples, generator, noise_scale=1.0):
        def draw(*shape):
            return noise_scale * torch.randn(len(features), num_samples, *shape, generator=generator)

        params = BodyParams(draw(3), draw(23, 3), draw(10), draw(3))
        return [Hypotheses(params[index], camera_of(row)) for index, row in enumerate(features.geometry)]

    def digest(self):
        return "fake-policy"


class FakeScorer:
    name = "fake"

    def digest(self):
        return "fake"  # also for subclasses

    def score(self, sample, hypotheses):
        depths = hypotheses.params.transl[:, 2].tolist()
        return [None, *depths[1:]]


class DyingScorer(FakeScorer):
    """Interrupts the run after `images` images, like a kill."""

    def __init__(self, images):
        self.left = images

    def score(self, sample, hypotheses):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().score(sample, hypotheses)


def wild(count=5):
    return [
        Sample(
            f"id-{index}",
            np.full((8, 6, 3), index, dtype=np.uint8),
            Box(0.0, 0.0, 6.0, 8.0),
            Camera.estimate(6, 8),
        )
        for index in range(count)
    ]


def build(out, samples=None, scorer=None, **changes):
    settings = {"group_size": 3, "shard_rows": 2, **changes}
    return build_preferences(FakePolicy(), scorer or FakeScorer(), samples or wild(), out, **settings)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rows_carry_the_whole_group(tmp_path):
    dataset = load_preferences(build(tmp_path))
    assert len(dataset) == 5
    assert set(dataset.column_names) == {
        "sample_id", "image_sha256", "camera", "global_orient", "body_pose", "betas", "transl", "condition",
        "geometry", "scores", "scorer", "uses_truth", "policy_digest",
    }  # fmt: skip
    group = PreferenceGroup.from_row(dataset[3])
    assert group.sample_id == "id-3"
    assert group.hypotheses.camera == Camera.estimate(6, 8)
    assert group.hypotheses.params.body_pose.shape == (3, 23, 3)
    assert group.condition.tolist() == [3.0, 4.0]
    assert group.scores[0] is None
    assert group.scores[1] == pytest.approx(group.hypotheses.params.transl[1, 2].item())
    assert not group.uses_truth


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


@pytest.mark.slow
def test_a_flipped_bit_in_a_shard_is_named_or_changes_nothing(tmp_path):
    shard = build(tmp_path) / "shard-00001.parquet"
    whole, content = load_preferences(tmp_path).to_list(), shard.read_bytes()
    refused = 0
    for at in np.random.default_rng(0).integers(0, len(content), 300).tolist():
        shard.write_bytes(flipped(content, at))
        try:
            assert load_preferences(tmp_path).to_list() == whole
        except ValueError:
            refused += 1
    assert refused > 100
    shard.write_bytes(content[:-50])
    with pytest.raises(
        ValueError, match=r"shard-00001\.parquet is damaged \(.*\); delete it, and the command that"
    ):
        build(tmp_path)
    shard.unlink()
    assert load_preferences(build(tmp_path)).to_list() == whole


def test_a_flipped_bit_in_a_saved_group_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, scorer=DyingScorer(3))
    group = tmp_path / "unfinished" / "00001-00000"
    content = group.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(content), 50).tolist():
        group.write_bytes(flipped(content, at))
        with pytest.raises(ValueError, match=r"00001-00000 is damaged \(.*\); delete it"):
            build(tmp_path)
    group.write_bytes(content)
    build(tmp_path)


def test_an_interrupted_run_continues_with_the_missing_groups(tmp_path):
    whole = contents(build(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "broken", scorer=DyingScorer(3))
    assert set(contents(tmp_path / "broken")) == {
        "manifest.json",
        "shard-00000.parquet",
        "unfinished/00001-00000",
    }
    done = []
    build(tmp_path / "broken", scorer=DyingScorer(2), progress=done.append)  # 5 images, 3 of them done
    assert done == [2, 1, 1, 1]
    assert contents(tmp_path / "broken") == whole


@pytest.mark.parametrize("last", range(5))
def test_a_killed_process_loses_only_the_group_in_flight(tmp_path, last):
    """SIGKILL during a critique, then the same arguments: every group is scored once, and one of them twice."""
    whole = contents(build(tmp_path / "whole"))
    log, out = tmp_path / "asked", tmp_path / "killed"

    class Logged(FakeScorer):
        def score(self, sample, hypotheses):
            with log.open("a") as lines:
                lines.write(f"{sample.id}\n")
            if os.getpid() == child and sample.id == f"id-{last}":
                os.kill(child, signal.SIGKILL)
            return super().score(sample, hypotheses)

    if (pid := os.fork()) == 0:
        child = os.getpid()
        build(out, scorer=Logged())
        os._exit(0)
    child = pid
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    build(out, scorer=Logged())
    assert contents(out) == whole
    assert sorted(log.read_text().split()) == sorted([*(f"id-{n}" for n in range(5)), f"id-{last}"])


@pytest.mark.parametrize("step", ["pq.write_table", "GroupShards._delete_journal"])
def test_a_kill_while_a_shard_is_written_loses_no_score(tmp_path, monkeypatch, step):
    """Until the shard exists its journal is used; afterwards the rest of the journal is ignored."""

    def killed(*args, **options):
        raise KeyboardInterrupt

    whole = contents(build(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(f"rl.preferences.shards.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "cut")
    left = [name for name in contents(tmp_path / "cut") if name.startswith("unfinished")]
    assert len(left) == 2
    build(tmp_path / "cut", scorer=DyingScorer(3))  # of 5
    assert contents(tmp_path / "cut") == whole


def test_several_groups_in_flight_give_the_same_bytes(tmp_path):
    """All groups are scored at once, and the last one finishes first."""

    finished = [threading.Event() for _ in range(6)]
    finished[5].set()

    class Reversed(FakeScorer):
        def score(self, sample, hypotheses):
            index = int(sample.id.removeprefix("id-"))
            finished[index + 1].wait()
            finished[index].set()
            return super().score(sample, hypotheses)

    whole = contents(build(tmp_path / "whole"))
    assert contents(build(tmp_path / "threads", scorer=Reversed(), in_flight=5)) == whole


def test_a_group_depends_on_its_own_image_and_seed_only(tmp_path):
    few = load_preferences(build(tmp_path / "few", samples=wild()[3:]))
    many = load_preferences(build(tmp_path / "many", shard_rows=4))
    other = load_preferences(build(tmp_path / "other", seed=1))
    assert few[0] == many[3]
    assert few[0]["transl"] != other[3]["transl"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 4}, "group_size=3, now 4"),
        ({"seed": 7}, "seed=0, now 7"),
        ({"noise_scale": 1.5}, "noise_scale=1.0, now 1.5"),
        ({"samples": wild()[:2]}, "shards of more images"),
        ({"samples": wild()[::-1]}, "other images"),
        ({"samples": [dataclasses.replace(s, image=s.image + 1) for s in wild()]}, "other images"),
    ],
)
def test_other_arguments_are_refused(tmp_path, changes, message):
    build(tmp_path)
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **changes)


def test_scores_of_another_critic_are_not_reused(tmp_path):
    class Changed(FakeScorer):
        def digest(self):
            return "changed fake"

    build(tmp_path)
    with pytest.raises(ValueError, match="scorer_digest='fake', now 'changed fake'"):
        build(tmp_path, scorer=Changed())


@pytest.mark.parametrize(
    ("scores", "message"), [([1.0], "1 scores for 3"), ([1.0, float("nan"), 2.0], "None, never NaN")]
)
def test_invalid_scores_are_refused(tmp_path, scores, message):
    class Wrong(FakeScorer):
        def score(self, sample, hypotheses):
            return scores

    with pytest.raises(ValueError, match=message):
        build(tmp_path, scorer=Wrong())


def test_a_group_of_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2"):
        build(tmp_path, group_size=1)


def test_nothing_to_load(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no preference set"):
        load_preferences(tmp_path)


def test_uses_truth_is_stored_and_survives_shuffling(tmp_path):
    class Oracle(FakeScorer):
        uses_truth = True

    dataset = load_preferences(build(tmp_path, scorer=Oracle()))
    assert all(dataset["uses_truth"])
    assert all(shuffle_scores(dataset, 0)["uses_truth"])


def test_shuffling_permutes_scores_within_their_group(tmp_path):
    dataset = load_preferences(build(tmp_path, group_size=6))
    shuffled = shuffle_scores(dataset, seed=0)
    for before, after in zip(dataset, shuffled, strict=True):
        assert sorted(before["scores"], key=repr) == sorted(after["scores"], key=repr)
        assert before["transl"] == after["transl"]
        assert after["scorer"] == "shuffled(fake)"
    assert dataset["scores"][:] != shuffled["scores"][:]
    assert shuffled["scores"][:] == shuffle_scores(dataset, seed=0)["scores"][:]
    assert shuffled["scores"][:] != shuffle_scores(dataset, seed=1)["scores"][:]
    # the permutation of a row does not depend on other rows
    assert shuffle_scores(dataset.select([4]), seed=0)[0] == shuffled[4]


def test_a_shard_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    def cut_short(table, path, **options):
        path.write_bytes(b"PAR1")
        raise OSError("no space left on device")

    monkeypatch.setattr(rl.preferences.shards.pq, "write_table", cut_short)
    with pytest.raises(OSError, match="no space"):
        build(tmp_path)
    assert not list(tmp_path.glob("shard-*"))


def test_groups_of_another_policy_are_refused(tmp_path):
    class Other(torch.nn.Module):
        def digest(self):
            return "another"

    dataset = load_preferences(build(tmp_path))
    with pytest.raises(ValueError, match="sampled by policy fake-policy, not by this one, another"):
        tensors_from_preferences(Other(), dataset)


def test_rows_become_tensors(tmp_path):
    class Coordinates:
        device = torch.device("cpu")

        def to_x0(self, params, features):
            return params.transl * features.geometry[:, None, 1:2]

    dataset = load_preferences(build(tmp_path))
    groups = tensors_from_preferences(Coordinates(), dataset)
    assert groups.condition.shape == (5, 2)
    assert groups.x0.shape == (5, 3, 3)
    # geometry's second number is the principal point's x, 3 pixels in an image 6 wide
    assert groups.x0[2].flatten().tolist() == pytest.approx([3.0 * value for value in dataset[2]["transl"]])
    assert groups.mask[:, 0].tolist() == [False] * 5  # its score is None
    assert groups.scores.isnan()[:, 0].all()
    assert pq.read_schema(tmp_path / "shard-00000.parquet").field("scores").type.list_size == 3
