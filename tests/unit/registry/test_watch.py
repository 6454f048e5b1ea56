"""The rules of a watch, as a table: what is asked next, what is yielded, what happens after an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from itertools import islice

import pytest

from mesh.errors import Code, Error
from mesh.recovery import Backoff
from mesh.registry.watch import next_index, watch

NOW = Backoff(first_seconds=0, limit_seconds=0)
AWAY = Error(Code.UNAVAILABLE, "away")
WRONG = Error(Code.INVALID_ARGUMENT, "wrong")

Step = tuple[int, str] | Exception


@dataclass
class Script:
    """A registry that answers one step after the other, then blocks for ever."""

    steps: Iterable[Step]
    asked: list[int] = field(default_factory=list)
    blocked: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._steps = iter(self.steps)

    async def read(self, index: int) -> tuple[int, str]:
        self.asked.append(index)
        for step in islice(self._steps, 1):
            if isinstance(step, Exception):
                raise step
            return step
        self.blocked.set()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(
    ("asked", "answered", "following"),
    [
        (0, 5, 5),
        (5, 6, 6),
        (5, 5, 5),
        (5, 4, 0),
        (5, 0, 0),
        (0, 0, 1),
        (0, -3, 1),
        (1, 0, 1),
        (1, 1, 1),
    ],
)
def test_next_index(asked: int, answered: int, following: int) -> None:
    assert next_index(asked, answered) == following


CASES: dict[str, tuple[list[Step], list[int], list[str]]] = {
    "first value": ([(3, "a")], [0, 3], ["a"]),
    "each change": ([(3, "a"), (4, "b"), (6, "c")], [0, 3, 4, 6], ["a", "b", "c"]),
    "a return is no change": ([(3, "a"), (3, "a"), (5, "a"), (6, "b")], [0, 3, 3, 5, 6], ["a", "b"]),
    "a change with the same index counts": ([(3, "a"), (3, "b")], [0, 3, 3], ["a", "b"]),
    "back to an old value counts": ([(3, "a"), (4, "b"), (5, "a")], [0, 3, 4, 5], ["a", "b", "a"]),
    "index goes backwards": ([(9, "a"), (2, "a"), (2, "b")], [0, 9, 0, 2], ["a", "b"]),
    "index below one": ([(0, "a"), (0, "b")], [0, 1, 1], ["a", "b"]),
    "error at first": ([AWAY, AWAY, (3, "a")], [0, 0, 0, 3], ["a"]),
    "error later starts again": ([(9, "a"), AWAY, (2, "b")], [0, 9, 0, 2], ["a", "b"]),
    "same value after an error": ([(9, "a"), AWAY, (2, "a"), (3, "b")], [0, 9, 0, 2, 3], ["a", "b"]),
    "an empty value is a value": ([(3, ""), (4, "")], [0, 3, 4], [""]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_watch(case: tuple[list[Step], list[int], list[str]]) -> None:
    steps, asked, yielded = case
    script = Script(steps)
    assert await _all(watch(script.read, _always, idle=NOW), script) == yielded
    assert script.asked == asked


async def test_error_that_no_wait_can_mend_ends_the_watch() -> None:
    script = Script([(3, "a"), WRONG])
    values = watch(script.read, _unless_wrong, idle=NOW)
    assert await anext(values) == "a"
    with pytest.raises(Error) as caught:
        await anext(values)
    assert caught.value is WRONG


async def test_cancellation_goes_on_and_into_the_read() -> None:
    ended = asyncio.Event()

    async def read(index: int) -> tuple[int, str]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    task = asyncio.ensure_future(anext(watch(read, _always)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_registry_that_answers_at_once_without_news_is_not_asked_without_pause() -> None:
    asked = 0

    async def read(index: int) -> tuple[int, str]:
        nonlocal asked
        asked += 1
        return index + 1, "same"

    values = watch(read, _always, idle=Backoff(first_seconds=0.02, limit_seconds=0.02, jitter=0))
    assert await anext(values) == "same"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await anext(values)
    assert asked < 8


def _always(error: Exception) -> Backoff:
    return NOW


def _unless_wrong(error: Exception) -> Backoff:
    if error is WRONG:
        raise error
    return NOW


async def _all(values: AsyncIterator[str], script: Script) -> list[str]:
    """What is yielded until the script is at its end."""
    found: list[str] = []

    async def collect() -> None:
        async for value in values:
            found.append(value)  # noqa: PERF401 - what came before the cancellation counts

    task = asyncio.ensure_future(collect())
    async with asyncio.timeout(20):
        await script.blocked.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return found
