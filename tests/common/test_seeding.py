"""Numbers that do not depend on the batch, and blocks of one thread."""

from threading import Event, Thread

import pytest
import torch

from common.seeding import derive_generator, one_thread, standard_normal


def test_a_row_with_its_own_generator_has_the_same_numbers_in_any_batch():
    rows = standard_normal((3, 4, 2), [derive_generator(0, row) for row in range(3)])
    for row in range(3):
        assert torch.equal(rows[row], standard_normal((4, 2), derive_generator(0, row)))
    whole = standard_normal((3, 4, 2), derive_generator(0, 0))
    assert torch.equal(whole, torch.randn(3, 4, 2, generator=derive_generator(0, 0)))


def test_every_row_needs_a_generator():
    with pytest.raises(ValueError, match="3 rows need as many generators, not 2"):
        standard_normal((3, 4), [derive_generator(0, row) for row in range(2)])


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
