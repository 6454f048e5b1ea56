"""What the commands of `mesh` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from mesh.errors import Error
from mesh.paths import Paths
from mesh.scope import first_error

DIRECTORY = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Folder of the state [MESH_DIR, else .mesh]."
)

Command = TypeVar("Command", bound=Callable[..., Any])


def _says(ctx: click.Context, option: click.Parameter, is_given: bool) -> None:
    """Give the command `mtls`: True, False, or None where nothing was said."""
    said = ctx.params.setdefault("mtls", None)
    if not is_given:
        return
    if said is not None:
        raise click.UsageError("--mtls and --plaintext contradict each other: give one of them", ctx)
    ctx.params["mtls"] = option.name == "mtls"


def mtls_or_plaintext(command: Command) -> Command:
    """Two options that contradict each other, of which a command gets `mtls`."""
    option = partial(click.option, is_flag=True, expose_value=False, callback=_says)
    on = "Programs on the mesh prove themselves to each other, by mutual TLS [MESH_MTLS, else this]."
    off = "They do not, and talk in plaintext."
    return option("--mtls", "mtls", help=on)(option("--plaintext", "plaintext", help=off)(command))


def paths_of(directory: Path | None) -> Paths:
    """Of the stack that is meant in this folder, which may be one of a folder above."""
    return Paths.find(os.environ, directory)


def log_to_stderr() -> None:
    """For a process that has no terminal to talk to."""
    import logging

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


@contextmanager
def alone() -> Iterator[None]:
    """Let an error out of the groups that task groups wrap it in."""
    try:
        yield
    except ExceptionGroup as group:
        raise first_error(group, Error, OSError) from None


def log_of(error: Error) -> str:
    """The end of the log that an error names, of what was logged since the start that failed."""
    from mesh.up.logs import tail

    if not (log := error.metadata.get("log")):
        return ""
    lines = tail(Path(log), 15, int(error.metadata.get("log_start", 0)))
    return "".join(f"\n  {line}" for line in lines) or " (nothing was logged)"


def fail(message: str, code: int) -> NoReturn:
    """End the process with a message and a code."""
    for line in message.splitlines():
        click.echo(f"mesh: {line}", err=True)
    sys.exit(code)
