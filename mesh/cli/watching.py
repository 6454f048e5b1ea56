"""`mesh top` and `mesh tap`: rates and calls while they happen, as the console of the stack sees them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from mesh.cli.parts import DIRECTORY, paths_of
from mesh.errors import InvalidConfig

_OUTPUT = click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)


@click.command("top", short_help="Show rates, errors and durations of methods and callers, live.")
@click.option("--once", is_flag=True, help="Print it once, and end.")
@_OUTPUT
@DIRECTORY
def _top(directory: Path | None, once: bool, output: str) -> None:
    """Show how often each method is called, how much of that fails and how long it takes; the same for each caller and
    callee. The figures are those of the last minute, out of the spans that the console has been sent. Ctrl-C ends it.
    """
    from mesh.top import screen

    in_place, colour = sys.stdout.isatty() and output == "table" and not once, _colour()

    def lines(state: Any) -> list[str]:
        if output == "json":
            return [json.dumps(state, indent=2 if once else None)]
        return screen(state, colour=colour)

    async def run() -> None:
        async with _messages(directory, {"topic": "top"}) as states:
            with _redrawn() if in_place else _printed() as draw:
                async for state in states:
                    draw(lines(state))
                    if once:
                        return

    asyncio.run(run())


@click.command("tap", short_help="Show calls as they end, a line each.")
@click.argument("target", metavar="[SERVICE[/METHOD]]", required=False, default="")
@click.option("--errors", is_flag=True, help="Only calls that failed.")
@click.option("--min-duration", metavar="TIME", help='Only calls that took as long, as in "200ms".')
@click.option("--count", "-n", type=click.IntRange(1), default=sys.maxsize, help="End after so many calls.")
@_OUTPUT
@DIRECTORY
def _tap(
    directory: Path | None, target: str, errors: bool, min_duration: str | None, count: int, output: str
) -> None:
    """Show each call of a service, or of one method, about a second after it has ended: when it began, who called,
    which instance answered, how it ended, how long its caller waited, how many attempts that took, and its trace. Where
    more end than can be shown, the rest is left out and counted. Ctrl-C ends it.
    """
    from mesh import ask, tap
    from mesh.methods import asked

    wanted = asked(target) if target else ("", "")
    query, problems = tap.question(wanted, errors=errors, min_duration=min_duration)
    if problems:
        raise InvalidConfig.of(problems)
    def head() -> None:
        click.echo(tap.header())

    show = json.dumps if output == "json" else partial(tap.line, colour=_colour())

    async def run() -> None:
        left = count
        if doubt := await ask.doubt(paths_of(directory), *wanted) if target else "":
            click.echo(f"mesh: {doubt}; waiting for its calls", err=True)
        async with _messages(directory, query, head if output == "table" else None) as batches:
            async for batch in batches:
                for call in batch["calls"][:left]:
                    click.echo(show(call))
                if batch["dropped"]:
                    click.echo(f"mesh: {batch['dropped']} calls are left out: they came too fast", err=True)
                left -= len(batch["calls"])
                if left <= 0:
                    return

    asyncio.run(run())


def _messages(
    directory: Path | None, query: Mapping[str, str], joined: Callable[[], None] | None = None
) -> AbstractAsyncContextManager[AsyncGenerator[Any, None]]:
    from mesh import seen

    def lost(text: str) -> None:
        click.echo(f"mesh: {text}", err=True)

    return aclosing(seen.follow(paths_of(directory), query, lost, joined=joined))


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


Draw = Callable[[list[str]], None]


@contextmanager
def _printed() -> Iterator[Draw]:
    """One below the other."""
    yield lambda lines: click.echo("\n".join(lines))


@contextmanager
def _redrawn() -> Iterator[Draw]:
    """In place, on a screen of its own: what was on the terminal before is there again at the end."""
    from mesh.top import fitted

    def draw(lines: list[str]) -> None:
        size = shutil.get_terminal_size()
        shown = fitted(lines, size.columns, size.lines - 1)
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J")
        sys.stdout.flush()

    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        yield draw
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


COMMANDS = (_top, _tap)
