"""The command `mesh`. Data goes to stdout, messages to stderr; 0 is success, 1 a failure, 2 a wrong use.

Everything costly is imported inside the command that needs it, so that `mesh --help` and `mesh ps` answer at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mesh.errors import Error, InvalidConfig
from mesh.paths import Paths
from mesh.scope import first_error

if TYPE_CHECKING:
    from mesh.up.background import Notice
    from mesh.up.plan import Plan

_DIRECTORY = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Folder of the state [MESH_DIR, else .mesh]."
)


def main() -> NoReturn:
    """Run the command line; ends the process."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # before grpc is imported; its INFO is no news for people
    try:
        sys.exit(_mesh(prog_name="mesh", standalone_mode=False) or 0)
    except Error as error:
        _fail(error.message + _log_of(error), 2 if isinstance(error, InvalidConfig) else 1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"mesh: {line}", err=True)
    sys.exit(code)


@contextmanager
def _alone() -> Iterator[None]:
    """Let an error out of the groups that task groups wrap it in."""
    try:
        yield
    except ExceptionGroup as group:
        raise first_error(group, Error, OSError) from None


def _log_of(error: Error) -> str:
    """The end of the log that an error names, of what was logged since the start that failed."""
    from mesh.up.logs import tail

    if not (log := error.metadata.get("log")):
        return ""
    lines = tail(Path(log), 15, int(error.metadata.get("log_start", 0)))
    return "".join(f"\n  {line}" for line in lines) or " (nothing was logged)"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="meshwright", prog_name="mesh")
def _mesh() -> None:
    """A gRPC service mesh that needs nothing but Consul."""


