"""Files of JSON lines can be continued after a run that was killed."""

import pytest

from common.storage.jsonl import BLOCK_BYTES, Manifest, end_of_whole_lines, open_for_append


def record(name: str, fingerprint: str, value: int) -> dict:
    return {"name": name, "fingerprint": fingerprint, "value": value}


@pytest.mark.parametrize(
    ("content", "end"),
    # the last case: a line of BLOCK_BYTES with its break, then one byte
    [
        (b"", 0),
        (b"partial", 0),
        (b"a\n", 2),
        (b"a\nb", 2),
        (b"x" * (BLOCK_BYTES - 1) + b"\n" + b"y", BLOCK_BYTES),
    ],
    ids=["empty", "partial", "whole", "whole and partial", "a block"],
)
def test_whole_lines_end_with_the_last_line_break(tmp_path, content, end):
    (tmp_path / "lines").write_bytes(content)
    assert end_of_whole_lines(tmp_path / "lines") == end


def test_a_file_is_continued_after_its_last_whole_line(tmp_path):
    path = str(tmp_path / "new" / "lines")
    for text in ("a\npart", "b\n"):
        with open_for_append(path) as file:
            file.write(text)
    assert (tmp_path / "new" / "lines").read_text() == "a\nb\n"


def test_finished_items_are_found_by_the_next_run(tmp_path):
    with Manifest(str(tmp_path / "m.jsonl")) as manifest:
        manifest.add(record("a", "1", 10))
        manifest.add(record("b", "1", 20))
    with Manifest(tmp_path / "m.jsonl") as manifest:
        assert manifest.find("a", "1") == record("a", "1", 10)
        assert manifest.find("b", "1") == record("b", "1", 20)
        assert manifest.find("c", "1") is None


def test_an_item_made_from_other_inputs_is_not_finished(tmp_path):
    with Manifest(tmp_path / "m.jsonl") as manifest:
        manifest.add(record("a", "1", 10))
        assert manifest.find("a", "2") is None
        manifest.add(record("a", "2", 11))
        assert manifest.find("a", "1") is None
        assert manifest.find("a", "2") == record("a", "2", 11)


def test_an_incomplete_last_line_is_removed(tmp_path):
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


@pytest.mark.parametrize("content", [b'{"people": []}', b"notes", b"\x00"])
def test_a_file_of_one_line_that_is_not_ours_is_not_cut(tmp_path, content):
    """Without a line break all of it would be an incomplete line."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds something else, and is not overwritten"):
        Manifest(path)
    assert path.read_bytes() == content


def test_a_record_without_its_end_is_cut_even_if_it_is_the_only_one(tmp_path):
    path = tmp_path / "m.jsonl"
    for content in (b'{"na', b'{"name": "a", "st'):
        path.write_bytes(content)
        with Manifest(path) as manifest:
            assert manifest.find("a", "1") is None
        assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "line", ["[]", "{}", "garbage", '{"name": 3, "fingerprint": "1"}', "3", "\x00\xff", "[" * 100_000]
)
def test_a_file_that_is_not_a_manifest_is_refused_and_unchanged(tmp_path, line):
    path = tmp_path / "m.jsonl"
    with Manifest(path) as manifest:
        manifest.add(record("a", "1", 10))
    path.write_bytes(path.read_bytes() + line.encode("latin1") + b"\n")
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"^line 2 of .*m\.jsonl is not the record of a finished item; remove the file"
    ):
        Manifest(path)
    assert path.read_bytes() == before
