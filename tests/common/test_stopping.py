"""A signal ends a process, whatever its threads do."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.stopping import ended_by_signals, is_stopped, stoppable
from tests.processes import ROOT, start_python

WAITS = {
    "in the main thread": "threading.Event().wait()",
    "for a thread that never ends": "pool.submit(threading.Event().wait).result()",
    "for a request and then forever": "with on_stop(request.set): request.wait(); threading.Event().wait()",
    "for a library that catches everything": """
        try: threading.Event().wait()
        except BaseException: threading.Event().wait()
""",
}
PROGRAM = """
import signal, threading
from concurrent.futures import ThreadPoolExecutor
from common.stopping import ended_by_signals, on_stop, stoppable
request = threading.Event()
with ended_by_signals():
    with stoppable(ThreadPoolExecutor(1)) as pool:
        print("begun", flush=True)
        {}
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_one_signal_ends_every_wait(wait, number):
    process = start_python("-c", PROGRAM.format(wait))
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in err


QUEUE = """
import threading
from concurrent.futures import ThreadPoolExecutor
from common.stopping import Stopped, ended_by_signals, is_stopped, raise_if_stopped, stoppable

def ask(number):
    raise_if_stopped()
    print("asked", number, flush=True)
    while not is_stopped():
        pass

with ended_by_signals():
    try:
        with stoppable(ThreadPoolExecutor(1)) as pool:
            for answer in pool.map(ask, range(50)):
                pass
    finally:
        print("closed", flush=True)
"""


def test_queued_work_is_dropped_and_files_are_closed():
    process = start_python("-c", QUEUE)
    assert process.stdout.readline() == "asked 0\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "closed\n", "meshcritic: stopped by SIGINT\n")


PROCESSES = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from common.stopping import ended_by_signals, stoppable

with ended_by_signals(), stoppable(ProcessPoolExecutor(1, mp_context=get_context("forkserver"))) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 10**6).result()
"""


def test_child_processes_are_ended():
    process = start_python("-c", PROCESSES)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate()  # returns when no process holds its stdout any more
    assert process.returncode == 143


def test_signals_that_a_shell_ignores_stay_ignored():
    program = (
        "import os, signal\nfrom common.stopping import ended_by_signals\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with ended_by_signals(): os.kill(os.getpid(), signal.SIGINT)\n"
        "print('finished')"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "finished\n"


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with ended_by_signals():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not is_stopped()


def test_outside_the_main_thread_nothing_changes():
    def run() -> object:
        with ended_by_signals():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == signal.getsignal(signal.SIGTERM)


@pytest.fixture
def busy():
    """A pool with one thread, its running task, a waiting one, and the event that ends the first."""
    pool, begun, release = ThreadPoolExecutor(1), threading.Event(), threading.Event()
    running, waiting = pool.submit(lambda: begun.set() or release.wait()), pool.submit(lambda: None)
    begun.wait()
    yield pool, running, waiting, release
    release.set()


def fail(pool, error):
    with stoppable(pool):
        raise error


def test_a_failure_waits_for_what_has_begun_only(busy):
    pool, running, waiting, release = busy
    waiting.add_done_callback(lambda _: release.set())
    with pytest.raises(ValueError, match="wrong"):
        fail(pool, ValueError("wrong"))
    assert (running.done(), waiting.cancelled()) == (True, True)


def test_an_interrupted_script_waits_for_nothing(busy):
    pool, running, waiting, _ = busy
    with pytest.raises(KeyboardInterrupt):
        fail(pool, KeyboardInterrupt())
    assert (running.done(), waiting.cancelled()) == (False, True)
