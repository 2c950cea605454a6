"""A SIGINT inside the block is raised at its end, and only there."""

import os
import signal
import threading

import pytest

from coophash.interrupts import DeferredInterrupt


def test_the_block_is_finished_first():
    finished = False
    with pytest.raises(KeyboardInterrupt), DeferredInterrupt():
        os.kill(os.getpid(), signal.SIGINT)
        finished = True
    assert finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_in_the_block_comes_through():
    with pytest.raises(ValueError, match="mine"), DeferredInterrupt():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_callers_is_left_alone():
    seen = []
    previous = signal.signal(signal.SIGINT, lambda *arguments: seen.append(1))
    try:
        with DeferredInterrupt():
            os.kill(os.getpid(), signal.SIGINT)
            assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, previous)


def test_other_threads_do_nothing():
    errors = []

    def work():
        try:
            with DeferredInterrupt():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
