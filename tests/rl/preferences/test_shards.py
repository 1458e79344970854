"""`GroupShards` with rows from other processes, as Ray actors send them."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.types import BackendUnavailable
from rl.preferences.build import describe_set, sample_group, score_group
from rl.preferences.proposers import PolicySamples
from rl.preferences.shards import GroupShards, rows_of_shard, unavailable_reason
from tests.rl.preferences.test_build import FakePolicy, FakeScorer, build, contents, wild

THREE = PolicySamples(3)


class Unavailable(FakeScorer):
    def score(self, sample, hypotheses):
        raise BackendUnavailable("server is down: ü")


def rows(scorer, samples, settings):
    return [
        score_group(scorer, sample, sample_group(FakePolicy(), THREE, sample, settings)) for sample in samples
    ]


def test_an_unavailable_row_holds_the_reason():
    settings = describe_set(FakePolicy(), FakeScorer(), THREE, 0, 2)
    (scored,) = rows(FakeScorer(), wild(1), settings)
    (unavailable,) = rows(Unavailable(), wild(1), settings)
    assert unavailable_reason(scored) is None
    assert unavailable_reason(unavailable) == "server is down: ü"


def test_an_unavailable_row_stays_missing_until_it_is_scored(tmp_path):
    samples, settings = wild(3), describe_set(FakePolicy(), FakeScorer(), THREE, 0, 2)
    whole = contents(build(tmp_path / "whole", samples))
    blocks = [samples[:2], samples[2:]]

    shards = GroupShards(tmp_path / "out", settings)
    positions = [position for position, _ in shards.missing(blocks, lambda rows: None)]
    first, second = rows(FakeScorer(), samples[:2], settings)
    shards.add(positions[1], second)
    shards.add(positions[0], rows(Unavailable(), samples[:1], settings)[0])
    shards.add(positions[2], rows(Unavailable(), samples[2:], settings)[0])
    with pytest.raises(ValueError, match=r"1 groups are scored and saved .*server is down"):
        shards.close()

    again = GroupShards(tmp_path / "out", settings)
    assert [position for position, _ in again.missing(blocks, lambda rows: None)] == [
        positions[0],
        positions[2],
    ]
    again.add(positions[0], first)
    again.add(positions[2], rows(FakeScorer(), samples[2:], settings)[0])
    again.close()
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("value", [0, 1, 8])  # 0, -1 and 4 rows
def test_a_number_of_rows_that_its_groups_contradict_is_damage(tmp_path, value):
    """A single byte of the file's metadata is another one."""
    path = tmp_path / "shard-00000.parquet"
    pq.write_table(pa.table({"a": [1, 2, 3]}), path)
    content = bytearray(path.read_bytes())
    place = next(place for place in range(len(content) - 8) if _rows(content, place, value) not in (None, 3))
    content[place] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its numbers of rows contradict each other"):
        rows_of_shard(path)


def _rows(content: bytearray, place: int, value: int) -> int | None:
    """The number of rows that the file states with this byte; None if it cannot be read."""
    changed = bytearray(content)
    changed[place] = value
    try:
        return pq.read_metadata(io.BytesIO(changed)).num_rows
    except (pa.ArrowException, OSError, ValueError):
        return None
