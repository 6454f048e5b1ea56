"""`python -m services`: what an operator does about events, and about what is made of them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError

from mesh import Code, Error, InvalidConfig, Variables
from meshwright.events.v1.event_pb2 import Event
from services import database, settings, totals
from services.events.group import Group, names, standings
from services.events.stream import Stream
from services.sync import reads
from services.sync.store import UserStore

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from services.events.group import Letter

PAGE = 100
NAME = click.argument("name", metavar="CONSUMER")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code: 1 when it fails, 2 for what cannot work."""
    try:
        code = commands.main(arguments, prog_name="python -m services", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except InvalidConfig as error:
        print(error.message, file=sys.stderr)
        return 2
    except (Error, RedisError, OSError) as error:
        print(f"{str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


@click.group()
def commands() -> None:
    """Look after events. REDIS_URL, and for `rebuild users` DATABASE_URL, say where they are."""


@commands.command()
def consumers() -> None:
    """List consumers, events that wait for them, that they have in hand, and that they gave up."""
    _run(_consumers())


@commands.command()
@NAME
def dead(name: str) -> None:
    """List events that a consumer, such as `users`, gave up, its dead letters, and why."""
    _run(_dead(name))


@commands.command()
@NAME
@click.argument("events", metavar="[EVENT]...", nargs=-1)
def replay(name: str, events: tuple[str, ...]) -> None:
    """Give dead letters to the consumer once more: those that `dead` lists, or these of them.

    Their consumers, which have to run, come to them soon. One that fails again is a dead letter again.
    """
    _run(_replay(name, events))


@commands.command()
@NAME
@click.argument("events", metavar="EVENT...", nargs=-1, required=True)
def drop(name: str, events: tuple[str, ...]) -> None:
    """Forget dead letters for good, as `dead` lists them: nobody does them any more."""
    _run(_drop(name, events))


@commands.group()
def rebuild() -> None:
    """Make anew from Postgres what is in Redis."""


@rebuild.command()
def users() -> None:
    """The copies of users, from which GetUser and BatchGetUsers answer."""
    _run(_users())


@rebuild.command()
def stream() -> None:
    """The stream of events: each service sends again, within seconds, what its outbox keeps."""
    _run(_stream())


@rebuild.command(name="totals")
def all_totals() -> None:
    """The totals of the status: each service counts its own anew within half a minute, Postgres is asked meanwhile."""
    _run(_totals())


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@asynccontextmanager
async def _redis() -> AsyncIterator[Redis]:
    variables = Variables(os.environ)
    found = settings.redis(variables)
    variables.check()
    async with found.client(binary=True) as redis:
        yield redis


async def _consumers() -> None:
    async with _redis() as redis:
        print("consumer", "waiting", "in hand", "dead", sep="\t")
        for one in await standings(redis):
            print(one.name, "?" if one.waiting is None else one.waiting, one.in_hand, one.dead, sep="\t")


async def _dead(name: str) -> None:
    async with _redis() as redis:
        for letter in await (await _group(redis, name)).letters():
            print(_id(letter), letter.reason, sep="\t")


async def _replay(name: str, events: Sequence[str]) -> None:
    async with _redis() as redis:
        group = await _group(redis, name)
        letters = await _chosen(group, events)
        for start in range(0, len(letters), PAGE):
            await group.replay(letters[start : start + PAGE])
    print(f"given to {name} once more: {len(letters)}", file=sys.stderr)


async def _drop(name: str, events: Sequence[str]) -> None:
    async with _redis() as redis:
        group = await _group(redis, name)
        letters = await _chosen(group, events)
        await group.drop(letters)
    print(f"forgotten: {len(letters)}", file=sys.stderr)


async def _group(redis: Redis, name: str) -> Group:
    """The group of a consumer. Raises NOT_FOUND for one that neither is one nor left any dead letters."""
    group, known = Group(redis, name), await names(redis)
    if name not in known and not await group.letters():
        meant = "".join(f": did you mean {near}?" for near in get_close_matches(name, known, n=1))
        message = f"no consumer is called {name!r}; there are: {', '.join(known) or 'none'}{meant}"
        raise Error(Code.NOT_FOUND, message)
    return group


async def _chosen(group: Group, events: Sequence[str]) -> list[Letter]:
    """Those of the dead letters, by event or by the place that the status has; all where none is named.

    Raises NOT_FOUND for one that is not there.
    """
    letters = await group.letters()
    names = [{_id(letter), letter.place.decode()} for letter in letters]
    if missing := sorted(set(events).difference(*names)):
        message = f"no dead letters of {group.name}: {', '.join(missing)}; `dead {group.name}` lists all"
        raise Error(Code.NOT_FOUND, message)
    return [letter for letter, own in zip(letters, names, strict=True) if not events or own.intersection(events)]


async def _users() -> None:
    variables = Variables(os.environ)
    cache, postgres = reads.CacheSettings.read(variables), settings.database(variables, "rebuild")
    async with _redis() as redis, database.connect(postgres) as connected:
        count = await reads.rebuild(reads.copies(redis, cache), UserStore(connected))
    print(f"{count} users are copied", file=sys.stderr)


async def _stream() -> None:
    async with _redis() as redis:
        await Stream(redis).clear()
    print("the services send their events again", file=sys.stderr)


async def _totals() -> None:
    async with _redis() as redis:
        count = await totals.clear(redis)
    print(f"{count} totals are counted anew", file=sys.stderr)


def _id(letter: Letter) -> str:
    """That of the event, or the letter's own where it is none."""
    own = letter.place.decode()
    try:
        return Event.FromString(letter.raw).id or own
    except DecodeError:
        return own


if __name__ == "__main__":
    sys.exit(main())
