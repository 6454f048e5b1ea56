"""One reader for as many callers as ask for the same at the same time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from mesh import Code, Error, deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")


@dataclass(frozen=True)
class _Landed(Generic[T]):
    value: T


class Flights(Generic[T]):
    """Reads in hand, by what is read."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Future[_Landed[T] | Error | None]] = {}

    async def join(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` gives, or what another call with this key, which began sooner, gets now.

        An `Error` is shared as well. When the other call is cancelled or has no time left, one that waits reads
        itself. Raises DEADLINE_EXCEEDED when nothing is left of the call in hand.
        """
        while flight := self._flights.get(key):
            match await _landing(flight):
                case _Landed(value):
                    return value
                case Error() as error:
                    raise error
        return await self._lead(key, read)

    async def _lead(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        landed: _Landed[T] | Error | None = None
        try:
            landed = _Landed(await read())
            return landed.value
        except Error as error:
            landed = None if error.code is Code.DEADLINE_EXCEEDED else error
            raise
        finally:
            del self._flights[key]
            flight.set_result(landed)


async def _landing(flight: asyncio.Future[_Landed[T] | Error | None]) -> _Landed[T] | Error | None:
    try:
        async with deadline.timeout():
            return await asyncio.shield(flight)
    except TimeoutError as error:
        raise Error(Code.DEADLINE_EXCEEDED, "another reader took too long", reason="READ_SLOW") from error
