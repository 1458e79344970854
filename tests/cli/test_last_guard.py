"""Whatever stops a command: one sentence that names the file, and exit code 2."""

import errno
import os
import sqlite3

import pytest

from tests.command import call

ESCAPE = "\x1b[2J"


def test_an_empty_argument_is_no_folder(monkeypatch, capsys):
    """An unset variable of the shell would otherwise mean all pictures under the current folder."""
    code, _, err = call(monkeypatch, capsys, "predict", "", "--out", "runs/x")
    assert (code, "an argument is empty" in err) == (2, True)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "a.png"), "a.png: File name too long"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "a", None, "b"), "a to b: Read-only file system"),
        (OSError("cannot write mode F as PNG"), "cannot write mode F as PNG"),
        (
            PermissionError(errno.EACCES, "Permission denied", f"{ESCAPE}.png"),
            r"\x1b[2J.png: Permission denied",
        ),
        (sqlite3.OperationalError("database is locked"), "database is locked"),
        (MemoryError(), "there is not enough memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes.\nframe 1"),
            "there is not enough memory: [enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes.",
        ),
        (ValueError(f"no rule {ESCAPE}"), r"no rule \x1b[2J"),
        (KeyError("x"), None),
        (RuntimeError("a fault of this program"), None),
        (EOFError("Ran out of input"), "a file ends too early (Ran out of input)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_expected_error_is_one_sentence(error, sentence, monkeypatch, capsys, tmp_path):
    """A fault of the program itself keeps its traceback."""

    def fail(*_):
        raise error

    monkeypatch.setattr("memory.folder.open_store", fail)
    if sentence is None:
        with pytest.raises(type(error)):
            call(monkeypatch, capsys, "memory", "list", tmp_path)
    else:
        assert call(monkeypatch, capsys, "memory", "list", tmp_path) == (2, "", f"meshcritic: {sentence}\n")
