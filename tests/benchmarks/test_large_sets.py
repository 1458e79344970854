"""A set that does not fit in the memory of a process is trained on; both ways of opening one agree."""

import pytest
import torch

from benchmarks.alignment.large_sets import (
    build_straightforward,
    depth,
    exponent,
    in_a_process,
    main,
    train,
    wild_samples,
    write_set,
)
from hmr.policy.checkpoint import load_policy
from rl.preferences.build import build_preferences, load_preferences
from rl.preferences.tensors import tensors_from_preferences
from rl.scorers.rewards import RewardMix
from rl.types import PreferenceGroup

ROWS = 65_536  # 600 MB of rows and 950 MB of tensors
MAY_ALLOCATE_MB = 500  # and what is reserved and not used, about 600


@pytest.mark.slow
def test_a_set_larger_than_the_memory_is_trained_on(tmp_path):
    groups = tmp_path / "groups"
    write_set(groups, ROWS, 20, wild_samples(2))
    arguments = {
        "folder": str(groups),
        "run": str(tmp_path / "run"),
        "steps": 2,
        "memory_mb": MAY_ALLOCATE_MB,
    }
    figures = in_a_process(train, in_memory=False, **arguments)
    assert "failure" not in figures
    assert figures["step_cpu_s"] > 0
    assert 1e3 * figures["tensors_gb"] > MAY_ALLOCATE_MB
    assert figures["anonymous_peak_mb"] - figures["anonymous_before_mb"] < MAY_ALLOCATE_MB
    assert "failure" in in_a_process(train, in_memory=True, **arguments)


@pytest.mark.slow
def test_written_rows_are_groups_of_the_shipped_policy_that_all_differ(tmp_path):
    write_set(tmp_path / "groups", 70, 4, wild_samples(2))
    dataset = load_preferences(tmp_path / "groups")
    assert len(dataset) == 70
    assert len(set(dataset["sample_id"])) == 70
    assert PreferenceGroup.from_row(dataset[69]).hypotheses.params.batch_shape == (4,)
    x0 = tensors_from_preferences(load_policy(), dataset).x0
    assert len(torch.unique(x0.flatten(1), dim=0)) == 70


@pytest.mark.slow
def test_both_versions_of_building_draw_the_same_hypotheses(tmp_path):
    policy, samples, scorer = load_policy(), wild_samples(1), RewardMix([depth])
    (tmp_path / "rows").mkdir()
    build_straightforward(policy, scorer, samples, tmp_path / "rows", group_size=3)
    build_preferences(policy, scorer, samples, tmp_path / "groups", group_size=3)
    (tmp_path / "rows" / "all.parquet").rename(tmp_path / "rows" / "shard-00000.parquet")
    ours, theirs = (load_preferences(tmp_path / name)[0] for name in ("groups", "rows"))
    assert ours["body_pose"] == theirs["body_pose"]
    assert ours["scores"] == theirs["scores"]


def test_the_exponent_of_a_power_law():
    assert exponent([10, 20, 40], [3.0 * size**1.5 for size in (10, 20, 40)]) == pytest.approx(1.5)


def test_too_few_images_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["large_sets", "--images", "10"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--images must be at least 4096, not 10" in capsys.readouterr().err
