"""A manifest outlives the run that wrote it, however that ended."""

import pytest

from common.jsonl import Manifest


def record(name: str, stamp: str, value: int) -> dict:
    return {"name": name, "stamp": stamp, "value": value}


def test_what_was_finished_is_found_by_the_next_run(tmp_path):
    with Manifest(tmp_path / "m.jsonl") as manifest:
        manifest.add(record("a", "1", 10))
        manifest.add(record("b", "1", 20))
    with Manifest(tmp_path / "m.jsonl") as manifest:
        assert manifest.find("a", "1") == record("a", "1", 10)
        assert manifest.find("b", "1") == record("b", "1", 20)
        assert manifest.find("c", "1") is None


def test_what_was_made_from_other_things_is_not_finished(tmp_path):
    with Manifest(tmp_path / "m.jsonl") as manifest:
        manifest.add(record("a", "1", 10))
        assert manifest.find("a", "2") is None
        manifest.add(record("a", "2", 11))
        assert manifest.find("a", "1") is None
        assert manifest.find("a", "2") == record("a", "2", 11)


def test_a_line_that_a_kill_tore_off_is_cut_away(tmp_path):
    path = tmp_path / "m.jsonl"
    with Manifest(path) as manifest:
        manifest.add(record("a", "1", 10))
        manifest.add(record("b", "1", 20))
    path.write_bytes(path.read_bytes()[:-7])
    with Manifest(path) as manifest:
        assert manifest.find("b", "1") is None
        manifest.add(record("c", "1", 30))
    with Manifest(path) as manifest:
        assert manifest.find("a", "1") == record("a", "1", 10)
        assert manifest.find("c", "1") == record("c", "1", 30)


@pytest.mark.parametrize(
    "line", ["[]", "{}", "garbage", '{"name": 3, "stamp": "1"}', "3", "\x00\xff", "[" * 100_000]
)
def test_another_file_is_named_with_its_line_and_left_as_it_is(tmp_path, line):
    path = tmp_path / "m.jsonl"
    with Manifest(path) as manifest:
        manifest.add(record("a", "1", 10))
    path.write_bytes(path.read_bytes() + line.encode("latin1") + b"\n")
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"^line 2 of .*m\.jsonl is no record of a finished item; remove the file"
    ):
        Manifest(path)
    assert path.read_bytes() == before
