"""Tasks that do not outlive the block that started them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Scope:
    """An asyncio.TaskGroup whose tasks are cancelled when the block ends.

    A task that fails ends the block and all other tasks with its error, as in a TaskGroup.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def start(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Run a coroutine beside the block."""
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def first_error(group: BaseExceptionGroup[BaseException], *preferred: type[BaseException]) -> BaseException:
    """The first error in a group, however deep: of a preferred kind, if there is any of those."""
    errors = list(_errors(group))
    return next((error for error in errors if isinstance(error, preferred)), errors[0])


def _errors(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _errors(inner)
    else:
        yield error
