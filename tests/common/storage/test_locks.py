"""One run per folder, for real processes."""

import os
import signal

import pytest
from PIL import Image

from common.storage.locks import single_run
from tests.command import call
from tests.processes import start_python

HOLD = """
import signal, sys
from common.storage.locks import single_run
with single_run(*sys.argv[1:]):
    print("held", flush=True)
    signal.pause()
"""

FORK = """
import os, signal, sys
from common.storage.locks import single_run
with single_run(sys.argv[1]):
    if child := os.fork():
        print(child, flush=True)
        os._exit(0)
    signal.pause()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "out" until it gets a signal."""
    (tmp_path / "out").mkdir()
    process = start_python("-c", HOLD, tmp_path / "out")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_second_run_is_refused_until_the_first_one_has_ended(holder, tmp_path, number):
    refused = pytest.raises(ValueError, match=rf"out is in use by another run \(process {holder.pid}\)")
    with refused, single_run(tmp_path / "other", tmp_path / "out"):
        pass
    with single_run(tmp_path / "other"):  # was released
        pass
    assert not (tmp_path / "other").exists()  # nothing was written to it
    holder.send_signal(number)
    holder.wait()
    with single_run(tmp_path / "out"):
        assert (tmp_path / "out" / ".lock").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_second_lock_by_the_same_process_is_part_of_the_first(tmp_path):
    (tmp_path / "a").mkdir()
    with single_run(tmp_path), single_run(tmp_path / "a" / ".."):
        pass
    with single_run(tmp_path):
        process = start_python("-c", HOLD, tmp_path)
        _, err = process.communicate()
    assert "in use by another run" in err


def test_the_other_processes_of_a_launch_do_not_wait_for_the_first(holder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with single_run(tmp_path / "out"):
        pass


def test_a_child_process_does_not_keep_the_lock(tmp_path):
    process = start_python("-c", FORK, tmp_path)
    child = int(process.stdout.readline())
    process.wait()
    try:
        with single_run(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_temporary_files_of_killed_runs_are_deleted(tmp_path):
    (tmp_path / "deep").mkdir()
    left = [tmp_path / ".a.png.12.140.partial", tmp_path / "deep" / ".b.npz.12.140.partial"]
    kept = [tmp_path / "a.partial", tmp_path / ".a.png.partial", tmp_path / "deep" / "a.1.2.partial"]
    for path in (*left, *kept):
        path.touch()
    with single_run(tmp_path):
        assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize(
    "words",
    [
        ("explore", "--images", "4", "--out", "{}", "--memory", "{}/out"),
        ("critique", "{}/photo.png", "--box", "0,0,40,40", "--out", "{}/out"),
        ("critic-eval", "--backend", "embedded", "--backend", "embedded", "--images", "4", "--out", "{}/out"),
    ],
    ids=lambda words: words[0],
)
def test_a_command_names_the_folder_in_use(holder, tmp_path, monkeypatch, capsys, words):
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    code, _, err = call(monkeypatch, capsys, *(word.format(tmp_path) for word in words))
    assert code == 2
    assert err.startswith(f"meshcritic: {tmp_path / 'out'} is in use by another run")
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {".lock", "photo.png"}
