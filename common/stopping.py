"""Ends a command at the first SIGINT or SIGTERM, whatever it waits for.

The entry point of the command runs in `ended_by_signals`. At the first signal:

1. Requests in flight are cancelled, which closes their sockets, and queued work is dropped (`on_stop`, `stoppable`).
   A request that would begin later fails with `Stopped` (`raise_if_stopped`).
2. `Stopped` is raised in the main thread, so files and databases are closed as after any error.
3. The process ends with the exit code 128 + signal: 130 for SIGINT, 143 for SIGTERM. It does not wait for its threads:
   one may be inside a library that cannot be interrupted. Child processes are ended.

If 2 takes longer than `GRACE_S`, because the main thread is inside such a library, the process ends without it. That is
the same as a kill, which every file that a later run reads survives. Further signals are ignored.

Without `ended_by_signals`, as in a script, only `KeyboardInterrupt` ends a wait: the queue is dropped then too.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

__all__ = ["Stopped", "ended_by_signals", "is_stopped", "on_stop", "raise_if_stopped", "stoppable"]

GRACE_S = 1.5
SIGNALS = (signal.SIGINT, signal.SIGTERM)
E = TypeVar("E", bound=Executor)


class Stopped(BaseException):
    """The command is being stopped. Not an Exception, because those of a backend become missing scores, which may be
    stored. Not a KeyboardInterrupt, because asyncio ends its event loop for one."""


class _Process:
    """The state of the process. Only single, atomic operations, because a signal handler may run between any two."""

    def __init__(self) -> None:
        self.signal_number = 0  # of the first signal
        self.raised = False  # in the main thread
        self.actions: dict[object, Callable[[], object]] = {}

    def stop(self, signal_number: int) -> None:
        self.signal_number = self.signal_number or signal_number
        for action in list(self.actions.values()):
            with suppress(Exception):  # the process has to end all the same
                action()


_process = _Process()


def is_stopped() -> bool:
    return _process.signal_number != 0


def raise_if_stopped() -> None:
    """Raises Stopped if the command is being stopped; called before every request that may cost money."""
    if is_stopped():
        raise Stopped


@contextmanager
def on_stop(action: Callable[[], object]) -> Iterator[None]:
    """A block during which a signal calls `action`, in another thread. Raises Stopped if there was a signal before."""
    key = object()
    _process.actions[key] = action
    try:
        raise_if_stopped()
        yield
    finally:
        del _process.actions[key]


@contextmanager
def stoppable(pool: E) -> Iterator[E]:
    """The pool, shut down at the end of the block, as by its own `with`.

    If the block fails, work that has not begun is dropped. If it is interrupted, work that has begun is not waited for
    either.
    """
    drop_queue = functools.partial(pool.shutdown, wait=False, cancel_futures=True)
    try:
        with on_stop(drop_queue):
            yield pool
            pool.shutdown()
    except BaseException as error:
        interrupted = is_stopped() or isinstance(error, KeyboardInterrupt)
        pool.shutdown(wait=not interrupted, cancel_futures=True)
        raise


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """A block that the first SIGINT or SIGTERM ends, and the process with it.

    Has no effect outside the main thread, which alone can handle signals. A signal that is ignored stays so: a shell
    without job control lets its background commands ignore SIGINT.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # The thread sees a signal at once, even if the main thread is inside a library.
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, _raise_stopped) for number in heeded}
    try:
        yield
    finally:
        if is_stopped():
            _end()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        writer.close()


def _raise_stopped(signal_number: int, frame: Any) -> None:
    if not _process.raised:
        _process.raised = True
        _process.signal_number = _process.signal_number or signal_number
        raise Stopped


def _watch(reader: socket.socket) -> None:
    with reader:
        while received := reader.recv(1):
            if received[0] in SIGNALS:
                _process.stop(received[0])
                time.sleep(GRACE_S)
                _exit()


def _end() -> NoReturn:
    _process.raised = True  # no handler may interrupt this
    with suppress(OSError, ValueError):  # a closed stream
        print(f"meshcritic: stopped by {signal.Signals(_process.signal_number).name}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    _exit()


def _exit() -> NoReturn:
    """Without flushing: a stream may be what the main thread waits for."""
    from multiprocessing import active_children

    for child in active_children():
        child.kill()
    os._exit(128 + _process.signal_number)
