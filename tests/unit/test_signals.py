"""Asked to stop: once in order, twice at once; and signals mean afterwards what they meant before."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from mesh.signals import STOP, handled, stopping

DRAINS_FOR_EVER = """
import asyncio
from mesh.signals import stopping
async def main():
    with stopping() as stop:
        print("ready", flush=True)
        await stop.wait()
        print("drains", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("numbers", [STOP, STOP[::-1], STOP[:1] * 2, STOP[1:] * 2])
async def test_a_second_signal_ends_the_process_at_once(numbers: tuple[signal.Signals, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DRAINS_FOR_EVER, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        for number, told in zip(numbers, (b"ready\n", b"drains\n"), strict=True):
            assert await process.stdout.readline() == told
            process.send_signal(number)
        assert await process.wait() == -numbers[-1]


async def test_a_second_signal_cancels_whoever_has_children_to_end() -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        with stopping(signal.SIGHUP, cancels=True) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            await stop.wait()
            stopped.set()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(work())
    assert stopped.is_set()


async def test_signals_mean_afterwards_what_they_meant_before() -> None:
    found: asyncio.Queue[int] = asyncio.Queue()
    signal.signal(signal.SIGUSR1, lambda number, frame: found.put_nowait(number))
    try:
        with handled((signal.SIGUSR1,), lambda number: found.put_nowait(-number)):
            os.kill(os.getpid(), signal.SIGUSR1)
            async with asyncio.timeout(20):
                assert await found.get() == -signal.SIGUSR1
        os.kill(os.getpid(), signal.SIGUSR1)
        assert await found.get() == signal.SIGUSR1
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
