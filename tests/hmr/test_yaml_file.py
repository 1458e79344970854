from pathlib import Path

import pytest

from hmr.yaml_file import read_fields


def test_fields_come_as_they_are_written(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("steps: 3\nrate: 1.0e-3  # a comment\n")
    assert read_fields(file, ["rate", "steps", "other"]) == {"steps": 3, "rate": 1e-3}
    file.write_text("# nothing but a comment\n")
    assert read_fields(file, ["rate"]) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps: 3\nstep: 4\n", "unknown step; allowed are rate, steps$"),
        ("- steps\n", "a mapping of fields, not a list$"),
        ("steps: [1\n", "is not YAML: "),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, text: str, told: str):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        read_fields(file, ["steps", "rate"])
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_list_of_fields_can_be_told_otherwise(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("step: 3\n")
    with pytest.raises(ValueError, match=r"allowed are those of rl/config\.py$"):
        read_fields(tmp_path / "a.yaml", ["steps"], "those of rl/config.py")


def test_a_missing_file_is_missed(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_fields(tmp_path / "none.yaml", [])
