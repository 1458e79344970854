"""Runs the command line in this process."""

from __future__ import annotations

import pytest

import meshcritic

__all__ = ["call"]


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of `meshcritic WORDS`."""
    monkeypatch.setattr("sys.argv", ["meshcritic", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        meshcritic.main()
    out, err = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), out, err
