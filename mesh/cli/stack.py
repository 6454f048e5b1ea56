"""`mesh up` and what is done with the stack that it started: `ps`, `down`, `restart`, `stack`, `logs`."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mesh.cli.parts import DIRECTORY, alone, log_of, log_to_stderr, mtls_or_plaintext, paths_of
from mesh.errors import Error
from mesh.paths import Paths

if TYPE_CHECKING:
    from mesh.up.background import Notice
    from mesh.up.plan import Plan


@click.command("up")
@click.option("--detach", "-d", is_flag=True, help="Run in the background; return when all is ready.")
@click.option("--fresh", is_flag=True, help="Remove all data of this stack first.")
@click.option("--address", default="127.0.0.1", show_default=True, help="IP address that others reach this host at.")
@click.option("--gateway-port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="REST and gRPC.")
@click.option("--registry-port", type=click.IntRange(1, 65535), default=8500, show_default=True, help="Consul's API.")
@click.option("--otlp-grpc-port", type=click.IntRange(1, 65535), default=4317, show_default=True, help="Spans, gRPC.")
@click.option("--otlp-http-port", type=click.IntRange(1, 65535), default=4318, show_default=True, help="Spans, HTTP.")
@click.option("--notify-fd", type=int, hidden=True)
@mtls_or_plaintext
@DIRECTORY
def _up(
    directory: Path | None, address: str, detach: bool, fresh: bool, notify_fd: int | None, mtls: bool | None,
    **ports: int,
) -> None:
    """Start everything that mesh.toml names, and what that needs.

    The gateway and the services are reached at --address; the console, the registry and all else on this host alone.

    CONSUL_HTTP_ADDR, DATABASE_URL, REDIS_URL and OTEL_EXPORTER_OTLP_ENDPOINT name servers to use in place of own ones.
    """
    from mesh.up import background, launcher
    from mesh.up.show import banner

    plan = _plan(directory, address, ports, mtls)
    if notify_fd is None:
        _prove_servers(plan)
    if detach:
        launcher.prove_free(plan.paths)
        background.detach(_up_arguments(plan, fresh), plan.paths)
        click.echo(banner(plan))
        return
    notice = background.Notice(notify_fd)
    try:
        _launch(plan, fresh, notice)
    except Error as error:
        notice.give(error.message + log_of(error))
        raise
    notice.give(background.STOPPED)


def _plan(directory: Path | None, address: str, ports: dict[str, int], mtls: bool | None) -> Plan:
    from mesh.config import MTLS_VARIABLE, is_secured
    from mesh.up.plan import Plan, Ports
    from mesh.up.stack import Stack
    from mesh.up.token import console_token

    paths, folder = Paths.locate(os.environ, directory), Path.cwd()
    paths.prepare()
    chosen = Ports(**{name.removesuffix("_port"): port for name, port in ports.items()})
    token = console_token(os.environ, address, paths.console_token)
    environ = {**os.environ, MTLS_VARIABLE: str(is_secured(os.environ, mtls)).lower()}
    plan = Plan.of(Stack.load(folder), paths, folder, environ, chosen, address, console_token=token)
    plan.prove_address()
    plan.prove_ports()
    paths.prove_space(plan.needed_bytes)
    return plan


def _prove_servers(plan: Plan) -> None:
    from mesh.up.servers import check
    from mesh.up.show import remarks

    for line in remarks(plan):
        click.echo(f"mesh: {line}", err=True)
    for line in asyncio.run(check(plan)):
        click.echo(f"mesh: {line}", err=True)


def _up_arguments(plan: Plan, fresh: bool) -> list[str]:
    ports = plan.ports
    flags = {
        "--dir": plan.paths.state,
        "--address": plan.address,
        "--gateway-port": ports.gateway,
        "--registry-port": ports.registry,
        "--otlp-grpc-port": ports.otlp_grpc,
        "--otlp-http-port": ports.otlp_http,
    }
    mtls = "--mtls" if plan.is_secured else "--plaintext"
    return ["up", mtls, *(str(word) for flag in flags.items() for word in flag), *(["--fresh"] if fresh else [])]


def _launch(plan: Plan, fresh: bool, notice: Notice) -> None:
    from mesh.config import Watch
    from mesh.up import launcher
    from mesh.watchdog import watched

    log_to_stderr()
    watch = Watch.of({**os.environ, "MESH_STACKS": str(plan.paths.run)}, "launcher")
    with launcher.locked(plan.paths), alone():
        launcher.check_ports(plan)
        plan.paths.drop_stale()
        if fresh:
            launcher.wipe(plan.paths)
        try:
            asyncio.run(watched(watch, launcher.launch(plan, partial(_announce, plan, notice), partial(_wait, notice))))
        finally:
            plan.paths.retire()


def _announce(plan: Plan, notice: Notice) -> None:
    from mesh.up.background import READY
    from mesh.up.show import banner

    if not notice.is_wanted:
        click.echo(banner(plan))
        click.echo("All is ready. Ctrl-C stops it.", err=True)
    notice.give(READY)


def _wait(notice: Notice, text: str) -> None:
    click.echo(f"mesh: {text}", err=True)
    notice.waiting(text)


@click.command("ps")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--wide", is_flag=True, help="Show too what each xDS client holds and refused, Envoy included.")
@DIRECTORY
def _ps(directory: Path | None, output: str, wide: bool) -> None:
    """List the processes of the running stack."""
    from mesh.up import client, show

    paths = paths_of(directory)
    processes = asyncio.run(client.processes(paths))
    subscriptions = asyncio.run(client.subscriptions(paths)) if wide else None
    shown = show.process_json if output == "json" else show.process_table
    click.echo(shown(processes, subscriptions))


@click.command("down")
@DIRECTORY
def _down(directory: Path | None) -> None:
    """Stop the running stack; return when all of it is gone."""
    from mesh.up import client

    async def stop() -> None:
        async for process in client.stop(paths_of(directory)):
            click.echo(f"{process.name} stopped", err=True)

    asyncio.run(stop())


@click.command("restart")
@click.argument("name")
@DIRECTORY
def _restart(directory: Path | None, name: str) -> None:
    """Replace one process; return when the new one is ready."""
    from mesh.up import client

    answer = asyncio.run(client.restart(paths_of(directory), name))
    how = "before the old one drained" if answer.surged else "after the old one had ended"
    click.echo(f"{name} is ready: pid {answer.process.pid}, {how}", err=True)


@click.command("stack")
@click.argument("name")
@DIRECTORY
def _stack(directory: Path | None, name: str) -> None:
    """Show what a process is doing, also one that hangs.

    That is the stacks of its threads, innermost call first, and where its tasks wait. NAME is one of `mesh ps`, the
    service of a program beside the stack, a process id, or an address where it listens, as alerts name one.
    """
    from mesh import stack_of
    from mesh.up import client

    paths = paths_of(directory)
    listed = asyncio.run(client.pids(paths))
    click.echo(stack_of.stacks(paths.run, name, listed), nl=False)


@click.command("logs")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows.")
@click.option("--lines", "-n", type=click.IntRange(0), default=100, show_default=True, help="How many to begin with.")
@DIRECTORY
def _logs(directory: Path | None, name: str, follow: bool, lines: int) -> None:
    """Show the log of one process; it stays when the process is gone."""
    from mesh.up import logs

    log = logs.find(paths_of(directory), name)
    for line in logs.tail(log, lines):
        click.echo(line)
    if follow:
        asyncio.run(logs.follow(log, sys.stdout))


COMMANDS = (_up, _ps, _down, _restart, _stack, _logs)
