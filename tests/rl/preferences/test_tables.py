"""Sets in files and in blocks of rows give what they give in memory and at once."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.utils import parameters_to_vector

import common.storage.mapped_files
from common.storage.fingerprint import stream_digest
from rl.advantages import AdvantageSettings
from rl.config import GroupPreferenceConfig
from rl.policy_adapter import AdapterGroup
from rl.preferences.build import build_preferences, load_preferences
from rl.preferences.shards import decode_row, encode_row
from rl.preferences.tables import array_of, as_dataset, content_of, mapped_dataset, row_blocks
from rl.preferences.tensors import GroupTensors, tensors_from_preferences
from rl.scorers.rewards import RewardMix
from rl.trainer import align
from tests.rl.preferences.test_build import FakePolicy, wild
from tests.rl.toy import ToyPolicy, toy_groups

IMAGES = 40


def depth(*, hypotheses, **kwargs):
    return (-hypotheses.params.transl[:, 2]).tolist()


def side(*, hypotheses, **kwargs):
    return [None, *hypotheses.params.transl[1:, 0].tolist()]


def row(groups: GroupTensors, image: int) -> pa.Table:
    x0 = groups.x0[image]
    group = AdapterGroup(
        f"image-{image}", "0", x0, groups.condition[image], x0, tuple(groups.scores[image].tolist()), "fake",
        False, "fake-policy",
    )  # fmt: skip
    return pa.ipc.open_stream(encode_row(group.to_row())).read_all()


def toy_rows(groups: GroupTensors) -> list[pa.Table]:
    return [row(groups, image) for image in range(len(groups))]


def equal(some: GroupTensors, others: GroupTensors) -> bool:
    first, second = some.columns(), others.columns()
    return list(first) == list(second) and all(
        torch.equal(first[name].nan_to_num(-1.0), second[name].nan_to_num(-1.0)) for name in first
    )


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """A policy and a set of bodies that it sampled, with the scores of two reward functions."""

    class Coordinates(FakePolicy):
        def to_x0(self, params, features):
            return params.transl * features.geometry[:, None, 1:2]

    policy, out = Coordinates(), tmp_path_factory.mktemp("bodies")
    build_preferences(policy, RewardMix([depth, side]), wild(7), out, group_size=4, shard_rows=2)
    return policy, out


@pytest.mark.parametrize(
    "settings",
    [
        AdvantageSettings(),
        AdvantageSettings("batch", spread_neutral=True),
        AdvantageSettings("none", 5.0, 0.5, 0.3),
    ],
)
@pytest.mark.parametrize("block_rows", [1, 3, 7, 100])
def test_blocks_of_any_size_in_files_give_the_tensors_of_one_block_in_memory(
    bodies, tmp_path, block_rows, settings
):
    policy, out = bodies
    dataset = load_preferences(out)
    whole = tensors_from_preferences(policy, dataset, settings)
    assert whole.mask.any()
    assert set(whole.rewards) == {"depth", "side"}
    assert equal(tensors_from_preferences(policy, dataset, settings, tmp_path / "run", block_rows), whole)
    assert not list((tmp_path / "run").iterdir())


def test_the_policys_own_coordinates_do_not_depend_on_blocks(tiny_policy, tmp_path):
    build_preferences(tiny_policy, RewardMix([depth]), wild(5), tmp_path, group_size=3)
    dataset = load_preferences(tmp_path)
    whole = tensors_from_preferences(tiny_policy, dataset)
    assert all(
        equal(tensors_from_preferences(tiny_policy, dataset, block_rows=rows), whole) for rows in (1, 2)
    )


def test_training_from_files_is_training_in_memory(tmp_path):
    groups = toy_groups(IMAGES)
    dataset = mapped_dataset(toy_rows(groups), IMAGES, tmp_path)
    args = GroupPreferenceConfig(
        output_dir=str(tmp_path / "run"), max_steps=5, per_device_train_batch_size=16, save_strategy="no", use_cpu=True
    )  # fmt: skip
    policies = align(ToyPolicy(), dataset, args), align(ToyPolicy(), groups, args), ToyPolicy()
    from_files, in_memory, start = (parameters_to_vector(policy.denoiser.parameters()) for policy in policies)
    assert str(tmp_path / "run") not in Path("/proc/self/maps").read_text()  # the files are gone
    assert torch.equal(from_files, in_memory)
    assert not torch.equal(from_files, start)


def test_rows_are_mapped_from_a_file_without_a_name(bodies):
    _, out = bodies
    before, allocated = sorted(out.iterdir()), pa.total_allocated_bytes()
    dataset = load_preferences(out)
    assert pa.total_allocated_bytes() == allocated
    assert sorted(out.iterdir()) == before
    assert dataset["sample_id"][:] == [f"id-{index}" for index in range(7)]
    assert load_preferences(out, ["scores"]).column_names == ["scores"]
    assert load_preferences(out, ["scores"])["scores"][:] == dataset["scores"][:]


def test_rows_of_a_read_only_folder_are_mapped_from_the_folder_of_temporary_files(
    bodies, tmp_path, monkeypatch
):
    _, out = bodies
    expected = load_preferences(out).to_list()
    monkeypatch.setattr("os.access", lambda folder, mode: False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dataset = load_preferences(out)
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path) in maps
    assert dataset.to_list() == expected


def test_the_content_of_a_set_does_not_depend_on_its_shards_and_changes_with_a_value(tmp_path):
    rows = toy_rows(toy_groups(5))
    expected = stream_digest(content_of(mapped_dataset(rows, 5, tmp_path)))
    assert stream_digest(content_of(as_dataset(pa.concat_tables(rows).combine_chunks()))) == expected
    digests = [expected]
    for change in ({"scorer": "other"}, {"x0": [9.0] * 16}, {"scores": [None, *range(7)]}):
        changed = {**decode_row(encode_row(rows[2].to_pylist()[0])), **change}
        if "x0" in change:
            changed["x0"] = np.array(change["x0"], np.float32)
        table = pa.table(
            [pa.array([changed[field.name]], field.type) for field in rows[0].schema], schema=rows[0].schema
        )
        digests.append(stream_digest(content_of(as_dataset(pa.concat_tables([*rows[:2], table, *rows[3:]])))))
    assert len(set(digests)) == 4


def test_the_digest_of_tensors_is_that_of_their_bytes():
    groups = toy_groups(5)
    columns = (groups.condition, groups.x0, groups.advantages, groups.mask)
    assert b"".join(groups.contents()) == b"".join(column.numpy().tobytes() for column in columns)


def test_lists_of_different_lengths_are_refused():
    block = pa.table({"x0": [[1.0, 2.0], [3.0, 4.0, 5.0, 6.0]]})
    with pytest.raises(ValueError, match=r"column x0 must have one length, not \[2, 4\]"):
        array_of(block, "x0")


def test_groups_of_different_sizes_are_refused():
    dataset = as_dataset(pa.table({"scores": [[1.0, 2.0], [3.0, 4.0, 5.0]]}))
    with pytest.raises(ValueError, match=r"one size, not \[2, 3\]"):
        tensors_from_preferences(torch.nn.Identity(), dataset)


def test_a_disk_too_small_for_the_rows_or_the_tensors_is_named(bodies, tmp_path, monkeypatch):
    policy, out = bodies
    dataset = load_preferences(out)
    monkeypatch.setattr(
        common.storage.mapped_files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=800)
    )
    with pytest.raises(OSError, match=rf"{out} needs room for .* GB, and its disk has 8e-07 GB"):
        load_preferences(out)
    # 7 rows of 2 + 4 * 3 numbers, 4 advantages, flags, scores and twice 4 rewards: 7 * (56 + 16 + 4 + 16 + 32) bytes
    with pytest.raises(OSError, match=rf"{tmp_path} needs room for 8.68e-07 GB"):
        tensors_from_preferences(policy, dataset, folder=tmp_path)


def test_row_blocks_hold_all_rows_in_order():
    dataset = as_dataset(pa.table({"a": list(range(10)), "b": ["x"] * 10}))
    blocks = list(row_blocks(dataset.select([9, *range(9)]), ["a"], rows=4))
    assert [block.column_names for block in blocks] == [["a"]] * 3
    assert [value for block in blocks for value in block["a"].to_pylist()] == [9, *range(9)]


def test_a_set_without_groups_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the set has no groups"):
        mapped_dataset([pa.table({"scores": pa.array([], pa.list_(pa.float32()))})], 0, tmp_path)
