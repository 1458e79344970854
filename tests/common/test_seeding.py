"""Blocks of one thread do not overlap, so that each restores torch's own number of threads."""

from threading import Event, Thread

import torch

from common.seeding import one_thread


def test_the_number_of_threads_is_restored():
    before = torch.get_num_threads()
    with one_thread(), one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_block_begins_when_that_of_another_thread_has_ended():
    entered = Event()

    def enter() -> None:
        with one_thread():
            entered.set()

    thread = Thread(target=enter)
    with one_thread():
        thread.start()
        assert not entered.wait(0.2)
    thread.join()
    assert entered.is_set()
