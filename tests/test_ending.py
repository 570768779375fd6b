"""Signals that end a command."""

import signal
import sys
import time

import pytest

from vjax import ending


@pytest.fixture
def heeded():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What runs in the background of a shell may ignore them.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    hook = sys.unraisablehook
    ending.heed_signals()
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_raises_what_gives_its_status(number, status, heeded):
    with pytest.raises(KeyboardInterrupt) as raised:
        signal.raise_signal(number)
    assert ending.status(raised.value) == status


def test_a_signal_where_what_is_raised_is_lost_comes_again(heeded):
    def _xla_gc_callback():
        signal.raise_signal(signal.SIGTERM)

    _xla_gc_callback()
    with pytest.raises(ending.Terminated):
        time.sleep(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_something_is_freed_comes_again(number, heeded):
    class Freed:
        def __del__(self):
            signal.raise_signal(number)

    Freed()
    with pytest.raises(KeyboardInterrupt) as raised:
        time.sleep(10)
    assert isinstance(raised.value, ending.Terminated) == (number == signal.SIGTERM)


def test_what_the_parent_ignores_stays_ignored(heeded):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending.heed_signals()
    signal.raise_signal(signal.SIGINT)