@_mesh.command("up")
@click.option("--detach", "-d", is_flag=True, help="Run in the background; return when all is ready.")
@click.option("--fresh", is_flag=True, help="Remove all data of this stack first.")
@click.option("--address", default="127.0.0.1", show_default=True, help="IP address that others reach this host at.")
@click.option("--gateway-port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="REST and gRPC.")
@click.option("--registry-port", type=click.IntRange(1, 65535), default=8500, show_default=True, help="Consul's API.")
@click.option("--otlp-grpc-port", type=click.IntRange(1, 65535), default=4317, show_default=True, help="Spans, gRPC.")
@click.option("--otlp-http-port", type=click.IntRange(1, 65535), default=4318, show_default=True, help="Spans, HTTP.")
@click.option("--notify-fd", type=int, hidden=True)
@_DIRECTORY
def _up(
    directory: Path | None, address: str, detach: bool, fresh: bool, notify_fd: int | None, **ports: int
) -> None:
    """Start everything that mesh.toml names, and what that needs.

    The gateway and the services are reached at --address; the console, the registry and all else on this host alone.

    CONSUL_HTTP_ADDR, DATABASE_URL, REDIS_URL and OTEL_EXPORTER_OTLP_ENDPOINT name servers to use in place of own ones.
    """
    from mesh.up import background, launcher
    from mesh.up.show import banner

    plan = _plan(directory, address, ports)
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
        notice.give(error.message + _log_of(error))
        raise
    notice.give(background.STOPPED)


def _plan(directory: Path | None, address: str, ports: dict[str, int]) -> Plan:
    from mesh.up.plan import Plan, Ports
    from mesh.up.stack import Stack

    paths, folder = Paths.locate(os.environ, directory), Path.cwd()
    paths.prepare()
    chosen = Ports(**{name.removesuffix("_port"): port for name, port in ports.items()})
    plan = Plan.of(Stack.load(folder), paths, folder, dict(os.environ), chosen, address)
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
    return ["up", *(str(word) for flag in flags.items() for word in flag), *(["--fresh"] if fresh else [])]


def _launch(plan: Plan, fresh: bool, notice: Notice) -> None:
    from mesh.config import Watch
    from mesh.up import launcher
    from mesh.watchdog import watched

    _log_to_stderr()
    watch = Watch.of({**os.environ, "MESH_STACKS": str(plan.paths.run)}, "launcher")
    with launcher.locked(plan.paths), _alone():
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


@_mesh.command("ps")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--wide", is_flag=True, help="Show too what each xDS client holds and refused, Envoy included.")
@_DIRECTORY
def _ps(directory: Path | None, output: str, wide: bool) -> None:
    """List the processes of the running stack."""
    from mesh.up import client, show

    paths = _paths(directory)
    processes = asyncio.run(client.processes(paths))
    subscriptions = asyncio.run(client.subscriptions(paths)) if wide else None
    shown = show.process_json if output == "json" else show.process_table
    click.echo(shown(processes, subscriptions))


@_mesh.command("down")
@_DIRECTORY
def _down(directory: Path | None) -> None:
    """Stop the running stack; return when all of it is gone."""
    from mesh.up import client

    async def stop() -> None:
        async for process in client.stop(_paths(directory)):
            click.echo(f"{process.name} stopped", err=True)

    asyncio.run(stop())


@_mesh.command("restart")
@click.argument("name")
@_DIRECTORY
def _restart(directory: Path | None, name: str) -> None:
    """Replace one process; return when the new one is ready."""
    from mesh.up import client

    answer = asyncio.run(client.restart(_paths(directory), name))
    how = "before the old one drained" if answer.surged else "after the old one had ended"
    click.echo(f"{name} is ready: pid {answer.process.pid}, {how}", err=True)


@_mesh.command("stack")
@click.argument("name")
@_DIRECTORY
def _stack(directory: Path | None, name: str) -> None:
    """Show what a process is doing, also one that hangs.

    That is the stacks of its threads, innermost call first, and where its tasks wait. NAME is one of `mesh ps`, the service of a program beside the stack, or a process id.
    """
    from mesh import stack_of
    from mesh.up import client

    paths = _paths(directory)
    listed = asyncio.run(client.pids(paths))
    click.echo(stack_of.stacks(paths.run, name, listed), nl=False)


@_mesh.command("logs")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows.")
@click.option("--lines", "-n", type=click.IntRange(0), default=100, show_default=True, help="How many to begin with.")
@_DIRECTORY
def _logs(directory: Path | None, name: str, follow: bool, lines: int) -> None:
    """Show the log of one process; it stays when the process is gone."""
    from mesh.up import logs

    log = logs.find(_paths(directory), name)
    for line in logs.tail(log, lines):
        click.echo(line)
    if follow:
        asyncio.run(logs.follow(log, sys.stdout))


@_mesh.command(
    "run",
    short_help="Run a program on the mesh for as long as it lives.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.option("--service", required=True, help="Name that clients dial, as in xds:///NAME.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port that it listens on [a free one, given as PORT].")
@click.option("--address", default="127.0.0.1", show_default=True, help="IP address that others reach it at.")
@click.option("--zone", default="", help="Zone that it runs in.")
@click.option("--tag", "tags", multiple=True, help="Tag in the registry; repeatable.")
@click.option("--meta", "meta", multiple=True, metavar="KEY=VALUE", help="Metadata in the registry; repeatable.")
@click.option("--protocol", type=click.Choice(["grpc", "http"]), default="grpc", show_default=True)
@click.option("--http-prefix", "http_prefixes", multiple=True, metavar="PATH", help="Path that the gateway sends it.")
@click.option("--descriptors", type=click.Path(path_type=Path), help="Serialized FileDescriptorSet of what it serves.")
@click.option("--service-config", type=click.Path(path_type=Path), help="gRPC service config (JSON) for its callers.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_DIRECTORY
def _run(directory: Path | None, command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND as an instance of a service, for as long as it lives; exit with its code.

    COMMAND listens on the port in PORT. It is in rotation while it is healthy: by grpc.health.v1, else by its port.

    SIGTERM and SIGINT (Ctrl-C) take it out of rotation, then end it; a second one ends it at once. SIGHUP, SIGQUIT,
    SIGUSR1, SIGUSR2 and SIGWINCH are handed on to COMMAND, whose end, if it makes that of them, ends this too: so does
    a terminal that closes, for a COMMAND that does not handle SIGHUP. SIGTSTP (Ctrl-Z) and SIGCONT suspend and resume
    both.
    """
    from mesh import member, member_options
    from mesh.guard import guarded

    _log_to_stderr()
    paths = _paths(directory)
    settings = member_options.settings(options, command, paths, dict(os.environ))
    paths.prepare()
    try:
        with guarded(), _alone():
            return asyncio.run(member.run(settings))
    finally:
        paths.retire()


@_mesh.command("sidecar", short_help="Run the sidecar of this host.")
@click.option("--zone", default="", help="Zone of the clients on this host.")
@_DIRECTORY
def _sidecar(directory: Path | None, zone: str) -> None:
    """Run the sidecar of this host: registers local programs, serves xDS to local clients."""
    from mesh import sidecar
    from mesh.config import Watch
    from mesh.metrics_page import port_of
    from mesh.registry import RegistrySettings
    from mesh.watchdog import watched

    _log_to_stderr()
    paths = Paths.locate(os.environ, directory)
    paths.prepare()
    registry, metrics_port = RegistrySettings.from_env(os.environ), port_of(os.environ)
    with _alone():
        watch = Watch.of({**os.environ, "MESH_STACKS": str(paths.run)}, "sidecar")
        settings = sidecar.SidecarSettings.at(paths, registry, zone, metrics_port)
        asyncio.run(watched(watch, sidecar.serve(settings)))


@_mesh.command("fault", short_help="Let calls go wrong on purpose, for a while.")
@click.argument("target", metavar="[SERVICE[/METHOD]]", required=False, default="")
@click.option("--abort", default="", metavar="CODE", help="Fail calls with this status, as in UNAVAILABLE.")
@click.option("--delay", default="", metavar="TIME", help='Hold calls up before they are sent, as in "200ms".')
@click.option("--percent", default="", metavar="NUMBER", help="How many of the calls [100].")
@click.option("--by-header", is_flag=True, help="Do what the x-envoy-fault-* headers of a call ask for.")
@click.option("--for", "seconds", default="", metavar="TIME", help="How long, at most 1h [60s].")
@click.option("--clear", is_flag=True, help="End it now; without a method all of the service, without a service all.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_DIRECTORY
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
    from mesh.recovery import time_of_day
    from mesh.registry import connect

    wished = any(options.values())
    if clear and wished:
        raise InvalidConfig.of(["--clear ends what is in force: it takes no other option"])
    asked = fault_words.wish(target, options) if wished else None

    async def run() -> None:
        async with connect(member_options.registry_of(_paths(directory), os.environ)) as registry:
            if clear:
                click.echo(fault_words.ended(await faults.clear(registry, target)), err=True)
            elif asked:
                click.echo(fault_words.announced(await faults.inject(registry, asked), time_of_day()), err=True)
            else:
                found, problems = await faults.held(registry, target)
                click.echo(fault_words.as_json(found) if output == "json" else fault_words.table(found, time_of_day()))
                for key, problem in problems.items():
                    click.echo(f"mesh: {key} is not in force: {problem}", err=True)

    asyncio.run(run())


@_mesh.command(
    "gateway",
    short_help="Run the control process of the edge.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def _gateway(arguments: tuple[str, ...]) -> int:
    """Run the control process of the edge (`mesh gateway --help` for its own options)."""
    from gateway.__main__ import main as gateway

    return gateway(arguments, "mesh gateway") or 0


@_mesh.command("bootstrap", short_help="Print the path of a gRPC bootstrap file.")
@_DIRECTORY
def _bootstrap(directory: Path | None) -> None:
    """Print the path of a bootstrap file for gRPC clients, to be used as GRPC_XDS_BOOTSTRAP."""
    from mesh.member import sidecar_answers

    paths = _paths(directory)
    if not (paths.are_in_use() and paths.bootstrap.exists() and asyncio.run(sidecar_answers(paths))):
        _fail(f"no sidecar runs for {paths.state}: start one with `mesh up` or `mesh sidecar`", 1)
    click.echo(paths.bootstrap)


@_mesh.command("explain", short_help="Say why the calls of a service or method do what they do.")
@click.argument("target", metavar="SERVICE[/METHOD]")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_DIRECTORY
def _explain(directory: Path | None, target: str, output: str) -> None:
    """Say what holds for the calls of a service, or of one of its methods, where each value comes from, and what each
    kind of client makes of it. METHOD is a name, as in order/GetOrder, or a full name.
    """
    from mesh import ask
    from mesh.explain import show

    service, _, method = target.partition("/")
    found = asyncio.run(ask.explanation(_paths(directory), service, method))
    click.echo(show.as_json(found) if output == "json" else show.as_text(found))


@_mesh.command("check", short_help="Say what is well with the mesh and what is not.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_DIRECTORY
def _check(directory: Path | None, output: str) -> int:
    """Look at the registry, the sidecar, the gateway, what clients hold and refused, policies, descriptors, instances
    and the clock; each failure comes with the command that mends it. Exits with 1 when there is any.
    """
    from mesh import ask
    from mesh.findings import show

    found = asyncio.run(ask.findings(_paths(directory)))
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    click.echo(show.as_json(found) if output == "json" else show.as_text(found, colour=colour))
    return 0 if all(one.passed for one in found) else 1


def _paths(directory: Path | None) -> Paths:
    """Of the stack that is meant in this folder, which may be one of a folder above."""
    return Paths.find(os.environ, directory)


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
