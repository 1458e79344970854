"""`--device`: an unavailable device ends every command with one sentence and exit code 2."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command import call

UNAVAILABLE = ("warp", "cuda:99")
COMMANDS = ("predict", "critique", "evaluate", "explore", "critic-eval")


@pytest.mark.parametrize("device", UNAVAILABLE)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_unavailable_device_is_named(command, device, tmp_path: Path, monkeypatch, capsys):
    Image.fromarray(np.zeros((72, 64, 3), np.uint8)).save(tmp_path / "photo.png")
    photo = [tmp_path / "photo.png"] if command in ("predict", "critique") else []
    code, out, err = call(monkeypatch, capsys, command, *photo, "--device", device, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert f"torch has no device {device!r} here; it has cpu" in err
    assert err.count("\n") == 1
