"""`mesh explain`, `check`, `fault` and `bootstrap`: questions to a mesh that runs, and faults on purpose."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from mesh.cli.parts import DIRECTORY, fail, paths_of
from mesh.errors import InvalidConfig
from mesh.paths import Paths


@click.command("explain", short_help="Say why the calls of a service or method do what they do.")
@click.argument("target", metavar="SERVICE[/METHOD]")
@click.option("--from", "caller", metavar="SERVICE", default="", help="Say too whether this one may call it, and why.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@DIRECTORY
def _explain(directory: Path | None, target: str, caller: str, output: str) -> None:
    """Say what holds for the calls of a service, or of one of its methods, where each value comes from, and what each
    kind of client makes of it. METHOD is a name, as in order/GetOrder, or a full name. With --from, what Consul's
    intentions say of the calls of one service comes first.
    """
    from mesh import ask
    from mesh.explain import show
    from mesh.methods import asked

    service, method = asked(target)
    found = asyncio.run(ask.explanation(paths_of(directory), service, method, caller))
    click.echo(show.as_json(found) if output == "json" else show.as_text(found))


@click.command("check", short_help="Say what is well with the mesh and what is not.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@DIRECTORY
def _check(directory: Path | None, output: str) -> int:
    """Look at the registry, the sidecar, the gateway, what clients hold and refused, policies, descriptors, instances
    and the clock; each failure comes with the command that mends it. Exits with 1 when there is any.
    """
    from mesh import ask
    from mesh.findings import show

    paths = paths_of(directory)
    found = tuple(show.at(asyncio.run(ask.findings(paths)), str(paths.state), partial(_finds, paths)))
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    click.echo(show.as_json(found) if output == "json" else show.as_text(found, colour=colour))
    return 0 if all(one.passed for one in found) else 1


def _finds(paths: Paths, command: str) -> bool:
    """Whether a command that is run here without --dir means this stack: what starts one looks in no folder above."""
    meant = Paths.locate(os.environ) if command in ("sidecar", "up") else paths_of(None)
    return meant.state == paths.state


@click.command("fault", short_help="Let calls go wrong on purpose, for a while.")
@click.argument("target", metavar="[SERVICE[/METHOD]]", required=False, default="")
@click.option("--abort", metavar="CODE", help="Fail calls with this status, as in UNAVAILABLE.")
@click.option("--delay", metavar="TIME", help='Hold calls up before they are sent, as in "200ms".')
@click.option("--percent", metavar="NUMBER", help="How many of the calls [100].")
@click.option("--by-header", is_flag=True, help="Do what the x-envoy-fault-* headers of a call ask for.")
@click.option("--for", "seconds", metavar="TIME", help="How long, at most 1h [60s].")
@click.option("--clear", is_flag=True, help="End it now; without a method all of the service, without a service all.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@DIRECTORY
def _fault(directory: Path | None, target: str, clear: bool, output: str, **options: Any) -> None:
    """Let calls of a service, or of one method, go wrong on purpose for a while; list what is in force.

    \b
    mesh fault                                                      what is in force, and until when
    mesh fault order/GetOrder --abort UNAVAILABLE --percent 30      fails 30 % of the calls for 60 s
    mesh fault order --delay 200ms --for 5m                         delays every call of the service
    mesh fault order --by-header --for 10m                          calls with x-envoy-fault-... headers only
    mesh fault order/GetOrder --clear                               ends it now

    A fault ends at its time by itself, whatever is restarted meanwhile. It is for gRPC clients on the mesh and for
    calls through the gateway. Aborted calls are not sent again, by either.
    """
    from mesh import fault_words, faults, member_options
    from mesh.policy import not_in_force
    from mesh.recovery import time_of_day
    from mesh.registry import connect

    wished = fault_words.is_wish(options)
    if clear and wished:
        raise InvalidConfig.of(["--clear ends what is in force: it takes no other option"])
    asked = fault_words.wish(target, options) if wished else None

    async def run() -> None:
        async with connect(member_options.registry_of(paths_of(directory), os.environ)) as registry:
            if clear:
                click.echo(fault_words.ended(*await faults.clear(registry, target)), err=True)
            elif asked:
                click.echo(fault_words.announced(await faults.inject(registry, asked), time_of_day()), err=True)
            else:
                found, problems = await faults.held(registry, target)
                click.echo(fault_words.as_json(found) if output == "json" else fault_words.table(found, time_of_day()))
                for key, problem in problems.items():
                    click.echo(f"mesh: {not_in_force(key, problem)}", err=True)

    asyncio.run(run())


@click.command("bootstrap", short_help="Print the path of a gRPC bootstrap file.")
@DIRECTORY
def _bootstrap(directory: Path | None) -> None:
    """Print the path of a bootstrap file for gRPC clients, to be used as GRPC_XDS_BOOTSTRAP."""
    from mesh.member import sidecar_answers

    paths = paths_of(directory)
    if not (paths.are_in_use() and paths.bootstrap.exists() and asyncio.run(sidecar_answers(paths))):
        fail(f"no sidecar runs for {paths.state}: start one with `mesh up` or `mesh sidecar`", 1)
    click.echo(paths.bootstrap)


COMMANDS = (_explain, _check, _fault, _bootstrap)
