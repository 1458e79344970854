from collections.abc import Sequence
from pathlib import Path

import pytest

from common.reading.yaml_fields import checked_fields, read_fields


def test_fields_are_read(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("steps: 3\nrate: 1.0e-3  # a comment\n")
    assert read_fields(file, ["rate", "steps", "other"]) == {"steps": 3, "rate": 1e-3}
    file.write_text("# only a comment\n")
    assert read_fields(file, ["rate"]) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3\nstep: 4\n", "unknown step; allowed are rate, steps$"),
        ("- steps\n", "a mapping of fields, not a list$"),
        ("steps: [1\n", "is not YAML: "),
        ("steps: &a [1]\nrate: *a\n", r"is not YAML: it has an alias, \*a, which is not allowed$"),
        ("steps: " + "[" * 5_000, "is not YAML: it is nested too deeply$"),
        ("steps: 2026-99-99\n", "is not YAML: "),
        ("? [1]\n: 2\n", "is not YAML: "),
        ("steps: \x00\n", "is not YAML: "),
        ("# " + "x" * 1_000_000, "a file of fields has at most 1,000,000$"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, text: str, message: str):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_fields(file, ["steps", "rate"])
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_can_replace_the_list_of_allowed_fields(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("step: 3\n")
    with pytest.raises(ValueError, match=r"allowed are those of rl/config\.py$"):
        read_fields(tmp_path / "a.yaml", ["steps"], "those of rl/config.py")


def test_a_missing_file_raises(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_fields(tmp_path / "none.yaml", [])


KINDS = {
    "count": int, "rate": float, "name": str | None, "on": bool, "widths": Sequence[int], "parts": tuple[str, ...],
    "rest": dict[str, int], "made": Path,
}  # fmt: skip


def test_a_section_of_known_fields_passes():
    values = {"count": 3, "rate": 1, "name": None, "on": True, "widths": [1, 2], "parts": ("a",), "rest": {}}
    found = checked_fields("section", values | {"made": "a value of any type"}, KINDS)
    assert found == values | {"made": "a value of any type"}
    assert isinstance(found["rate"], float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "section must hold a mapping of fields, not 3$"),
        (None, "section must hold a mapping of fields, not None$"),
        ({"cuont": 1}, "section: unknown cuont; allowed are count, made, name"),
        ({"count": 1.5}, "section: count takes int, not 1.5$"),
        ({"count": True}, "count takes int, not True$"),
        ({"rate": "fast"}, "rate takes float, not 'fast'$"),
        ({"rate": 10**400}, "rate takes float, not 1000000"),
        (
            {"rate": "1e-3"},
            "rate takes float, not '1e-3'; YAML reads 5e-4 as text",
        ),
        ({"name": 3}, r"name takes str \| None, not 3$"),
        ({"on": 1}, "on takes bool, not 1$"),
        ({"widths": [1, "b"]}, "widths takes .*Sequence.int., not "),
        ({"parts": "abc"}, "parts takes tuple.*, not 'abc'$"),
        ({"rest": [1]}, "rest takes dict.*, not "),
    ],
)
def test_anything_else_in_a_section_is_refused(values: object, message: str):
    with pytest.raises(ValueError, match=message):
        checked_fields("section", values, KINDS)
