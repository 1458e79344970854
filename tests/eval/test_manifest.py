"""A manifest outlives the run that wrote it, however that ended."""

from eval.manifest import Manifest


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
