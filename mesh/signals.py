"""Signals of the main process, for the duration of a context: asked to stop, or handed on to a child."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

STOP = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping(*also: signal.Signals, cancels: bool = False) -> Iterator[asyncio.Event]:
    """An event that SIGTERM, SIGINT or one of the others sets.

    A second signal ends the process at once, as if nobody handled it; with `cancels`, it cancels the current task
    instead, for whoever has children to end.
    """
    asked, numbers, task = asyncio.Event(), (*STOP, *also), asyncio.current_task()

    def on_signal(number: signal.Signals) -> None:
        if not cancels:
            _default(numbers)
        elif asked.is_set() and task is not None:
            task.cancel()
        asked.set()

    with handled(numbers, on_signal):
        yield asked


@contextmanager
def handled(numbers: Iterable[signal.Signals], act: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Call `act` from the event loop for each such signal; afterwards they mean what they meant before.

    Contexts with a signal in common cannot be nested.
    """
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        loop.add_signal_handler(number, act, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _default(numbers: Iterable[signal.Signals]) -> None:
    for number in numbers:
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
