"""The command `mesh`. Data goes to stdout, messages to stderr; 0 is success, 1 a failure, 2 a wrong use.

Everything costly is imported inside the command that needs it, so that `mesh --help` and `mesh ps` answer at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import NoReturn

import click

from mesh.cli import asking, processes, stack, watching
from mesh.cli.parts import fail, log_of
from mesh.errors import Error, InvalidConfig


def main() -> NoReturn:
    """Run the command line; ends the process."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # before grpc is imported; its INFO is no news for people
    try:
        sys.exit(_mesh(prog_name="mesh", standalone_mode=False) or 0)
    except Error as error:
        fail(error.message + log_of(error), 2 if isinstance(error, InvalidConfig) else 1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="meshwright", prog_name="mesh")
def _mesh() -> None:
    """A gRPC service mesh that needs nothing but Consul."""


for _command in (*stack.COMMANDS, *processes.COMMANDS, *asking.COMMANDS, *watching.COMMANDS):
    _mesh.add_command(_command)
